//! A pull from the first question to the image: resolve, bring the missing layers, write it down.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::Shared;
use super::flight::Joined;
use super::layer::{LayerTracker, Origin, join_layer};
use super::record::{ImageRecord, LayerKey, SCHEMA};
use super::resolve::{Resolved, resolve};
use crate::config::Credentials;
use crate::error::{Failure, PullError};
use crate::image::{Image, PullPhase, PullProgress};
use crate::manifest::Descriptor;
use crate::reference::ImageReference;
use crate::unpack::LayerContents;

/// Layers of one image fetched at the same time: more gain nothing on one line and cost memory.
const CONCURRENT_LAYERS: usize = 3;

/// How far a pull is; written by the pull, read by everyone who waits for it.
#[derive(Default)]
pub(super) struct PullTracker {
    resolving: AtomicBool,
    layers: OnceLock<Vec<(u64, Arc<LayerTracker>)>>,
}

impl PullTracker {
    pub(super) fn snapshot(&self) -> PullProgress {
        let Some(layers) = self.layers.get() else {
            let resolving = self.resolving.load(Ordering::Relaxed);
            let phase = if resolving { PullPhase::Resolving } else { PullPhase::Waiting };
            return PullProgress { phase, bytes_done: 0, bytes_total: 0, layers_done: 0, layers_total: 0 };
        };
        // Sizes come from the manifest, where anything can stand.
        let sum = |bytes: u64, more: u64| bytes.saturating_add(more);
        let bytes_done = layers.iter().map(|(size, layer)| layer.received(*size)).fold(0, sum);
        let bytes_total = layers.iter().map(|(size, _)| *size).fold(0, sum);
        PullProgress {
            phase: if bytes_done < bytes_total { PullPhase::Downloading } else { PullPhase::Unpacking },
            bytes_done,
            bytes_total,
            layers_done: layers.iter().filter(|(_, layer)| layer.is_unpacked()).count(),
            layers_total: layers.len(),
        }
    }
}

/// Keeps layers from garbage collection.
struct Pins {
    shared: Arc<Shared>,
    keys: Vec<LayerKey>,
}

impl Pins {
    fn new(shared: &Arc<Shared>, keys: Vec<LayerKey>) -> Self {
        shared.state().pin(&keys);
        Self { shared: Arc::clone(shared), keys }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        self.shared.state().unpin(&self.keys);
    }
}

/// Pulls an image. Runs once per image at a time; see [`super::flight`].
pub(super) async fn pull(
    shared: Arc<Shared>,
    reference: ImageReference,
    credentials: Option<Credentials>,
    tracker: Arc<PullTracker>,
) -> Result<Arc<Image>, PullError> {
    // The semaphore is never closed.
    let _permit = shared.pull_permits.acquire().await.ok();
    // Somebody may have finished it while this pull was being set up.
    if let Some(image) = shared.use_local(&reference) {
        return Ok(image);
    }
    tracker.resolving.store(true, Ordering::Relaxed);
    let started = std::time::Instant::now();
    let pulled = pull_layers(&shared, &reference, credentials.as_ref(), &tracker).await;
    let seconds = started.elapsed().as_secs_f32();
    match &pulled {
        Ok(image) => tracing::info!(image = %reference, digest = %image.digest, seconds, "image pulled"),
        Err(failure) => tracing::debug!(image = %reference, ?failure, seconds, "pull failed"),
    }
    pulled.map_err(|failure| failure.for_image(&reference))
}

async fn pull_layers(
    shared: &Arc<Shared>,
    reference: &ImageReference,
    credentials: Option<&Credentials>,
    tracker: &PullTracker,
) -> Result<Arc<Image>, Failure> {
    let resolved = resolve(shared, reference, credentials).await?;
    let keys: Vec<LayerKey> = resolved.layers.iter().map(|layer| LayerKey::of_blob(&layer.digest)).collect();
    let pins = Pins::new(shared, keys.clone());
    fetch_layers(shared, reference, &resolved, tracker).await?;
    let record = ImageRecord {
        schema: SCHEMA,
        reference: reference.clone(),
        digest: resolved.digest,
        is_local: false,
        layers: keys,
        config: resolved.config,
        manifest: utf8(&resolved.manifest)?,
        source_config: utf8(&resolved.source_config)?,
    };
    let shared = Arc::clone(shared);
    let committed = tokio::task::spawn_blocking(move || {
        let image = shared.commit_image(record);
        // Only now the image itself keeps its layers.
        drop(pins);
        image
    });
    committed.await.map_err(|error| Failure::lost_task(&error))?
}

/// Brings all layers, a few at a time. The first failure drops the others; what they have received stays on disk.
async fn fetch_layers(
    shared: &Arc<Shared>,
    reference: &ImageReference,
    resolved: &Resolved,
    tracker: &PullTracker,
) -> Result<(), Failure> {
    let origin = Origin {
        registry: reference.registry().to_owned(),
        repository: reference.repository().to_owned(),
        endpoints: resolved.endpoints.clone(),
    };
    let attempts: Vec<Attempt> = resolved
        .layers
        .iter()
        .map(|layer| Attempt { layer: layer.clone(), joined: join_layer(shared, &origin, layer) })
        .collect();
    let trackers = attempts.iter().map(|it| (it.layer.size, Arc::clone(&it.joined.tracker)));
    // Set once: this is the only place, and it runs once per tracker.
    let _ = tracker.layers.set(trackers.collect());
    let fetched = attempts.into_iter().map(|attempt| attempt.finish(shared, &origin));
    stream::iter(fetched).buffer_unordered(CONCURRENT_LAYERS).try_collect::<Vec<LayerContents>>().await?;
    Ok(())
}

struct Attempt {
    layer: Descriptor,
    joined: Joined<LayerTracker, Result<LayerContents, Failure>>,
}

impl Attempt {
    async fn finish(self, shared: &Arc<Shared>, origin: &Origin) -> Result<LayerContents, Failure> {
        match self.joined.attempt.await {
            // It was begun for another image and may have failed for reasons of that image's repository.
            Err(failure) if !self.joined.is_new => {
                tracing::debug!(digest = %self.layer.digest, ?failure, "trying a shared layer again");
                join_layer(shared, origin, &self.layer).attempt.await
            }
            result => result,
        }
    }
}

fn utf8(bytes: &Bytes) -> Result<String, Failure> {
    String::from_utf8(bytes.to_vec())
        .map_err(|_| Failure::corrupt("its manifest or configuration is not UTF-8"))
}

impl Shared {
    /// Writes an image down and makes it known. Its layers have to be pinned (or used by another image) until then.
    pub(super) fn commit_image(&self, record: ImageRecord) -> Result<Arc<Image>, Failure> {
        self.layout.write_image(&record)?;
        let added = self.state().add_image(record, &self.layout.layers, SystemTime::now());
        added.ok_or_else(|| Failure::corrupt("one of its layers vanished while it was being pulled"))
    }
}
