//! Answers of the API: plain JSON, JSON inside a JSON string (the original's habit, client contract 1.1), and the
//! various shapes of error bodies.

use serde::de::{Deserialize, DeserializeOwned, Deserializer};
use serde_json::Value;

/// Reads an answer in either nesting.
pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    let starts_with_quote = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'"');
    if !starts_with_quote {
        return serde_json::from_slice(body);
    }
    let text: String = serde_json::from_slice(body)?;
    serde_json::from_str(&text).or_else(|nested| {
        // A call whose answer is a text, such as the id of a new organisation sent un-nested.
        serde_json::from_value(Value::String(text)).map_err(|_| nested)
    })
}

/// The message in an error body, whichever form it has.
pub(crate) fn error_message(body: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let text = ["message", "msg"].iter().find_map(|key| value.get(key).and_then(Value::as_str));
    let text = text.map(str::to_owned).or_else(|| {
        // {"errors":{"json":["Invalid JSON body."]}}
        value.get("errors").filter(|errors| !errors.is_null()).map(Value::to_string)
    });
    let text = text.or_else(|| value.get("status").and_then(Value::as_str).map(str::to_owned))?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.chars().take(MAX_MESSAGE).collect())
}

/// Whether the body is that of a refused token; only those carry `msg` (root-api reference, 2.5).
pub(crate) fn is_about_token(body: &[u8]) -> bool {
    serde_json::from_slice::<Value>(body).is_ok_and(|value| value.get("msg").is_some())
}

/// Characters of a server's message that are shown. Descriptors with many problems have long ones.
const MAX_MESSAGE: usize = 16 * 1024;

/// For fields that may be null: null counts as absent.
pub(crate) fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// For texts that some servers send as a number (`port`, `cpu_percent`).
pub(crate) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Null => String::new(),
        Value::String(text) => text,
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::{decode, error_message};

    #[test]
    fn reads_plain_and_nested_answers() {
        assert_eq!(decode::<Vec<u8>>(b" [1,2]").ok(), Some(vec![1, 2]));
        assert_eq!(decode::<Vec<u8>>(br#""[1,2]""#).ok(), Some(vec![1, 2]));
        assert_eq!(decode::<String>(br#""\"65f0\"""#).ok(), Some("65f0".to_owned()));
        assert_eq!(decode::<String>(br#""65f0z""#).ok(), Some("65f0z".to_owned()));
        assert!(decode::<Vec<u8>>(b"<html>").is_err());
        assert!(decode::<Vec<u8>>(b"").is_err());
    }

    #[test]
    fn finds_the_message_of_every_error_form() {
        for (body, message) in [
            (r#"{"code":409,"status":"Conflict"}"#, Some("Conflict")),
            (r#"{"code":409,"status":"Conflict","message":"taken"}"#, Some("taken")),
            (r#"{"msg":"Token has expired"}"#, Some("Token has expired")),
            (
                r#"{"code":400,"status":"Bad Request","errors":{"json":["Invalid JSON body."]}}"#,
                Some(r#"{"json":["Invalid JSON body."]}"#),
            ),
            ("<html>", None),
            ("{}", None),
        ] {
            assert_eq!(error_message(body.as_bytes()).as_deref(), message, "{body}");
        }
    }
}
