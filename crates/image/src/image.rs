//! What a runtime needs to know of an image that is ready to run, and how far a pull has come.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::reference::ImageReference;

/// An image whose layers are unpacked on disk.
///
/// While anyone holds the `Arc<Image>` the store keeps its layers, whatever garbage collection is told.
#[derive(Debug, PartialEq, Eq)]
pub struct Image {
    /// The reference it was asked for by.
    pub reference: ImageReference,
    /// Digest of the manifest for this machine's platform.
    pub digest: Digest,
    /// How to run it.
    pub config: ImageConfig,
    /// Unpacked layer directories, lowest first, each at most once; ready as overlayfs `lowerdir`s (which the mount
    /// option lists topmost first). Read only: they are shared with other images.
    pub layers: Vec<PathBuf>,
    /// Bytes of all its unpacked layers, shared ones included.
    pub size_bytes: u64,
}

/// The part of an image's configuration that a runtime uses. Empty strings and lists mean "not given".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// First words of the command line.
    pub entrypoint: Vec<String>,
    /// Default arguments after the entry point.
    pub cmd: Vec<String>,
    /// Environment as `NAME=value`.
    pub env: Vec<String>,
    /// Directory the process starts in.
    pub working_dir: String,
    /// `user`, `uid`, `user:group` or `uid:gid`.
    pub user: String,
    /// Signal that asks for an orderly stop, for example `SIGQUIT` or `3`.
    pub stop_signal: String,
    /// Go name of the processor architecture, for example `amd64`.
    pub architecture: String,
    /// Operating system, `linux`.
    pub os: String,
}

/// Step a pull is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PullPhase {
    /// Waiting for other pulls to finish.
    Waiting,
    /// Asking the registry what the image consists of.
    Resolving,
    /// Layers are being downloaded (and unpacked as they arrive).
    Downloading,
    /// All layers are here, the last ones are being unpacked.
    Unpacking,
    /// The image is ready.
    Done,
}

/// How far a pull has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PullProgress {
    /// Current step.
    pub phase: PullPhase,
    /// Compressed bytes that are here, those of layers already present included.
    pub bytes_done: u64,
    /// Compressed bytes of all layers; 0 until the manifest is known.
    pub bytes_total: u64,
    /// Layers that are unpacked.
    pub layers_done: usize,
    /// Layers of the image.
    pub layers_total: usize,
}

impl PullProgress {
    /// Downloaded share from 0 to 100; `None` while the size is unknown.
    pub fn percent(&self) -> Option<u8> {
        if self.bytes_total == 0 {
            return None;
        }
        let share = u128::from(self.bytes_done.min(self.bytes_total)) * 100 / u128::from(self.bytes_total);
        u8::try_from(share).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_stays_between_0_and_100() {
        let at = |done, total| {
            PullProgress {
                phase: PullPhase::Downloading,
                bytes_done: done,
                bytes_total: total,
                layers_done: 0,
                layers_total: 1,
            }
            .percent()
        };
        assert_eq!(at(0, 0), None);
        assert_eq!(at(43, 100), Some(43));
        assert_eq!(at(200, 100), Some(100));
        assert_eq!(at(u64::MAX, u64::MAX), Some(100));
    }
}
