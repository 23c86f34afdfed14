//! The record of a service: the descriptor as it was sent, and what the server adds.

use oak_control::root::{Root, Service};
use oak_model::{Now, Status};
use serde_json::{Value, json};

use super::instance::InstanceView;

/// Everything the record of a service needs, taken from the state in one step and rendered outside of it.
#[derive(Debug)]
pub(in crate::api) struct ServiceView {
    service: Service,
    instances: Vec<InstanceView>,
}

impl ServiceView {
    /// Takes what the record needs.
    pub(in crate::api) fn of(root: &Root, now: Now, service: &Service) -> Self {
        let instances = root.instances_of(service.id);
        Self {
            instances: instances.map(|instance| InstanceView::of(root, now, instance)).collect(),
            service: service.clone(),
        }
    }

    /// Renders the record.
    pub(in crate::api) fn render(self) -> Value {
        let Self { service, instances } = self;
        let name = &service.job_name;
        let mut added = vec![
            ("_id", json!({ "$oid": service.id })),
            ("microserviceID", json!(service.id)),
            ("applicationID", json!(service.application)),
            ("job_name", json!(name.to_string())),
            ("app_name", json!(name.application)),
            ("app_ns", json!(name.application_namespace)),
            ("service_name", json!(name.service)),
            ("service_ns", json!(name.service_namespace)),
            ("image", service.document.get("code").cloned().unwrap_or_else(|| json!(service.spec.image))),
            ("RR_ip", json!(service.address)),
            ("next_instance_progressive_number", json!(service.next_number)),
        ];
        if service.document.contains_key("addresses") {
            added.push(("RR_ip_v6", Value::Null));
        }
        if let Some((status, detail)) = status(&service, &instances) {
            added.push(("status", json!(status.as_str())));
            added.push(("status_detail", json!(detail)));
        }
        let instances: Vec<_> = instances.into_iter().map(InstanceView::render).collect();
        added.push(("instance_list", json!(instances)));
        let mut record = service.document;
        record.extend(added.into_iter().map(|(key, value)| (key.to_owned(), value)));
        Value::Object(record)
    }
}

/// Absent before the first deployment.
fn status<'a>(service: &Service, instances: &'a [InstanceView]) -> Option<(Status, &'a str)> {
    if service.next_number == 0 {
        return None;
    }
    Some(InstanceView::aggregate(instances).unwrap_or((Status::Undeployed, "no instance is deployed")))
}
