//! Answers in the forms the root uses, so that its clients understand them.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use oak_control::cluster::LocalRefusal;
use oak_model::sla::{SlaErrorKind, SlaErrors};
use oak_store::EngineStopped;
use serde_json::json;

/// What handlers return.
pub(super) type Answer = Result<Response, Refused>;

/// An error answer.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    message: String,
}

impl Refused {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn nothing_here() -> Self {
        Self::not_found("a cluster has nothing at this path; most of the API is at the root")
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = self.status.canonical_reason().unwrap_or_default();
        let body = json!({ "code": self.status.as_u16(), "status": status, "message": self.message });
        (self.status, Json(body)).into_response()
    }
}

impl From<EngineStopped> for Refused {
    fn from(stopped: EngineStopped) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, stopped.to_string())
    }
}

impl From<LocalRefusal> for Refused {
    fn from(refusal: LocalRefusal) -> Self {
        let status = match refusal {
            LocalRefusal::UnknownApplication(_)
            | LocalRefusal::UnknownService(_)
            | LocalRefusal::UnknownInstance(_) => StatusCode::NOT_FOUND,
            LocalRefusal::RootConnected => StatusCode::FORBIDDEN,
            LocalRefusal::ApplicationExists(_)
            | LocalRefusal::ServiceTwice(_)
            | LocalRefusal::OfTheRoot(_)
            | LocalRefusal::AddressOfTheRoot(_)
            | LocalRefusal::ConfidentialOfTheRoot(..) => StatusCode::CONFLICT,
            LocalRefusal::NoAddresses | LocalRefusal::AddressesExhausted => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, refusal.to_string())
    }
}

impl From<SlaErrors> for Refused {
    fn from(errors: SlaErrors) -> Self {
        let status = match errors.kind() {
            SlaErrorKind::Syntax => StatusCode::BAD_REQUEST,
            SlaErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            SlaErrorKind::NotAnObject | SlaErrorKind::Version | SlaErrorKind::Schema => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
        };
        Self::new(status, errors.to_string())
    }
}

/// Plain JSON.
pub(super) fn plain(value: &impl serde::Serialize) -> Answer {
    serde_json::to_value(value)
        .map(|value| Json(value).into_response())
        .map_err(|error| Refused::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

/// `{"message": …}`.
pub(super) fn message(text: &str) -> Answer {
    plain(&json!({ "message": text }))
}
