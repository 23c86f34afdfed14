//! Container images on a worker: what they are called, how they get here, how they are kept and when they go.
//!
//! [`ImageStore`] answers [`ensure`](ImageStore::ensure) with an [`Image`] whose layers lie unpacked on disk, ready to
//! be stacked by overlayfs. It downloads what is missing from the image's registry or its mirrors, once however many
//! ask at the same time, and goes on where an interrupted download stopped. Layers are shared between images.
//! [`collect_garbage`](ImageStore::collect_garbage) removes the least recently used images that nobody needs.
//!
//! ```text
//! reference ─► resolve (registry) ─► manifest, configuration
//!                                      │ one per missing layer, shared by all pulls
//!                                      ▼
//!             blobs/<digest> ◄─ download, resume ─► verify ─► unpack ─► layers/<digest>/
//!                                                                          │ all there
//!                                                                          ▼
//!                                                              images/<name>.json ─► Image
//! ```
//!
//! Each arrow into the store is one atomic rename, so a process killed at any instant leaves either the old or the new
//! state plus rubbish with a recognisable name, which the next [`ImageStore::open`] sweeps away. Only half-downloaded
//! blobs are kept: they are resumed.
//!
//! The crate must not decide *which* images a worker needs, and it starts no containers.
//!
//! Registries, their documents and archives are treated as hostile: every body, count and size is bounded, digests are
//! checked before content is used, and no archive entry can reach outside its layer.

mod config;
mod digest;
mod download;
mod error;
mod image;
mod manifest;
mod reference;
mod registry;
mod store;
mod unpack;

pub use config::{Credentials, ImageLimits, ImageStoreConfig, RegistryTimeouts};
pub use digest::{Digest, InvalidDigest};
pub use error::{OpenError, PullError, PullErrorKind};
pub use image::{Image, ImageConfig, PullPhase, PullProgress};
pub use reference::{DEFAULT_REGISTRY, ImageReference, InvalidReference, LOCAL_REGISTRY};
pub use store::{GarbageReport, ImageStore, ImageSummary, LocalFile, LocalSource};
