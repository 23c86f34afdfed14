//! The receiving half of a session: checks order and liveness, and joins chunks to messages.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tonic::Streaming;

use super::sequence::{Assembler, FrameOrder};
use super::{CloseReason, DEFAULT_HEARTBEAT, Line, MAX_MESSAGE, MISSED_HEARTBEATS};
use crate::proto::frame::Body;
use crate::proto::{Frame, Hello, Welcome};

/// What came in.
pub(crate) enum Incoming {
    Hello(Hello),
    Welcome(Welcome),
    Message(Bytes),
    OpenBulk { bulk: u64, request: Bytes },
    BulkRefused { bulk: u64, reason: String },
    RoundTrip(Duration),
}

/// State of the receiving half.
pub(crate) struct Inbox {
    frames: Streaming<Frame>,
    line: Arc<Line>,
    order: FrameOrder,
    assembler: Assembler,
    heartbeat: Duration,
}

impl Inbox {
    pub(crate) fn new(frames: Streaming<Frame>, line: Arc<Line>) -> Self {
        Self {
            frames,
            line,
            order: FrameOrder::default(),
            assembler: Assembler::new(MAX_MESSAGE),
            heartbeat: DEFAULT_HEARTBEAT,
        }
    }

    /// Sets session id and heartbeat interval, once known.
    pub(crate) fn bind(&mut self, session: u64, heartbeat: Duration) {
        self.order.bind(session);
        self.heartbeat = heartbeat;
    }

    /// A peer that does not know the session yet does not know its interval either.
    fn patience(&self) -> Duration {
        let is_agreed = self.order.is_known_to_peer();
        let interval = if is_agreed { self.heartbeat } else { self.heartbeat.max(DEFAULT_HEARTBEAT) };
        interval * MISSED_HEARTBEATS
    }

    /// Returns the next thing that is not a heartbeat or half a message. Cancel-safe.
    ///
    /// Any frame is a sign of life. Silence is measured only while we wait here: if our own shell is slow, the
    /// peer's heartbeats lie unread in the connection and prove that it lives.
    pub(crate) async fn next(&mut self) -> Result<Incoming, CloseReason> {
        loop {
            let frame = match tokio::time::timeout(self.patience(), self.frames.message()).await {
                Err(_) => return Err(CloseReason::Silent),
                Ok(Err(status)) => return Err(CloseReason::from_status(&status)),
                Ok(Ok(None)) => return Err(CloseReason::Left),
                Ok(Ok(Some(frame))) => frame,
            };
            if let Some(Body::Welcome(welcome)) = &frame.body {
                self.order.bind(welcome.session);
            }
            self.order.accept(frame.session, frame.sequence).map_err(broken)?;
            match frame.body {
                Some(Body::Heartbeat(heartbeat)) => {
                    if heartbeat.probe != 0 {
                        self.line.pulse.ask(heartbeat.probe);
                    }
                    if let Some(round_trip) = self.line.pulse.returned(heartbeat.echo) {
                        return Ok(Incoming::RoundTrip(round_trip));
                    }
                }
                Some(Body::Chunk(chunk)) => {
                    if let Some(message) = self.assembler.push(chunk.data, chunk.last).map_err(broken)? {
                        return Ok(Incoming::Message(message));
                    }
                }
                Some(Body::Hello(hello)) => return Ok(Incoming::Hello(hello)),
                Some(Body::Welcome(welcome)) => return Ok(Incoming::Welcome(welcome)),
                Some(Body::OpenBulk(open)) => {
                    return Ok(Incoming::OpenBulk { bulk: open.bulk, request: open.request });
                }
                Some(Body::BulkRefused(refused)) => {
                    return Ok(Incoming::BulkRefused { bulk: refused.bulk, reason: refused.reason });
                }
                None => return Err(CloseReason::Protocol("a frame of unknown kind came".to_owned())),
            }
        }
    }
}

fn broken(error: impl std::error::Error) -> CloseReason {
    CloseReason::Protocol(error.to_string())
}
