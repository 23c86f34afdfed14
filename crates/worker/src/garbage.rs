//! Keeping the image store below its limit.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use oak_control::worker::Worker;
use oak_image::ImageReference;
use oak_store::{Engine, StoreError};
use tracing::{info, warn};

use crate::operations::Operations;

/// Images grow only by pulls, which poke the collection; this also removes downloads nobody resumed.
const INTERVAL: Duration = Duration::from_secs(6 * 3600);

/// Collects after every pull and now and then, for ever. Images of all workloads stay, running or not.
pub(crate) async fn run(operations: Arc<Operations>, engine: Engine<Worker>) -> Result<(), StoreError> {
    loop {
        // Both branches are cancel-safe.
        tokio::select! {
            () = operations.pulled.notified() => {}
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let Ok(images) = engine.call(|worker, _, _| images(worker)).await else { return Ok(()) };
        let in_use: HashSet<String> = images
            .iter()
            .filter_map(|image| image.parse::<ImageReference>().ok())
            .map(|reference| reference.to_string())
            .collect();
        let report = operations.images.collect_garbage(&in_use).await;
        if !report.removed_images.is_empty() {
            info!(
                images = report.removed_images.len(),
                freed_bytes = report.freed_bytes,
                "unused images removed"
            );
        }
        if report.is_over_limit {
            warn!(used_bytes = report.used_bytes, "images in use are larger than images.size_limit");
        }
    }
}

fn images(worker: &Worker) -> Vec<String> {
    worker.workloads().map(|workload| workload.assignment().desired.spec.image.clone()).collect()
}
