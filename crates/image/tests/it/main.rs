//! The store against a registry on the loopback interface that counts requests and can misbehave.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "what supports tests may fail like tests"
)]

mod failures;
mod garbage;
mod images;
mod local;
mod pull;
mod registry;
mod resume;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

use oak_image::{ImageReference, ImageStore, ImageStoreConfig, RegistryTimeouts};
use tempfile::TempDir;

/// A store in a directory of its own.
struct World {
    directory: TempDir,
}

impl World {
    /// `None`, with a word about it, when not root.
    fn new() -> Option<Self> {
        install_tls_provider();
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        Some(Self { directory: tempfile::tempdir().unwrap() })
    }

    fn config(&self) -> ImageStoreConfig {
        let mut config = ImageStoreConfig::new(self.path());
        config.timeouts = RegistryTimeouts { connect_seconds: 2, response_seconds: 5, stall_seconds: 1 };
        config
    }

    fn open(&self) -> ImageStore {
        ImageStore::open(self.config()).unwrap()
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// Names in a directory of the store.
    fn names(&self, directory: &str) -> Vec<String> {
        names(&self.path().join(directory))
    }
}

/// What `main` does in the real program.
fn install_tls_provider() {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        rustls::crypto::ring::default_provider().install_default().expect("no other provider is installed");
    });
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn reference(text: &str) -> ImageReference {
    ImageReference::parse(text).unwrap()
}

/// Waits until the condition holds, at most ten seconds.
async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Fails instead of hanging.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("should not take 20 s")
}
