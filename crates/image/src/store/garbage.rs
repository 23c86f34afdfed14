//! Removal of what nobody needs: interrupted downloads and layers without an image always, images by least recent use
//! until the store is under its limit.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::disk::blob_digest;
use super::record::LayerKey;
use super::state::State;
use super::{ImageStore, Shared};
use crate::reference::ImageReference;

/// An interrupted download that was not resumed for this long is given up.
const PARTIAL_BLOB_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a garbage collection did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GarbageReport {
    /// Images that are gone, least recently used first.
    pub removed_images: Vec<ImageReference>,
    /// Layers that are gone.
    pub removed_layers: usize,
    /// Bytes freed, interrupted downloads included.
    pub freed_bytes: u64,
    /// Bytes still used, interrupted downloads included.
    pub used_bytes: u64,
    /// Whether the store is still over its limit because everything in it is in use.
    pub is_over_limit: bool,
}

impl ImageStore {
    /// Removes what nobody needs, as far as the limit asks for it.
    ///
    /// Images stay that `in_use` contains by reference or by digest (in their canonical text form), that somebody holds
    /// as `Arc<Image>`, or that were built here. Layers stay while any image or running pull needs them. Safe to call
    /// at any time, also while pulls run. Failures to remove single files are logged and tried again at the next start.
    pub async fn collect_garbage(&self, in_use: &HashSet<String>) -> GarbageReport {
        let shared = Arc::clone(&self.shared);
        let in_use = in_use.clone();
        let collected = tokio::task::spawn_blocking(move || collect(&shared, &in_use));
        collected.await.unwrap_or_else(|error| {
            tracing::error!(%error, "garbage collection ended unexpectedly");
            GarbageReport::default()
        })
    }
}

fn collect(shared: &Shared, in_use: &HashSet<String>) -> GarbageReport {
    let mut report = GarbageReport::default();
    let limit = shared.config.size_limit_bytes;
    let mut rubbish = Vec::new();
    let mut partial_bytes = remove_partial_blobs(shared, PARTIAL_BLOB_LIFETIME, &mut report);
    {
        // The lock is held over the renames, so that no pull can find or commit a layer that is about to go.
        let mut state = shared.state();
        detach_unneeded(shared, &mut state, &mut report, &mut rubbish);
        let is_over = |state: &State, partial_bytes: u64| state.layer_bytes() + partial_bytes > limit;
        if is_over(&state, partial_bytes) {
            drop(state);
            partial_bytes = remove_partial_blobs(shared, Duration::ZERO, &mut report);
            state = shared.state();
        }
        for candidate in state.candidates(in_use) {
            if !is_over(&state, partial_bytes) {
                break;
            }
            if let Err(error) = shared.layout.remove_image(&candidate.reference) {
                tracing::warn!(image = %candidate.reference, %error, "cannot remove an image");
                continue;
            }
            state.remove_image(&candidate.reference);
            report.removed_images.push(candidate.reference);
            detach_unneeded(shared, &mut state, &mut report, &mut rubbish);
        }
        report.used_bytes = state.layer_bytes() + partial_bytes;
    }
    report.is_over_limit = report.used_bytes > limit;
    for directory in rubbish {
        shared.layout.sweep(&directory);
    }
    if report.freed_bytes > 0 {
        tracing::info!(
            images = report.removed_images.len(),
            layers = report.removed_layers,
            freed_bytes = report.freed_bytes,
            used_bytes = report.used_bytes,
            "images collected"
        );
    }
    report
}

/// Takes layers nobody needs out of sight; their directories are removed later, without the lock.
fn detach_unneeded(
    shared: &Shared,
    state: &mut State,
    report: &mut GarbageReport,
    rubbish: &mut Vec<PathBuf>,
) {
    for key in state.unneeded_layers() {
        match shared.layout.detach_layer(&key) {
            Ok(directory) => {
                report.freed_bytes += state.layer(&key).map_or(0, |layer| layer.unpacked_bytes);
                report.removed_layers += 1;
                state.remove_layer(&key);
                rubbish.push(directory);
            }
            Err(error) => tracing::warn!(layer = key.as_str(), %error, "cannot remove a layer"),
        }
    }
}

/// Removes downloads that no running pull needs and that are older than `lifetime`; returns the bytes of the others.
fn remove_partial_blobs(shared: &Shared, lifetime: Duration, report: &mut GarbageReport) -> u64 {
    let now = SystemTime::now();
    let mut kept_bytes = 0;
    for entry in fs::read_dir(&shared.layout.blobs).into_iter().flatten().flatten() {
        let digest = entry.file_name().to_str().and_then(blob_digest);
        let (Some(digest), Ok(metadata)) = (digest, entry.metadata()) else { continue };
        let modified = metadata.modified().unwrap_or(now);
        let is_old = lifetime.is_zero() || now.duration_since(modified).is_ok_and(|age| age > lifetime);
        // Looked up for each file: pulls start and end meanwhile.
        let state = shared.state();
        if is_old && !state.is_pinned(&LayerKey::of_blob(&digest)) {
            // Removed under the lock: a pull that starts now finds either the file or nothing.
            shared.layout.sweep(&entry.path());
            report.freed_bytes += metadata.len();
        } else {
            kept_bytes += metadata.len();
        }
    }
    kept_bytes
}
