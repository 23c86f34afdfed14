//! How long a root with a full database takes to answer.

use std::path::Path;
use std::time::{Duration, Instant};

use oak_store::{Journal, Store, SystemClock};

use crate::Settings;
use crate::fixture::{self, newest};
use crate::oak::{API, Oak};
use crate::process::{Memory, pause, wait_until};
use crate::table::verdict;

/// Instances per generated root. The address plan has room for 65 534 services and instances, so two halves that use
/// the same addresses make up the number of the budget.
const HALF: usize = 50_000;
const SERVICES: u32 = 100;
/// A worker takes 125 instances.
const WORKERS: u64 = 500;
const ROUNDS: usize = 3;

/// Runs the measurement and prints its result.
pub(crate) fn run(settings: &Settings) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let data = directory.path().join("data");
    let instances = HALF * 2;
    let (empty, empty_memory) = first_answer(settings, &directory.path().join("empty"))?;
    fill(&data)?;
    let mut best = Duration::MAX;
    let mut memory = Memory::default();
    for _ in 0..ROUNDS {
        let (took, used) = first_answer(settings, &data)?;
        best = best.min(took);
        memory = used;
    }
    let mb = |memory: Memory| memory.proportional as f64 * 1.024 / 1e3;
    println!(
        "\nstart with {instances} stored instances: {:.2} s until /healthz answers, best of {ROUNDS} (budget 1 s, {}), \
         {:.1} MB PSS; first start without any: {:.2} s, {:.1} MB",
        best.as_secs_f64(),
        verdict(best <= Duration::from_secs(1)),
        mb(memory),
        empty.as_secs_f64(),
        mb(empty_memory)
    );
    Ok(())
}

/// Writes the state of a root with many instances.
fn fill(data: &Path) -> anyhow::Result<()> {
    let clock = SystemClock::start();
    std::fs::create_dir_all(data.join("root"))?;
    let (store, _) = Store::open(&data.join("root/state.db"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    for seed in [1, 2] {
        let fixture::Fixture { mut root, services } = fixture::root(clock.now(), seed, WORKERS, SERVICES)?;
        let mut rows = Vec::new();
        for number in 0..HALF {
            root.deploy(clock.now(), services[number % services.len()])?;
            if number % 1_000 == 0 {
                rows = newest(rows);
            }
            rows.extend(root.take_outbox().rows);
        }
        runtime.block_on(store.submit(newest(rows))?.wait())?;
    }
    Ok(())
}

/// Starts a root; returns when its health was first answered, and its memory a little later.
fn first_answer(settings: &Settings, data: &Path) -> anyhow::Result<(Duration, Memory)> {
    let began = Instant::now();
    let root = Oak::start(&settings.oak, "root", data, &[])?;
    let health = || ask_health().is_some();
    wait_until("the health of the root", Duration::from_secs(60), health)?;
    let took = began.elapsed();
    pause(Duration::from_secs(3));
    Ok((took, Memory::of(root.pid())?))
}

fn ask_health() -> Option<()> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(API).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").ok()?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).ok()?;
    head.ends_with(b"200").then_some(())
}
