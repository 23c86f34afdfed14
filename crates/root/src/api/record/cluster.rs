//! The records of clusters.

use std::collections::BTreeSet;

use oak_control::root::Cluster;
use oak_model::message::WorkerSummary;
use serde::Serialize;

use super::rounded;

/// A cluster, with the older names of some fields beside the present ones. Counts and sizes are whole numbers.
#[derive(Debug, Serialize)]
pub(in crate::api) struct ClusterRecord {
    #[serde(rename = "_id")]
    id: String,
    candidate_name: String,
    candidate_location: String,
    cluster_name: String,
    cluster_location: String,
    ip: String,
    port: String,
    active: bool,
    active_nodes: u64,
    cpu_percent: f64,
    aggregated_cpu_percent: f64,
    memory_percent: f64,
    vcpus: u64,
    total_cpu_cores: u64,
    memory: u64,
    memory_in_mb: u64,
    vgpus: u64,
    total_gpu_cores: u64,
    vram: u64,
    vram_percent: f64,
    gpu_temp: f64,
    gpu_percent: f64,
    gpu_drivers: Vec<String>,
    /// One entry per worker and kind.
    virtualization: Vec<String>,
    supported_addons: Vec<String>,
    /// Every driver once.
    csi_drivers: Vec<String>,
    cpu_history: Vec<HistoryRecord>,
    memory_history: Vec<HistoryRecord>,
    last_modified_timestamp: f64,
}

#[derive(Debug, Serialize)]
struct HistoryRecord {
    value: f64,
    timestamp: f64,
}

/// Renders a cluster. Sums are over its connected workers; memory is what is not reserved.
pub(in crate::api) fn cluster(cluster: &Cluster) -> ClusterRecord {
    let connected = || cluster.workers.values().filter(|worker| cluster.is_active() && worker.connected);
    let (cpu, memory_load) = cluster.average_load();
    let (cpu, memory_load) = (rounded(f64::from(cpu)), rounded(f64::from(memory_load)));
    let cores = connected().map(|worker| u64::from(worker.facts.capacity.cpu_millis)).sum::<u64>() / 1000;
    let free = |worker: &WorkerSummary| worker.facts.capacity.saturating_sub(worker.reserved).memory_mib;
    let memory = connected().map(|worker| u64::from(free(worker))).sum();
    let gpus = connected().map(|worker| u64::from(worker.facts.capacity.gpus)).sum();
    let marks = connected().flat_map(|worker| worker.facts.labels.iter().chain(&worker.facts.addons));
    let addons: BTreeSet<String> = marks.cloned().collect();
    let drivers: BTreeSet<&String> = connected().flat_map(|worker| &worker.facts.csi_drivers).collect();
    let csi_drivers = drivers.into_iter().cloned().collect();
    let samples = || cluster.history.iter();
    ClusterRecord {
        id: cluster.id.to_string(),
        candidate_name: cluster.name.clone(),
        candidate_location: cluster.location.clone(),
        cluster_name: cluster.name.clone(),
        cluster_location: cluster.location.clone(),
        ip: cluster.address.clone(),
        port: cluster.port.to_string(),
        active: cluster.is_active(),
        active_nodes: connected().count() as u64,
        cpu_percent: cpu,
        aggregated_cpu_percent: cpu,
        memory_percent: memory_load,
        vcpus: cores,
        total_cpu_cores: cores,
        memory,
        memory_in_mb: memory,
        vgpus: gpus,
        total_gpu_cores: gpus,
        vram: 0,
        vram_percent: 0.0,
        gpu_temp: 0.0,
        gpu_percent: 0.0,
        gpu_drivers: Vec::new(),
        virtualization: connected().flat_map(|worker| worker.facts.virtualization.iter().cloned()).collect(),
        supported_addons: addons.into_iter().collect(),
        csi_drivers,
        cpu_history: samples()
            .map(|sample| HistoryRecord {
                value: rounded(f64::from(sample.cpu)),
                timestamp: sample.at.as_seconds(),
            })
            .collect(),
        memory_history: samples()
            .map(|sample| HistoryRecord { value: rounded(sample.memory), timestamp: sample.at.as_seconds() })
            .collect(),
        last_modified_timestamp: cluster.last_seen.as_seconds(),
    }
}
