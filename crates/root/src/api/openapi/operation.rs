//! One method of one path, and what follows from its kind.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::schema::{reference, text};

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Everybody, without a token.
    Open,
    /// Every user.
    User,
    /// Some users: others get 403.
    Some,
}

/// What is sent or answered.
enum Content {
    Json(Value),
    /// JSON inside a JSON string.
    Nested(Value),
    /// The same, or plain JSON.
    NestedOr(Value, Value),
    /// Another media type.
    Other(&'static str),
    /// One of two other media types.
    Either(&'static str, &'static str),
    /// Goes on in another protocol.
    Upgrade(&'static str),
}

pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    summary: &'static str,
    details: &'static str,
    access: Access,
    parameters: Vec<Value>,
    body: Option<Value>,
    answer: Content,
    errors: BTreeMap<u16, &'static str>,
}

pub(super) fn get(path: &'static str, summary: &'static str) -> Operation {
    Operation::new("get", path, summary)
}

pub(super) fn post(path: &'static str, summary: &'static str) -> Operation {
    Operation::new("post", path, summary)
}

pub(super) fn put(path: &'static str, summary: &'static str) -> Operation {
    Operation::new("put", path, summary)
}

pub(super) fn delete(path: &'static str, summary: &'static str) -> Operation {
    Operation::new("delete", path, summary)
}

impl Operation {
    fn new(method: &'static str, path: &'static str, summary: &'static str) -> Self {
        Self {
            method,
            path,
            summary,
            details: "",
            access: Access::User,
            parameters: Vec::new(),
            body: None,
            answer: Content::Json(reference("Message")),
            errors: BTreeMap::new(),
        }
    }

    /// What the summary does not say.
    pub(super) const fn about(mut self, details: &'static str) -> Self {
        self.details = details;
        self
    }

    /// Needs no token.
    pub(super) const fn open(mut self) -> Self {
        self.access = Access::Open;
        self
    }

    /// Only some users may call it; `about` or the summary says which.
    pub(super) const fn restricted(mut self) -> Self {
        self.access = Access::Some;
        self
    }

    /// Says what a variable part of the path is. Those that are not named here are ids.
    pub(super) fn path_value(mut self, name: &str, schema: Value) -> Self {
        self.parameters.push(json!({ "name": name, "in": "path", "required": true, "schema": schema }));
        self
    }

    /// An optional parameter after `?`.
    pub(super) fn query(mut self, name: &str, schema: Value) -> Self {
        self.parameters.push(json!({ "name": name, "in": "query", "required": false, "schema": schema }));
        self
    }

    /// A parameter after `?` that must be there.
    pub(super) fn needs_query(mut self, name: &str, schema: Value) -> Self {
        self.parameters.push(json!({ "name": name, "in": "query", "required": true, "schema": schema }));
        self
    }

    /// Has a JSON body.
    pub(super) fn takes(mut self, schema: Value) -> Self {
        self.body = Some(schema);
        self
    }

    /// Answers plain JSON; `{"message": …}` if nothing is said.
    pub(super) fn answers(mut self, schema: Value) -> Self {
        self.answer = Content::Json(schema);
        self
    }

    /// Answers JSON inside a JSON string.
    pub(super) fn answers_nested(mut self, schema: Value) -> Self {
        self.answer = Content::Nested(schema);
        self
    }

    /// Answers JSON inside a JSON string, or plain JSON.
    pub(super) fn answers_nested_or(mut self, schema: Value, other: Value) -> Self {
        self.answer = Content::NestedOr(schema, other);
        self
    }

    /// Answers another media type.
    pub(super) fn answers_media(mut self, media_type: &'static str) -> Self {
        self.answer = Content::Other(media_type);
        self
    }

    /// Answers one of two other media types.
    pub(super) fn answers_either(mut self, usual: &'static str, other: &'static str) -> Self {
        self.answer = Content::Either(usual, other);
        self
    }

    /// Goes on in another protocol.
    pub(super) fn upgrades(mut self, protocol: &'static str) -> Self {
        self.answer = Content::Upgrade(protocol);
        self
    }

    /// An error that does not follow from the kind of the operation, or says more than usual.
    pub(super) fn may(mut self, status: u16, when: &'static str) -> Self {
        self.errors.insert(status, when);
        self
    }

    pub(super) fn render(self, group: &str) -> Value {
        let mut operation = Map::new();
        let mut put = |key: &str, value| operation.insert(key.to_owned(), value);
        put("tags", json!([group]));
        put("operationId", json!(self.id()));
        put("summary", json!(self.summary));
        if !self.details.is_empty() {
            put("description", json!(self.details));
        }
        if self.access == Access::Open {
            put("security", json!([]));
        }
        let parameters = self.all_parameters();
        if !parameters.is_empty() {
            put("parameters", json!(parameters));
        }
        if let Some(schema) = &self.body {
            let content = json!({ "application/json": { "schema": schema } });
            put("requestBody", json!({ "required": true, "content": content }));
        }
        put("responses", self.responses());
        Value::Object(operation)
    }

    /// Unique and stable: clients are generated with it.
    fn id(&self) -> String {
        let words = self.path.split('/').filter(|word| !word.is_empty());
        let words: Vec<_> =
            words.map(|word| word.trim_matches(['{', '}']).replace(['-', '.'], "_")).collect();
        format!("{}_{}", self.method, words.join("_"))
    }

    fn all_parameters(&self) -> Vec<Value> {
        let described = |name: &str| self.parameters.iter().any(|parameter| parameter["name"] == name);
        let ids = self.variable_parts().filter(|name| !described(name));
        let mut all: Vec<_> = ids
            .map(
                |name| json!({ "name": name, "in": "path", "required": true, "schema": super::schema::id() }),
            )
            .collect();
        all.extend(self.parameters.iter().cloned());
        all
    }

    fn variable_parts(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|word| word.strip_prefix('{')?.strip_suffix('}'))
    }

    fn responses(&self) -> Value {
        let (status, success) = self.success();
        let mut responses = Map::from_iter([(status.to_owned(), success)]);
        let mut statuses = self.usual_errors();
        statuses.extend(self.errors.keys().copied());
        statuses.sort_unstable();
        statuses.dedup();
        for status in statuses {
            let response = match self.errors.get(&status) {
                Some(when) => error_response(when),
                None => json!({ "$ref": format!("#/components/responses/{status}") }),
            };
            responses.insert(status.to_string(), response);
        }
        Value::Object(responses)
    }

    fn success(&self) -> (&'static str, Value) {
        let json_of = |schema: Value| json!({ "application/json": { "schema": schema } });
        // A schema of a stream would be that of its events, for tools that look into it.
        let of = |media: &str| match media {
            "text/event-stream" => json!({}),
            _ => json!({ "schema": { "type": "string" } }),
        };
        let content = match &self.answer {
            Content::Json(schema) => json_of(schema.clone()),
            Content::Nested(schema) => json_of(nested(schema)),
            Content::NestedOr(schema, other) => json_of(json!({ "anyOf": [nested(schema), other] })),
            Content::Other(media) => json!({ *media: of(media) }),
            Content::Either(usual, other) => json!({ *usual: of(usual), *other: of(other) }),
            Content::Upgrade(protocol) => return ("101", json!({ "description": protocol })),
        };
        ("200", json!({ "description": "success", "content": content }))
    }

    fn usual_errors(&self) -> Vec<u16> {
        let mut statuses = vec![500, 503];
        if self.access != Access::Open {
            statuses.push(401);
            if super::super::caller::tells_defects_apart(self.path) {
                statuses.push(422);
            }
        }
        if self.access == Access::Some {
            statuses.push(403);
        }
        if self.body.is_some() {
            statuses.extend([400, 408, 413, 422]);
        }
        if self.variable_parts().next().is_some() {
            statuses.push(404);
        }
        if self.parameters.iter().any(|parameter| parameter["in"] == "query") {
            statuses.push(400);
        }
        if self.method != "get" && !self.path.starts_with("/api/auth/") {
            statuses.push(507);
        }
        statuses
    }
}

fn nested(schema: &Value) -> Value {
    let mut outer = text("JSON in a JSON string");
    outer["x-json"] = schema.clone();
    outer
}

fn error_response(when: &str) -> Value {
    json!({
        "description": when,
        "content": { "application/json": { "schema": reference("Error") } },
    })
}

/// What statuses mean where nothing else is said.
pub(super) fn common_responses() -> Map<String, Value> {
    let known = [
        ("400", "the body is not JSON, or a parameter makes no sense"),
        ("401", "no token, an old or a revoked one"),
        ("403", "the caller may not do this"),
        ("404", "there is nothing with this id, or the caller may not see it"),
        ("408", "the body did not arrive within 15 s"),
        ("413", "the body is too large"),
        (
            "422",
            "the body is JSON, but not what is asked for: `errors.json` says where; or the token is damaged",
        ),
        ("500", "a fault inside; the log of the root tells more under the incident of the message"),
        ("503", "too much to do at the moment, or the root is stopping"),
        ("507", "the disk of the root takes no changes; reading works"),
    ];
    known.map(|(status, when)| (status.to_owned(), error_response(when))).into_iter().collect()
}
