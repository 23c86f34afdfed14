//! The record of a service: the descriptor as it was sent, and what the server adds.

use oak_control::root::{Progress, Root, Service};
use oak_model::{Now, RolloutState, Status};
use serde_json::{Value, json};

use super::instance::InstanceView;

/// Everything the record of a service needs, taken from the state in one step and rendered outside of it.
#[derive(Debug)]
pub(in crate::api) struct ServiceView {
    service: Service,
    instances: Vec<InstanceView>,
    progress: Option<Progress>,
}

impl ServiceView {
    /// Takes what the record needs.
    pub(in crate::api) fn of(root: &Root, now: Now, service: &Service) -> Self {
        let instances = root.instances_of(service.id);
        Self {
            instances: instances.map(|instance| InstanceView::of(root, now, instance)).collect(),
            progress: root.progress(now, service),
            service: service.clone(),
        }
    }

    /// Renders the record.
    pub(in crate::api) fn render(self) -> Value {
        let Self { service, instances, progress } = self;
        let mut record = service.record();
        let mut put = |key: &str, value| record.insert(key.to_owned(), value);
        if let Some((status, detail)) = status(&service, &instances) {
            put("status", json!(status.as_str()));
            put("status_detail", json!(with_progress(detail, progress.as_ref())));
        }
        if let Some(progress) = progress {
            put("rollout", rollout(&progress));
        }
        let instances: Vec<_> = instances.into_iter().map(InstanceView::render).collect();
        put("instance_list", json!(instances));
        Value::Object(record)
    }
}

/// What an update is doing matters more than what one of its instances does.
fn with_progress(detail: &str, progress: Option<&Progress>) -> String {
    match progress.filter(|progress| progress.state != RolloutState::Done) {
        Some(progress) => format!("{}; {detail}", progress.detail),
        None => detail.to_owned(),
    }
}

fn rollout(progress: &Progress) -> Value {
    json!({
        "state": progress.state.as_str(),
        "revision": progress.revision,
        "from_revision": progress.from,
        "updated": progress.updated,
        "total": progress.total,
        "detail": progress.detail,
        "reason": progress.reason,
    })
}

/// Absent before the first deployment.
fn status<'a>(service: &Service, instances: &'a [InstanceView]) -> Option<(Status, &'a str)> {
    if service.next_number == 0 {
        return None;
    }
    Some(InstanceView::aggregate(instances).unwrap_or((Status::Undeployed, "no instance is deployed")))
}
