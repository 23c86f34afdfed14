//! This cluster and its workers.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use oak_control::cluster::Cluster;
use oak_model::{Availability, WorkerId};
use serde::Deserialize;
use serde_json::json;

use super::Shared;
use super::answer::{Answer, Refused, plain};

/// `GET /api/clusters`: this one.
pub(super) async fn clusters(State(local): State<Shared>) -> Answer {
    let id = local.id;
    let record = local.engine.call(move |cluster, _, _| {
        let workers: Vec<_> = cluster.summaries().filter(|worker| worker.connected).collect();
        let settings = cluster.settings();
        let memory: u64 = workers.iter().map(|worker| u64::from(worker.facts.capacity.memory_mib)).sum();
        let cores: u64 =
            workers.iter().map(|worker| u64::from(worker.facts.capacity.cpu_millis) / 1000).sum();
        json!([{
            "_id": id,
            "cluster_name": settings.name,
            "cluster_location": settings.location,
            "port": settings.port.to_string(),
            "active": true,
            "active_nodes": workers.len(),
            "memory_in_mb": memory,
            "total_cpu_cores": cores,
        }])
    });
    plain(&record.await?)
}

/// `GET /api/clusters/<id>/workers`.
pub(super) async fn workers(State(local): State<Shared>, Path(id): Path<String>) -> Answer {
    if id != local.id.to_string() {
        return Err(Refused::not_found("this cluster knows only its own workers"));
    }
    plain(&local.engine.call(|cluster, _, _| cluster.summaries().collect::<Vec<_>>()).await?)
}

/// What a worker shall be.
#[derive(Deserialize)]
pub(super) struct Wanted {
    availability: Availability,
}

/// `PUT /api/workers/<id or name>/availability`.
pub(super) async fn set_availability(
    State(local): State<Shared>,
    Path(worker): Path<String>,
    Json(Wanted { availability }): Json<Wanted>,
) -> Answer {
    let changed = local.engine.call(move |cluster, now, _| {
        let id = find(cluster, &worker)
            .ok_or_else(|| Refused::not_found(format!("there is no worker `{worker}` in this cluster")))?;
        if !cluster.set_availability(now, id, availability) {
            return Err(Refused::new(StatusCode::CONFLICT, "the worker has just been removed"));
        }
        Ok(cluster.summaries().find(|summary| summary.id == id))
    });
    plain(&changed.await??)
}

fn find(cluster: &Cluster, text: &str) -> Option<WorkerId> {
    let worker =
        cluster.workers().find(|worker| worker.id.to_string() == text || worker.facts.name == text)?;
    Some(worker.id)
}
