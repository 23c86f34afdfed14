//! The record of an instance: every key from the beginning, measurements as texts.

use oak_control::root::{Cluster, HistorySample, Instance, Root};
use oak_model::{Now, Status, WallTime};
use serde::Serialize;

use super::rounded;
use crate::calendar;

/// Port of the overlay on every worker; old clients only show it.
const OVERLAY_PORT: u16 = 50_103;

/// Everything the record of an instance needs, taken from the state in one step.
#[derive(Debug)]
pub(super) struct InstanceView {
    instance: Instance,
    cluster_location: String,
    worker_name: String,
    /// What is shown to people.
    detail: String,
}

#[derive(Debug, Serialize)]
pub(super) struct InstanceRecord {
    instance_number: u32,
    revision: u32,
    status: &'static str,
    status_detail: String,
    cluster_id: String,
    cluster_location: String,
    worker_id: String,
    worker_name: String,
    publicip: String,
    host_ip: String,
    host_port: u16,
    instance_ip: String,
    cpu_percent: String,
    /// Bytes, in spite of the name.
    memory_percent: String,
    disk: String,
    cpu_history: Vec<HistoryRecord>,
    memory_history: Vec<HistoryRecord>,
    logs: String,
    last_modified_timestamp: f64,
}

#[derive(Debug, Serialize)]
struct HistoryRecord {
    value: String,
    timestamp: String,
}

impl InstanceView {
    /// Takes what the record needs.
    pub(super) fn of(root: &Root, now: Now, instance: &Instance) -> Self {
        let cluster = instance.cluster.and_then(|id| root.cluster(id));
        let worker = cluster.zip(instance.worker).and_then(|(cluster, id)| cluster.workers.get(&id));
        Self {
            cluster_location: cluster.map(|cluster| cluster.location.clone()).unwrap_or_default(),
            worker_name: worker.map(|worker| worker.facts.name.clone()).unwrap_or_default(),
            detail: detail(now, instance, cluster),
            instance: instance.clone(),
        }
    }

    /// The status of a service with these instances: running if all are, otherwise that of the one that changed
    /// last among the others.
    pub(super) fn aggregate(instances: &[Self]) -> Option<(Status, &str)> {
        let last_change = |view: &&Self| (view.instance.changed, view.instance.key.number);
        let not_running = instances.iter().filter(|view| view.instance.status != Status::Running);
        let shown =
            not_running.max_by_key(last_change).or_else(|| instances.iter().max_by_key(last_change))?;
        Some((shown.instance.status, &shown.detail))
    }

    /// Renders the record.
    pub(super) fn render(self) -> InstanceRecord {
        let Self { instance, cluster_location, worker_name, detail } = self;
        let usage = instance.usage;
        let history = |value: fn(&HistorySample) -> String| {
            let samples = usage.history.iter();
            samples
                .map(|sample| HistoryRecord { value: value(sample), timestamp: calendar::iso(sample.at) })
                .collect()
        };
        InstanceRecord {
            instance_number: instance.key.number,
            revision: instance.revision,
            status: instance.status.as_str(),
            status_detail: detail,
            cluster_id: instance.cluster.map(|id| id.to_string()).unwrap_or_default(),
            cluster_location,
            worker_id: instance.worker.map(|id| id.to_string()).unwrap_or_default(),
            worker_name,
            publicip: instance.host_address.clone(),
            host_ip: instance.host_address,
            host_port: OVERLAY_PORT,
            instance_ip: instance.address.to_string(),
            cpu_percent: percent(usage.cpu_percent),
            memory_percent: usage.memory_bytes.to_string(),
            disk: usage.disk_bytes.to_string(),
            cpu_history: history(|sample| percent(sample.cpu)),
            memory_history: history(|sample| format!("{:.0}", sample.memory)),
            last_modified_timestamp: instance.changed.max(usage.sampled).as_seconds(),
            logs: usage.log_tail,
        }
    }
}

fn percent(value: f32) -> String {
    format!("{:.2}", rounded(f64::from(value)))
}

/// The detail of the instance, and whether it can be trusted.
fn detail(now: Now, instance: &Instance, cluster: Option<&Cluster>) -> String {
    let Some(cluster) = cluster.filter(|cluster| !cluster.is_active()) else {
        return instance.detail.clone();
    };
    let since = match cluster.lost_since {
        // One that was never there since the start counts as lost since then, but nobody knows for how long.
        Some(lost) if cluster.last_seen != WallTime(0) => {
            let away = u64::try_from((now.moment - lost).as_millis()).unwrap_or(u64::MAX);
            calendar::iso(WallTime(now.wall.0.saturating_sub(away)))
        }
        Some(_) | None => "the start of the root".to_owned(),
    };
    format!("cluster {} is not connected since {since}; last known: {}", cluster.name, instance.detail)
}
