//! Server-sent events (WHATWG HTML, section 9.2): text that goes on, each event with an id from which a client can
//! resume.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::Stream;
use serde::Serialize;

/// Silence after which a comment is sent, so that proxies and clients know that the other side is there.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(15);

const LAST_EVENT_ID: &str = "last-event-id";

/// One event as text.
#[derive(Debug, Default)]
pub(super) struct Frame(String);

impl Frame {
    /// A comment; clients do not see it.
    pub(super) fn comment(text: &str) -> Bytes {
        format!(": {text}\n\n").into()
    }

    /// From here on a client resumes.
    pub(super) fn id(mut self, id: impl std::fmt::Display) -> Self {
        self.0.push_str(&format!("id: {id}\n"));
        self
    }

    /// What kind of event; without it clients call it `message`.
    pub(super) fn event(mut self, name: &str) -> Self {
        self.0.push_str(&format!("event: {name}\n"));
        self
    }

    /// JSON, which has no line ends.
    pub(super) fn data(mut self, value: &impl Serialize) -> Bytes {
        let text = serde_json::to_string(value).unwrap_or_default();
        self.0.push_str(&format!("data: {text}\n\n"));
        self.0.into()
    }

    /// Without data: clients only note the id.
    pub(super) fn without_data(mut self) -> Bytes {
        self.0.push('\n');
        self.0.into()
    }
}

/// The id from which a client wants to resume, as browsers send it.
pub(super) fn last_event_id(headers: &HeaderMap) -> Option<&str> {
    headers.get(LAST_EVENT_ID)?.to_str().ok().map(str::trim).filter(|id| !id.is_empty())
}

/// Whether a client asks for this form.
pub(super) fn is_accepted(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|kind| kind.trim().starts_with("text/event-stream"))
}

/// The answer.
pub(super) fn response<S>(events: S) -> Response
where
    S: Stream<Item = Result<Bytes, std::convert::Infallible>> + Send + 'static,
{
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        // nginx collects answers otherwise.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::from_stream(events)).into_response()
}
