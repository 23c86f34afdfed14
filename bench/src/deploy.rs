//! From the call of the API to the first byte of the application, beside `crun run` of the same bundle.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};

use crate::Settings;
use crate::crun::Crun;
use crate::http::{Connection, answers};
use crate::oak::{API, DEMO, Oak, deploy, register_demo, undeploy, up};
use crate::process::{pause, wait_until};
use crate::table::{Samples, heading, milliseconds, verdict};

/// Between two attempts to reach the application.
const POLL: Duration = Duration::from_micros(150);
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Results {
    answered: Samples,
    runs: Samples,
    host_port: Samples,
    instance_address: Samples,
    removed: Samples,
    crun: Samples,
}

/// Runs the benchmark and prints its table.
pub(crate) fn run(settings: &Settings) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let oak = up(&settings.oak, &directory.path().join("data"))?;
    let mut api = Connection::open(API)?;
    let service = register_demo(&mut api, "bench", Some("8080:8080/tcp"))?;
    // The first start makes the image and the network; it also tells what crun shall run.
    deploy(&mut api, &service)?;
    wait_until("the demo", PATIENCE, || answers(DEMO))?;
    let container = std::fs::read_dir(oak.containers())?.next().context("there is no container")??.path();
    let mut crun = Crun::like(&container, &directory.path().join("bundle"))?;
    undeploy(&oak, &mut api, &service)?;
    let mut results = Results::default();
    for _ in 0..settings.rounds {
        one_by_oak(&oak, &mut api, &service, Target::HostPort, &mut results)?;
        one_by_crun(&mut crun, &mut results)?;
        one_by_oak(&oak, &mut api, &service, Target::InstanceAddress, &mut results)?;
    }
    print(&results);
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    HostPort,
    InstanceAddress,
}

fn one_by_oak(
    oak: &Oak,
    api: &mut Connection,
    service: &str,
    target: Target,
    results: &mut Results,
) -> anyhow::Result<()> {
    let runs_before = run_times(&oak.log()).len();
    let began_at = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let began = Instant::now();
    let number = deploy(api, service)?;
    let answered = began.elapsed();
    let address = match target {
        Target::HostPort => DEMO,
        Target::InstanceAddress => SocketAddr::new(instance_address(api, service, number)?.into(), 8080),
    };
    let first = first_answer(began, address).with_context(|| format!("the log says:\n{}", oak.log()))?;
    results.answered.push(answered);
    if target == Target::HostPort {
        results.host_port.push(first);
        wait_until("the log line of the start", PATIENCE, || run_times(&oak.log()).len() > runs_before)?;
        let runs_at = run_times(&oak.log()).last().copied().unwrap_or_default();
        let began_at = Duration::from_micros(u64::try_from(began_at.as_micros() % 86_400_000_000)?);
        results.runs.push(runs_at.saturating_sub(began_at));
    } else {
        results.instance_address.push(first);
    }
    let began = Instant::now();
    undeploy(oak, api, service)?;
    results.removed.push(began.elapsed());
    Ok(())
}

fn one_by_crun(crun: &mut Crun, results: &mut Results) -> anyhow::Result<()> {
    let began = Instant::now();
    crun.run()?;
    let first = first_answer(began, DEMO).with_context(|| format!("crun says: {}", crun.log()))?;
    results.crun.push(first);
    crun.end()?;
    wait_until("the end of the container", PATIENCE, || !answers(DEMO))
}

/// Asks again and again; returns the time from `began` to the first byte of an answer.
fn first_answer(began: Instant, address: SocketAddr) -> anyhow::Result<Duration> {
    while !answers(address) {
        if began.elapsed() > PATIENCE {
            bail!("no answer from {address}");
        }
        pause(POLL);
    }
    Ok(began.elapsed())
}

fn instance_address(api: &mut Connection, service: &str, number: u64) -> anyhow::Result<Ipv4Addr> {
    let answer = api.ask("GET", &format!("/api/service/{service}"), None)?;
    let instances = answer["instance_list"].as_array().context("the service has no instances")?;
    let own = instances.iter().find(|instance| instance["instance_number"] == number);
    let address = own.and_then(|own| own["instance_ip"].as_str()).context("the instance has no address")?;
    Ok(address.parse()?)
}

/// Times of day at which containers were reported to run, from the log.
fn run_times(log: &str) -> Vec<Duration> {
    let lines = log.lines().filter(|line| line.contains("instance runs"));
    lines.filter_map(|line| time_of_day(line.split(' ').next()?)).collect()
}

/// `2026-01-31T10:04:55.666151Z` without its date.
fn time_of_day(text: &str) -> Option<Duration> {
    let mut parts = text.split('T').nth(1)?.trim_end_matches('Z').split(':');
    let (hours, minutes): (u32, u32) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let seconds: f64 = parts.next()?.parse().ok()?;
    Some(Duration::from_secs(u64::from(hours * 3600 + minutes * 60)) + Duration::from_secs_f64(seconds))
}

fn print(results: &Results) {
    heading("deploy latency (in turns)");
    println!("{}", results.answered.row("API call → answer of the API"));
    println!("{}", results.runs.row("API call → container runs (log of the worker)"));
    println!("{}", results.host_port.row("API call → first byte, host port"));
    println!("{}", results.instance_address.row("API call → first byte, instance address"));
    println!("{}", results.crun.row("crun run → first byte"));
    println!("{}", results.removed.row("undeploy → nothing left"));
    let p50 = milliseconds(results.host_port.quantile(0.5));
    let ratio = p50 / milliseconds(results.crun.quantile(0.5)).max(0.001);
    let spread = milliseconds(results.host_port.quantile(0.99)) / p50.max(0.001);
    println!("p50 host port / p50 crun: {ratio:.2} (budget 3, {})", verdict(ratio <= 3.0));
    println!("p99 / p50 host port:      {spread:.2} (budget 3, {})", verdict(spread <= 3.0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_log_line_is_read() {
        let times = run_times("2026-11-24T10:04:55.666151Z  INFO instance runs instance=a.0 pid=1\nx\n");
        assert_eq!(times, [Duration::from_micros(36_295_666_151)]);
    }
}
