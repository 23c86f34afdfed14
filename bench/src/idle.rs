//! What oak costs while nothing happens.

use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;

use crate::Settings;
use crate::http::{Connection, answers};
use crate::oak::{API, DEMO, Oak, deploy, register_demo, undeploy, up};
use crate::process::{Memory, cpu_time, find, pause, threads, wait_until};
use crate::table::verdict;

/// After a start, until everything that only starts is over.
const SETTLE: Duration = Duration::from_secs(10);
/// Length of the observation.
const WATCH: Duration = Duration::from_secs(30);
/// Containers for the cost of each.
const CONTAINERS: usize = 10;
const PATIENCE: Duration = Duration::from_secs(30);

/// One observed process.
struct Observed {
    memory: Memory,
    cpu_percent: f64,
    threads: usize,
}

/// Runs the measurements and prints their tables.
pub(crate) fn run(settings: &Settings) -> anyhow::Result<()> {
    let header = ["PSS MB", "private MB", "anonymous MB", "CPU % of a core", "threads"];
    println!(
        "\n{:<34} {:>8} {:>11} {:>13} {:>16} {:>8}",
        "idle", header[0], header[1], header[2], header[3], header[4]
    );
    all_in_one(settings)?;
    separate(settings)
}

/// `oak up`, first without and then with containers.
fn all_in_one(settings: &Settings) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let data = directory.path().join("data");
    let oak = up(&settings.oak, &data)?;
    warm_up(&oak, &mut Connection::open(API)?)?;
    for observed in watch(&[oak.pid()])? {
        row("oak up", &observed);
    }
    let mut api = Connection::open(API)?;
    let service = register_demo(&mut api, "many", None)?;
    for _ in 0..CONTAINERS {
        deploy(&mut api, &service)?;
    }
    wait_until("the containers", PATIENCE, || run_count(&oak) == CONTAINERS + 1)?;
    let mut pids = find("oak-shim", &data.to_string_lossy());
    pids.push(oak.pid());
    let mut observed = watch(&pids)?;
    let agent = observed.pop().context("the agent was observed")?;
    let shims = sum(&observed);
    row(&format!("{} shims together", observed.len()), &shims);
    let each = shims.memory.proportional as f64 * 1.024 / 1e3 / observed.len().max(1) as f64;
    println!("  per running container: {each:.2} MB PSS (budget 1, {})", verdict(each <= 1.0));
    row(&format!("oak up with {CONTAINERS} containers"), &agent);
    undeploy(&oak, &mut Connection::open(API)?, &service)
}

fn run_count(oak: &Oak) -> usize {
    oak.log().matches("instance runs").count()
}

/// Starts and removes one instance, so that image and network are there.
fn warm_up(oak: &Oak, api: &mut Connection) -> anyhow::Result<()> {
    let service = register_demo(api, "warm", Some("8080:8080/tcp"))?;
    deploy(api, &service)?;
    wait_until("the demo", PATIENCE, || answers(DEMO))?;
    undeploy(oak, api, &service)
}

/// Root, cluster and worker as processes of their own.
fn separate(settings: &Settings) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let at = |name: &str| directory.path().join(name);
    let start = |role: &str, arguments: &[&str]| Oak::start(&settings.oak, role, &at(role), arguments);
    // From a file of its own: a worker that is alone on its machine shares the pages of the program with nobody.
    let program = at("oak");
    std::fs::copy(&settings.oak, &program)?;
    let root = start("root", &[])?;
    root.await_log("root ready")?;
    let mut api = Connection::open(API)?;
    let token = join_token(&mut api, &json!({ "role": "cluster" }))?;
    let cluster = start("cluster", &["--root", "127.0.0.1:10000", "--name", "bench", "--token", &token])?;
    cluster.await_log("connected to the root")?;
    let token = join_token(&mut api, &json!({ "role": "worker", "cluster": "bench" }))?;
    let worker =
        Oak::start(&program, "worker", &at("worker"), &["--cluster", "127.0.0.1:10100", "--token", &token])?;
    worker.await_log("connected to the cluster")?;
    warm_up(&worker, &mut api)?;
    // A client that stays connected is not part of an idle root.
    drop(api);
    let seen = watch(&[root.pid(), cluster.pid(), worker.pid()])?;
    let [root, cluster, worker] = seen.try_into().ok().context("three processes were observed")?;
    row("root", &root);
    row("cluster", &cluster);
    let both = sum(&[root, cluster]);
    row("root and cluster together", &both);
    judge(&both, 25.0, 15.0);
    row("worker with network", &worker);
    judge(&worker, 12.0, 8.0);
    Ok(())
}

fn join_token(api: &mut Connection, body: &serde_json::Value) -> anyhow::Result<String> {
    let answer = api.ask("POST", "/api/tokens", Some(&body.to_string()))?;
    answer["token"].as_str().map(str::to_owned).context("the answer has no token")
}

/// Lets processes settle, then watches them.
fn watch(pids: &[u32]) -> anyhow::Result<Vec<Observed>> {
    pause(SETTLE);
    let times = || pids.iter().map(|pid| cpu_time(*pid)).collect::<anyhow::Result<Vec<_>>>();
    let (began, before) = (Instant::now(), times()?);
    pause(WATCH);
    let (elapsed, after) = (began.elapsed(), times()?);
    let observed = pids.iter().zip(before).zip(after).map(|((pid, before), after)| {
        let cpu_percent = percent(after.saturating_sub(before), elapsed);
        Ok(Observed { memory: Memory::of(*pid)?, cpu_percent, threads: threads(*pid) })
    });
    observed.collect()
}

fn percent(used: Duration, elapsed: Duration) -> f64 {
    used.as_secs_f64() * 100.0 / elapsed.as_secs_f64()
}

fn sum(all: &[Observed]) -> Observed {
    let memory = |field: fn(&Memory) -> u64| all.iter().map(|one| field(&one.memory)).sum();
    Observed {
        memory: Memory {
            proportional: memory(|memory| memory.proportional),
            private: memory(|memory| memory.private),
            anonymous: memory(|memory| memory.anonymous),
        },
        cpu_percent: all.iter().map(|one| one.cpu_percent).sum(),
        threads: all.iter().map(|one| one.threads).sum(),
    }
}

fn row(name: &str, observed: &Observed) {
    let Observed { memory, cpu_percent, threads } = observed;
    let [pss, private, anonymous] =
        [memory.proportional, memory.private, memory.anonymous].map(|kib| kib as f64 * 1.024 / 1e3);
    println!("{name:<34} {pss:>8.2} {private:>11.2} {anonymous:>13.2} {cpu_percent:>16.3} {threads:>8}");
}

fn judge(observed: &Observed, budget_mb: f64, ambition_mb: f64) {
    let mb = observed.memory.proportional as f64 * 1.024 / 1e3;
    println!(
        "  memory: budget {budget_mb} MB, {}; ambition {ambition_mb} MB, {}; CPU: budget 0.2 %, {}",
        verdict(mb <= budget_mb),
        verdict(mb <= ambition_mb),
        verdict(observed.cpu_percent <= 0.2)
    );
}
