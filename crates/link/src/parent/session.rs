//! One session from its hello to its end, as the parent's task for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::handle::{PeerHandle, Session};
use super::link::{Core, ParentEvent};
use crate::bulk::BulkError;
use crate::port::Hangup;
use crate::session::{CloseReason, Inbox, Incoming, PROTOCOL};

/// How long the shell may take to welcome or refuse.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the reason of an end may take to reach the child before its connection is closed.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(3);

/// A session in the table of sessions.
pub(crate) struct Registered {
    pub session: Arc<Session>,
    /// Cancelled when its `Closed` was delivered (or it never opened).
    pub finished: CancellationToken,
}

/// Runs a session to its end. Every `Opened` is followed by exactly one `Closed`.
pub(crate) async fn run(core: Arc<Core>, session: Arc<Session>, inbox: Inbox, hangup: Option<Hangup>) {
    let line = Arc::clone(&session.line);
    // Already before its hello, so that one child holds one hello in our memory at a time.
    let registration = Registration::take_over(core, session).await;
    run_registered(&registration.core, &registration.session, inbox).await;
    drop(registration);
    if let Some(hangup) = hangup
        && timeout(GOODBYE_TIMEOUT, line.sent()).await.is_err()
    {
        hangup.0.cancel();
    }
}

async fn run_registered(core: &Core, session: &Arc<Session>, mut inbox: Inbox) {
    let hello = tokio::select! {
        hello = read_hello(session, &mut inbox) => hello,
        reason = ended(core, session) => Err(reason),
    };
    let (software, hello) = match hello {
        Ok(hello) => hello,
        Err(reason) => {
            debug!(peer = %session.peer, session = session.id, %reason, "session did not open");
            session.line.end(reason);
            return;
        }
    };
    let opened = ParentEvent::Opened {
        peer: session.peer.clone(),
        session: session.id,
        address: session.address,
        software,
        hello,
        handle: PeerHandle::new(Arc::clone(session)),
    };
    if let Err(reason) = deliver(core, session, opened).await {
        debug!(peer = %session.peer, session = session.id, %reason, "session ended before it opened");
        session.line.end(reason);
        return;
    }
    info!(peer = %session.peer, session = session.id, address = %session.address, "session opened");
    let reason = tokio::select! {
        reason = drive(core, session, &mut inbox) => reason,
        reason = ended(core, session) => reason,
    };
    session.line.end(reason.clone());
    info!(peer = %session.peer, session = session.id, %reason, "session closed");
    let closed = ParentEvent::Closed { peer: session.peer.clone(), session: session.id, reason };
    // If the shell is gone there is nobody to tell.
    let _ = core.events.send(closed).await;
}

/// Keeps a session in the table of sessions; removes it and tells its successor when dropped.
struct Registration {
    core: Arc<Core>,
    session: Arc<Session>,
    finished: CancellationToken,
}

impl Registration {
    /// Makes this the one session of its peer: ends the former one and waits until that is all over.
    async fn take_over(core: Arc<Core>, session: Arc<Session>) -> Self {
        let finished = CancellationToken::new();
        let former = core.replace(&session, &finished);
        let registration = Self { core, session, finished };
        if let Some(former) = former {
            former.session.line.end(CloseReason::Superseded);
            // Even if we are superseded meanwhile: our successor waits for us and so for all before us.
            former.finished.cancelled().await;
        }
        registration
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.core.remove(&self.session);
        self.finished.cancel();
    }
}

async fn read_hello(session: &Session, inbox: &mut Inbox) -> Result<(String, Bytes), CloseReason> {
    let Incoming::Hello(hello) = inbox.next().await? else {
        return Err(CloseReason::Protocol("the first frame is not a hello".to_owned()));
    };
    if hello.protocol != PROTOCOL {
        let theirs = hello.protocol;
        let reason =
            format!("the child speaks link protocol {theirs}, this parent {PROTOCOL}; upgrade the older one");
        return Err(CloseReason::Refused(reason));
    }
    let software = hello.software.chars().take(64).collect();
    let Incoming::Message(payload) = inbox.next().await? else {
        return Err(CloseReason::Protocol("the hello has no payload".to_owned()));
    };
    // From now on the child may use the id; it learns it with the welcome.
    inbox.bind(session.id, session.heartbeat);
    Ok((software, payload))
}

/// Reads the session until it ends. Not to be resumed when dropped: a message may be lost then.
async fn drive(core: &Core, session: &Session, inbox: &mut Inbox) -> CloseReason {
    let deadline = Instant::now() + WELCOME_TIMEOUT;
    loop {
        let is_welcome = session.is_welcome.load(Ordering::Acquire);
        let incoming = tokio::select! {
            incoming = inbox.next() => incoming,
            () = tokio::time::sleep_until(deadline), if !is_welcome => {
                if session.is_welcome.load(Ordering::Acquire) {
                    continue;
                }
                return CloseReason::Refused("the parent did not answer the hello in time".to_owned());
            }
        };
        match incoming {
            Ok(Incoming::Message(_) | Incoming::BulkRefused { .. })
                if !session.is_welcome.load(Ordering::Acquire) =>
            {
                return CloseReason::Protocol("a message came before the welcome".to_owned());
            }
            Ok(Incoming::Message(payload)) => {
                let event = ParentEvent::Message { peer: session.peer.clone(), session: session.id, payload };
                if core.events.send(event).await.is_err() {
                    return CloseReason::Draining;
                }
            }
            Ok(Incoming::BulkRefused { bulk, reason }) => {
                if let Some(reply) = core.desk.take(bulk, &session.peer) {
                    // Whoever asked may have given up meanwhile.
                    let _ = reply.send(Err(BulkError::Refused(reason)));
                }
            }
            Ok(Incoming::RoundTrip(round_trip)) => {
                let (peer, session) = (session.peer.clone(), session.id);
                let event = ParentEvent::RoundTrip { peer, session, round_trip };
                if core.events.send(event).await.is_err() {
                    return CloseReason::Draining;
                }
            }
            Ok(Incoming::Hello(_) | Incoming::Welcome(_) | Incoming::OpenBulk { .. }) => {
                return CloseReason::Protocol(
                    "a frame came that only a parent or a new session sends".to_owned(),
                );
            }
            Err(reason) => return reason,
        }
    }
}

/// Delivers an event unless the session ends before.
async fn deliver(core: &Core, session: &Session, event: ParentEvent) -> Result<(), CloseReason> {
    tokio::select! {
        sent = core.events.send(event) => sent.map_err(|_| CloseReason::Draining),
        reason = ended(core, session) => Err(reason),
    }
}

/// Resolves when the session is ended from our side.
async fn ended(core: &Core, session: &Session) -> CloseReason {
    tokio::select! {
        () = session.line.ended() => session.line.reason().cloned().unwrap_or(CloseReason::Draining),
        () = core.shutdown.cancelled() => CloseReason::Draining,
    }
}
