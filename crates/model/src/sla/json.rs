//! Bytes to JSON values within bounds: size, depth, list length, and no key given twice with different values.
//! Problems carry line and column. Knows nothing about descriptors.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::errors::{SlaErrorKind, SlaErrors};

/// Largest descriptor that is read, in bytes (1 MiB).
pub const MAX_DOCUMENT_BYTES: usize = 1 << 20;
/// Deepest nesting of objects and lists. A real descriptor has 8 levels.
pub(super) const MAX_DEPTH: usize = 32;
/// Most elements of one list and most members of one object.
pub(super) const MAX_LENGTH: usize = 10_000;

/// Reads one JSON document.
pub(super) fn read(bytes: &[u8]) -> Result<Value, SlaErrors> {
    if bytes.len() > MAX_DOCUMENT_BYTES {
        return Err(too_large());
    }
    // Editors of one large vendor put a byte order mark in front; it carries no meaning in UTF-8.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| not_utf8(bytes, error.valid_up_to()))?;
    if text.trim().is_empty() {
        return Err(SlaErrors::whole(SlaErrorKind::Syntax, "the document is empty", None));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Bounded { depth: 0 }.deserialize(&mut deserializer).map_err(|error| not_json(&error))?;
    deserializer.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

/// Checks the bounds of a value that was parsed by somebody else.
pub(super) fn check(value: &Value) -> Result<(), SlaErrors> {
    let mut budget = MAX_DOCUMENT_BYTES;
    measure(value, 0, &mut budget)
}

fn measure(value: &Value, depth: usize, budget: &mut usize) -> Result<(), SlaErrors> {
    let own_size = match value {
        Value::String(text) => text.len() + 2,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => 2,
    };
    *budget = budget.checked_sub(own_size).ok_or_else(too_large)?;
    let length = match value {
        Value::Array(items) => items.len(),
        Value::Object(fields) => fields.len(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return Ok(()),
    };
    if depth >= MAX_DEPTH {
        return Err(SlaErrors::whole(SlaErrorKind::Schema, too_deep(), None));
    }
    if length > MAX_LENGTH {
        return Err(SlaErrors::whole(SlaErrorKind::Schema, too_long(), None));
    }
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| measure(item, depth + 1, budget)),
        Value::Object(fields) => fields.iter().try_for_each(|(key, item)| {
            *budget = budget.checked_sub(key.len() + 3).ok_or_else(too_large)?;
            measure(item, depth + 1, budget)
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

fn too_large() -> SlaErrors {
    let message = format!("the document is larger than {MAX_DOCUMENT_BYTES} bytes");
    SlaErrors::whole(SlaErrorKind::TooLarge, message, Some("split it into several applications"))
}

fn too_deep() -> String {
    format!("nested deeper than {MAX_DEPTH} levels")
}

fn too_long() -> String {
    format!("a list or an object has more than {MAX_LENGTH} elements")
}

fn not_utf8(bytes: &[u8], position: usize) -> SlaErrors {
    let before = bytes.get(..position).unwrap_or_default();
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
    let message = format!("the document is not UTF-8 text: bad byte at line {line} column {column}");
    SlaErrors::whole(SlaErrorKind::Syntax, message, Some("save it as UTF-8"))
}

fn not_json(error: &serde_json::Error) -> SlaErrors {
    let text = error.to_string();
    let fix = if text.starts_with("trailing comma") {
        Some("remove the comma before the closing bracket")
    } else {
        None
    };
    SlaErrors::whole(SlaErrorKind::Syntax, format!("the document is not valid JSON: {text}"), fix)
}

/// Builds a [`Value`] like serde_json does, but within bounds and with an eye on repeated keys
/// (serde_json keeps the last one silently).
struct Bounded {
    depth: usize,
}

impl Bounded {
    fn deeper<E: serde::de::Error>(&self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(too_deep()));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Bounded {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::from(text))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::from(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(self.deeper()?)? {
            if items.len() >= MAX_LENGTH {
                return Err(A::Error::custom(too_long()));
            }
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let value = access.next_value_seed(self.deeper()?)?;
            if fields.get(&key).is_some_and(|earlier| *earlier != value) {
                let shown: String = key.chars().take(40).collect();
                return Err(A::Error::custom(format!("key {shown:?} is given twice with different values")));
            }
            if fields.len() >= MAX_LENGTH {
                return Err(A::Error::custom(too_long()));
            }
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{MAX_DEPTH, MAX_DOCUMENT_BYTES, MAX_LENGTH, check, read};
    use crate::sla::SlaErrorKind;

    fn message(bytes: &[u8]) -> String {
        let errors = read(bytes).expect_err("must be refused");
        assert_eq!(errors.kind(), SlaErrorKind::Syntax);
        errors.to_string()
    }

    #[test]
    fn tells_line_and_column() {
        let trailing_comma = message(b"{\n  \"a\": 1,\n}");
        assert!(trailing_comma.contains("trailing comma at line 3 column 1"), "{trailing_comma}");
        assert!(trailing_comma.contains("remove the comma"), "{trailing_comma}");
        assert!(message(b"{\n\"a\": \"\xff\"}").contains("line 2 column 7"));
        assert!(message(b"{\"a\": 1, \"a\": 2}").contains("\"a\" is given twice"));
        assert!(message(b"{} {}").contains("trailing characters at line 1 column 4"));
        assert!(message(b" \n").contains("empty"));
    }

    #[test]
    fn reads_what_serde_json_reads() {
        let text = br#"{"b":[1,-2,3.5,null,true,"x\u00e9"],"a":{},"a":{}}"#;
        assert_eq!(read(text).ok(), serde_json::from_slice::<Value>(text).ok());
        assert_eq!(read(b"\xef\xbb\xbf7").ok(), Some(json!(7)));
    }

    #[test]
    fn bounds_size_depth_and_length() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(read(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert!(message(nested(MAX_DEPTH + 1).as_bytes()).contains("nested deeper"));
        assert!(message(nested(100_000).as_bytes()).contains("nested deeper"));
        let list = format!("[{}0]", "0,".repeat(MAX_LENGTH));
        assert!(message(list.as_bytes()).contains("more than 10000 elements"));
        let huge = vec![b' '; MAX_DOCUMENT_BYTES + 1];
        assert_eq!(read(&huge).map_err(|errors| errors.kind()), Err(SlaErrorKind::TooLarge));
    }

    #[test]
    fn checks_values_that_others_parsed() {
        let mut deep = json!(1);
        for _ in 0..=MAX_DEPTH {
            deep = json!([deep]);
        }
        assert_eq!(check(&deep).map_err(|errors| errors.kind()), Err(SlaErrorKind::Schema));
        let large = json!({"a": "x".repeat(MAX_DOCUMENT_BYTES)});
        assert_eq!(check(&large).map_err(|errors| errors.kind()), Err(SlaErrorKind::TooLarge));
        assert!(check(&json!({"a": [1, {"b": null}]})).is_ok());
    }
}
