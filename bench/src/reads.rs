//! Reading from a root that has much to tell: a fixed rate of mixed requests, whatever the answers take.
//!
//! Every request has a moment at which it should begin. Its latency counts from there, so that a root that stalls is
//! not asked less while it does.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use oak_store::{Journal, Store, SystemClock};

use crate::Settings;
use crate::fixture::{self, newest};
use crate::http::Connection;
use crate::oak::{API, Oak};
use crate::process::{Memory, cpu_time, pause, wait_until};
use crate::table::{Samples, heading, verdict};

const SERVICES: u32 = 10_000;
const WORKERS: u64 = 500;
/// Requests per second, together.
const RATE: u32 = 2_000;
const CONNECTIONS: u32 = 8;
const WATCH: Duration = Duration::from_secs(60);
/// Before that: caches fill, buffers grow to their size.
const WARM_UP: Duration = Duration::from_secs(10);
const BUDGET: Duration = Duration::from_millis(10);
/// Memory may differ by this much between the beginning and the end, KiB.
const FLAT: u64 = 2_048;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Service,
    Application,
    ServicesOfApplication,
    Clusters,
}

const KINDS: [(Kind, &str); 4] = [
    (Kind::Service, "GET /api/service/ID"),
    (Kind::Application, "GET /api/application/ID"),
    (Kind::ServicesOfApplication, "GET /api/services/APPLICATION (100 services)"),
    (Kind::Clusters, "GET /api/clusters/active"),
];

/// Out of 20 requests in a row: 12 services, 5 applications, 1 list of services, 2 lists of clusters.
const fn kind_of(number: usize) -> Kind {
    match number % 20 {
        0..12 => Kind::Service,
        12..17 => Kind::Application,
        17 => Kind::ServicesOfApplication,
        _ => Kind::Clusters,
    }
}

/// Runs the measurement and prints its result.
pub(crate) fn run(settings: &Settings) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let data = directory.path().join("data");
    let (services, applications) = fill(&data)?;
    let root = Oak::start(&settings.oak, "root", &data, &[])?;
    wait_until("the API", Duration::from_secs(30), || std::net::TcpStream::connect(API).is_ok())?;
    load(WARM_UP, &services, &applications)?;
    let before = (Memory::of(root.pid())?, cpu_time(root.pid())?);
    let taken = load(WATCH, &services, &applications)?;
    let (memory, cpu) = (Memory::of(root.pid())?, cpu_time(root.pid())? - before.1);

    heading(&format!("{RATE} reads a second for {} s, {SERVICES} services", WATCH.as_secs()));
    let mut all = Samples::default();
    for (kind, name) in KINDS {
        let mut of_kind = Samples::default();
        for (asked, latency) in &taken {
            if *asked as u8 == kind as u8 {
                of_kind.push(*latency);
                all.push(*latency);
            }
        }
        println!("{}", of_kind.row(name));
    }
    println!("{}", all.row("all"));
    let p99 = all.quantile(0.99);
    println!(
        "p99: budget {} ms, {}; {:.3} ms CPU each; memory {:.1} MB before, {:.1} MB after ({})",
        BUDGET.as_millis(),
        verdict(p99 <= BUDGET),
        cpu.as_secs_f64() * 1e3 / taken.len() as f64,
        before.0.proportional as f64 * 1.024 / 1e3,
        memory.proportional as f64 * 1.024 / 1e3,
        if memory.proportional <= before.0.proportional + FLAT { "flat" } else { "NOT FLAT" },
    );
    let mut api = Connection::open(API)?;
    let began = Instant::now();
    let length = api.fetch("/api/services/")?;
    println!(
        "all {SERVICES} services at once: {:.0} ms, {:.1} MB",
        began.elapsed().as_secs_f64() * 1e3,
        length as f64 / 1e6
    );
    Ok(())
}

/// Writes the state of a root with many services, one instance each; returns their ids and those of the applications.
fn fill(data: &Path) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let clock = SystemClock::start();
    std::fs::create_dir_all(data.join("root"))?;
    let (store, _) = Store::open(&data.join("root/state.db"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let fixture::Fixture { mut root, services } = fixture::root(clock.now(), 1, WORKERS, SERVICES)?;
    for service in &services {
        root.deploy(clock.now(), *service)?;
    }
    runtime.block_on(store.submit(newest(root.take_outbox().rows))?.wait())?;
    let applications = root.applications().map(|application| application.id.to_string()).collect();
    Ok((services.iter().map(ToString::to_string).collect(), applications))
}

/// Asks at the fixed rate for so long; returns what was asked and how long it took.
fn load(
    span: Duration,
    services: &[String],
    applications: &[String],
) -> anyhow::Result<Vec<(Kind, Duration)>> {
    let start = Instant::now() + Duration::from_millis(500);
    thread::scope(|scope| {
        let ask =
            |connection| scope.spawn(move || one_connection(connection, start, span, services, applications));
        let handles: Vec<_> = (0..CONNECTIONS).map(ask).collect();
        let mut taken = Vec::new();
        for handle in handles {
            taken.extend(handle.join().map_err(|_| anyhow!("a client panicked"))??);
        }
        Ok(taken)
    })
}

fn one_connection(
    connection: u32,
    start: Instant,
    span: Duration,
    services: &[String],
    applications: &[String],
) -> anyhow::Result<Vec<(Kind, Duration)>> {
    let mut api = Connection::open(API)?;
    let interval = Duration::from_secs(1) / RATE;
    let count = (span.as_secs() * u64::from(RATE / CONNECTIONS)) as usize;
    let mut taken = Vec::with_capacity(count);
    for turn in 0..count {
        let number = turn * CONNECTIONS as usize + connection as usize;
        let due = start + interval * number as u32;
        pause(due.saturating_duration_since(Instant::now()));
        let kind = kind_of(number);
        // A step that is no divisor of the count visits everything in a scattered order.
        let of =
            |ids: &[String]| ids.get(number * 7_919 % ids.len().max(1)).cloned().context("nothing stored");
        let path = match kind {
            Kind::Service => format!("/api/service/{}", of(services)?),
            Kind::Application => format!("/api/application/{}", of(applications)?),
            Kind::ServicesOfApplication => format!("/api/services/{}", of(applications)?),
            Kind::Clusters => "/api/clusters/active".to_owned(),
        };
        api.fetch(&path)?;
        taken.push((kind, due.elapsed()));
    }
    Ok(taken)
}
