//! A private world for each test: a temporary directory, ports of its own, a shell with tokens.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::extract::Extension;
use axum::routing::get;
use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::*;

/// Every wait in a test ends here; far beyond what is needed on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what} took too long"))
}

pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    within(what, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub(crate) async fn next<T: Event>(events: &mut mpsc::Receiver<T>) -> T {
    loop {
        let event = within("an event", events.recv()).await.expect("the events go on");
        if !event.is_measurement() {
            return event;
        }
    }
}

/// What comes at any time is not what tests wait for.
pub(crate) trait Event {
    fn is_measurement(&self) -> bool;
}

impl Event for ParentEvent {
    fn is_measurement(&self) -> bool {
        matches!(self, Self::RoundTrip { .. })
    }
}

impl Event for ChildEvent {
    fn is_measurement(&self) -> bool {
        false
    }
}

/// A clock that tests set.
#[derive(Clone, Default)]
pub(crate) struct TestClock(Arc<AtomicU64>);

impl TestClock {
    pub(crate) fn new() -> Self {
        let clock = Self::default();
        clock.0.store(1_700_000_000, Ordering::Relaxed);
        clock
    }

    pub(crate) fn advance(&self, days: u64) {
        self.0.fetch_add(days * 24 * 3600, Ordering::Relaxed);
    }

    pub(crate) fn reset_to_1970(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.0.load(Ordering::Relaxed))
    }

    pub(crate) fn clock(&self) -> Clock {
        let this = self.clone();
        Arc::new(move || this.now())
    }
}

/// What the shell knows about a token.
pub(crate) struct TokenRecord {
    pub hash: Fingerprint,
    pub kind: NodeKind,
    pub is_expired: bool,
    pub used: Option<(Fingerprint, Identity)>,
}

/// A shell's memory of tokens and members.
#[derive(Default)]
pub(crate) struct Members {
    pub tokens: HashMap<String, TokenRecord>,
    pub revoked: HashSet<Identity>,
    pub requests: Vec<EnrollRequest>,
}

/// An [`Enroller`] like that of a real shell.
#[derive(Clone)]
pub(crate) struct TestShell {
    own: Identity,
    pub members: Arc<Mutex<Members>>,
}

impl Enroller for TestShell {
    async fn enroll(&self, request: EnrollRequest) -> Result<Enrolled, EnrollRefused> {
        let mut members = self.members.lock().unwrap();
        members.requests.push(request.clone());
        let number = members.requests.len();
        let token = members.tokens.get_mut(&request.token_id).ok_or(EnrollRefused::Unknown)?;
        if token.hash != request.token_secret_hash {
            return Err(EnrollRefused::Unknown);
        }
        if token.kind != request.kind {
            return Err(EnrollRefused::WrongKind);
        }
        if let Some((key, identity)) = &token.used {
            let is_same = *key == request.public_key_fingerprint;
            return if is_same {
                Ok(Enrolled { identity: identity.clone() })
            } else {
                Err(EnrollRefused::Used)
            };
        }
        if token.is_expired {
            return Err(EnrollRefused::Expired);
        }
        let digest = Fingerprint::of(format!("{}{number}", self.own).as_bytes()).to_string();
        let id: NodeId = digest[..24].parse().unwrap();
        let identity = match &self.own {
            Identity::Root => Identity::Cluster { cluster: id },
            Identity::Cluster { cluster } => Identity::Worker { cluster: cluster.clone(), worker: id },
            Identity::Worker { .. } => return Err(EnrollRefused::WrongKind),
        };
        token.used = Some((request.public_key_fingerprint, identity.clone()));
        Ok(Enrolled { identity })
    }

    async fn is_enrolled(&self, peer: &PeerIdentity) -> bool {
        !self.members.lock().unwrap().revoked.contains(&peer.identity)
    }
}

/// A running parent.
pub(crate) struct Parent {
    pub address: SocketAddr,
    pub authority: Arc<Authority>,
    pub events: mpsc::Receiver<ParentEvent>,
    pub shell: TestShell,
    pub link: ParentLink,
    shutdown: CancellationToken,
    server: AbortOnDropHandle<()>,
}

/// How a parent is started.
pub(crate) struct ParentOptions {
    pub listen: SocketAddr,
    pub heartbeat: Duration,
    pub event_queue: usize,
    pub limits: PortLimits,
    pub members: Arc<Mutex<Members>>,
}

impl Default for ParentOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            heartbeat: Duration::from_secs(2),
            event_queue: 64,
            limits: PortLimits::default(),
            members: Arc::default(),
        }
    }
}

impl Parent {
    pub(crate) async fn root(dir: &Path, clock: &TestClock, options: ParentOptions) -> Self {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let (authority, credentials) = open_root(dir, &names, clock.now()).unwrap();
        Self::start(authority, credentials, clock, options).await
    }

    pub(crate) async fn cluster(dir: &Path, clock: &TestClock, options: ParentOptions) -> Self {
        let authority = Authority::open_cluster(dir).unwrap();
        Self::start(authority, Credentials::open(dir).unwrap(), clock, options).await
    }

    async fn start(
        authority: Arc<Authority>,
        credentials: Arc<Credentials>,
        clock: &TestClock,
        options: ParentOptions,
    ) -> Self {
        let shell = TestShell { own: authority.identity().clone(), members: options.members };
        let shutdown = CancellationToken::new();
        let mut config = ParentConfig::new(Arc::clone(&authority), clock.clock(), shutdown.clone());
        config.heartbeat = options.heartbeat;
        config.event_queue = options.event_queue;
        let (link, events) = ParentLink::new(config, shell.clone());
        let rest = axum::Router::new().route("/who", get(who)).route("/endless", get(endless));
        let port = PortConfig {
            plain: rest.clone(),
            tls: rest.merge(link.routes()),
            tls_config: server_tls(&credentials, clock.clock()).unwrap(),
            limits: options.limits,
        };
        let listener = TcpListener::bind(options.listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = AbortOnDropHandle::new(tokio::spawn(serve(listener, port, shutdown.clone())));
        Self { address, authority, events, shell, link, shutdown, server }
    }

    /// Makes a token and tells the shell about it.
    pub(crate) fn token(&self, kind: NodeKind, seed: u64) -> JoinToken {
        let token =
            JoinToken::generate(kind, self.authority.root_fingerprint(), &mut StdRng::seed_from_u64(seed));
        let record = TokenRecord { hash: token.hash(), kind, is_expired: false, used: None };
        self.shell.members.lock().unwrap().tokens.insert(token.id().to_owned(), record);
        token
    }

    /// Shuts down in good order.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        within("the drain", async {
            self.link.drained().await;
            self.server.await.unwrap();
        })
        .await;
    }

    /// Waits for a new session and welcomes it.
    pub(crate) async fn welcome(&mut self) -> PeerHandle {
        let ParentEvent::Opened { handle, .. } = next(&mut self.events).await else {
            panic!("expected a session")
        };
        handle.welcome(Bytes::from_static(b"welcome")).unwrap();
        handle
    }

    /// Waits for the end of a session.
    pub(crate) async fn closed(&mut self) -> CloseReason {
        match next(&mut self.events).await {
            ParentEvent::Closed { reason, .. } => reason,
            other => panic!("expected the end of a session, got {other:?}"),
        }
    }

    pub(crate) async fn message(&mut self) -> Bytes {
        match next(&mut self.events).await {
            ParentEvent::Message { payload, .. } => payload,
            other => panic!("expected a message, got {other:?}"),
        }
    }
}

async fn who(peer: Option<Extension<PeerIdentity>>) -> String {
    peer.map_or_else(|| "nobody".to_owned(), |peer| peer.identity.to_string())
}

async fn endless() -> axum::body::Body {
    let piece = Ok::<_, std::convert::Infallible>(Bytes::from_static(&[0; 64 << 10]));
    axum::body::Body::from_stream(futures_util::stream::repeat(piece))
}

/// A root and the place of everything else.
pub(crate) struct World {
    pub dir: TempDir,
    pub clock: TestClock,
    pub root: Parent,
    seed: u64,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(ParentOptions::default()).await
    }

    pub(crate) async fn with(options: ParentOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = TestClock::new();
        let root = Parent::root(&dir.path().join("root"), &clock, options).await;
        Self { dir, clock, root, seed: 0 }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Lets a cluster join the root.
    pub(crate) async fn join_cluster(&mut self, name: &str) -> Arc<Credentials> {
        self.seed += 1;
        let token = self.root.token(NodeKind::Cluster, self.seed);
        let enrolment = self.enrolment(self.root.address, token, name);
        within("joining", enroll(enrolment)).await.unwrap()
    }

    /// Lets a worker join a cluster.
    pub(crate) async fn join_worker(&mut self, cluster: &Parent, name: &str) -> Arc<Credentials> {
        self.seed += 1;
        let token = cluster.token(NodeKind::Worker, self.seed);
        let enrolment = self.enrolment(cluster.address, token, name);
        within("joining", enroll(enrolment)).await.unwrap()
    }

    pub(crate) fn enrolment(&self, address: SocketAddr, token: JoinToken, name: &str) -> Enrolment {
        Enrolment {
            endpoint: address.to_string(),
            token,
            parent: None,
            name: name.to_owned(),
            attributes: Bytes::from_static(b"{}"),
            directory: self.path(name),
            clock: self.clock.clock(),
        }
    }
}

/// A running child.
pub(crate) struct Child {
    pub handle: ChildHandle,
    pub events: mpsc::Receiver<ChildEvent>,
}

impl Child {
    pub(crate) fn config(
        address: SocketAddr,
        credentials: &Arc<Credentials>,
        clock: &TestClock,
    ) -> ChildConfig {
        let mut config = ChildConfig::new(address.to_string(), Arc::clone(credentials), clock.clock());
        config.seed = 7;
        config
    }

    pub(crate) fn start(address: SocketAddr, credentials: &Arc<Credentials>, clock: &TestClock) -> Self {
        Self::with(Self::config(address, credentials, clock), Bytes::from_static(b"hello"))
    }

    pub(crate) fn with(config: ChildConfig, hello: Bytes) -> Self {
        let (sender, events) = mpsc::channel(64);
        let hello = move || std::future::ready(hello.clone());
        Self { handle: ChildLink::spawn(config, hello, sender).unwrap(), events }
    }

    /// Waits for a session, passing over failed attempts.
    pub(crate) async fn connected(&mut self) -> u64 {
        loop {
            match next(&mut self.events).await {
                ChildEvent::Connected { session, .. } => return session,
                ChildEvent::AttemptFailed { .. } => {}
                other => panic!("expected a session, got {other:?}"),
            }
        }
    }

    pub(crate) async fn disconnected(&mut self) -> CloseReason {
        match next(&mut self.events).await {
            ChildEvent::Disconnected { reason, .. } => reason,
            other => panic!("expected the end of a session, got {other:?}"),
        }
    }

    pub(crate) async fn message(&mut self) -> Bytes {
        match next(&mut self.events).await {
            ChildEvent::Message { payload, .. } => payload,
            other => panic!("expected a message, got {other:?}"),
        }
    }

    pub(crate) async fn failure(&mut self) -> String {
        match next(&mut self.events).await {
            ChildEvent::AttemptFailed { reason, .. } => reason,
            other => panic!("expected a failed attempt, got {other:?}"),
        }
    }
}

/// Names a value in a message of a failed test.
pub(crate) fn unexpected(value: impl Debug) -> ! {
    panic!("unexpected: {value:?}")
}

/// Returns a builder of HTTP clients with all that reqwest needs, whichever test runs first.
pub(crate) fn http_client() -> reqwest::ClientBuilder {
    // Another test of this process may have installed it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().timeout(DEADLINE)
}

/// A task whose panic fails the test when it is joined.
pub(crate) async fn finished<T>(what: &str, task: JoinHandle<T>) -> T {
    within(what, task).await.unwrap()
}
