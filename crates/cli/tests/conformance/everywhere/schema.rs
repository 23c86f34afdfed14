//! Bodies from schemas: one that is right as far as a schema can tell, and many that are wrong in one place.

use serde_json::{Map, Value, json};

use crate::document::Document;

/// Schemas that contain themselves, or are long, are followed this far.
const DEPTH: usize = 6;

/// A body with everything that the schema knows.
pub(super) fn example(document: &Document, schema: &Value) -> Value {
    example_to(document, schema, DEPTH)
}

fn example_to(document: &Document, schema: &Value, depth: usize) -> Value {
    let schema = document.resolve(schema);
    if let Some(first) = schema["anyOf"].get(0) {
        return example_to(document, first, depth);
    }
    if let Some(words) = schema["enum"].as_array() {
        // An empty word often means that nothing is said.
        return words.iter().find(|word| **word != "").unwrap().clone();
    }
    // Examples of objects do not have everything.
    if let Some(example) = schema.get("example").filter(|example| !example.is_object()) {
        return example.clone();
    }
    let below = depth.saturating_sub(1);
    match schema["type"].as_str() {
        Some("object") => {
            let properties = schema["properties"].as_object().into_iter().flatten();
            let filled = properties.filter(|_| depth > 0);
            Value::Object(
                filled.map(|(name, schema)| (name.clone(), example_to(document, schema, below))).collect(),
            )
        }
        Some("array") => json!([example_to(document, &schema["items"], below)]),
        Some("integer" | "number") => json!(schema["minimum"].as_i64().unwrap_or(1).max(1)),
        Some("boolean") => json!(true),
        _ => json!("a1"),
    }
}

/// The example, each time with something wrong in one place: the place, and the body.
pub(super) fn wrong_bodies(document: &Document, schema: &Value) -> Vec<(String, Value)> {
    let right = example(document, schema);
    let mut places = Vec::new();
    collect(document, schema, String::new(), DEPTH, &mut places);
    let mut bodies = Vec::new();
    for (place, schema) in places {
        for wrong in wrong_values(document, &schema) {
            let mut body = right.clone();
            let Some(part) = body.pointer_mut(&place) else { continue };
            *part = wrong;
            bodies.push((place.clone(), body));
        }
    }
    bodies
}

/// Every place below the whole, with its schema.
fn collect(
    document: &Document,
    schema: &Value,
    place: String,
    depth: usize,
    places: &mut Vec<(String, Value)>,
) {
    let schema = document.resolve(schema);
    if let Some(first) = schema["anyOf"].get(0) {
        return collect(document, first, place, depth, places);
    }
    if depth == 0 {
        return;
    }
    if !place.is_empty() {
        places.push((place.clone(), schema.clone()));
    }
    for (name, part) in schema["properties"].as_object().unwrap_or(&Map::new()) {
        collect(document, part, format!("{place}/{name}"), depth - 1, places);
    }
    if schema["type"] == "array" {
        collect(document, &schema["items"], format!("{place}/0"), depth - 1, places);
    }
}

/// Values of each other type, and some that are too much.
fn wrong_values(document: &Document, schema: &Value) -> Vec<Value> {
    let kind = schema["type"].as_str();
    let Some(kind) = kind else { return Vec::new() };
    let is_number = matches!(kind, "integer" | "number");
    let mut wrong = Vec::new();
    let mut add = |is_wrong: bool, value: Value| wrong.extend(is_wrong.then_some(value));
    add(schema["nullable"] != true, Value::Null);
    add(kind != "boolean", json!(true));
    add(kind != "object", json!({ "a": 1 }));
    add(kind != "array", json!([[]]));
    add(!is_number, json!(7));
    add(kind != "number", json!(1.5));
    add(is_number, json!(-5));
    add(is_number, json!(1e300));
    add(kind != "string", json!("seven"));
    add(kind == "string", json!("x".repeat(60_000)));
    add(kind == "string", json!("a\u{0}b"));
    add(kind == "string" && schema.get("enum").is_some(), json!("nonsense"));
    if kind == "array" {
        let item = example(document, &schema["items"]);
        add(true, json!(vec![item; 9000]));
        add(true, json!([null]));
    }
    wrong
}
