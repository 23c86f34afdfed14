//! `oak down`: ends the process of a data directory, then everything that goes on without it.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use super::lock::DirectoryLock;
use crate::commands::{EXIT_FAILURE, Failure};
use crate::config::Config;

/// How long the process may take to drain.
const DRAIN: Duration = Duration::from_secs(30);

/// Stops everything of a data directory. State and images stay unless `purge` is set.
pub(super) fn run(config: &Config, purge: bool) -> Result<(), Failure> {
    let directory = config.data_dir.as_path();
    if !directory.exists() {
        return Ok(());
    }
    end_process(directory)?;
    // Held until the end, so that nothing starts while its ground is being cleared.
    let lock = DirectoryLock::take(directory)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(EXIT_FAILURE, "cannot start").cause(error.to_string()))?;
    let worker = directory.join("worker");
    if worker.exists() {
        let network = &config.network;
        let work = oak_worker::take_down(&worker, network.bridge.as_str(), network.table.as_str());
        runtime.block_on(work).map_err(|error| {
            let failure = Failure::new(EXIT_FAILURE, "not everything could be taken down");
            error.problems.into_iter().fold(failure, Failure::cause)
        })?;
    }
    if purge {
        std::fs::remove_dir_all(directory).map_err(|error| {
            Failure::new(EXIT_FAILURE, format!("cannot remove {}", directory.display()))
                .cause(error.to_string())
        })?;
    }
    drop(lock);
    Ok(())
}

fn end_process(directory: &Path) -> Result<(), Failure> {
    let deadline = Instant::now() + DRAIN;
    let mut told = None;
    while let Some(process) = DirectoryLock::holder(directory)? {
        if told != Some(process) {
            told = Some(process);
            // It may have ended since we looked; the lock tells.
            let _ = kill_process(process, Signal::TERM);
        }
        if Instant::now() >= deadline {
            let text =
                format!("process {} did not end within {} s", process.as_raw_nonzero(), DRAIN.as_secs());
            return Err(Failure::new(EXIT_FAILURE, text)
                .hint("look at its log; end it with SIGKILL and run `oak down` again"));
        }
        pause();
    }
    Ok(())
}

#[allow(
    clippy::disallowed_methods,
    reason = "another process frees the lock; there is nothing to wait on but time"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}
