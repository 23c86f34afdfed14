//! While the disk does not take everything, changes are refused at once; reading goes on. As at the root.

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use oak_store::{Change, stalled};

use super::Shared;
use super::answer::Refused;

/// Answers requests that would change something with 507 while the disk is in trouble.
pub(super) async fn refuse_changes(State(local): State<Shared>, request: Request, next: Next) -> Response {
    let change = match *request.method() {
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE => return next.run(request).await,
        Method::DELETE => Change::Removal,
        _ => Change::Write,
    };
    let mut health = local.engine.health();
    let refusal = health.borrow().refusal(change);
    if let Some(why) = refusal {
        return Refused::new(StatusCode::INSUFFICIENT_STORAGE, why).into_response();
    }
    // Both branches are cancel-safe: what the machine took in is stored whether or not somebody waits.
    tokio::select! {
        response = next.run(request) => response,
        why = stalled(&mut health) => Refused::new(StatusCode::INSUFFICIENT_STORAGE, why).into_response(),
    }
}
