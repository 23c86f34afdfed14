//! Output of instances, fetched from the worker while the client reads.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use oak_control::root::Refusal;
use oak_model::message::LogSince;
use oak_model::{InstanceKey, ServiceId};
use serde::Deserialize;

use super::answer::Answer;
use super::caller::Caller;
use super::error::ApiError;
use super::log_events::{self, Position};
use super::parameter::Parameter;
use super::slots::Slot;
use super::{Shared, sse, standing};
use crate::calendar;

/// A future that may be sent to another thread.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Output of an instance in pieces as they arrive. An error ends the answer visibly incomplete. Dropping the stream
/// stops reading.
pub type LogStream = Pin<Box<dyn Stream<Item = Result<Bytes, LogError>> + Send>>;

/// What part of the output is wanted, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogRequest {
    /// Only the last lines; `None` is everything that is kept.
    pub tail: Option<u32>,
    /// Stay and send what comes.
    pub follow: bool,
    /// Only what was written from then on.
    pub since: Option<LogSince>,
    /// Each line begins with its time.
    pub timestamps: bool,
}

/// Where output comes from.
pub trait LogSource: Send + Sync + 'static {
    /// Opens the output of an instance.
    fn open(&self, key: InstanceKey, wanted: LogRequest) -> BoxFuture<'_, Result<LogStream, LogError>>;
}

/// Why there is no output.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The instance has no worker yet, or the worker knows nothing of it.
    #[error("there is no output yet: {0}")]
    NotThere(String),
    /// A link on the way is down; the text says which.
    #[error("the output cannot be reached: {0}")]
    Unreachable(String),
    /// Reading failed.
    #[error("the output cannot be read: {0}")]
    Failed(String),
}

impl From<LogError> for ApiError {
    fn from(error: LogError) -> Self {
        let status = match &error {
            LogError::NotThere(_) => StatusCode::CONFLICT,
            LogError::Unreachable(_) => StatusCode::SERVICE_UNAVAILABLE,
            LogError::Failed(_) => StatusCode::BAD_GATEWAY,
        };
        Self::new(status, error.to_string())
    }
}

/// Streams open at the same time; each may stay for days.
pub(super) const CONCURRENT: usize = 128;
/// Of one user.
pub(super) const PER_USER: usize = 32;
/// How long the way to the worker may take.
const PATIENCE: Duration = Duration::from_secs(15);

const QUERY_RULE: &str = "the query may hold tail=<number of lines>, since=<10m, 2h … or a time of RFC 3339>, and \
                          follow, timestamps and download=true or false, and format=text or format=sse";

/// The query.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    tail: Option<u32>,
    follow: Option<bool>,
    since: Option<String>,
    #[serde(default)]
    timestamps: bool,
    #[serde(default)]
    download: bool,
    format: Option<Format>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Text,
    Sse,
}

impl Wanted {
    fn since(&self) -> Result<Option<LogSince>, ApiError> {
        let Some(text) = &self.since else { return Ok(None) };
        let ago = calendar::duration(text).map(|ago| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX));
        let since = ago.map(LogSince::AgoMs).or_else(|| calendar::parse_micros(text).map(LogSince::AtMicros));
        let rule =
            "since must be a duration such as 90s, 10m, 2h or 1d, or a time such as 2026-11-24T16:00:00Z";
        since.map(Some).ok_or_else(|| ApiError::bad_request(rule))
    }
}

/// `GET /api/service/<id>/instance/<number>/logs`: plain text while it lasts, or server-sent events.
pub(super) async fn stream(
    State(api): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    Parameter((service, number)): Parameter<(ServiceId, u32)>,
    wanted: Result<Query<Wanted>, axum::extract::rejection::QueryRejection>,
) -> Answer {
    let Query(wanted) = wanted.map_err(|_| ApiError::bad_request(QUERY_RULE))?;
    let since = wanted.since()?;
    let key = InstanceKey { service, number };
    let form = wanted.format.unwrap_or(if sse::is_accepted(&headers) { Format::Sse } else { Format::Text });
    let as_events = form == Format::Sse;
    let follow = wanted.follow.unwrap_or(as_events);
    if wanted.download && (follow || as_events) {
        return Err(ApiError::bad_request(
            "download=true is for text that ends: leave out follow and format=sse",
        ));
    }
    let scope = caller.view();
    let found = api.parts.root.call(move |root, _, _| {
        let name = scope.service(root, service)?.job_name.to_string();
        root.instance(key).map(|_| name).ok_or_else(|| ApiError::from(Refusal::UnknownInstance(key)))
    });
    let name = found.await??;
    let slot = api.log_streams.take(&caller)?;
    let request = LogRequest { tail: wanted.tail, follow, since, timestamps: wanted.timestamps };
    if as_events {
        let resume = sse::last_event_id(&headers).map(Position::parse).transpose()?;
        let request = log_events::request(request, resume);
        let output = open(&api, caller, key, request, slot).await?;
        return Ok(sse::response(log_events::run(output, resume)));
    }
    let output = open(&api, caller, key, request, slot).await?;
    let mut answer = (plain_text(), Body::from_stream(output)).into_response();
    if wanted.download
        && let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}.{number}.log\""))
    {
        answer.headers_mut().insert(header::CONTENT_DISPOSITION, value);
    }
    Ok(answer)
}

fn plain_text() -> [(header::HeaderName, HeaderValue); 1] {
    [(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))]
}

/// Output that ends with an error once its reader may no longer see it.
async fn open(
    api: &Shared,
    caller: Caller,
    key: InstanceKey,
    request: LogRequest,
    slot: Slot,
) -> Result<LogStream, ApiError> {
    let opened = tokio::time::timeout(PATIENCE, api.parts.logs.open(key, request)).await;
    let late = |_| LogError::Unreachable("the worker did not answer in time".to_owned());
    let output = opened.map_err(late)??;
    let lost = Box::pin(standing::lost(Arc::clone(api), caller, Caller::view, key.service));
    // The slot is held as long as the stream lives.
    let reading = Some((output, lost, slot));
    Ok(Box::pin(stream::unfold(reading, |reading| async {
        let (mut output, mut lost, slot) = reading?;
        // Both branches are cancel-safe. Much output must not delay the end.
        tokio::select! {
            biased;
            reason = &mut lost => Some((Err(LogError::Failed(reason.to_owned())), None)),
            piece = output.next() => piece.map(|piece| (piece, Some((output, lost, slot)))),
        }
    })))
}
