//! The cluster shell: joins its root, takes in workers, and carries out what `control::cluster` decides.
//!
//! One port serves everything: plain HTTP for health and the original's status probe, TLS for the same and for
//! the link of the workers. One outgoing link leads to the root. The shell decides nothing: it turns events of the
//! two links into calls of the state machine and effects into messages.
#![forbid(unsafe_code)]

mod api;
mod bulk;
mod downlink;
mod enrol;
mod relay;
mod uplink;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

pub use api::ACCESS_KEY_FILE;
pub use enrol::root_authority;
use oak_control::cluster::{Cluster, Effect, Settings};
use oak_link::{
    Authority, Credentials, Fingerprint, Identity, JoinToken, ParentConfig, ParentLink, PkiError, PortConfig,
    PortLimits, Sessions, server_tls, system_clock,
};
use oak_model::ClusterId;
use oak_model::overlay::RelayEnd;
use oak_store::{Engine, Sealer, Store, StoreError, SystemClock};
use oak_tunnel::PrivateKey;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use relay::{Introductions, Relay};

/// Below the directory of the cluster: what its relay is known by.
const RELAY_KEY: &str = "relay-key";

/// What a cluster needs to start.
#[derive(Debug)]
pub struct ClusterConfig {
    /// Where identity and state are kept.
    pub directory: PathBuf,
    /// The root as `host:port`.
    pub root: String,
    /// Needed once, to join.
    pub token: Option<JoinToken>,
    /// A token of another root than the present one is used: the cluster moves there with everything it has.
    pub rejoin: bool,
    /// Address of the port for workers and health.
    pub listen: SocketAddr,
    /// Address (UDP) of the relay for workers that do not reach each other; none: there is no relay.
    pub relay: Option<SocketAddr>,
    /// Settings of the decisions; name and location are among them.
    pub settings: Settings,
}

/// Why a cluster does not start or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// It could not join its root.
    #[error("the cluster has no root")]
    Join(#[from] oak_link::JoinError),
    /// The certificate on disk is not one of a cluster.
    #[error(
        "the certificate of this cluster is damaged: remove its directory `identity` and join with a new token"
    )]
    NotACluster,
    /// The token is one of another root.
    #[error(
        "cluster {name} belongs to the root with the authority {present}, and the token is one of another root: if \
         that root replaces the former one, start with --rejoin; otherwise leave the token out"
    )]
    OtherRoot {
        /// Name of the cluster.
        name: String,
        /// Authority of its root.
        present: String,
    },
    /// The new root has given its identity to another cluster.
    #[error(
        "the new root knows another cluster by the name {name}: start this one with another name, and --rejoin"
    )]
    IdentityTaken {
        /// Name of the cluster.
        name: String,
    },
    /// Its keys or certificates are not usable.
    #[error("cannot use the certificates of this cluster")]
    Pki(#[from] PkiError),
    /// The key of secrets is not usable.
    #[error("cannot use the key of secrets")]
    Secrets(#[from] oak_store::SealError),
    /// The key of its relay is not usable.
    #[error("cannot read or make the key of the relay in {path}")]
    RelayKey {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its state cannot be read or written.
    #[error("cannot use the state of this cluster")]
    Store(#[from] StoreError),
    /// The key of its own API cannot be used.
    #[error("cannot protect the API of this cluster")]
    AccessKey(#[from] api::AccessKeyError),
    /// Its directory cannot be made.
    #[error("cannot create {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its port is taken.
    #[error("cannot listen on {address}: is another cluster or program running there?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

impl ClusterConfig {
    /// The relay, and what is told of it.
    fn open_relay(&self) -> Result<Option<(Relay, RelayEnd)>, ClusterError> {
        let Some(listen) = self.relay else { return Ok(None) };
        let path = self.directory.join(RELAY_KEY);
        let key =
            PrivateKey::open_or_make(&path).map_err(|source| ClusterError::RelayKey { path, source })?;
        let end = RelayEnd { public_key: key.public().to_string(), port: listen.port(), address: None };
        Ok(Some((Relay::new(listen, key), end)))
    }
}

/// A cluster that has joined and holds its port, but does nothing yet.
pub struct BoundCluster {
    config: ClusterConfig,
    identities: enrol::Identities,
    listener: TcpListener,
    address: SocketAddr,
}

impl BoundCluster {
    /// Joins the root if this was not done before, and takes the port.
    ///
    /// # Errors
    /// The token is refused, the state is unusable or the port is taken. An unreachable root is waited for.
    pub async fn bind(mut config: ClusterConfig, shutdown: &CancellationToken) -> Result<Self, ClusterError> {
        std::fs::create_dir_all(&config.directory)
            .map_err(|source| ClusterError::Directory { path: config.directory.clone(), source })?;
        let listener = oak_link::listen(config.listen)
            .await
            .map_err(|source| ClusterError::Listen { address: config.listen, source })?;
        let address = listener
            .local_addr()
            .map_err(|source| ClusterError::Listen { address: config.listen, source })?;
        config.settings.port = address.port();
        let identities = enrol::join(&config, shutdown).await?;
        config.settings.authority = Some(identities.workers.root_fingerprint().to_string());
        Ok(Self { config, identities, listener, address })
    }

    /// The address it listens on.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its identity.
    #[must_use]
    pub const fn id(&self) -> ClusterId {
        self.identities.id
    }

    /// Authority by which its workers know it, part of their join tokens.
    #[must_use]
    pub fn worker_authority(&self) -> Fingerprint {
        self.identities.workers.root_fingerprint()
    }

    /// Works until `shutdown`. `on_ready` gets the engine once it runs.
    ///
    /// # Errors
    /// The state cannot be read, or no longer be written.
    pub async fn run(
        self,
        shutdown: CancellationToken,
        on_ready: impl FnOnce(Engine<Cluster>),
    ) -> Result<(), ClusterError> {
        let id = self.identities.id;
        let clock = SystemClock::start();
        let database = self.config.directory.join("state.db");
        let (store, rows) = Store::open(&database)?;
        let (relay, end) = self.config.open_relay()?.unzip();
        let settings = Settings { relay: end, ..self.config.settings.clone() };
        let machine = Cluster::load(settings, clock.now(), &rows)
            .map_err(|row| StoreError::damaged_row(&database, &row))?;
        drop(rows);
        let authority = Authority::open_cluster(&self.config.directory.join("identity"))?;

        let sessions = Sessions::default();
        let sealer = Arc::new(Sealer::open(&self.config.directory)?);
        let (uplink, to_root) = uplink::Uplink::new();
        let mut tasks = JoinSet::new();
        let introductions = Introductions::default();
        let engine = Engine::start(&mut tasks, machine, store, clock, {
            let (sessions, sealer, relay) = (sessions.clone(), Arc::clone(&sealer), introductions.clone());
            move |effect| match effect {
                Effect::Relay { worker, keys, peers } => relay.set(worker, &keys, &peers),
                Effect::ToRoot(message) => to_root.send(encode(&message)),
                effect => perform(effect, &sessions, &sealer),
            }
        });
        if let Some(relay) = relay {
            tasks.spawn(relay.follow(introductions));
        }

        let parent = ParentConfig::new(authority, system_clock(), shutdown.clone());
        let enroller = enrol::WorkerEnroller::new(engine.clone(), id);
        let (link, events) = ParentLink::new(parent, enroller);
        tasks.spawn(downlink::run(events, engine.clone(), sessions.clone(), id));
        let uplink = uplink.start(
            &mut tasks,
            &self.config,
            &self.identities.root,
            engine.clone(),
            (sessions, sealer),
        )?;

        let local =
            api::Local { id, engine: engine.clone(), key: api::AccessKey::open(&self.config.directory)? };
        let plain = api::router(local);
        let port = PortConfig {
            tls: plain.clone().merge(link.routes()),
            plain,
            tls_config: server_tls(&self.identities.workers, system_clock())?,
            limits: PortLimits::default(),
        };
        info!(cluster = %id, name = %self.config.settings.name, address = %self.address, "cluster ready");
        on_ready(engine);
        let serving = oak_link::serve(self.listener, port, shutdown.clone());
        let failed = async {
            // The first task that ends before shutdown has failed: without its state a cluster must not go on.
            match tasks.join_next().await {
                Some(Ok(Err(error))) => Err(ClusterError::Store(error)),
                Some(Ok(Ok(()))) | Some(Err(_)) | None if shutdown.is_cancelled() => Ok(()),
                Some(_) | None => Err(ClusterError::Store(StoreError::WriterGone)),
            }
        };
        let result = tokio::select! {
            () = serving => Ok(()),
            result = failed => result,
        };
        uplink.shutdown().await;
        link.drained().await;
        tasks.shutdown().await;
        result
    }
}

/// Carries out what is for workers.
fn perform(effect: Effect, sessions: &Sessions, sealer: &Sealer) {
    match effect {
        Effect::Welcome { session, mut welcome, .. } => {
            welcome.assignments.iter_mut().for_each(|assignment| sealer.reveal(&mut assignment.desired));
            sessions.welcome(session, encode(&welcome));
        }
        Effect::ToWorker { session, mut message, .. } => {
            if let Some(wish) = message.wishes_mut() {
                sealer.reveal(wish);
            }
            sessions.send(session, encode(&message));
        }
        Effect::Dismiss { worker, session } => {
            warn!(worker = %worker, "worker removed; it is refused from now on");
            if let Some(handle) = sessions.get(session) {
                handle.dismiss();
            }
        }
        Effect::Relay { .. } | Effect::ToRoot(_) => {}
    }
}

/// Our own messages always serialise; an empty payload would end the session on the other side.
fn encode(message: &impl serde::Serialize) -> bytes::Bytes {
    serde_json::to_vec(message).unwrap_or_default().into()
}

fn cluster_of(credentials: &Credentials) -> Option<ClusterId> {
    match credentials.identity() {
        Identity::Cluster { cluster } => cluster.as_str().parse().ok(),
        Identity::Root | Identity::Worker { .. } => None,
    }
}
