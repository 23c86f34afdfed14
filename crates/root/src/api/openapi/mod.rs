//! The API as a document (OpenAPI 3.0) and as a page that shows it.
//!
//! Each group of endpoints has a file here with its [`Operation`]s and the schemas it needs. What follows from the kind
//! of an operation (who may call it, whether it has a body, whether it changes something) is added by `operation`, so
//! that a description only says what is special. Two tests keep it true: `tests/api/openapi.rs` compares the operations
//! with the routes and the committed `docs/openapi.json` with this code, and the conformance cases check every answer
//! of a running root against it.

mod about;
mod accounts;
mod applications;
mod events;
mod instances;
mod network;
mod nodes;
mod operation;
mod page;
mod schema;
mod secrets;
mod services;

use std::sync::LazyLock;

use axum::http::header;
use axum::response::IntoResponse;
use serde_json::{Map, Value, json};

use operation::{Operation, common_responses};
pub(super) use page::{SCRIPT_PATH, STYLE_PATH, page, script, style};

use super::answer::Answer;

/// A group of endpoints.
struct Group {
    name: &'static str,
    about: &'static str,
    operations: Vec<Operation>,
    /// Schemas by name; operations refer to them.
    schemas: Vec<(&'static str, Value)>,
}

/// Every group, in the order in which the page shows them.
fn groups() -> Vec<Group> {
    vec![
        accounts::group(),
        applications::group(),
        services::group(),
        instances::group(),
        events::group(),
        secrets::group(),
        nodes::group(),
        network::group(),
        about::group(),
    ]
}

static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let mut text = serde_json::to_string_pretty(&document()).unwrap_or_default();
    text.push('\n');
    text
});

/// `GET /docs/openapi.json`.
pub(super) async fn show() -> Answer {
    Ok(([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response())
}

fn document() -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::from_iter([("Error".to_owned(), schema::error())]);
    let mut tags = Vec::new();
    for group in groups() {
        tags.push(json!({ "name": group.name, "description": group.about }));
        schemas.extend(group.schemas.into_iter().map(|(name, schema)| (name.to_owned(), schema)));
        for operation in group.operations {
            let path = paths.entry(operation.path).or_insert_with(|| json!({}));
            let method = operation.method;
            path[method] = operation.render(group.name);
        }
    }
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "Oakestra root api",
            "version": "v1",
            "description": "Every path may end in a slash or not. Success is always status 200. Some answers are a JSON \
                string that contains JSON, as in the original: their schema is a string, and `x-json` is the schema of \
                what is inside.",
            "license": { "name": "Apache-2.0" },
        },
        "security": [{ "bearerAuth": [] }],
        "tags": tags,
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearerAuth": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" },
            },
            "responses": common_responses(),
            "schemas": schemas,
        },
    })
}
