//! The parent's handle on one session.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::desk::BulkDesk;
use crate::bulk::{BulkError, BulkStream};
use crate::identity::Identity;
use crate::proto::Welcome;
use crate::proto::frame::Body;
use crate::session::{CloseReason, Item, Line, MAX_BULK_REQUEST, MAX_MESSAGE, Opening, SendError, Then};

/// How long a child may take to open a bulk stream it was asked for.
const BULK_TIMEOUT: Duration = Duration::from_secs(10);

/// One session as the parent's shell holds it. Cheap to clone; does not keep the session alive.
#[derive(Clone)]
pub struct PeerHandle(Arc<Session>);

/// What a child is told that was a member once, for its log.
pub(crate) fn what_to_do_when_removed(child: &Identity) -> String {
    let kind = match child {
        Identity::Worker { .. } => "worker",
        Identity::Root | Identity::Cluster { .. } => "cluster",
    };
    format!(
        "{child} was removed here: stop what it runs (`oak down` on its machine), or start it with a new token (`oak token create \
         {kind}` at the root) to join again"
    )
}

/// What all parts of one session on the parent's side share.
pub(crate) struct Session {
    pub peer: Identity,
    pub id: u64,
    pub address: SocketAddr,
    pub line: Arc<Line>,
    pub heartbeat: Duration,
    pub opening: Mutex<Option<oneshot::Sender<Opening>>>,
    pub is_welcome: AtomicBool,
    pub desk: Arc<BulkDesk>,
}

impl PeerHandle {
    pub(crate) fn new(session: Arc<Session>) -> Self {
        Self(session)
    }

    /// Returns who the child is, from its certificate.
    pub fn peer(&self) -> &Identity {
        &self.0.peer
    }

    /// Returns the id of the session, unique among all sessions of this process.
    pub fn session(&self) -> u64 {
        self.0.id
    }

    /// Returns the address the child comes from; behind NAT that of its gateway.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Accepts the session and answers the hello. Messages sent before are delivered after it. Only the first call
    /// counts. A session that is not welcomed or refused within 30 s is closed.
    pub fn welcome(&self, payload: Bytes) -> Result<(), SendError> {
        if payload.len() > MAX_MESSAGE {
            return Err(SendError::TooLarge);
        }
        let opening = self.0.opening.lock().unwrap_or_else(PoisonError::into_inner).take();
        let session = self.0.id;
        let heartbeat_ms = u32::try_from(self.0.heartbeat.as_millis()).unwrap_or(u32::MAX);
        let opening = opening.ok_or(SendError::NotConnected)?;
        self.0.is_welcome.store(true, Ordering::Release);
        opening
            .send(Opening {
                body: Body::Welcome(Welcome { session, heartbeat_ms }),
                payload,
                then: Then::Open { session, heartbeat: self.0.heartbeat },
            })
            .map_err(|_| SendError::NotConnected)
    }

    /// Ends the session because the child is not accepted; it sees the reason and tries again with back-off.
    pub fn refuse(&self, reason: impl Into<String>) {
        self.0.line.end(CloseReason::Refused(reason.into()));
    }

    /// Ends the session because the child is no member any more; it sees what to do in its log.
    pub fn dismiss(&self) {
        self.refuse(what_to_do_when_removed(&self.0.peer));
    }

    /// Ends the session; the child sees the reason and connects again.
    pub fn close(&self, reason: impl Into<String>) {
        self.0.line.end(CloseReason::Ended(reason.into()));
    }

    /// Queues a message without waiting. A full queue closes the session, because a lost change would never be
    /// noticed; the shell brings the child up to date in the next one.
    pub fn send(&self, payload: Bytes) -> Result<(), SendError> {
        self.0.line.push(Item::Message(payload))
    }

    /// Asks the child for a bulk stream and waits, up to 10 s, until it has opened it. `request` of at most 64 KiB
    /// tells the child's shell what it is for.
    pub async fn open_bulk(&self, request: Bytes) -> Result<BulkStream, BulkError> {
        if request.len() > MAX_BULK_REQUEST {
            return Err(BulkError::RequestTooLarge);
        }
        let mut ticket = self.0.desk.register(&self.0.peer);
        let item = Item::OpenBulk { bulk: ticket.bulk, request };
        self.0.line.push(item).map_err(|_| BulkError::NoSession)?;
        tokio::select! {
            answer = &mut ticket.answer => answer.unwrap_or(Err(BulkError::Cancelled)),
            () = self.0.line.ended() => Err(BulkError::NoSession),
            () = tokio::time::sleep(BULK_TIMEOUT) => Err(BulkError::TimedOut),
        }
    }
}

impl fmt::Debug for PeerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerHandle")
            .field("peer", &self.0.peer)
            .field("session", &self.0.id)
            .finish_non_exhaustive()
    }
}
