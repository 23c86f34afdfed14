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
        let mut record = service.record();
        let mut put = |key: &str, value| record.insert(key.to_owned(), value);
        if let Some((status, detail)) = status(&service, &instances) {
            put("status", json!(status.as_str()));
            put("status_detail", json!(detail));
        }
        let instances: Vec<_> = instances.into_iter().map(InstanceView::render).collect();
        put("instance_list", json!(instances));
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
