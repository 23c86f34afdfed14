//! The store: what is on disk, what is being fetched, what may go.

mod disk;
mod flight;
mod garbage;
mod layer;
mod local;
mod pull;
mod record;
mod resolve;
mod state;

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;

pub use garbage::GarbageReport;
pub use local::{LocalFile, LocalSource};

use crate::config::{Credentials, ImageStoreConfig};
use crate::digest::Digest;
use crate::error::{Failure, OpenError, PullError};
use crate::image::{Image, PullPhase, PullProgress};
use crate::reference::ImageReference;
use crate::registry::RegistryClient;
use crate::unpack::LayerContents;
use disk::Layout;
use flight::SingleFlight;
use layer::{LayerSource, LayerTracker};
use pull::PullTracker;
use state::State;

/// Layers unpacked (or local images built) at the same time, over all pulls: each is one busy core and one busy disk.
const CONCURRENT_UNPACKS: usize = 2;
/// How often a waiting caller hears about progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Images of this machine. Cloning gives another handle to the same store.
#[derive(Clone)]
pub struct ImageStore {
    shared: Arc<Shared>,
}

/// One line of a list of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSummary {
    /// Its name.
    pub reference: ImageReference,
    /// Digest of its manifest.
    pub digest: Digest,
    /// Bytes of its unpacked layers, shared ones included.
    pub size_bytes: u64,
    /// When it was last asked for; after a restart exact to an hour.
    pub last_used: SystemTime,
    /// Whether it was built here; such images are never collected.
    pub is_local: bool,
}

/// Who asks with other credentials asks for something else.
type PullKey = (ImageReference, Option<Credentials>);

struct Shared {
    config: ImageStoreConfig,
    layout: Layout,
    registry: RegistryClient,
    /// Held for a few lines, or for the renames that have to happen together with a change of it.
    state: Mutex<State>,
    images: SingleFlight<PullKey, PullTracker, Result<Arc<Image>, PullError>>,
    layers: SingleFlight<LayerSource, LayerTracker, Result<LayerContents, Failure>>,
    pull_permits: Semaphore,
    unpack_permits: Arc<Semaphore>,
    /// Locked as long as the store is open.
    _lock: File,
}

impl ImageStore {
    /// Opens the store in the configured directory, creating it if needed, and removes what a killed process left
    /// half-done. Blocks for as long as reading a few small files and removing rubbish takes.
    ///
    /// A TLS provider has to be installed for the process (`rustls::crypto::CryptoProvider::install_default`).
    ///
    /// # Errors
    /// The directory cannot be used or is in use, or a setting is wrong.
    pub fn open(config: ImageStoreConfig) -> Result<Self, OpenError> {
        let registry = RegistryClient::new(&config)?;
        let (layout, lock) = Layout::open(&config.directory)?;
        let state = layout.load()?;
        Ok(Self {
            shared: Arc::new(Shared {
                pull_permits: Semaphore::new(config.max_concurrent_pulls.max(1)),
                unpack_permits: Arc::new(Semaphore::new(CONCURRENT_UNPACKS)),
                state: Mutex::new(state),
                images: SingleFlight::default(),
                layers: SingleFlight::default(),
                _lock: lock,
                config,
                layout,
                registry,
            }),
        })
    }

    /// Returns the image, at once when it is here, else pulled from its mirrors or its registry.
    ///
    /// A local copy counts whatever its registry has by now: a tag is never refreshed behind the user's back (the
    /// original behaves so too). Local copies are also given without asking the registry whether the caller may have
    /// them.
    ///
    /// However many callers want an image or a layer at the same time, it is fetched once. Dropping the returned future
    /// gives up only this caller's interest; the pull ends when nobody is left, and what has been downloaded by then is
    /// kept for the next attempt. `progress` is called from within this future, at most five times a second.
    ///
    /// # Errors
    /// [`PullError`], whose [`kind`](PullError::kind) says what can be done about it. An unreachable registry is
    /// reported after the connect time-out at the latest, per address tried.
    pub async fn ensure(
        &self,
        reference: &ImageReference,
        progress: impl Fn(PullProgress) + Send + Sync,
    ) -> Result<Arc<Image>, PullError> {
        self.ensure_with(reference, None, progress).await
    }

    /// As [`ImageStore::ensure`], with credentials for the image's own registry; they are not kept, and mirrors do not
    /// get them. Without any, those of the settings are used.
    ///
    /// # Errors
    /// As [`ImageStore::ensure`].
    pub async fn ensure_with(
        &self,
        reference: &ImageReference,
        credentials: Option<Credentials>,
        progress: impl Fn(PullProgress) + Send + Sync,
    ) -> Result<Arc<Image>, PullError> {
        if let Some(image) = self.shared.use_local(reference) {
            return Ok(image);
        }
        if reference.is_local_only() {
            return Err(PullError::NotInstalled { image: reference.clone() });
        }
        // Whoever comes with other credentials makes an attempt of its own: the registry may answer it differently.
        let key = (reference.clone(), credentials.clone());
        let joined = self.shared.images.join(key, PullTracker::default, |tracker| {
            pull::pull(Arc::clone(&self.shared), reference.clone(), credentials, tracker)
        });
        let (tracker, mut pulled) = (joined.tracker, joined.attempt);
        let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut shown = None;
        loop {
            tokio::select! {
                biased;
                result = &mut pulled => {
                    if result.is_ok() {
                        progress(PullProgress { phase: PullPhase::Done, ..tracker.snapshot() });
                    }
                    return result;
                }
                _ = ticks.tick() => {
                    let current = tracker.snapshot();
                    if shown.replace(current) != Some(current) {
                        progress(current);
                    }
                }
            }
        }
    }

    /// The image if it is here; does not count as use.
    pub fn find(&self, reference: &ImageReference) -> Option<Arc<Image>> {
        self.shared.state().find(reference)
    }

    /// All images, by name.
    pub fn images(&self) -> Vec<ImageSummary> {
        self.shared.state().summaries()
    }

    /// Bytes of all unpacked layers on disk, each counted once.
    pub fn used_bytes(&self) -> u64 {
        self.shared.state().layer_bytes()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds an image and notes the use, on disk at most once an hour.
    fn use_local(&self, reference: &ImageReference) -> Option<Arc<Image>> {
        let now = SystemTime::now();
        let used = self.state().note_use(reference, now)?;
        if used.write_down {
            self.layout.note_use(reference, now);
        }
        Some(used.image)
    }

    /// Runs blocking work on its own thread. When the caller goes away the work is told through its flag.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<AtomicBool>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        // The semaphore is never closed; if it were, running unbounded would still be right.
        let permit = Arc::clone(&self.unpack_permits).acquire_owned().await.ok();
        let cancelled = Arc::new(AtomicBool::new(false));
        let cancel = CancelOnDrop(Arc::clone(&cancelled));
        let done = tokio::task::spawn_blocking(move || {
            // Until the thread is through, not only until somebody waits for it.
            let _permit = permit;
            work(&cancelled)
        })
        .await;
        drop(cancel);
        done.map_err(|error| Failure::lost_task(&error))?
    }
}

struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
