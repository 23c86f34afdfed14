//! Rules of the descriptor as tables; the originals' behaviour is in the root-api reference, 9.6.

mod container;
mod properties;
mod rules;
mod spellings;

use serde_json::{Value, json};

use super::{ServiceRequest, SlaDocument, SlaErrors, parse_value};

/// The smallest microservice that is valid.
pub(super) fn minimal_service() -> Value {
    json!({
        "microservice_name": "web", "microservice_namespace": "test",
        "virtualization": "container", "code": "docker.io/library/nginx:latest"
    })
}

/// A descriptor with one application around `services`.
pub(super) fn document_with(services: Value) -> Value {
    json!({
        "sla_version": "v2.0", "customerID": "Admin",
        "applications": [{"application_name": "shop", "application_namespace": "prod", "microservices": services}]
    })
}

/// Parses a minimal descriptor whose service has the members of `changes` on top; `null` removes a member.
pub(super) fn parse_service(changes: &Value) -> Result<SlaDocument, SlaErrors> {
    parse_value(&document_with(json!([merged(minimal_service(), changes)])))
}

/// The only service of a descriptor made by [`parse_service`].
pub(super) fn service(changes: &Value) -> ServiceRequest {
    let mut document = parse_service(changes).unwrap_or_else(|errors| panic!("{changes}: {errors}"));
    document.applications.remove(0).services.remove(0)
}

pub(super) fn merged(mut base: Value, changes: &Value) -> Value {
    for (key, value) in changes.as_object().into_iter().flatten() {
        base[key] = value.clone();
    }
    base
}
