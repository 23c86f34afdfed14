//! Request bodies: bounded in size and time, errors in the common form.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use oak_model::confidential::MAX_CONFIDENTIAL_BYTES;
use oak_model::sla::MAX_DOCUMENT_BYTES;
use serde_json::{Map, Value, json};

use super::error::ApiError;

/// Largest body that is not a descriptor.
const SMALL: usize = 64 * 1024;
/// Largest body that carries a value of the most confidential bytes: JSON may write each of them with six characters.
const CONFIDENTIAL: usize = 6 * MAX_CONFIDENTIAL_BYTES + 4 * 1024;
/// Time a client may take to send its body.
const PATIENCE: Duration = Duration::from_secs(15);
/// A client that sends too much usually reads the answer only after it has sent everything; so much is read and
/// thrown away for its sake.
const DISCARDED: usize = 4 * 1024 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// The bytes of a deployment descriptor.
pub(super) struct Descriptor(pub(super) Bytes);

/// A small JSON object.
pub(super) struct Object(pub(super) Map<String, Value>);

/// A JSON object with room for a secret of the largest size.
pub(super) struct ConfidentialObject(pub(super) Object);

impl<S: Send + Sync> FromRequest<S> for Descriptor {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        read(request, MAX_DOCUMENT_BYTES).await.map(Self)
    }
}

impl<S: Send + Sync> FromRequest<S> for Object {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        Self::read(request, SMALL).await
    }
}

impl<S: Send + Sync> FromRequest<S> for ConfidentialObject {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        Object::read(request, CONFIDENTIAL).await.map(Self)
    }
}

impl Object {
    async fn read(request: Request, limit: usize) -> Result<Self, ApiError> {
        let bytes = read(request, limit).await?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "the body must be a JSON object")
                .with_errors(json!({ "_schema": ["Invalid input type."] }))),
            Err(error) => Err(ApiError::bad_request(format!("the body is not valid JSON: {error}"))
                .with_errors(json!(["Invalid JSON body."]))),
        }
    }

    /// A required text of 1 to `longest` bytes.
    pub(super) fn text(&self, name: &str, longest: usize) -> Result<&str, ApiError> {
        match self.0.get(name) {
            Some(Value::String(text)) if (1..=longest).contains(&text.len()) => Ok(text),
            Some(Value::String(text)) if text.is_empty() => Err(ApiError::field(name, "must not be empty")),
            Some(Value::String(_)) => {
                Err(ApiError::field(name, &format!("must have at most {longest} bytes")))
            }
            Some(_) => Err(ApiError::field(name, "must be a text")),
            None => Err(ApiError::field(name, "is required")),
        }
    }

    /// A text that may be missing or empty.
    pub(super) fn optional_text(&self, name: &str, longest: usize) -> Result<Option<&str>, ApiError> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(_) => self.text(name, longest).map(Some),
        }
    }

    /// A text that may be missing, empty or null: only for what old clients send so.
    pub(super) fn nullable_text(&self, name: &str, longest: usize) -> Result<Option<&str>, ApiError> {
        match self.0.get(name) {
            Some(Value::Null) => Ok(None),
            _ => self.optional_text(name, longest),
        }
    }
}

async fn read(request: Request, limit: usize) -> Result<Bytes, ApiError> {
    let announced = content_length(request.headers());
    let mut stream = request.into_body().into_data_stream();
    if announced.is_some_and(|length| length > limit) {
        discard(&mut stream).await;
        return Err(too_large(limit));
    }
    let mut bytes = BytesMut::with_capacity(announced.unwrap_or_default());
    let collected = tokio::time::timeout(PATIENCE, async {
        while let Some(piece) = stream.next().await {
            let piece =
                piece.map_err(|error| ApiError::bad_request(format!("the body cannot be read: {error}")))?;
            if bytes.len() + piece.len() > limit {
                return Ok(false);
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(true)
    });
    match collected.await {
        Ok(Ok(true)) => Ok(bytes.freeze()),
        Ok(Ok(false)) => {
            discard(&mut stream).await;
            Err(too_large(limit))
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
    }
}

fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn discard(stream: &mut BodyDataStream) {
    let mut left = DISCARDED;
    let reading = async {
        while let Some(Ok(piece)) = stream.next().await {
            match left.checked_sub(piece.len()) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // Either way the answer is the same.
    let _ = tokio::time::timeout(DISCARD_TIME, reading).await;
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {limit} bytes"))
}

/// Reads and forgets a body that has no meaning, so that the connection can be used again.
pub(super) async fn ignore(body: Body) {
    discard(&mut body.into_data_stream()).await;
}
