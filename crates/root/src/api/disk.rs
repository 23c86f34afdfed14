//! While the disk does not take everything, changes are refused at once; reading goes on.

use axum::extract::{FromRequestParts, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use oak_store::{Change, stalled};

use super::Shared;
use super::caller::Caller;
use super::error::ApiError;

/// Answers requests that would change something with 507 while the disk is in trouble. Removing is still possible as
/// long as small rows are written: it may be what makes room.
pub(super) async fn refuse_changes(State(api): State<Shared>, request: Request, next: Next) -> Response {
    if !changes_something(&request) {
        return next.run(request).await;
    }
    let change = if request.method() == Method::DELETE { Change::Removal } else { Change::Write };
    let mut health = api.parts.root.health();
    let refusal = health.borrow().refusal(change);
    if let Some(why) = refusal {
        let (mut parts, _) = request.into_parts();
        // Which disk and where is nobody's business but the users'.
        return match Caller::from_request_parts(&mut parts, &api).await {
            Ok(_) => insufficient(why).into_response(),
            Err(rejection) => rejection.into_response(),
        };
    }
    let mut work = Box::pin(next.run(request));
    // Both branches are cancel-safe: the work goes on, and makes its further steps as soon as the disk does.
    tokio::select! {
        response = &mut work => response,
        why = stalled(&mut health) => {
            api.changes.spawn(work);
            insufficient(why).into_response()
        }
    }
}

/// Logging in changes nothing.
fn changes_something(request: &Request) -> bool {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
    let path = request.uri().path().trim_end_matches('/');
    !reads && !matches!(path, "/api/auth/login" | "/api/auth/refresh")
}

fn insufficient(message: String) -> ApiError {
    ApiError::new(StatusCode::INSUFFICIENT_STORAGE, message)
}
