//! Turns a compressed layer archive into a directory that overlayfs can stack.
//!
//! Blocking code, run on blocking threads. The archive is hostile: sizes and counts are limited, and no entry reaches
//! outside the target directory.

mod apply;
mod archive;
mod decompress;
mod path;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

pub(crate) use apply::{Applier, Metadata};
pub(crate) use decompress::free_bytes;
pub(crate) use path::EntryPath;

use crate::config::ImageLimits;
use crate::error::Failure;

/// Bytes of disk that a pull never takes: a full disk stops the whole machine, not only the image.
pub(crate) const RESERVED_DISK_BYTES: u64 = 64 << 20;

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LayerContents {
    /// Bytes on disk, rounded up to blocks, with one block per entry.
    pub(crate) unpacked_bytes: u64,
    /// Files, directories and links.
    pub(crate) entries: u64,
    /// The layer hides everything below it. Overlayfs does not look for that mark on the root of a layer, so whoever
    /// stacks layers leaves out those below.
    pub(crate) opaque_root: bool,
}

/// Unpacks the archive `blob` into `target`, an existing empty directory, until `cancelled` is set.
///
/// # Errors
/// Content that is damaged, over the limits or trying to escape; a full disk; any error of the filesystem. The target
/// then holds rubbish.
pub(crate) fn unpack_layer(
    blob: &Path,
    target: &Path,
    limits: &ImageLimits,
    cancelled: &Arc<AtomicBool>,
) -> Result<LayerContents, Failure> {
    let file = File::open(blob)
        .map_err(|error| Failure::disk(format!("open the download {}", blob.display()), error))?;
    let guard = decompress::Guard {
        remaining: limits.max_unpacked_layer_bytes,
        cancelled: Arc::clone(cancelled),
        disk: File::open(target)
            .map_err(|error| Failure::disk(format!("open {}", target.display()), error))?,
    };
    let content = decompress::open(file, guard).map_err(Failure::archive)?;
    let mut archive = archive::ArchiveReader::new(content);
    let mut applier = Applier::new(target)?;
    let mut entries = 0;
    while let Some(entry) = archive.next_entry().map_err(Failure::archive)? {
        entries += 1;
        if entries > limits.max_layer_entries {
            let reason = format!("a layer has more than {} files", limits.max_layer_entries);
            return Err(Failure::TooLarge { reason });
        }
        applier.apply(&entry, &mut archive)?;
    }
    applier.finish()
}
