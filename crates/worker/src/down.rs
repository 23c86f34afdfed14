//! Taking everything of a worker down while its agent does not run.

use std::path::Path;

use oak_model::chain;
use oak_net::NetworkError;
use oak_runtime::{OciConfig, OciRuntime, Runtime};
use tracing::info;

use crate::WorkerError;

/// Something could not be removed.
#[derive(Debug, thiserror::Error)]
#[error("not everything could be taken down: {}", problems.join("; "))]
pub struct DownError {
    /// One line per leftover.
    pub problems: Vec<String>,
}

/// Stops every container and removes their network, mounts and cgroups. State and images stay, so that the next
/// start runs everything again. Goes on after an error.
///
/// # Errors
/// What could not be removed.
pub async fn take_down(directory: &Path, bridge: &str, table: &str) -> Result<(), DownError> {
    let mut problems = Vec::new();
    if let Err(error) = containers(directory, &mut problems).await {
        problems.push(chain(&error));
    }
    crate::secrets::remove_all(directory);
    if let Err(problem) = crate::tunnel::take_down(directory, bridge).await {
        problems.push(problem);
    }
    match oak_net::teardown(&directory.join("network"), bridge, table).await {
        Ok(()) => {}
        Err(error @ NetworkError::Busy { .. }) => {
            problems.push(format!("the worker still runs: {}", chain(&error)));
        }
        Err(error) => problems.push(chain(&error)),
    }
    if problems.is_empty() { Ok(()) } else { Err(DownError { problems }) }
}

async fn containers(directory: &Path, problems: &mut Vec<String>) -> Result<(), WorkerError> {
    let state = directory.join("containers");
    if !state.exists() {
        return Ok(());
    }
    let runtime = OciRuntime::open(OciConfig::new(state.clone()))
        .map_err(|source| WorkerError::Runtime { path: state, source })?;
    for container in runtime.adopt().await? {
        info!(container = %container.id, "stopping");
        if let Err(error) = runtime.delete(&container.id).await {
            problems.push(chain(&error));
        }
    }
    Ok(())
}
