//! The two forms of successful answers.

use axum::Json;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

use super::error::ApiError;
use super::trail::Created;

/// What handlers return.
pub(super) type Answer = Result<Response, ApiError>;

/// Plain JSON.
pub(super) fn plain(value: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(value).map_err(|error| ApiError::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// JSON inside a JSON string: what the original sends on some endpoints, and scripts decode twice
/// (client contract, 1.1 and the calls marked ✱ in 1.3).
pub(super) fn nested(value: &impl Serialize) -> Answer {
    let text = serde_json::to_string(value).map_err(|error| ApiError::internal(&error))?;
    plain(&text)
}

/// Names in the audit log what was created.
pub(super) fn about(answer: Answer, created: impl ToString) -> Answer {
    let mut response = answer?;
    response.extensions_mut().insert(Created(created.to_string()));
    Ok(response)
}

/// `{"message": …}`.
pub(super) fn message(text: &str) -> Answer {
    Ok(Json(json!({ "message": text })).into_response())
}
