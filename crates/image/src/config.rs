//! Settings of the image store, as they stand in the worker's configuration file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Settings of an [`ImageStore`](crate::ImageStore). Everything but the directory has a default.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageStoreConfig {
    /// Directory of the store; created with mode 0700. Owned by one process at a time. Has to be on a filesystem that
    /// can be an overlayfs lower layer and holds `trusted.*` attributes (ext4, xfs, btrfs, tmpfs …).
    pub directory: PathBuf,
    /// Registry name as in references (`docker.io`) → addresses that are tried before it, in order. An address is
    /// `host[:port]`, `http://host[:port]` or `https://host[:port]`.
    #[serde(default)]
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registries and mirrors (`host[:port]`) that speak plain HTTP. Loopback addresses always do, unless a mirror says
    /// `https://`.
    #[serde(default)]
    pub plain_http: BTreeSet<String>,
    /// User names and passwords by registry or mirror (`host[:port]` as in references).
    #[serde(default, skip_serializing)]
    pub credentials: BTreeMap<String, Credentials>,
    /// PEM files with certificate authorities to trust besides those of the system.
    #[serde(default)]
    pub certificate_authorities: Vec<PathBuf>,
    /// Bytes the store may hold before garbage collection removes unused images; not a limit for a single pull.
    #[serde(default = "default_size_limit")]
    pub size_limit_bytes: u64,
    /// Images pulled at the same time; further ones wait their turn. At least 1.
    #[serde(default = "default_concurrent_pulls")]
    pub max_concurrent_pulls: usize,
    /// Limits of what one image may contain.
    #[serde(default)]
    pub limits: ImageLimits,
    /// How long a registry may take.
    #[serde(default)]
    pub timeouts: RegistryTimeouts,
}

impl ImageStoreConfig {
    /// Defaults with the store in `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            mirrors: BTreeMap::new(),
            plain_http: BTreeSet::new(),
            credentials: BTreeMap::new(),
            certificate_authorities: Vec::new(),
            size_limit_bytes: default_size_limit(),
            max_concurrent_pulls: default_concurrent_pulls(),
            limits: ImageLimits::default(),
            timeouts: RegistryTimeouts::default(),
        }
    }
}

/// User name and password for a registry. The password is not shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password or access token.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// What one image may contain; a larger one is refused with [`TooLarge`](crate::PullErrorKind::TooLarge).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageLimits {
    /// Layers of an image. The kernel stacks at most 500.
    pub max_layers: usize,
    /// Bytes of one compressed layer.
    pub max_layer_bytes: u64,
    /// Bytes of one layer after decompression, archive headers included.
    pub max_unpacked_layer_bytes: u64,
    /// Files, directories and links in one layer.
    pub max_layer_entries: u64,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self {
            max_layers: 127,
            max_layer_bytes: 16 << 30,
            max_unpacked_layer_bytes: 32 << 30,
            max_layer_entries: 1_000_000,
        }
    }
}

/// How long a registry may take before it counts as unreachable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryTimeouts {
    /// Seconds to connect, TLS included.
    pub connect_seconds: u64,
    /// Seconds until the answer's head, and for a whole manifest or token.
    pub response_seconds: u64,
    /// Seconds a blob may stand still (or crawl below 16 KiB in this time).
    pub stall_seconds: u64,
}

impl Default for RegistryTimeouts {
    fn default() -> Self {
        Self { connect_seconds: 5, response_seconds: 15, stall_seconds: 30 }
    }
}

fn default_size_limit() -> u64 {
    10 << 30
}

fn default_concurrent_pulls() -> usize {
    2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_enough_and_typing_errors_are_refused() {
        let config: ImageStoreConfig = serde_json::from_str(r#"{"directory":"/images"}"#).unwrap();
        assert_eq!(config.max_concurrent_pulls, 2);
        assert!(serde_json::from_str::<ImageStoreConfig>(r#"{"directory":"/i","miror":{}}"#).is_err());
        assert!(
            serde_json::from_str::<ImageStoreConfig>(r#"{"directory":"/i","limits":{"layers":1}}"#).is_err()
        );
    }

    #[test]
    fn passwords_are_neither_shown_nor_written() {
        let mut config = ImageStoreConfig::new("/images");
        let credentials = Credentials { username: "user".into(), password: "hunter2".into() };
        config.credentials.insert("ghcr.io".into(), credentials);
        assert!(!format!("{config:?}").contains("hunter2"));
        assert!(!serde_json::to_string(&config).unwrap().contains("hunter2"));
    }
}
