//! The records of workers.

use oak_control::root::{Cluster, Instance, Service};
use oak_model::Availability;
use oak_model::message::WorkerSummary;
use serde::Serialize;

use super::rounded;

/// A worker as its cluster reported it, with its load.
#[derive(Debug, Serialize)]
pub(in crate::api) struct WorkerRecord {
    #[serde(flatten)]
    summary: WorkerSummary,
    cpu_percent: f64,
    memory_percent: f64,
    /// While it is drained: instances of which something is still there, stopping ones included.
    #[serde(skip_serializing_if = "Option::is_none")]
    instances_left: Option<u32>,
}

/// One worker with its cluster and what runs on it.
#[derive(Debug, Serialize)]
pub(in crate::api) struct WorkerDetails {
    #[serde(flatten)]
    worker: WorkerRecord,
    cluster_id: String,
    cluster_name: String,
    instance_list: Vec<InstanceOnWorker>,
}

/// An instance in the list of its worker.
#[derive(Debug, Serialize)]
pub(in crate::api) struct InstanceOnWorker {
    #[serde(rename = "microserviceID")]
    service: String,
    job_name: String,
    instance_number: u32,
    status: &'static str,
    status_detail: String,
    one_shot: bool,
}

impl InstanceOnWorker {
    /// Renders an instance of a service.
    pub(in crate::api) fn of(service: &Service, instance: &Instance) -> Self {
        Self {
            service: service.id.to_string(),
            job_name: service.job_name.to_string(),
            instance_number: instance.key.number,
            status: instance.status.as_str(),
            status_detail: instance.detail.clone(),
            one_shot: service.spec.one_shot,
        }
    }
}

/// Renders the workers of a cluster. While the cluster is away none of them counts as connected.
pub(in crate::api) fn workers(cluster: &Cluster) -> Vec<WorkerRecord> {
    cluster.workers.values().map(|worker| record(cluster, worker)).collect()
}

/// Renders one worker.
pub(in crate::api) fn worker(
    cluster: &Cluster,
    worker: &WorkerSummary,
    instances: Vec<InstanceOnWorker>,
) -> WorkerDetails {
    WorkerDetails {
        worker: record(cluster, worker),
        cluster_id: cluster.id.to_string(),
        cluster_name: cluster.name.clone(),
        instance_list: instances,
    }
}

fn record(cluster: &Cluster, worker: &WorkerSummary) -> WorkerRecord {
    let usage = cluster.usage.get(&worker.id);
    let is_drained = worker.availability == Availability::Draining;
    WorkerRecord {
        summary: WorkerSummary { connected: worker.connected && cluster.is_active(), ..worker.clone() },
        cpu_percent: rounded(usage.map_or(0.0, |usage| f64::from(usage.cpu_percent))),
        memory_percent: rounded(usage.map_or(0.0, |usage| f64::from(usage.memory_percent))),
        instances_left: is_drained.then_some(worker.instances),
    }
}
