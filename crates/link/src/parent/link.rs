//! The parent's end of the link as one object: routes to serve, events to handle.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use rand::Rng;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use super::desk::BulkDesk;
use super::enroller::Enroller;
use super::handle::{PeerHandle, Session};
use super::service::Service;
use super::session::Registered;
use crate::clock::Clock;
use crate::identity::Identity;
use crate::pki::Authority;
use crate::proto::link_server::{LinkServer, SERVICE_NAME};
use crate::session::{CloseReason, DEFAULT_HEARTBEAT, Line, MAX_FRAME, Outbox, QueueLimits};

/// How long a call may take until its answer begins: only sessions and bulk streams last longer.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Shortest and longest heartbeat interval.
const HEARTBEATS: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(60);

/// What a parent's link is made of.
pub struct ParentConfig {
    /// Signs the children.
    pub authority: Arc<Authority>,
    /// Wall clock, for validities.
    pub clock: Clock,
    /// Heartbeat interval of sessions, 50 ms to 60 s, default 1.5 s: three missing ones leave a second of the six
    /// in which a cut link must be found out.
    pub heartbeat: Duration,
    /// Events the shell may be behind before the children are slowed down.
    pub event_queue: usize,
    /// Messages that may wait for one child before its session is closed.
    pub peer_queue: usize,
    /// Bytes that may wait for one child before its session is closed. One message of any size always fits.
    pub peer_queue_bytes: usize,
    /// Ends all sessions when cancelled, and refuses new ones.
    pub shutdown: CancellationToken,
}

impl ParentConfig {
    /// Returns the defaults.
    pub fn new(authority: Arc<Authority>, clock: Clock, shutdown: CancellationToken) -> Self {
        Self {
            authority,
            clock,
            heartbeat: DEFAULT_HEARTBEAT,
            event_queue: 256,
            peer_queue: 1024,
            peer_queue_bytes: 16 * 1024 * 1024,
            shutdown,
        }
    }
}

/// What happens at the parent's end. For one session: `Opened`, any number of `Message` and `RoundTrip`, one `Closed`, in this order;
/// and a child's old session is closed before its new one opens.
#[derive(Debug)]
pub enum ParentEvent {
    /// A child asks for a session. Answer with [`PeerHandle::welcome`] or [`PeerHandle::refuse`].
    Opened {
        /// Who it is, from its certificate.
        peer: Identity,
        /// Id of the session.
        session: u64,
        /// Where it comes from.
        address: SocketAddr,
        /// Version of its program.
        software: String,
        /// The payload of its hello.
        hello: Bytes,
        /// To answer and send.
        handle: PeerHandle,
    },
    /// A child sent a message.
    Message {
        /// Who it is.
        peer: Identity,
        /// Id of the session.
        session: u64,
        /// The message.
        payload: Bytes,
    },
    /// The round trip to a child was measured for the first time in its session, or has changed noticeably.
    RoundTrip {
        /// Who it is.
        peer: Identity,
        /// Id of the session.
        session: u64,
        /// The round trip, smoothed.
        round_trip: Duration,
    },
    /// A session ended.
    Closed {
        /// Who it was.
        peer: Identity,
        /// Id of the session.
        session: u64,
        /// Why it ended.
        reason: CloseReason,
    },
}

/// The parent's end of the link.
#[derive(Clone)]
pub struct ParentLink {
    routes: axum::Router,
    tasks: TaskTracker,
}

impl ParentLink {
    /// Makes the link; nothing happens until its routes are served. The receiver gets the events; when it is full,
    /// the children's streams are read more slowly.
    pub fn new<E: Enroller>(config: ParentConfig, enroller: E) -> (Self, mpsc::Receiver<ParentEvent>) {
        // Full: the sessions wait, which slows their children down (back-pressure).
        let (events, receiver) = mpsc::channel(config.event_queue.max(1));
        let tasks = TaskTracker::new();
        tasks.close();
        let core = Arc::new(Core {
            events,
            tasks: tasks.clone(),
            desk: Arc::default(),
            sessions: Mutex::default(),
            // Random, so that a frame of a former run of the parent is never taken for one of this run.
            next_session: AtomicU64::new((crate::entropy::os_rng().random::<u64>() >> 1) | 1),
            heartbeat: config.heartbeat.clamp(*HEARTBEATS.start(), *HEARTBEATS.end()),
            queue: QueueLimits { messages: config.peer_queue.max(1), bytes: config.peer_queue_bytes },
            shutdown: config.shutdown,
        });
        let service = Service { core, enroller, authority: config.authority, clock: config.clock };
        let server = LinkServer::new(service).max_decoding_message_size(MAX_FRAME);
        let routes = axum::Router::new()
            .route_service(&format!("/{SERVICE_NAME}/{{call}}"), server)
            .layer(middleware::from_fn(limit_call));
        (Self { routes, tasks }, receiver)
    }

    /// Returns the gRPC routes, to be merged into the router for TLS given to [`serve`](crate::serve).
    pub fn routes(&self) -> axum::Router {
        self.routes.clone()
    }

    /// Resolves when no session is left; use it after cancelling the shutdown token.
    pub async fn drained(&self) {
        self.tasks.wait().await;
    }
}

async fn limit_call(request: Request, next: Next) -> Response {
    match tokio::time::timeout(CALL_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Status::deadline_exceeded("the call took too long")
            .into_http::<axum::body::Body>()
            .into_response(),
    }
}

/// State of the link, shared by all calls.
pub(crate) struct Core {
    pub events: mpsc::Sender<ParentEvent>,
    pub tasks: TaskTracker,
    pub desk: Arc<BulkDesk>,
    pub sessions: Mutex<HashMap<Identity, Registered>>,
    pub shutdown: CancellationToken,
    next_session: AtomicU64,
    heartbeat: Duration,
    queue: QueueLimits,
}

impl Core {
    /// Makes a new session and its sending half.
    pub(crate) fn new_session(&self, peer: Identity, address: SocketAddr) -> (Arc<Session>, Outbox) {
        let (line, queue) = Line::new(self.queue);
        let line = Arc::new(line);
        let (opening, opened) = oneshot::channel();
        let session = Arc::new(Session {
            peer,
            id: self.next_session.fetch_add(1, Ordering::Relaxed),
            address,
            line: Arc::clone(&line),
            heartbeat: self.heartbeat,
            opening: Mutex::new(Some(opening)),
            is_welcome: false.into(),
            desk: Arc::clone(&self.desk),
        });
        let outbox = Outbox::new(line, queue, opened).probing();
        (session, outbox)
    }

    /// Makes this the session of its peer; returns the one it replaces.
    pub(crate) fn replace(&self, session: &Arc<Session>, finished: &CancellationToken) -> Option<Registered> {
        let registered = Registered { session: Arc::clone(session), finished: finished.clone() };
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).insert(session.peer.clone(), registered)
    }

    /// Removes a session, unless a newer one has taken its place.
    pub(crate) fn remove(&self, session: &Session) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.get(&session.peer).is_some_and(|registered| registered.session.id == session.id) {
            sessions.remove(&session.peer);
        }
    }
}
