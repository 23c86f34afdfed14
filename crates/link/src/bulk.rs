//! Bulk streams: bytes in both directions beside the session (logs, exec, port forwarding, image blobs).
//!
//! Each runs on a connection of its own, so neither its volume nor a slow reader delays control. A direction that
//! ends without [`BulkSender::finish`] reaches the peer as [`BulkError::Cancelled`], never as a short success.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Status, Streaming};

use crate::proto::bulk_frame::Body;
use crate::proto::{BulkFinish, BulkFrame};

/// Largest piece put into one frame, in bytes.
const PIECE: usize = 128 * 1024;

/// Pieces waiting for the connection; when full, `send` waits.
const QUEUE: usize = 4;

/// Why a bulk stream failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BulkError {
    /// The peer dropped the stream or the connection broke before the end.
    #[error("the bulk stream was cut off")]
    Cancelled,
    /// The peer gave up, with the reason for people.
    #[error("the peer gave up the bulk stream: {0}")]
    Failed(String),
    /// The child does not open the stream, with the reason for people.
    #[error("the child refused the bulk stream: {0}")]
    Refused(String),
    /// The child did not open the stream in time.
    #[error("the child did not open the bulk stream in time")]
    TimedOut,
    /// The session over which the child would be asked has ended.
    #[error("there is no session to the child")]
    NoSession,
    /// The request payload is larger than 64 KiB.
    #[error("the request of a bulk stream is larger than 64 KiB")]
    RequestTooLarge,
    /// The child could not reach its parent a second time, with the cause as text.
    #[error("cannot open a connection for the bulk stream: {0}")]
    Connect(String),
}

impl From<BulkError> for io::Error {
    fn from(error: BulkError) -> Self {
        let kind = match error {
            BulkError::Cancelled => io::ErrorKind::ConnectionAborted,
            BulkError::TimedOut => io::ErrorKind::TimedOut,
            BulkError::NoSession => io::ErrorKind::NotConnected,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// A bulk stream. Dropping it cancels what was not finished.
pub struct BulkStream {
    /// Our direction.
    pub sender: BulkSender,
    /// The peer's direction, a [`Stream`] of bytes.
    pub receiver: BulkReceiver,
}

impl BulkStream {
    /// Splits the stream into its directions. Dropping the receiver before its end still cancels both.
    pub fn split(self) -> (BulkSender, BulkReceiver) {
        (self.sender, self.receiver)
    }

    /// Sends everything `source` yields, then its end or its error, and waits until the peer has taken it. Ends early
    /// when the peer goes away. What the peer sends meanwhile is read and dropped.
    pub async fn send_all<S>(self, mut source: S) -> Result<(), BulkError>
    where
        S: Stream<Item = Result<Bytes, String>> + Unpin,
    {
        let (mut sender, mut receiver) = self.split();
        loop {
            // Both branches are cancel-safe. A peer that goes away ends it even while there is nothing to send.
            let piece = tokio::select! {
                piece = source.next() => piece,
                heard = receiver.recv() => match heard {
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => return Err(error),
                    None => return Err(BulkError::Cancelled),
                },
            };
            match piece {
                Some(Ok(data)) => sender.send(data).await?,
                Some(Err(reason)) => {
                    sender.fail(&reason).await?;
                    break;
                }
                None => {
                    sender.finish().await?;
                    break;
                }
            }
        }
        // Dropping the receiver now would cancel what is still on its way.
        while let Some(Ok(_)) = receiver.recv().await {}
        Ok(())
    }
}

/// The sending direction of a bulk stream.
pub struct BulkSender {
    frames: mpsc::Sender<BulkFrame>,
    cancelled: CancellationToken,
    /// Cancelled when nobody takes the frames any more.
    gone: CancellationToken,
}

impl BulkSender {
    /// Sends bytes; waits while the peer reads slowly.
    pub async fn send(&mut self, mut data: Bytes) -> Result<(), BulkError> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(PIECE));
            self.push(Body::Data(piece)).await?;
        }
        Ok(())
    }

    /// Resolves when the peer takes nothing more: it dropped the stream, the connection broke, or this direction has ended.
    /// Unlike [`BulkReceiver::recv`] it does not wait behind what the peer has sent and nobody has read yet.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        self.gone.clone().cancelled_owned()
    }

    /// Ends this direction successfully. The peer has not necessarily read all of it yet.
    pub async fn finish(self) -> Result<(), BulkError> {
        self.push(Body::Finish(BulkFinish {})).await
    }

    /// Ends this direction with a reason for people, at most 512 bytes of it.
    pub async fn fail(self, reason: &str) -> Result<(), BulkError> {
        self.push(Body::Failed(reason.chars().take(512).collect())).await
    }

    async fn push(&self, body: Body) -> Result<(), BulkError> {
        tokio::select! {
            sent = self.frames.send(BulkFrame { body: Some(body) }) => sent.map_err(|_| BulkError::Cancelled),
            () = self.cancelled.cancelled() => Err(BulkError::Cancelled),
        }
    }
}

/// The receiving direction of a bulk stream: a [`Stream`] of `Result<Bytes, BulkError>` that ends after the peer
/// finished or after the first error.
pub struct BulkReceiver {
    frames: Streaming<BulkFrame>,
    /// Dropped before the end.
    cut: Option<Cut>,
    has_ended: bool,
}

impl BulkReceiver {
    /// Returns the next bytes, `None` after the peer finished.
    pub async fn recv(&mut self) -> Option<Result<Bytes, BulkError>> {
        self.next().await
    }

    fn end(&mut self) {
        self.has_ended = true;
        if let Some(cut) = self.cut.take() {
            cut.disarm();
        }
    }
}

impl Stream for BulkReceiver {
    type Item = Result<Bytes, BulkError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let frame = std::task::ready!(self.frames.poll_next_unpin(cx));
        let body = match frame {
            Some(Ok(frame)) => frame.body,
            Some(Err(_)) | None => None,
        };
        let result = match body {
            Some(Body::Data(data)) => Some(Ok(data)),
            Some(Body::Finish(_)) => {
                self.end();
                None
            }
            Some(Body::Failed(reason)) => {
                self.end();
                Some(Err(BulkError::Failed(reason)))
            }
            Some(Body::Bulk(_)) | None => {
                self.has_ended = true;
                // The peer is gone or mad: our direction is of no use either.
                self.cut = None;
                Some(Err(BulkError::Cancelled))
            }
        };
        Poll::Ready(result)
    }
}

/// The frames of our direction, for the gRPC layer.
pub(crate) struct BulkOutbound {
    frames: mpsc::Receiver<BulkFrame>,
    cancelled: CancellationToken,
    gone: DropGuard,
}

impl BulkOutbound {
    pub(crate) fn into_stream(self) -> impl Stream<Item = BulkFrame> + Send + 'static {
        let frames = stream::unfold((self.frames, self.gone), |(mut frames, gone)| async {
            let frame = frames.recv().await?;
            Some((frame, (frames, gone)))
        });
        frames.take_until(self.cancelled.cancelled_owned())
    }

    pub(crate) fn into_response(self) -> Pin<Box<dyn Stream<Item = Result<BulkFrame, Status>> + Send>> {
        Box::pin(self.into_stream().map(Ok))
    }
}

/// Makes the sending direction of a stream; the receiving one is added when the peer's frames are there.
pub(crate) fn outbound() -> (BulkSender, BulkOutbound) {
    let (sender, frames) = mpsc::channel(QUEUE);
    let (cancelled, gone) = (CancellationToken::new(), CancellationToken::new());
    let outbound = BulkOutbound { frames, cancelled: cancelled.clone(), gone: gone.clone().drop_guard() };
    (BulkSender { frames: sender, cancelled, gone }, outbound)
}

impl BulkSender {
    /// Sends the first frame of the child.
    pub(crate) async fn introduce(&self, bulk: u64) -> Result<(), BulkError> {
        self.push(Body::Bulk(bulk)).await
    }

    /// Joins the directions. A stream that is dropped before its end hangs up: its end would wait behind what the peer does
    /// not read otherwise.
    pub(crate) fn join(
        self,
        frames: Streaming<BulkFrame>,
        hang_up: impl Fn() + Send + Sync + 'static,
    ) -> BulkStream {
        let cut = Cut { cancelled: self.cancelled.clone(), hang_up: Box::new(hang_up), is_armed: true };
        BulkStream { sender: self, receiver: BulkReceiver { frames, cut: Some(cut), has_ended: false } }
    }
}

/// Cancels our sending direction and ends the connection, which no other stream uses, when dropped.
struct Cut {
    cancelled: CancellationToken,
    hang_up: Box<dyn Fn() + Send + Sync>,
    is_armed: bool,
}

impl Cut {
    fn disarm(mut self) {
        self.is_armed = false;
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        if self.is_armed {
            self.cancelled.cancel();
            (self.hang_up)();
        }
    }
}
