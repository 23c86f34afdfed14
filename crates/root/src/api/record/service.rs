//! The record of a service: the descriptor as it was sent, and what the server adds.

use oak_control::root::{Progress, Root, Service};
use oak_model::{Now, RolloutState, Status};
use serde::Serialize;
use serde_json::{Map, Value};

use super::instance::{InstanceRecord, InstanceView};

/// Everything the record of a service needs, taken from the state in one step and rendered outside of it.
#[derive(Debug)]
pub(in crate::api) struct ServiceView {
    service: Service,
    instances: Vec<InstanceView>,
    progress: Option<Progress>,
}

/// The descriptor as it was sent, what the server adds, and what became of it. Lists of it are the largest answers:
/// only what is free in form is put together key by key.
#[derive(Debug, Serialize)]
pub(in crate::api) struct ServiceRecord {
    #[serde(flatten)]
    service: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rollout: Option<RolloutRecord>,
    instance_list: Vec<InstanceRecord>,
}

#[derive(Debug, Serialize)]
struct RolloutRecord {
    state: &'static str,
    revision: u32,
    from_revision: Option<u32>,
    updated: u32,
    total: u32,
    detail: String,
    reason: String,
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
    pub(in crate::api) fn render(self) -> ServiceRecord {
        let Self { service, instances, progress } = self;
        let (status, status_detail) = match status(&service, &instances) {
            Some((status, detail)) => (Some(status.as_str()), Some(with_progress(detail, progress.as_ref()))),
            None => (None, None),
        };
        ServiceRecord {
            service: service.into_record(),
            status,
            status_detail,
            rollout: progress.map(RolloutRecord::from),
            instance_list: instances.into_iter().map(InstanceView::render).collect(),
        }
    }
}

/// What an update is doing matters more than what one of its instances does.
fn with_progress(detail: &str, progress: Option<&Progress>) -> String {
    match progress.filter(|progress| progress.state != RolloutState::Done) {
        Some(progress) => format!("{}; {detail}", progress.detail),
        None => detail.to_owned(),
    }
}

impl From<Progress> for RolloutRecord {
    fn from(progress: Progress) -> Self {
        Self {
            state: progress.state.as_str(),
            revision: progress.revision,
            from_revision: progress.from,
            updated: progress.updated,
            total: progress.total,
            detail: progress.detail,
            reason: progress.reason,
        }
    }
}

/// Absent before the first deployment.
fn status<'a>(service: &Service, instances: &'a [InstanceView]) -> Option<(Status, &'a str)> {
    if service.next_number == 0 {
        return None;
    }
    Some(InstanceView::aggregate(instances).unwrap_or((Status::Undeployed, "no instance is deployed")))
}
