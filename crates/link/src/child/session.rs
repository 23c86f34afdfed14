//! One attempt of a child: dial, hello, welcome, and then the session to its end.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::info;

use super::dial::{Channel, Dialled, Target, dial};
use super::link::{ChildEvent, Runner};
use super::offer::BulkOffer;
use super::renew::renew;
use crate::proto;
use crate::proto::frame::Body;
use crate::proto::link_client::LinkClient;
use crate::session::{CloseReason, Inbox, Incoming, Line, Opening, Outbox, PROTOCOL, Then};

/// Time until the parent answers the call of a session; its welcome may come later.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Time to send what is queued when leaving.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Bounds for the heartbeat interval a parent may ask for.
const HEARTBEATS: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(60);

/// How an attempt ended.
pub(crate) enum Ended {
    /// There was no session; with the reason for people.
    Attempt(String),
    /// There was one.
    Session { id: u64, reason: CloseReason, lived: Duration },
}

impl Ended {
    pub(crate) fn lived(&self) -> Option<Duration> {
        match self {
            Self::Attempt(_) => None,
            Self::Session { lived, .. } => Some(*lived),
        }
    }
}

/// Makes one attempt. Returns when it failed, the session ended, or the link is stopped.
pub(crate) async fn run(runner: &Runner) -> Ended {
    let target = Target::Endpoint(runner.config.endpoint.as_str().into());
    let dialled = tokio::select! {
        dialled = dial(&target, Arc::clone(&runner.tls)) => dialled,
        () = runner.stop.cancelled() => return Ended::Attempt("stopped".to_owned()),
    };
    let dialled = match dialled {
        Ok(dialled) => dialled,
        Err(error) => return Ended::Attempt(chain(&error)),
    };
    let connection = Connection(dialled.driver.clone());
    let opened = tokio::select! {
        opened = open(runner, &dialled) => opened,
        () = runner.stop.cancelled() => Err(CloseReason::Left),
    };
    let open = match opened {
        Ok(open) => open,
        Err(reason) => return Ended::Attempt(reason.to_string()),
    };
    let since = Instant::now();
    let id = open.id;
    info!(parent = %runner.parent, session = id, address = %dialled.remote, "session to the parent opened");
    let reason = drive(runner, open, dialled.client, dialled.remote).await;
    drop(connection);
    Ended::Session { id, reason, lived: since.elapsed() }
}

/// Stops the connection when dropped.
struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Open {
    id: u64,
    line: Arc<Line>,
    inbox: Inbox,
}

/// Says hello, waits for the welcome and reports it.
async fn open(runner: &Runner, dialled: &Dialled) -> Result<Open, CloseReason> {
    let (line, queue) = Line::new(runner.queue_limits());
    let line = Arc::new(line);
    // From here on messages go to this session: what changes after the hello was made must follow it.
    runner.sender.set(Some(Arc::clone(&line)));
    let payload = (runner.hello)().await;
    let (opening, opened) = oneshot::channel();
    let (welcomed, welcome) = oneshot::channel();
    let hello = proto::Hello { protocol: PROTOCOL, software: runner.config.software.clone() };
    // The receiver is in our hands, it cannot be gone.
    let _ = opening.send(Opening { body: Body::Hello(hello), payload, then: Then::Wait(welcome) });
    let outbox = Outbox::new(Arc::clone(&line), queue, opened);
    let mut client = dialled.client.clone();
    let call = timeout(CALL_TIMEOUT, client.session(outbox.into_request())).await;
    let call = call.map_err(|_| CloseReason::Silent)?;
    let frames = call.map_err(|status| CloseReason::from_status(&status))?.into_inner();
    let mut inbox = Inbox::new(frames, Arc::clone(&line));
    let Incoming::Welcome(terms) = inbox.next().await? else {
        return Err(CloseReason::Protocol("the first frame of the parent is not a welcome".to_owned()));
    };
    let heartbeat =
        Duration::from_millis(terms.heartbeat_ms.into()).clamp(*HEARTBEATS.start(), *HEARTBEATS.end());
    inbox.bind(terms.session, heartbeat);
    let _ = welcomed.send((terms.session, heartbeat));
    let Incoming::Message(welcome) = inbox.next().await? else {
        return Err(CloseReason::Protocol("the welcome has no payload".to_owned()));
    };
    let connected = ChildEvent::Connected {
        session: terms.session,
        welcome,
        local_address: dialled.local,
        parent_address: dialled.remote,
    };
    runner.events.send(connected).await.map_err(|_| CloseReason::Left)?;
    Ok(Open { id: terms.session, line, inbox })
}

/// Reads the session until it ends; renews the certificate on the way.
async fn drive(
    runner: &Runner,
    mut open: Open,
    client: LinkClient<Channel>,
    remote: SocketAddr,
) -> CloseReason {
    let mut leave_deadline = None;
    let mut checks = interval(runner.config.renewal_check.max(Duration::from_millis(10)));
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let credentials = &runner.config.credentials;
    let mut renewal: Option<Renewal> = None;
    let reason = loop {
        tokio::select! {
            incoming = open.inbox.next() => match incoming {
                Ok(incoming) => {
                    if let Err(reason) = deliver(runner, &open, incoming, remote).await {
                        break reason;
                    }
                }
                Err(reason) => break reason,
            },
            () = open.line.ended() => break open.line.reason().cloned().unwrap_or(CloseReason::Overflow),
            () = runner.stop.cancelled(), if leave_deadline.is_none() => {
                open.line.leave();
                leave_deadline = Some(Instant::now() + LEAVE_TIMEOUT);
            }
            () = tokio::time::sleep_until(leave_deadline.unwrap_or_else(Instant::now)), if leave_deadline.is_some() => {
                break CloseReason::Left;
            }
            _ = checks.tick() => {
                let is_running = renewal.as_ref().is_some_and(|task| !task.0.is_finished());
                if !is_running && runner.last_renewal.is_over() && credentials.is_renewal_due((runner.config.clock)()) {
                    let task = tokio::spawn(renew(client.clone(), Arc::clone(credentials), Arc::clone(&runner.last_renewal)));
                    renewal = Some(Renewal(task.abort_handle()));
                }
            }
        }
    };
    open.line.end(reason.clone());
    reason
}

/// A running renewal; ends with the session.
struct Renewal(AbortHandle);

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Passes on what came in. While leaving, the shell may not listen any more, so that must not block.
async fn deliver(
    runner: &Runner,
    open: &Open,
    incoming: Incoming,
    remote: SocketAddr,
) -> Result<(), CloseReason> {
    let event = match incoming {
        Incoming::Message(payload) => ChildEvent::Message { session: open.id, payload },
        Incoming::OpenBulk { bulk, request } => {
            let line = Arc::clone(&open.line);
            let tls = Arc::clone(&runner.tls);
            // The very address of this session: behind one name there may be several parents.
            ChildEvent::OpenBulk(BulkOffer::new(bulk, request, line, Target::Address(remote), tls))
        }
        // A child measures nothing.
        Incoming::RoundTrip(_) => return Ok(()),
        Incoming::Hello(_) | Incoming::Welcome(_) | Incoming::BulkRefused { .. } => {
            return Err(CloseReason::Protocol(
                "a frame came that only a child or a new session sends".to_owned(),
            ));
        }
    };
    tokio::select! {
        sent = runner.events.send(event) => sent.map_err(|_| CloseReason::Left),
        () = runner.stop.cancelled() => Ok(()),
        () = open.line.ended() => Err(open.line.reason().cloned().unwrap_or(CloseReason::Overflow)),
    }
}

/// Writes an error with its causes, for an event.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
