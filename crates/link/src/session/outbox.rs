//! The sending half of a session: turns the queue into numbered frames and adds heartbeats.
//!
//! It is a stream that the connection polls when it can write, so a slow peer slows it down by itself and the
//! queue in front of it fills up.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::Status;

use super::{CHUNK, DEFAULT_HEARTBEAT, Item, Line};
use crate::proto::frame::Body;
use crate::proto::{BulkRefused, Chunk, Frame, Heartbeat, OpenBulk};

/// The first frame of a direction and the message that belongs to it.
pub(crate) struct Opening {
    pub body: Body,
    pub payload: Bytes,
    pub then: Then,
}

/// What must be known before messages may follow the opening: session id and heartbeat interval.
pub(crate) enum Then {
    /// Known already (parent).
    Open { session: u64, heartbeat: Duration },
    /// To come with the welcome (child).
    Wait(oneshot::Receiver<(u64, Duration)>),
}

/// A busy session is measured every so many heartbeat intervals, a quiet one with every heartbeat.
const PROBE_EVERY: u32 = 4;

enum Stage {
    Opening(oneshot::Receiver<Opening>),
    Waiting(oneshot::Receiver<(u64, Duration)>),
    Open,
    Done,
}

/// State of the sending half.
pub(crate) struct Outbox {
    line: Arc<Line>,
    queue: mpsc::Receiver<Item>,
    stage: Stage,
    /// What is left of the message being sent.
    rest: Option<Bytes>,
    session: u64,
    sequence: u64,
    heartbeat: Duration,
    last_sent: Instant,
    /// When the round trip was last measured; absent where it is not.
    last_probe: Option<Instant>,
}

impl Outbox {
    /// Makes the sending half; it sends only heartbeats until `opening` resolves.
    pub(crate) fn new(
        line: Arc<Line>,
        queue: mpsc::Receiver<Item>,
        opening: oneshot::Receiver<Opening>,
    ) -> Self {
        Self {
            line,
            queue,
            stage: Stage::Opening(opening),
            rest: None,
            session: 0,
            sequence: 0,
            heartbeat: DEFAULT_HEARTBEAT,
            last_sent: Instant::now(),
            last_probe: None,
        }
    }

    /// Measures the round trip as long as the session is open.
    pub(crate) fn probing(mut self) -> Self {
        self.last_probe = Some(Instant::now());
        self
    }

    /// Returns the frames for a gRPC response: the last item tells the peer why the session ended.
    pub(crate) fn into_response(self) -> Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>> {
        Box::pin(stream::unfold(self, |mut outbox| async {
            outbox.next().await.map(|frame| (frame, outbox))
        }))
    }

    /// Returns the frames for a gRPC request.
    pub(crate) fn into_request(self) -> impl Stream<Item = Frame> + Send + 'static {
        stream::unfold(self, |mut outbox| async { outbox.next().await?.ok().map(|frame| (frame, outbox)) })
    }

    async fn next(&mut self) -> Option<Result<Frame, Status>> {
        loop {
            if let Stage::Done = self.stage {
                return None;
            }
            let next_heartbeat = self.next_heartbeat();
            // Every branch is cancel-safe: nothing is taken from a channel before its branch wins.
            tokio::select! {
                biased;
                () = self.line.ended() => {
                    self.stage = Stage::Done;
                    let status = self.line.reason().and_then(super::CloseReason::to_status);
                    return status.map(Err);
                }
                // Between two chunks of a message the other branches have to wait.
                () = std::future::ready(()), if self.rest.is_some() => return self.next_chunk().map(Ok),
                () = self.line.leaving(), if !self.queue.is_closed() => self.queue.close(),
                opening = wait_opening(&mut self.stage) => match opening {
                    Some(Opened::First(opening)) => return Some(Ok(self.open(opening))),
                    Some(Opened::Session(session, heartbeat)) => self.set_open(session, heartbeat),
                    // The other side of the oneshot is gone, so nobody will ever open this session.
                    None => self.stage = Stage::Done,
                },
                number = self.line.pulse.asked() => {
                    return Some(Ok(self.frame(Body::Heartbeat(Heartbeat { probe: 0, echo: number }))));
                }
                item = self.queue.recv(), if matches!(self.stage, Stage::Open) => match item {
                    Some(item) => {
                        self.line.taken(&item);
                        if let Some(frame) = self.start(item) {
                            return Some(Ok(frame));
                        }
                    }
                    None => self.stage = Stage::Done,
                },
                () = tokio::time::sleep_until(next_heartbeat) => {
                    let probe = self.next_probe();
                    return Some(Ok(self.frame(Body::Heartbeat(Heartbeat { probe, echo: 0 }))));
                }
            }
        }
    }

    /// A heartbeat is due when nothing was said for an interval, or nothing was measured for some.
    fn next_heartbeat(&self) -> Instant {
        let quiet = self.last_sent + self.heartbeat;
        let measures = self.last_probe.filter(|_| matches!(self.stage, Stage::Open));
        measures.map_or(quiet, |at| quiet.min(at + self.heartbeat * PROBE_EVERY))
    }

    /// The number of the next measurement; 0 where there is none.
    fn next_probe(&mut self) -> u64 {
        if self.last_probe.is_none() || !matches!(self.stage, Stage::Open) {
            return 0;
        }
        self.last_probe = Some(Instant::now());
        self.line.pulse.begin()
    }

    fn open(&mut self, opening: Opening) -> Frame {
        self.rest = Some(opening.payload);
        match opening.then {
            Then::Open { session, heartbeat } => self.set_open(session, heartbeat),
            Then::Wait(welcome) => self.stage = Stage::Waiting(welcome),
        }
        self.frame(opening.body)
    }

    fn set_open(&mut self, session: u64, heartbeat: Duration) {
        self.session = session;
        self.heartbeat = heartbeat;
        self.stage = Stage::Open;
    }

    /// Returns the frame of an item, or prepares the message it holds.
    fn start(&mut self, item: Item) -> Option<Frame> {
        match item {
            Item::Message(message) => {
                self.rest = Some(message);
                self.next_chunk()
            }
            Item::OpenBulk { bulk, request } => Some(self.frame(Body::OpenBulk(OpenBulk { bulk, request }))),
            Item::BulkRefused { bulk, reason } => {
                Some(self.frame(Body::BulkRefused(BulkRefused { bulk, reason })))
            }
        }
    }

    fn next_chunk(&mut self) -> Option<Frame> {
        let mut rest = self.rest.take()?;
        let data = rest.split_to(rest.len().min(CHUNK));
        let last = rest.is_empty();
        if !last {
            self.rest = Some(rest);
        }
        Some(self.frame(Body::Chunk(Chunk { data, last })))
    }

    fn frame(&mut self, body: Body) -> Frame {
        self.sequence += 1;
        self.last_sent = Instant::now();
        Frame { session: self.session, sequence: self.sequence, body: Some(body) }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.line.set_sent();
    }
}

enum Opened {
    First(Opening),
    Session(u64, Duration),
}

/// Waits for what the stage waits for; for ever if it waits for nothing.
async fn wait_opening(stage: &mut Stage) -> Option<Opened> {
    match stage {
        Stage::Opening(opening) => opening.await.ok().map(Opened::First),
        Stage::Waiting(welcome) => {
            welcome.await.ok().map(|(session, heartbeat)| Opened::Session(session, heartbeat))
        }
        Stage::Open | Stage::Done => std::future::pending().await,
    }
}
