//! Around every request: a limit on how many run, a limit on how long, and no panic that takes a connection down.
//!
//! What changes something runs in a task of its own, so that it is finished and recorded whether or not the client
//! waits for the answer. It keeps its place among the running requests until then.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tracing::debug;

use super::error::ApiError;
use super::{Api, Shared};

/// Requests handled at the same time.
pub(super) const CONCURRENT: usize = 256;
/// How long a request waits for its turn.
const TURN: Duration = Duration::from_secs(5);
/// How long it may take from then until its answer begins.
const PATIENCE: Duration = Duration::from_secs(30);
/// What changes something is given up only after this time: nothing in it should take so long.
const LONGEST: Duration = Duration::from_secs(5 * 60);

/// Runs the rest of the stack within the limits.
pub(super) async fn guard(State(api): State<Shared>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut response = within_limits(&api, request, next).await;
    let status = response.status();
    api.metrics.answered(route.as_ref().map(MatchedPath::as_str), &method, status, begun.elapsed());
    // The last part of that path is a secret.
    let path = if path.starts_with("/resetPassword/") { "/resetPassword/" } else { &*path };
    debug!(%method, path, status = status.as_u16(), "request answered");
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn within_limits(api: &Api, request: Request, next: Next) -> Response {
    let turn = tokio::time::timeout(TURN, Arc::clone(&api.requests).acquire_owned()).await;
    let Ok(Ok(turn)) = turn else {
        return ApiError::unavailable("too many requests at the same time: try again in a few seconds")
            .into_response();
    };
    let is_to_be_finished = is_to_be_finished(&request);
    let work = async move {
        let work = AssertUnwindSafe(next.run(request)).catch_unwind();
        let limit = if is_to_be_finished { LONGEST } else { PATIENCE };
        let done = tokio::time::timeout(limit, work).await;
        drop(turn);
        match done {
            Ok(Ok(response)) => response,
            Ok(Err(panic)) => ApiError::internal(&panic_text(panic.as_ref())).into_response(),
            Err(_) => took_too_long(),
        }
    };
    if !is_to_be_finished {
        return work.await;
    }
    match tokio::time::timeout(PATIENCE, api.changes.spawn(work)).await {
        Ok(Ok(response)) => response,
        // The runtime is going down; panics are caught inside.
        Ok(Err(_)) => ApiError::unavailable("the root is stopping").into_response(),
        Err(_) => took_too_long(),
    }
}

fn took_too_long() -> Response {
    ApiError::unavailable("the request took too long; it may still take effect").into_response()
}

/// Whether a request does something that must not end half-way: everything but reading. An upgrade starts a program.
fn is_to_be_finished(request: &Request) -> bool {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
    !reads || request.headers().contains_key(header::UPGRADE)
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panic: {}", text.unwrap_or_default())
}
