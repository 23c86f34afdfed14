//! Decisions and their commits, without processes and network around them.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use oak_control::root::{Quota, Refusal, Root};
use oak_model::{Resources, ServiceId, Surroundings, TargetConstraints, WorkerId};
use oak_placement::{Fleet, Request, WorkerState};
use oak_store::{Engine, Store, SystemClock};
use tokio::task::JoinSet;

use crate::fixture;
use crate::process::{cpu_time, thread_cpu_time};
use crate::table::{Samples, verdict};

const WORKERS: u64 = 10_000;
const PLACEMENTS: usize = 20_000;
/// Deployments under way at a time.
const CALLERS: usize = 256;

/// Runs all and prints their results.
pub(crate) fn run() -> anyhow::Result<()> {
    println!("\ndecisions");
    one_placement();
    large_root()?;
    for workers in [1_000, WORKERS] {
        durable(workers)?;
    }
    Ok(())
}

fn one_placement() {
    let mut fleet = Fleet::new();
    for number in 0..WORKERS {
        fleet.upsert(
            WorkerId::from_parts(1, number),
            WorkerState::new(&fixture::facts(number), 10, 125, None),
        );
    }
    let needs = Resources { cpu_millis: 1000, memory_mib: 64, storage_mib: 0, gpus: 0 };
    let mut samples = Samples::default();
    let began = Instant::now();
    for number in 0..4_000 {
        let service = ServiceId::from_parts(2, number % 40);
        let request = Request {
            service,
            resources: needs,
            architectures: &[],
            volumes: &[],
            ports: &[],
            target: TargetConstraints::anywhere(),
            surroundings: Surroundings::none(),
            avoid: None,
        };
        let at = Instant::now();
        let placed = black_box(fleet.place(black_box(&request)));
        samples.push(at.elapsed());
        if let Ok(worker) = placed {
            fleet.reserve(worker, service, "bench", needs, &[]);
        }
    }
    let p50 = samples.quantile(0.5).as_secs_f64() * 1e6;
    println!(
        "one placement among {WORKERS} workers: p50 {p50:.1} µs, p99 {:.1} µs (budget 20 µs, {}); with reservation \
         {:.1} µs on average",
        samples.quantile(0.99).as_secs_f64() * 1e6,
        verdict(p50 <= 20.0),
        began.elapsed().as_secs_f64() * 1e6 / 4_000.0
    );
}

/// Single steps of a root that has much, without the disk: the CPU time they take.
fn large_root() -> anyhow::Result<()> {
    const SERVICES: u32 = 10_000;
    const INSTANCES: usize = 50_000;
    let now = SystemClock::start().now();
    let fixture::Fixture { mut root, services } = fixture::root(now, 1, 1_000, SERVICES)?;
    root.set_quota(fixture::ORGANIZATION, Quota { instances: Some(1_000_000), ..Quota::default() });
    for number in 0..INSTANCES {
        root.deploy(now, services[number % services.len()])?;
        drop(root.take_outbox());
    }
    let replicated = services[0];
    root.scale(now, replicated, 900)?;
    drop(root.take_outbox());
    println!("a root with {SERVICES} services and {} instances, one step each:", root.instance_count());
    let mut turn = 1;
    steps(&mut root, "deploy", 2_000, |root| {
        turn += 1;
        root.deploy(now, services[turn]).map(|_| ())
    })?;
    steps(&mut root, "deploy, service that keeps 900 instances", 100, |root| {
        root.deploy(now, replicated).map(|_| ())
    })?;
    let applications: Vec<_> = root.applications().map(|application| application.id).collect();
    let mut last = applications.into_iter().rev();
    steps(&mut root, "delete an application of 100 services", 20, |root| {
        last.next().map_or(Ok(()), |id| root.delete_application(now, id))
    })
}

/// Takes a step so many times and prints what each took.
fn steps(
    root: &mut Root,
    name: &str,
    count: u32,
    mut step: impl FnMut(&mut Root) -> Result<(), Refusal>,
) -> anyhow::Result<()> {
    let before = thread_cpu_time();
    for _ in 0..count {
        step(root)?;
        drop(black_box(root.take_outbox()));
    }
    let took = thread_cpu_time().saturating_sub(before);
    println!("  {name}: {:.1} µs CPU", took.as_secs_f64() * 1e6 / f64::from(count));
    Ok(())
}

/// Deployments through the engine of the root with its database on disk: decided, committed, sent.
fn durable(workers: u64) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let clock = SystemClock::start();
    let fixture::Fixture { root, services } = fixture::root(clock.now(), 1, workers, 100)?;
    let (store, _) = Store::open(&directory.path().join("state.db"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let sent = Arc::new(AtomicUsize::new(0));
    let (elapsed, cpu) = runtime.block_on(deployments(root, store, clock, services, Arc::clone(&sent)))?;
    let sent = sent.load(Ordering::Relaxed);
    let rate = PLACEMENTS as f64 / elapsed.as_secs_f64();
    let each = cpu.as_secs_f64() * 1e3 / PLACEMENTS as f64;
    println!(
        "durable placements with {workers} workers: {rate:.0}/s (budget 10000, {}), {each:.3} ms CPU each (budget 0.1, \
         {}); {PLACEMENTS} by {CALLERS} callers, {sent} messages to the cluster",
        verdict(rate >= 10_000.0),
        verdict(each <= 0.1)
    );
    Ok(())
}

async fn deployments(
    root: Root,
    store: Store,
    clock: SystemClock,
    services: Vec<ServiceId>,
    sent: Arc<AtomicUsize>,
) -> anyhow::Result<(Duration, Duration)> {
    let mut tasks = JoinSet::new();
    let engine = Engine::start(&mut tasks, root, store, clock, move |effect| {
        black_box(&effect);
        sent.fetch_add(1, Ordering::Relaxed);
    });
    // What the fixture left to store is not part of the measurement.
    engine.call(|_, _, _| ()).await?;
    let (began, cpu) = (Instant::now(), cpu_time(std::process::id())?);
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let engine = engine.clone();
        let mine: Vec<_> =
            (caller..PLACEMENTS).step_by(CALLERS).map(|n| services[n % services.len()]).collect();
        callers.spawn(async move {
            for service in mine {
                engine.call(move |root, now, _| root.deploy(now, service)).await??;
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.context("a caller panicked")??;
    }
    let result = (began.elapsed(), cpu_time(std::process::id())?.saturating_sub(cpu));
    tasks.shutdown().await;
    Ok(result)
}
