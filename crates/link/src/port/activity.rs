//! Counts the requests in flight on a connection, so that idle connections can be closed.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::watch;

/// Number of requests whose answer is not completely sent.
#[derive(Clone)]
pub(crate) struct Activity(watch::Sender<usize>);

impl Activity {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// Counts a request until the guard is dropped.
    pub(crate) fn start(&self) -> InFlight {
        self.0.send_modify(|count| *count += 1);
        InFlight(self.0.clone())
    }

    /// Resolves when there was no request for a time: `first` for the first one, `idle` between later ones.
    pub(crate) async fn idle(&self, first: Duration, idle: Duration) {
        let mut changes = self.0.subscribe();
        let mut patience = first;
        loop {
            // The sender lives as long as self, so these waits cannot fail.
            let _ = changes.wait_for(|count| *count == 0).await;
            if tokio::time::timeout(patience, changes.changed()).await.is_err() {
                return;
            }
            patience = idle;
        }
    }
}

/// A counted request.
pub(crate) struct InFlight(watch::Sender<usize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// A response body that keeps its request counted until it was sent.
pub(crate) struct Counted {
    body: Body,
    _in_flight: InFlight,
}

impl Counted {
    pub(crate) fn new(body: Body, in_flight: InFlight) -> Self {
        Self { body, _in_flight: in_flight }
    }
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
