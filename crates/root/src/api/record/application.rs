//! The record of an application.

use oak_control::root::Application;
use serde_json::{Map, Value, json};

/// Renders an application.
pub(in crate::api) fn application(application: &Application) -> Value {
    let mut record = Map::new();
    record.insert("_id".to_owned(), json!({ "$oid": application.id }));
    let server_fields = [
        ("applicationID", json!(application.id)),
        ("application_name", json!(application.name)),
        ("application_namespace", json!(application.namespace)),
        ("application_desc", json!(application.description)),
        ("userId", json!(application.owner)),
        ("microservices", json!(application.services)),
    ];
    // First what came with the descriptor: it must not hide what the server knows.
    record.extend(application.other.clone());
    record.extend(server_fields.map(|(key, value)| (key.to_owned(), value)));
    record.insert("_id".to_owned(), json!({ "$oid": application.id }));
    Value::Object(record)
}
