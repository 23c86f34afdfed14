//! Short ways to write schemas. Objects of answers list every key that can occur; request bodies may hold others, which
//! old clients send and which mean nothing.

use serde_json::{Map, Value, json};

pub(super) fn text(about: &str) -> Value {
    json!({ "type": "string", "description": about })
}

/// One of a few words.
pub(super) fn word(about: &str, words: &[&str]) -> Value {
    json!({ "type": "string", "description": about, "enum": words })
}

pub(super) fn integer(about: &str) -> Value {
    json!({ "type": "integer", "minimum": 0, "description": about })
}

pub(super) fn number(about: &str) -> Value {
    json!({ "type": "number", "description": about })
}

pub(super) fn boolean(about: &str) -> Value {
    json!({ "type": "boolean", "description": about })
}

pub(super) fn list(of: Value) -> Value {
    json!({ "type": "array", "items": of })
}

/// Anything, also nothing.
pub(super) fn anything(about: &str) -> Value {
    json!({ "description": about })
}

/// A text, or null.
pub(super) fn nothing(about: &str) -> Value {
    json!({ "type": "string", "nullable": true, "description": about })
}

pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The usual identifier.
pub(super) fn id() -> Value {
    json!({ "type": "string", "pattern": "^[0-9a-f]{24}$", "example": "6b055f7562584cae3c2d2606" })
}

/// The usual identifier where the original has an object of its database.
pub(super) fn object_id() -> Value {
    object([("$oid", id())])
}

/// The same, or an empty text.
pub(super) fn id_or_empty(about: &str) -> Value {
    json!({ "type": "string", "pattern": "^([0-9a-f]{24})?$", "description": about })
}

/// All keys are always there.
pub(super) fn object<const N: usize>(properties: [(&str, Value); N]) -> Value {
    let required: Vec<_> = properties.iter().map(|(name, _)| *name).collect();
    let mut schema = json!({ "type": "object", "required": required });
    schema["properties"] = Value::Object(named(properties));
    schema
}

/// Adds keys that may be missing.
pub(super) fn optionally<const N: usize>(mut schema: Value, properties: [(&str, Value); N]) -> Value {
    if let Some(known) = schema["properties"].as_object_mut() {
        known.extend(named(properties));
    }
    schema
}

/// Other keys may be there, too.
pub(super) fn open(mut schema: Value) -> Value {
    schema["additionalProperties"] = json!(true);
    schema
}

fn named<const N: usize>(properties: [(&str, Value); N]) -> Map<String, Value> {
    properties.map(|(name, schema)| (name.to_owned(), schema)).into_iter().collect()
}

/// Every error answer.
pub(super) fn error() -> Value {
    let places = json!({
        "type": "object",
        "properties": { "json": anything("problems of the body by place") },
    });
    optionally(
        object([
            ("code", integer("the status code again")),
            ("status", text("its reason phrase")),
            ("message", text("what is wrong and what to do about it")),
        ]),
        [("msg", text("the message again, in errors about tokens")), ("errors", places)],
    )
}
