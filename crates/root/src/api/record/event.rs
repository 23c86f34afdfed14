//! The record of an event.

use oak_model::{ApplicationId, ClusterId, Event, ServiceId, WorkerId};
use serde::Serialize;

use crate::calendar;

#[derive(Debug, Serialize)]
pub(crate) struct EventRecord {
    sequence: u64,
    timestamp: String,
    kind: &'static str,
    #[serde(rename = "applicationID", skip_serializing_if = "Option::is_none")]
    application: Option<ApplicationId>,
    #[serde(rename = "microserviceID", skip_serializing_if = "Option::is_none")]
    service: Option<ServiceId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_number: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_id: Option<ClusterId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker_id: Option<WorkerId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    detail: String,
}

/// Renders an event.
pub(crate) fn event(event: &Event) -> EventRecord {
    EventRecord {
        sequence: event.sequence,
        timestamp: calendar::iso(event.at),
        kind: event.kind.as_str(),
        application: event.application,
        service: event.service,
        instance_number: event.instance,
        cluster_id: event.cluster,
        worker_id: event.worker,
        status: event.status.map(oak_model::Status::as_str),
        detail: event.detail.clone(),
    }
}
