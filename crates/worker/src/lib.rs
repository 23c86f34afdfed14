//! The worker shell: carries out what `control::worker` decides, with real images, containers and networks.
//!
//! ```text
//!  cluster ── link ──► uplink ──► control::worker ──► operations ──► image store, runtime, network
//!     ▲                               │    ▲               │
//!     └────────── reports ◄───────────┘    └── results ◄───┘
//! ```
//!
//! The shell decides nothing: operations report what happened, the state machine says what follows. Everything is
//! kept under one directory; a worker that starts finds there what it ran, adopts what still runs and starts the
//! rest, with or without its cluster.
#![forbid(unsafe_code)]

mod container;
mod demo;
mod distances;
mod down;
mod exec;
mod facts;
mod garbage;
mod gpus;
pub mod inspect;
mod keys;
mod logs;
mod names;
mod network;
mod operations;
mod ports;
mod probe;
mod rejoin;
mod secrets;
mod start;
mod table;
mod tunnel;
mod uplink;
mod usage;
mod ways;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use oak_control::worker::Settings;
use oak_image::ImageStoreConfig;
use oak_link::JoinToken;
use oak_model::Position;
use oak_store::StoreError;
use tokio::sync::watch;

pub use demo::DEMO_COMMAND;
pub use down::{DownError, take_down};
pub use keys::request_key_rotation;
pub use start::BoundWorker;
pub use tunnel::TUNNEL_COMMAND;
pub use ways::Encryption;

/// What a worker needs to start.
#[derive(Debug)]
pub struct WorkerConfig {
    /// Where identity, state, images and containers are kept.
    pub directory: PathBuf,
    /// The cluster as `host:port`.
    pub cluster: String,
    /// Needed once, to join.
    pub token: Option<JoinToken>,
    /// Name it would like to have.
    pub name: String,
    /// Address other machines reach it at; `None`: the one that leads to the cluster.
    pub address: Option<IpAddr>,
    /// Port (UDP) at that address where other workers reach this one: its own, or one that a router passes on.
    pub tunnel_port: u16,
    /// Where the folders of volumes are; `None`: this worker offers none.
    pub volumes_root: Option<PathBuf>,
    /// Memory kept back for the machine itself, MiB.
    pub reserve_memory_mib: u32,
    /// CPU kept back for the machine itself, thousandths of a core.
    pub reserve_cpu_millis: u32,
    /// What the operator says about this machine; descriptors may ask for it.
    pub labels: Vec<String>,
    /// Additional services of this machine; descriptors may ask for them.
    pub addons: Vec<String>,
    /// Where it is, if that differs from its cluster.
    pub position: Option<Position>,
    /// Device nodes of its GPUs, one each; empty: those of the NVIDIA driver; `none`: no GPUs.
    pub gpus: Vec<String>,
    /// Gateway device of the instances.
    pub bridge: String,
    /// Largest packet of the instances, bytes.
    pub mtu: u32,
    /// The nftables table this worker owns.
    pub table: String,
    /// Whether packets to other workers are encrypted.
    pub encryption: Encryption,
    /// Whether the kernel's own WireGuard is used with workers that are reached straight.
    pub kernel_wireguard: bool,
    /// Age at which the key for packets of other workers is replaced; none: only if somebody wants so.
    pub key_lifetime: Option<Duration>,
    /// Registries and limits of the image store; its directory is set by the worker.
    pub images: ImageStoreConfig,
    /// Settings of the decisions.
    pub settings: Settings,
    /// Host ports (TCP) that applications use, for listeners of this process that yield to them.
    pub claimed_ports: watch::Sender<BTreeSet<u16>>,
}

/// Why a worker does not start or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// It could not join its cluster.
    #[error("the worker has no cluster")]
    Join(#[from] oak_link::JoinError),
    /// Its certificates are not usable.
    #[error("cannot use the certificates of this worker")]
    Pki(#[from] oak_link::PkiError),
    /// The key for packets between workers is not usable.
    #[error("cannot read or make the key for encryption in {path}")]
    NetworkKey {
        /// Directory of the key.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The key of secrets is not usable.
    #[error("cannot use the key of secrets")]
    Secrets(#[from] oak_store::SealError),
    /// Its state cannot be read or written.
    #[error("cannot use the state of this worker")]
    Store(#[from] StoreError),
    /// A stored object cannot be understood.
    #[error("the state of this worker is damaged")]
    Corrupt(#[from] oak_control::CorruptRow),
    /// The image store cannot be opened.
    #[error("cannot open the image store")]
    Images(#[from] oak_image::OpenError),
    /// The runtime cannot be prepared.
    #[error("cannot prepare the container runtime in {path}")]
    Runtime {
        /// Its directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Containers of an earlier start cannot be listed.
    #[error("cannot find out which containers still run")]
    Adopt(#[from] oak_runtime::AdoptError),
    /// It was removed from its cluster and joins again, but what it had cannot be stopped.
    #[error("cannot stop what this worker had before it was removed; it joins again when that is done")]
    Former(#[from] DownError),
    /// It was removed from its cluster and joins again, but what it had cannot be forgotten.
    #[error("cannot forget in {path} what this worker was before it was removed")]
    Replace {
        /// Its directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A directory cannot be made.
    #[error("cannot create {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Containers need root.
    #[error("a worker creates containers and networks and must run as root: use sudo")]
    NotRoot,
}

/// Our own messages always serialise; an empty payload would end the session on the other side.
fn encode(message: &impl serde::Serialize) -> bytes::Bytes {
    serde_json::to_vec(message).unwrap_or_default().into()
}
