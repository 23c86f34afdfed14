//! Joining again after this worker was removed from its cluster: with a new token, as another worker, and not before
//! everything it had is stopped.
//!
//! The new identity is made beside the old one; that it is complete is the mark that the old one is to go. So a crash at
//! any point leaves what the next start goes on with.

use std::fs;
use std::io;
use std::path::Path;

use oak_link::{Credentials, Joining, PkiError, is_removed};
use oak_model::chain;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{WorkerConfig, WorkerError, take_down};

/// The identity that takes the place of the present one.
const NEXT: &str = "identity-next";

/// What belongs to the former worker, below the directory.
const OF_THE_FORMER: [&str; 5] = ["workloads", "state", "logs", "files", "network-tunnel"];

/// Makes the worker another one if it was removed and has a token that it has not joined with. Otherwise nothing
/// happens.
pub(crate) async fn if_removed(
    config: &WorkerConfig,
    joining: impl FnOnce(&Path) -> Joining,
    shutdown: &CancellationToken,
) -> Result<(), WorkerError> {
    let (present, next) = (config.directory.join("identity"), config.directory.join(NEXT));
    match Credentials::open(&next) {
        // An earlier start was cut off before it had replaced the former worker.
        Ok(_) => {}
        Err(PkiError::NotEnrolled { .. }) => {
            if !has_joined_again(config, &present, joining(&next), shutdown).await {
                return Ok(());
            }
        }
        Err(error) => return Err(error.into()),
    }
    info!("stopping everything this worker had before it was removed");
    take_down(&config.directory, &config.bridge, &config.table).await?;
    let replaced = tokio::task::spawn_blocking({
        let directory = config.directory.clone();
        move || replace(&directory, &present, &next)
    });
    let replaced = replaced.await.unwrap_or_else(|_| Err(io::Error::other("the work on files was cut off")));
    replaced.map_err(|source| WorkerError::Replace { path: config.directory.clone(), source })
}

async fn has_joined_again(
    config: &WorkerConfig,
    present: &Path,
    joining: Joining,
    shutdown: &CancellationToken,
) -> bool {
    let Ok(credentials) = Credentials::open(present) else { return false };
    let is_new = config.token.as_ref().is_some_and(|token| !credentials.joined_with(token));
    if !is_new || !is_removed(&credentials, &config.cluster, oak_link::system_clock()).await {
        return false;
    }
    info!(former = %credentials.identity(), "this worker was removed and has a new token: it joins again");
    match oak_link::join(joining, shutdown).await {
        Ok(_) => true,
        Err(error) => {
            // What it runs goes on until somebody stops it.
            warn!(error = chain(&error), "this worker was removed from its cluster, and cannot join again");
            false
        }
    }
}

/// Forgets the former worker; its identity goes last.
fn replace(directory: &Path, present: &Path, next: &Path) -> io::Result<()> {
    for path in OF_THE_FORMER.map(|name| directory.join(name)).into_iter().chain([present.to_owned()]) {
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    crate::keys::forget(directory)?;
    fs::rename(next, present)?;
    fs::File::open(directory)?.sync_all()
}
