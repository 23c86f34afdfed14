//! Ending an instance, and removing what was made for it.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use oak_control::worker::Attempt;
use oak_model::{InstanceKey, chain};
use oak_runtime::Signal;
use tracing::warn;

use super::Operations;
use crate::container::container_id;

impl Operations {
    pub(super) async fn stop(
        self: &Arc<Self>,
        key: InstanceKey,
        attempt: Attempt,
        grace: Duration,
        forget: bool,
    ) {
        match self.tear_down(key, attempt, grace, forget).await {
            Ok(()) => self.post(move |worker, now, _| worker.stopped(now, key, attempt)).await,
            // No answer: the state machine tries again when the stop is overdue.
            Err(problems) => warn!(instance = %key, problems, "cannot remove everything of the instance"),
        }
    }

    async fn tear_down(
        &self,
        key: InstanceKey,
        attempt: Attempt,
        grace: Duration,
        forget: bool,
    ) -> Result<(), String> {
        let mut problems = Vec::new();
        self.ports.settle(key);
        self.leases.set(key, None);
        match self.end(key, grace).await {
            Ok(()) => self.gpus.release(key, attempt),
            Err(error) => problems.push(error),
        }
        if let Some(network) = self.network.opened().await
            && let Err(error) = network.detach(&key.to_string()).await
        {
            problems.push(chain(&error));
        }
        self.secrets.forget(key);
        let logs = forget.then(|| self.places.log_directory(key));
        for directory in [self.places.file_directory(key)].into_iter().chain(logs) {
            if let Err(error) = tokio::fs::remove_dir_all(&directory).await
                && error.kind() != std::io::ErrorKind::NotFound
            {
                problems.push(format!("cannot remove {}: {error}", directory.display()));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
    }

    /// Asks the process to end, waits for it, then removes the container.
    async fn end(&self, key: InstanceKey, grace: Duration) -> Result<(), String> {
        let id = container_id(key).map_err(|error| chain(&error))?;
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        let signal = self.stop_signal(key).await;
        if let Some(mut ended) = ended
            && self.runtime.signal(&id, signal).await.is_ok()
        {
            // Too late or gone: the deletion below ends what is left in either case.
            let _ = tokio::time::timeout(grace, ended.wait_for(|ended| *ended)).await;
        }
        self.runtime.delete(&id).await.map_err(|error| chain(&error))
    }

    /// The signal the image wants to be stopped with.
    async fn stop_signal(&self, key: InstanceKey) -> Signal {
        let engine = self.engine.wait().await;
        let image = engine
            .call(move |worker, _, _| Some(worker.workload(key)?.assignment().desired.spec.image.clone()))
            .await;
        let Ok(Some(image)) = image else { return Signal::TERM };
        let image = image.parse().ok().and_then(|reference| self.images.find(&reference));
        image.and_then(|image| image.config.stop_signal.parse().ok()).unwrap_or(Signal::TERM)
    }
}
