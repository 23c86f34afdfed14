//! Output of instances, fetched from the worker while the client reads.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use oak_control::root::Refusal;
use oak_model::{InstanceKey, ServiceId};
use serde::Deserialize;

use super::Shared;
use super::answer::Answer;
use super::caller::Caller;
use super::error::ApiError;
use super::parameter::Parameter;

/// A future that may be sent to another thread.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Output of an instance in pieces as they arrive. An error ends the answer visibly incomplete. Dropping the stream
/// stops reading.
pub type LogStream = Pin<Box<dyn Stream<Item = Result<Bytes, LogError>> + Send>>;

/// Where output comes from.
pub trait LogSource: Send + Sync + 'static {
    /// Opens the output of an instance: its last `tail` lines or everything that is kept, and what comes after that
    /// if `follow`.
    fn open(
        &self,
        key: InstanceKey,
        tail: Option<u32>,
        follow: bool,
    ) -> BoxFuture<'_, Result<LogStream, LogError>>;
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
pub(super) const CONCURRENT: usize = 64;
/// How long the way to the worker may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// What part of the output is wanted.
#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    tail: Option<u32>,
    #[serde(default)]
    follow: bool,
}

/// `GET /api/service/<id>/instance/<number>/logs?tail=N&follow=true`: plain text while it lasts.
pub(super) async fn stream(
    State(api): State<Shared>,
    caller: Caller,
    Parameter((service, number)): Parameter<(ServiceId, u32)>,
    wanted: Result<Query<Wanted>, axum::extract::rejection::QueryRejection>,
) -> Answer {
    let wanted = wanted.map_err(|_| {
        ApiError::bad_request("the query may hold tail=<number of lines> and follow=true or follow=false")
    })?;
    let key = InstanceKey { service, number };
    let scope = caller.view();
    let found = api.parts.root.call(move |root, _, _| {
        scope.service(root, service)?;
        root.instance(key).map(|_| ()).ok_or_else(|| ApiError::from(Refusal::UnknownInstance(key)))
    });
    found.await??;
    let permit = Arc::clone(&api.log_streams).try_acquire_owned();
    let permit = permit
        .map_err(|_| ApiError::unavailable("too many outputs are being read: close one and try again"))?;
    let opened = tokio::time::timeout(PATIENCE, api.parts.logs.open(key, wanted.tail, wanted.follow)).await;
    let late = |_| LogError::Unreachable("the worker did not answer in time".to_owned());
    let output = opened.map_err(late)??;
    let output = output.map(move |piece| {
        // Held as long as the stream lives.
        let _ = &permit;
        piece
    });
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(output)).into_response())
}
