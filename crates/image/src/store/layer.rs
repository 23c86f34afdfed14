//! Brings one layer onto the disk: download, check, unpack, move into place.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Shared;
use super::disk::UnfinishedLayer;
use super::flight::Joined;
use super::record::LayerKey;
use crate::download::{self, BlobSource};
use crate::error::Failure;
use crate::manifest::Descriptor;
use crate::registry::Endpoint;
use crate::unpack::{self, LayerContents, RESERVED_DISK_BYTES};

/// A layer and the registry it comes from. Images of one registry share the download of a layer; two registries do
/// not, see [`Layout::blob`](super::disk::Layout::blob).
pub(super) type LayerSource = (String, LayerKey);

/// Where the layers of an image come from.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) registry: String,
    pub(super) repository: String,
    /// In the order to ask.
    pub(super) endpoints: Vec<Endpoint>,
}

/// How far one layer is.
#[derive(Default)]
pub(super) struct LayerTracker {
    received: AtomicU64,
    unpacked: AtomicBool,
}

impl LayerTracker {
    /// Compressed bytes here, out of `size`.
    pub(super) fn received(&self, size: u64) -> u64 {
        if self.is_unpacked() { size } else { self.received.load(Ordering::Relaxed).min(size) }
    }

    pub(super) fn is_unpacked(&self) -> bool {
        self.unpacked.load(Ordering::Relaxed)
    }
}

/// Joins the attempt to fetch a layer, or begins one.
pub(super) fn join_layer(
    shared: &Arc<Shared>,
    origin: &Origin,
    layer: &Descriptor,
) -> Joined<LayerTracker, Result<LayerContents, Failure>> {
    let key = (origin.registry.clone(), LayerKey::of_blob(&layer.digest));
    shared.layers.join(key, LayerTracker::default, |tracker| {
        fetch_layer(Arc::clone(shared), origin.clone(), layer.clone(), tracker)
    })
}

async fn fetch_layer(
    shared: Arc<Shared>,
    origin: Origin,
    layer: Descriptor,
    tracker: Arc<LayerTracker>,
) -> Result<LayerContents, Failure> {
    let key = LayerKey::of_blob(&layer.digest);
    let present = shared.state().layer(&key);
    if let Some(contents) = present {
        tracker.unpacked.store(true, Ordering::Relaxed);
        return Ok(contents);
    }
    let blob = shared.layout.blob(&layer.digest, &origin.registry);
    check_space(&shared, &layer, blob.clone()).await?;
    let source =
        BlobSource { client: &shared.registry, endpoints: &origin.endpoints, repository: &origin.repository };
    let downloaded = download::download(&source, &layer, &blob, &tracker.received).await;
    downloaded.map_err(|failure| with_space(&shared, &layer, failure))?;
    let work = Arc::clone(&shared);
    let unpacked = shared.blocking(move |cancelled| unpack_and_commit(&work, &key, &blob, cancelled)).await;
    let contents = unpacked.map_err(|failure| with_space(&shared, &layer, failure))?;
    tracker.unpacked.store(true, Ordering::Relaxed);
    Ok(contents)
}

/// Refuses early what cannot fit: at least the rest of the compressed layer and the reserve.
async fn check_space(shared: &Shared, layer: &Descriptor, blob: PathBuf) -> Result<(), Failure> {
    let blobs = shared.layout.blobs.clone();
    let size = layer.size;
    let check = move || {
        let present = std::fs::metadata(&blob).map_or(0, |metadata| metadata.len());
        let needed = size.saturating_sub(present).saturating_add(RESERVED_DISK_BYTES);
        let free = std::fs::File::open(&blobs).and_then(|directory| unpack::free_bytes(&directory)).map_err(
            |error| Failure::disk(format!("look at the free space of {}", blobs.display()), error),
        )?;
        if free < needed {
            let reason = format!(
                "a layer needs {} MiB and {} MiB are kept in reserve, the disk of {} has {} MiB free",
                size.saturating_sub(present).div_ceil(1 << 20),
                RESERVED_DISK_BYTES >> 20,
                blobs.display(),
                free >> 20
            );
            return Err(Failure::DiskFull { reason });
        }
        Ok(())
    };
    tokio::task::spawn_blocking(check).await.map_err(|error| Failure::lost_task(&error))?
}

/// Adds to a failure for lack of space which disk it is, what is needed and what is there.
fn with_space(shared: &Shared, layer: &Descriptor, failure: Failure) -> Failure {
    let Failure::DiskFull { reason } = failure else { return failure };
    let layers = &shared.layout.layers;
    let free = std::fs::File::open(layers).and_then(|directory| unpack::free_bytes(&directory)).unwrap_or(0);
    let reason = format!(
        "{reason}: the layer has {} MiB compressed and more unpacked, {} MiB are kept in reserve, the disk of {} has \
         {} MiB free",
        layer.size.div_ceil(1 << 20),
        RESERVED_DISK_BYTES >> 20,
        layers.display(),
        free >> 20
    );
    Failure::DiskFull { reason }
}

/// Unpacks a downloaded and checked blob into its layer directory, then removes the blob.
fn unpack_and_commit(
    shared: &Shared,
    key: &LayerKey,
    blob: &Path,
    cancelled: &Arc<AtomicBool>,
) -> Result<LayerContents, Failure> {
    let layer = shared.layout.begin_layer()?;
    let unpacked = unpack::unpack_layer(blob, layer.path(), &shared.config.limits, cancelled);
    match &unpacked {
        // It unpacks no better next time. (A cancelled one may: its error is only about being cancelled.)
        Err(Failure::Corrupt { .. } | Failure::TooLarge { .. }) if !cancelled.load(Ordering::Relaxed) => {
            shared.layout.sweep(blob);
        }
        // The space is needed more urgently than the head start.
        Err(Failure::DiskFull { .. }) => shared.layout.sweep(blob),
        _ => {}
    }
    let contents = unpacked?;
    shared.commit_layer(key, &layer, contents)?;
    shared.layout.sweep(blob);
    Ok(contents)
}

impl Shared {
    /// Puts a finished layer in its place, unless the same layer got there first.
    pub(super) fn commit_layer(
        &self,
        key: &LayerKey,
        layer: &UnfinishedLayer,
        contents: LayerContents,
    ) -> Result<(), Failure> {
        self.layout.sync()?;
        let mut state = self.state();
        if state.layer(key).is_none() {
            self.layout.commit_layer(key, layer, &contents)?;
            state.add_layer(key.clone(), contents);
        }
        Ok(())
    }
}
