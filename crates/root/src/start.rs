//! Starting a root: keys, state, port, then everything at once.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use oak_control::CorruptRow;
use oak_control::root::{Root, Settings};
use oak_control::token::TokenRole;
use oak_link::{
    Authority, Credentials, Fingerprint, JoinToken, NodeKind, ParentConfig, ParentLink, PkiError, PortConfig,
    PortLimits, Sessions, open_root, renew_root, server_tls, system_clock,
};
use oak_store::backup::RESTORED;
use oak_store::{Engine, EngineStopped, SealError, Sealer, Store, StoreError, SystemClock};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::accounts::{Accounts, PasswordError, Passwords, Signer, SignerError};
use crate::api::{
    ApiParts, AvailabilityConfirmations, RemovalConfirmations, RootApi, SeedError, TokenConfirmations,
    seed_accounts, settle_organizations,
};
use crate::audit::AuditLog;
use crate::bulk::LinkStreams;
use crate::clusters::{self, ClusterEnroller, Listeners};
use crate::dashboard::{self, SecondPort};
use crate::events::EventHub;
use crate::mail::{MailConfig, MailError, Mailer};

/// What a root needs to start.
#[derive(Debug)]
pub struct RootConfig {
    /// Where keys and state are kept.
    pub directory: PathBuf,
    /// Address of API and cluster link.
    pub listen: SocketAddr,
    /// Second address for the page; `None` when off.
    pub dashboard: Option<SocketAddr>,
    /// Port of the network information API, on the address of `listen`; `None` when off.
    pub network_api_port: Option<u16>,
    /// Names and addresses in the HTTPS certificate, besides `localhost`.
    pub host_names: Vec<String>,
    /// Settings of the decisions.
    pub settings: Settings,
    /// How mails are sent; `None`: not at all.
    pub mail: Option<MailConfig>,
    /// Host ports applications of this machine use; the second address yields to them.
    pub claimed_ports: watch::Receiver<BTreeSet<u16>>,
}

/// Why a root does not start or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// Its keys or certificates are not usable.
    #[error("cannot use the keys and certificates of this root")]
    Pki(#[from] PkiError),
    /// Its state cannot be read or written.
    #[error("cannot use the state of this root")]
    Store(#[from] StoreError),
    /// The key that signs logins is not usable.
    #[error("cannot use the key that signs logins")]
    Signer(#[from] SignerError),
    /// The key of secrets is not usable.
    #[error("cannot use the key of secrets")]
    Secrets(#[from] SealError),
    /// Passwords cannot be checked.
    #[error("cannot prepare the checking of passwords")]
    Password(#[from] PasswordError),
    /// Mails cannot be sent.
    #[error("cannot prepare the sending of mails")]
    Mail(#[from] MailError),
    /// The first user cannot be created.
    #[error("cannot prepare the accounts")]
    Seed(#[from] SeedError),
    /// Its directory cannot be made.
    #[error("cannot create {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its port is taken.
    #[error("cannot listen on {address}: is another root or program running there?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// A running root, for the other roles of its process.
#[derive(Clone, Debug)]
pub struct RootHandle {
    engine: Engine<Root>,
    authority: Fingerprint,
    address: SocketAddr,
}

/// Life of a token a process makes for itself.
const OWN_TOKEN: Duration = Duration::from_secs(600);

impl RootHandle {
    /// The address it listens on.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Fingerprint of its authority, part of every join token.
    #[must_use]
    pub const fn authority(&self) -> Fingerprint {
        self.authority
    }

    /// Makes a token with which a cluster of this process joins.
    ///
    /// # Errors
    /// The root is stopping.
    pub async fn create_cluster_token(&self) -> Result<JoinToken, EngineStopped> {
        let token = JoinToken::generate(NodeKind::Cluster, self.authority, &mut StdRng::from_os_rng());
        let (id, hash) = (token.id().to_owned(), token.hash().to_string());
        self.engine
            .call(move |root, now, _| root.create_token(now, id, hash, TokenRole::Cluster, OWN_TOKEN))
            .await?;
        Ok(token)
    }
}

/// A root that holds its port but does nothing yet.
pub struct BoundRoot {
    config: RootConfig,
    authority: Arc<Authority>,
    credentials: Arc<Credentials>,
    listener: TcpListener,
    address: SocketAddr,
}

/// How often the certificate of the root is looked at; it is renewed at half its life.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(24 * 3600);

impl BoundRoot {
    /// Opens or creates keys and certificates, and takes the port.
    ///
    /// # Errors
    /// The directory or the port is not usable.
    pub async fn bind(config: RootConfig) -> Result<Self, RootError> {
        std::fs::create_dir_all(&config.directory)
            .map_err(|source| RootError::Directory { path: config.directory.clone(), source })?;
        let listen = |source| RootError::Listen { address: config.listen, source };
        let listener = oak_link::listen(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let names = host_names(&config);
        let (authority, credentials) =
            open_root(&config.directory.join("identity"), &names, SystemTime::now())?;
        Ok(Self { config, authority, credentials, listener, address })
    }

    /// The address it listens on.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Works until `shutdown`. `on_ready` gets a handle once requests are about to be answered.
    ///
    /// # Errors
    /// The state cannot be read, or no longer be written.
    pub async fn run(
        self,
        shutdown: CancellationToken,
        on_ready: impl FnOnce(RootHandle),
    ) -> Result<(), RootError> {
        let clock = SystemClock::start();
        let database = self.config.directory.join("state.db");
        let (store, rows) = Store::open(&database)?;
        let damaged = |row: CorruptRow| StoreError::damaged_row(&database, &row);
        let machine = Root::load(self.config.settings.clone(), clock.now(), &rows).map_err(damaged)?;
        let accounts = Accounts::load(&rows).map_err(damaged)?;
        let audit = AuditLog::load(&rows).map_err(damaged)?;
        drop(rows);
        let store = Arc::new(store);

        let sessions = Sessions::default();
        let confirmations = TokenConfirmations::default();
        let availability = AvailabilityConfirmations::default();
        let removals = RemovalConfirmations::default();
        let mut tasks = JoinSet::new();
        let hub = EventHub::new(machine.newest_event());
        let secrets = Arc::new(Sealer::open(&self.config.directory)?);
        let listeners = Listeners {
            sessions: sessions.clone(),
            tokens: confirmations.clone(),
            availability: availability.clone(),
            removals: removals.clone(),
            events: hub.clone(),
            sealer: Arc::clone(&secrets),
        };
        let engine = Engine::start(&mut tasks, machine, Arc::clone(&store), clock, move |effect| {
            clusters::perform(effect, &listeners);
        });
        self.begin_life(&engine).await?;
        let accounts = Engine::start(&mut tasks, accounts, Arc::clone(&store), clock, |()| {});
        let audit = Engine::start(&mut tasks, audit, store, clock, |()| {});
        let passwords = Passwords::new()?;
        seed_accounts(&accounts, &passwords).await?;
        settle_organizations(&engine, &accounts).await.map_err(SeedError::from)?;
        let mail = self.config.mail.clone();
        let mailer = mail.map(|mail| Mailer::start(&mut tasks, mail, accounts.clone())).transpose()?;

        let parent = ParentConfig::new(Arc::clone(&self.authority), system_clock(), shutdown.clone());
        let (link, events) = ParentLink::new(parent, ClusterEnroller(engine.clone()));
        tasks.spawn(clusters::run(events, engine.clone(), sessions.clone()));
        let names = host_names(&self.config);
        tasks.spawn(renew_own_certificate(Arc::clone(&self.authority), Arc::clone(&self.credentials), names));

        let streams = LinkStreams { engine: engine.clone(), sessions };
        let api = RootApi::new(ApiParts {
            root: engine.clone(),
            accounts,
            audit,
            mailer,
            passwords,
            signer: Signer::open(&self.config.directory.join("jwt-key"))?,
            clock,
            authority: self.authority.root_fingerprint(),
            logs: Arc::new(streams.clone()),
            exec: Arc::new(streams),
            events: hub,
            secrets,
            confirmations,
            availability,
            removals,
        });
        let plain = api.router();
        let tls_config = server_tls(&self.credentials, system_clock())?;
        let further = self.further_ports(&plain, api.network_router(), &tls_config);
        let further = further
            .into_iter()
            .map(|port| dashboard::serve(port, self.config.claimed_ports.clone(), shutdown.clone()));
        let further = futures_util::future::join_all(further);
        let port = PortConfig {
            tls: plain.clone().merge(link.routes()),
            plain,
            tls_config,
            limits: PortLimits::default(),
        };
        info!(address = %self.address, authority = %self.authority.root_fingerprint(), "root ready");
        on_ready(RootHandle { engine, authority: self.authority.root_fingerprint(), address: self.address });
        let serving = async { tokio::join!(oak_link::serve(self.listener, port, shutdown.clone()), further) };
        let result = tokio::select! {
            _ = serving => Ok(()),
            ended = tasks.join_next() => match ended {
                Some(Ok(Err(error))) => Err(RootError::Store(error)),
                Some(Ok(Ok(())) | Err(_)) | None if shutdown.is_cancelled() => Ok(()),
                Some(Ok(Ok(())) | Err(_)) | None => Err(RootError::Store(StoreError::WriterGone)),
            },
        };
        api.drained().await;
        link.drained().await;
        tasks.shutdown().await;
        result
    }

    /// A root that was restored from a backup knows less than its clusters: it takes over what they have.
    async fn begin_life(&self, engine: &Engine<Root>) -> Result<(), RootError> {
        let marker = self.config.directory.join(RESTORED);
        let was_restored = marker.exists();
        engine
            .call(move |root, now, entropy| root.begin_life(now, entropy, was_restored))
            .await
            .map_err(|_| RootError::Store(StoreError::WriterGone))?;
        if was_restored {
            info!("restored from a backup: clusters are asked for what they hold");
            std::fs::remove_file(&marker)
                .map_err(|source| RootError::Directory { path: marker.clone(), source })?;
        }
        Ok(())
    }

    fn further_ports(
        &self,
        page: &axum::Router,
        network: axum::Router,
        tls: &Arc<rustls::ServerConfig>,
    ) -> Vec<SecondPort> {
        let port = |name, address, router| SecondPort {
            name,
            address,
            router,
            tls: Arc::clone(tls),
            limits: PortLimits::default(),
            main_port: self.address.port(),
        };
        let network_address =
            self.config.network_api_port.map(|port| SocketAddr::new(self.config.listen.ip(), port));
        let page = self.config.dashboard.map(|address| port("dashboard", address, page.clone()));
        let network = network_address.map(|address| port("network information API", address, network));
        page.into_iter().chain(network).collect()
    }
}

fn host_names(config: &RootConfig) -> Vec<String> {
    std::iter::once("localhost".to_owned()).chain(config.host_names.iter().cloned()).collect()
}

/// A root that runs for months renews its own certificate; connections made from then on use the new one.
async fn renew_own_certificate(
    authority: Arc<Authority>,
    credentials: Arc<Credentials>,
    names: Vec<String>,
) -> Result<(), StoreError> {
    loop {
        tokio::time::sleep(CERTIFICATE_CHECK).await;
        if let Err(error) = renew_root(&authority, &credentials, &names, SystemTime::now()) {
            warn!(%error, "cannot renew the certificate of this root; it is tried again tomorrow");
        }
    }
}
