//! Checks answers against the OpenAPI document of the server, with as much of JSON Schema as it uses.

use serde_json::Value;

pub(crate) struct Document(pub(crate) Value);

impl Document {
    /// What is wrong with an answer; nothing is said about paths that are not documented.
    pub(crate) fn complaint(&self, method: &str, path: &str, status: u16, body: &[u8]) -> Option<String> {
        let operation = self.operation(method, path)?;
        let Some(response) = operation["responses"].get(status.to_string()) else {
            return Some(format!("status {status} is not documented"));
        };
        let response = self.resolve(response);
        let (media, content) = response["content"].as_object()?.iter().next()?;
        if media != "application/json" || method == "HEAD" {
            return None;
        }
        let Ok(value) = serde_json::from_slice::<Value>(body) else {
            return Some("documented as JSON, but it is none".to_owned());
        };
        self.violation(&content["schema"], &value, "")
    }

    fn operation(&self, method: &str, path: &str) -> Option<&Value> {
        let path = path.split('?').next()?;
        let words: Vec<_> = path.strip_suffix('/').unwrap_or(path).split('/').collect();
        let fits = |pattern: &str| {
            let pattern: Vec<_> = pattern.split('/').collect();
            pattern.len() == words.len()
                && pattern.iter().zip(&words).all(|(part, word)| part.starts_with('{') || part == word)
        };
        let paths = self.0["paths"].as_object()?.iter().filter(|(pattern, _)| fits(pattern));
        // The one with the fewest variable parts is the one the server takes.
        let (_, methods) = paths.min_by_key(|(pattern, _)| pattern.matches('{').count())?;
        methods.get(method.to_lowercase())
    }

    pub(crate) fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema.get("$ref").and_then(Value::as_str) {
            Some(reference) => {
                self.0.pointer(reference.trim_start_matches('#')).expect("a reference that leads somewhere")
            }
            None => schema,
        }
    }

    fn violation(&self, schema: &Value, value: &Value, place: &str) -> Option<String> {
        let schema = self.resolve(schema);
        if let Some(parts) = schema["allOf"].as_array() {
            return parts.iter().find_map(|part| self.violation(part, value, place));
        }
        if let Some(parts) = schema["anyOf"].as_array() {
            let mut complaints: Vec<_> =
                parts.iter().map(|part| self.violation(part, value, place)).collect();
            return if complaints.contains(&None) { None } else { complaints.swap_remove(0) };
        }
        if value.is_null() && schema["nullable"] == true {
            return None;
        }
        if let Some(words) = schema["enum"].as_array()
            && !words.contains(value)
        {
            return Some(format!("{place}: {value} is none of {words:?}"));
        }
        let kind = schema["type"].as_str()?;
        let fits = match kind {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            unknown => panic!("a kind of schema this test does not know: {unknown}"),
        };
        if !fits {
            return Some(format!("{place}: documented as {kind}, found {value}"));
        }
        match value {
            Value::Object(_) => self.violation_of_object(schema, value, place),
            Value::Array(items) => items
                .iter()
                .enumerate()
                .find_map(|(at, item)| self.violation(&schema["items"], item, &format!("{place}/{at}"))),
            Value::String(text) => match schema.get("x-json") {
                Some(inner) => match serde_json::from_str(text) {
                    Ok(value) => self.violation(inner, &value, place),
                    Err(error) => Some(format!("{place}: documented as JSON in a string: {error}")),
                },
                None => None,
            },
            Value::Null | Value::Bool(_) | Value::Number(_) => None,
        }
    }

    fn violation_of_object(&self, schema: &Value, value: &Value, place: &str) -> Option<String> {
        let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let mut required = required.filter(|name| value.get(name).is_none());
        if let Some(missing) = required.next() {
            return Some(format!("{place}/{missing} is documented as required and missing"));
        }
        let is_open = schema["additionalProperties"] == true;
        value.as_object()?.iter().find_map(|(name, value)| {
            let place = format!("{place}/{name}");
            match schema["properties"].get(name) {
                Some(known) => self.violation(known, value, &place),
                None if is_open => None,
                None => Some(format!("{place} is not documented")),
            }
        })
    }
}
