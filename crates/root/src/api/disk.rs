//! While the disk does not take everything, changes are refused at once; reading goes on.

use axum::extract::{FromRequestParts, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use oak_store::{Health, Writes};
use tokio::sync::watch;

use super::Shared;
use super::caller::Caller;
use super::error::ApiError;

/// Answers requests that would change something with 507 while the disk is in trouble. Removing is still possible as
/// long as small rows are written: it may be what makes room.
pub(super) async fn refuse_changes(State(api): State<Shared>, request: Request, next: Next) -> Response {
    if !changes_something(&request) {
        return next.run(request).await;
    }
    let mut health = api.parts.root.health();
    let now = health.borrow().clone();
    match now {
        Health::Degraded { writes: Writes::Small, .. } if request.method() == Method::DELETE => {}
        Health::Degraded { reason, .. } => {
            let (mut parts, _) = request.into_parts();
            // Which disk and where is nobody's business but the users'.
            return match Caller::from_request_parts(&mut parts, &api).await {
                Ok(_) => insufficient(&format!("nothing was changed: {reason}")).into_response(),
                Err(rejection) => rejection.into_response(),
            };
        }
        Health::Ok => {}
    }
    // Both branches are cancel-safe: what the machine took in is stored whether or not somebody waits.
    tokio::select! {
        response = next.run(request) => response,
        reason = stall(&mut health) => {
            insufficient(&format!("the change waits for the disk and may still take effect: {reason}")).into_response()
        }
    }
}

/// Logging in changes nothing.
fn changes_something(request: &Request) -> bool {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
    !reads && !request.uri().path().starts_with("/api/auth/")
}

/// Resolves with the reason when the disk takes nothing.
async fn stall(health: &mut watch::Receiver<Health>) -> String {
    let reason = health.wait_for(Health::is_stalled).await.ok().and_then(|health| health.reason());
    match reason {
        Some(reason) => reason.to_string(),
        // The store has ended, and with it the request will.
        None => std::future::pending().await,
    }
}

fn insufficient(message: &str) -> ApiError {
    ApiError::new(StatusCode::INSUFFICIENT_STORAGE, message)
}
