//! The sending end of a session as the rest of the program sees it: a bounded queue and the session's end.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{CloseReason, MAX_MESSAGE, Pulse};

/// Why a message was not taken. It will not be sent later either: the next session starts with the full state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no session.
    #[error("not connected")]
    NotConnected,
    /// The queue was full; the session is being closed.
    #[error("the peer reads too slowly; its session is closed")]
    Overflow,
    /// The message exceeds [`MAX_MESSAGE`](crate::MAX_MESSAGE).
    #[error("the message is larger than {MAX_MESSAGE} bytes")]
    TooLarge,
}

/// Bounds of the queue of one session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    pub messages: usize,
    pub bytes: usize,
}

/// What can be sent once a session is open.
pub(crate) enum Item {
    Message(Bytes),
    OpenBulk { bulk: u64, request: Bytes },
    BulkRefused { bulk: u64, reason: String },
}

impl Item {
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Message(bytes) | Self::OpenBulk { request: bytes, .. } => bytes.len(),
            Self::BulkRefused { reason, .. } => reason.len(),
        }
    }
}

/// Queue and end of one session.
pub(crate) struct Line {
    pub(crate) pulse: Pulse,
    items: mpsc::Sender<Item>,
    queued_bytes: AtomicUsize,
    limit_bytes: usize,
    reason: OnceLock<CloseReason>,
    ended: CancellationToken,
    leaving: CancellationToken,
    sent: CancellationToken,
}

impl Line {
    pub(crate) fn new(limits: QueueLimits) -> (Self, mpsc::Receiver<Item>) {
        // When full, the session is closed: messages are changes, and a change must not get lost silently.
        let (items, queue) = mpsc::channel(limits.messages);
        let line = Self {
            pulse: Pulse::default(),
            items,
            queued_bytes: AtomicUsize::new(0),
            limit_bytes: limits.bytes,
            reason: OnceLock::new(),
            ended: CancellationToken::new(),
            leaving: CancellationToken::new(),
            sent: CancellationToken::new(),
        };
        (line, queue)
    }

    /// Queues an item without waiting.
    pub(crate) fn push(&self, item: Item) -> Result<(), SendError> {
        let size = item.size();
        if size > MAX_MESSAGE {
            return Err(SendError::TooLarge);
        }
        if self.ended.is_cancelled() || self.leaving.is_cancelled() {
            return Err(SendError::NotConnected);
        }
        let before = self.queued_bytes.fetch_add(size, Ordering::Relaxed);
        // One message of any size always fits into an empty queue.
        let is_full = before > 0 && before.saturating_add(size) > self.limit_bytes;
        let result =
            if is_full { Err(SendError::Overflow) } else { self.items.try_send(item).map_err(to_send_error) };
        if let Err(error) = result {
            self.queued_bytes.fetch_sub(size, Ordering::Relaxed);
            if error == SendError::Overflow {
                self.end(CloseReason::Overflow);
            }
        }
        result
    }

    /// Tells that an item left the queue.
    pub(crate) fn taken(&self, item: &Item) {
        self.queued_bytes.fetch_sub(item.size(), Ordering::Relaxed);
    }

    /// Ends the session; the first reason counts.
    pub(crate) fn end(&self, reason: CloseReason) {
        let _ = self.reason.set(reason);
        self.ended.cancel();
    }

    /// Ends our direction after what is queued was sent.
    pub(crate) fn leave(&self) {
        self.leaving.cancel();
    }

    /// Resolves when the session ended.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Resolves when our direction shall end.
    pub(crate) async fn leaving(&self) {
        self.leaving.cancelled().await;
    }

    /// Tells that the connection is done with our direction.
    pub(crate) fn set_sent(&self) {
        self.sent.cancel();
    }

    /// Resolves when the connection is done with our direction: it was sent or the connection is gone.
    pub(crate) async fn sent(&self) {
        self.sent.cancelled().await;
    }

    pub(crate) fn reason(&self) -> Option<&CloseReason> {
        self.reason.get()
    }
}

fn to_send_error(error: mpsc::error::TrySendError<Item>) -> SendError {
    match error {
        mpsc::error::TrySendError::Full(_) => SendError::Overflow,
        mpsc::error::TrySendError::Closed(_) => SendError::NotConnected,
    }
}
