//! Errors as clients see them: a superset of everything the original's clients look for (client contract, 1.1).

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use oak_control::root::Refusal;
use oak_model::sla::{SlaErrorKind, SlaErrors};
use oak_store::EngineStopped;
use rand::TryRngCore;
use rand::rngs::OsRng;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tracing::error;

use crate::accounts::{AccountRefusal, PasswordError, Throttled, TokenRejected};

/// An error answer.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    message: String,
    /// Problems of the request body by place.
    errors: Option<Value>,
    /// Whether the text is also given as `msg`: the mark of errors about tokens.
    about_token: bool,
    retry_after: Option<Duration>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    code: u16,
    status: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    msg: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<Value>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), errors: None, about_token: false, retry_after: None }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not know this method")
    }

    /// The caller may not do this; the text is the one of the original.
    pub(super) fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "You have not enough permissions!")
    }

    /// The caller may not do this, and it is not obvious why.
    pub(super) fn forbidden_because(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    /// One field of the request body is wrong.
    pub(super) fn field(name: &str, problem: &str) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{name}: {problem}"))
            .with_errors(json!({ name: [problem] }))
    }

    /// A token is missing or not accepted.
    pub(super) fn token(status: StatusCode, message: impl Into<String>) -> Self {
        Self { about_token: true, ..Self::new(status, message) }
    }

    /// Something that cannot be the caller's fault. The cause goes to the log, under a number the caller gets.
    pub(super) fn internal(cause: &dyn std::fmt::Display) -> Self {
        let incident = format!("{:08x}", OsRng.try_next_u32().unwrap_or_default());
        error!(incident, error = %cause, "a request failed");
        let message = format!("the request failed; the log of the root tells why under incident {incident}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    pub(super) fn with_errors(mut self, json: Value) -> Self {
        self.errors = Some(json!({ "json": json }));
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let envelope = Envelope {
            code: self.status.as_u16(),
            status: self.status.canonical_reason().unwrap_or("Error"),
            message: &self.message,
            msg: self.about_token.then_some(&*self.message),
            errors: self.errors,
        };
        let mut response = (self.status, Json(envelope)).into_response();
        if let Some(wait) = self.retry_after {
            let seconds = HeaderValue::from(wait.as_secs().saturating_add(1));
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

impl From<EngineStopped> for ApiError {
    fn from(stopped: EngineStopped) -> Self {
        Self::unavailable(stopped.to_string())
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let status = match &refusal {
            Refusal::ApplicationExists { .. }
            | Refusal::ServiceExists(_)
            | Refusal::AddressTaken { .. }
            | Refusal::OverQuota(_)
            | Refusal::OrganizationGone
            | Refusal::OwnerGone(_) => StatusCode::CONFLICT,
            Refusal::UnknownApplication(_) | Refusal::UnknownService(_) | Refusal::UnknownInstance(_) => {
                StatusCode::NOT_FOUND
            }
            Refusal::AddressesExhausted => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, refusal.to_string())
    }
}

impl From<AccountRefusal> for ApiError {
    fn from(refusal: AccountRefusal) -> Self {
        let status = match &refusal {
            AccountRefusal::UnknownUser(_) | AccountRefusal::UnknownOrganization(_) => StatusCode::NOT_FOUND,
            AccountRefusal::UserExists
            | AccountRefusal::OrganizationExists(_)
            | AccountRefusal::LastAdmin(_)
            | AccountRefusal::RootOrganization
            | AccountRefusal::TooMany(_)
            | AccountRefusal::Changed(_) => StatusCode::CONFLICT,
            AccountRefusal::UnknownMember(_) | AccountRefusal::MemberTwice(_) => {
                return Self::field("member", &refusal.to_string());
            }
            AccountRefusal::UnknownLink | AccountRefusal::ExpiredLink => StatusCode::BAD_REQUEST,
        };
        Self::new(status, refusal.to_string())
    }
}

impl From<PasswordError> for ApiError {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy => {
                Self { retry_after: Some(Duration::from_secs(2)), ..Self::unavailable(error.to_string()) }
            }
            PasswordError::Random
            | PasswordError::Compute(_)
            | PasswordError::Form(_)
            | PasswordError::Unknown
            | PasswordError::Cancelled => Self::internal(&error),
        }
    }
}

impl From<Throttled> for ApiError {
    fn from(throttled: Throttled) -> Self {
        let seconds = throttled.wait.as_secs() + 1;
        let message = format!("too many wrong passwords for this user from this address: wait {seconds} s");
        Self { retry_after: Some(throttled.wait), ..Self::new(StatusCode::TOO_MANY_REQUESTS, message) }
    }
}

impl From<TokenRejected> for ApiError {
    fn from(rejected: TokenRejected) -> Self {
        let status = match rejected {
            TokenRejected::Expired => StatusCode::UNAUTHORIZED,
            TokenRejected::Malformed
            | TokenRejected::Signature
            | TokenRejected::NotAccess
            | TokenRejected::NotRefresh => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::token(status, rejected.to_string())
    }
}

impl From<SlaErrors> for ApiError {
    fn from(errors: SlaErrors) -> Self {
        let message = errors.to_string();
        let (status, listed) = match errors.kind() {
            SlaErrorKind::Syntax => (StatusCode::BAD_REQUEST, json!(["Invalid JSON body.", message])),
            SlaErrorKind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, json!({ "_schema": [message] })),
            SlaErrorKind::NotAnObject => {
                (StatusCode::UNPROCESSABLE_ENTITY, json!({ "_schema": ["Invalid input type.", message] }))
            }
            SlaErrorKind::Version | SlaErrorKind::Schema => {
                (StatusCode::UNPROCESSABLE_ENTITY, by_path(&errors))
            }
        };
        Self::new(status, message).with_errors(listed)
    }
}

/// Problems of a descriptor as path → messages, in the order of the document.
fn by_path(errors: &SlaErrors) -> Value {
    let mut order = Vec::new();
    let mut messages: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for problem in errors.problems() {
        let place = if problem.path.is_empty() { "_schema" } else { &problem.path };
        let mut text = problem.message.clone();
        if let Some(found) = &problem.found {
            text = format!("{text}, found {found}");
        }
        if let Some(fix) = &problem.fix {
            text = format!("{text}; {fix}");
        }
        if !messages.contains_key(place) {
            order.push(place);
        }
        messages.entry(place).or_default().push(Value::String(text));
    }
    let listed: Map<_, _> = order
        .into_iter()
        .map(|place| (place.to_owned(), Value::Array(messages.remove(place).unwrap_or_default())))
        .collect();
    Value::Object(listed)
}
