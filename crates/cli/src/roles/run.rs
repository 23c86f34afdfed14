//! Running roles in this process until a signal.

use std::collections::BTreeSet;
use std::error::Error;
use std::future::Future;
use std::io::IsTerminal;
use std::time::Duration;

use oak_cluster::BoundCluster;
use oak_link::{JoinToken, NodeKind};
use oak_model::message::WorkerToken;
use oak_root::{BoundRoot, RootHandle};
use oak_worker::BoundWorker;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::info;
use tracing_subscriber::EnvFilter;

use super::build;
use super::lock::DirectoryLock;
use super::signals::{cancel_on_signal, notify_ready};
use crate::commands::{EXIT_FAILURE, Failure};
use crate::config::{Config, Loaded, LogFormat};

/// Life of the token with which the roles of one process find each other, milliseconds.
const OWN_TOKEN_MS: u64 = 600_000;

/// When the memory that only starting took is given back, and how often that of later bursts of work.
const SHRINK_AFTER: Duration = Duration::from_secs(5);
const SHRINK_EVERY: Duration = Duration::from_secs(600);

/// Takes the data directory, sets up logging and threads, and runs a role.
pub(super) fn start<F, R>(loaded: &Loaded, role: R) -> Result<(), Failure>
where
    R: FnOnce(Config, CancellationToken) -> F,
    F: Future<Output = Result<(), Failure>>,
{
    let config = &loaded.config;
    oak_runtime::limit_heap();
    // Layers of images must be readable for the users inside containers, whatever the umask of the shell was. The
    // data directory itself is closed to others, and keys are written with their own mode.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    set_up_logging(config)?;
    for note in loaded.notes() {
        tracing::warn!("{note}");
    }
    let _lock = DirectoryLock::take(&config.data_dir)?;
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).min(4);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(64)
        .thread_name("oak")
        .enable_all()
        .build()
        .map_err(|error| Failure::new(EXIT_FAILURE, "cannot start").cause(error.to_string()))?;
    let result = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        cancel_on_signal(shutdown.clone()).map_err(|error| {
            Failure::new(EXIT_FAILURE, "cannot watch for signals").cause(error.to_string())
        })?;
        tokio::spawn(stay_small());
        tokio::spawn(crate::backup::run_schedule(config.clone()));
        role(config.clone(), shutdown).await
    });
    // Blocking work that outlives the drain (a slow disk) must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

/// Gives memory back from time to time, as long as the process runs.
async fn stay_small() {
    let mut times = tokio::time::interval_at(tokio::time::Instant::now() + SHRINK_AFTER, SHRINK_EVERY);
    loop {
        times.tick().await;
        // It cannot fail; a stopping runtime drops it.
        let _ = tokio::task::spawn_blocking(oak_runtime::shrink_footprint).await;
    }
}

fn set_up_logging(config: &Config) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&config.log.filter).map_err(|error| {
        Failure::usage(format!("log filter `{}` cannot be understood", config.log.filter))
            .cause(error.to_string())
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let result = match config.log.format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
    };
    result.map_err(|error| Failure::new(EXIT_FAILURE, "cannot set up logging").cause(error.to_string()))
}

/// An error with its causes, as the end of the program.
fn failure(error: &(dyn Error + 'static)) -> Failure {
    let mut failure = Failure::new(EXIT_FAILURE, error.to_string());
    let mut source = error.source();
    while let Some(cause) = source {
        failure = failure.cause(cause.to_string());
        source = cause.source();
    }
    failure
}

/// `oak root`.
pub(super) async fn root(config: Config, shutdown: CancellationToken) -> Result<(), Failure> {
    let claimed = watch::Sender::new(BTreeSet::new());
    let bound = BoundRoot::bind(build::root(&config, &claimed)?).await.map_err(|error| failure(&error))?;
    let ready = |_: RootHandle| notify_ready("root is ready");
    bound.run(shutdown, ready).await.map_err(|error| failure(&error))
}

/// `oak cluster`.
pub(super) async fn cluster(config: Config, shutdown: CancellationToken) -> Result<(), Failure> {
    let bound =
        BoundCluster::bind(build::cluster(&config)?, &shutdown).await.map_err(|error| failure(&error))?;
    bound.run(shutdown, |_| notify_ready("cluster is ready")).await.map_err(|error| failure(&error))
}

/// `oak worker`.
pub(super) async fn worker(config: Config, shutdown: CancellationToken) -> Result<(), Failure> {
    let claimed = watch::Sender::new(BTreeSet::new());
    let config = build::worker(&config, &claimed)?;
    let bound = BoundWorker::bind(config, &shutdown).await.map_err(|error| failure(&error))?;
    bound.run(shutdown, || notify_ready("worker is ready")).await.map_err(|error| failure(&error))
}

/// Whether a role joined its parent at an earlier start.
fn is_enrolled(directory: &std::path::Path) -> bool {
    oak_link::Credentials::open(&directory.join("identity")).is_ok()
}

/// `oak up`: the three roles, joined to each other over loopback exactly as they would be over a network.
pub(super) async fn all(config: Config, shutdown: CancellationToken) -> Result<(), Failure> {
    let claimed = watch::Sender::new(BTreeSet::new());
    let bound = BoundRoot::bind(build::root(&config, &claimed)?).await.map_err(|error| failure(&error))?;
    let api = bound.address();
    let (on_root, root_ready) = oneshot::channel();
    let root = async {
        let ready = move |handle: RootHandle| {
            // Received below, unless the process is stopping already.
            let _ = on_root.send(handle);
        };
        let result = bound.run(shutdown.clone(), ready).await.map_err(|error| failure(&error));
        shutdown.cancel();
        result
    };
    let others = async {
        let Ok(root) = root_ready.await else { return Ok(()) };
        let result = cluster_and_worker(&config, &claimed, &root, &shutdown).await;
        shutdown.cancel();
        result
    };
    info!(address = %api, "starting root, cluster and worker");
    let (root, others) = tokio::join!(root, others);
    others.and(root)
}

async fn cluster_and_worker(
    config: &Config,
    claimed: &build::ClaimedPorts,
    root: &RootHandle,
    shutdown: &CancellationToken,
) -> Result<(), Failure> {
    let mut settings = build::cluster(config)?;
    settings.root = build::local_endpoint(root.address());
    // A root whose directory was lost is another one; the cluster of the same process moves to it by itself.
    settings.rejoin = true;
    let belongs_here = oak_cluster::root_authority(&settings.directory) == Some(root.authority());
    if settings.token.is_none() && !belongs_here {
        settings.token = Some(root.create_cluster_token().await.map_err(|error| failure(&error))?);
    }
    let bound = BoundCluster::bind(settings, shutdown).await.map_err(|error| failure(&error))?;
    let (address, authority) = (bound.address(), bound.worker_authority());
    let (on_cluster, cluster_ready) = oneshot::channel();
    let cluster = async {
        let ready = move |engine| {
            // Received below, unless the process is stopping already.
            let _ = on_cluster.send(engine);
        };
        let result = bound.run(shutdown.clone(), ready).await.map_err(|error| failure(&error));
        shutdown.cancel();
        result
    };
    let worker = async {
        let Ok(engine) = cluster_ready.await else { return Ok(()) };
        let mut settings = build::worker(config, claimed)?;
        settings.cluster = build::local_endpoint(address);
        if settings.token.is_none() && !is_enrolled(&settings.directory) {
            let token = JoinToken::generate(NodeKind::Worker, authority, &mut StdRng::from_os_rng());
            let stored = WorkerToken {
                id: token.id().to_owned(),
                secret_hash: token.hash().to_string(),
                valid_for_ms: OWN_TOKEN_MS,
            };
            engine
                .call(move |cluster, now, _| cluster.token_received(now, stored, false))
                .await
                .map_err(|error| failure(&error))?;
            settings.token = Some(token);
        }
        let bound = BoundWorker::bind(settings, shutdown).await.map_err(|error| failure(&error))?;
        let ready = || notify_ready("root, cluster and worker are ready");
        let result = bound.run(shutdown.clone(), ready).await.map_err(|error| failure(&error));
        shutdown.cancel();
        result
    };
    let (cluster, worker) = tokio::join!(cluster, worker);
    worker.and(cluster)
}
