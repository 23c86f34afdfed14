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
    Ok(json_bytes(body))
}

/// JSON inside a JSON string: what the original sends on some endpoints, and scripts decode twice
/// (client contract, 1.1 and the calls marked ✱ in 1.3).
pub(super) fn nested(value: &impl Serialize) -> Answer {
    let inner = serde_json::to_vec(value).map_err(|error| ApiError::internal(&error))?;
    Ok(json_bytes(quoted(&inner)))
}

/// JSON as a string of JSON. It has no control characters, so that only quotes and backslashes are in the way.
fn quoted(json: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(json.len() + json.len() / 4);
    text.push(b'"');
    for &byte in json {
        if matches!(byte, b'"' | b'\\') {
            text.push(b'\\');
        }
        text.push(byte);
    }
    text.push(b'"');
    text
}

fn json_bytes(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_json_is_what_a_full_encoder_makes_of_it() {
        let value = json!({ "a\"b": "\\ \n \u{1} \u{7f} ä 🦀", "list": [1.5, null, "", { "inner": "\"" }] });
        let inner = serde_json::to_string(&value).unwrap();
        let outer = quoted(inner.as_bytes());
        assert_eq!(serde_json::from_slice::<String>(&outer).unwrap(), inner);
        assert_eq!(outer, serde_json::to_vec(&inner).unwrap());
    }
}
