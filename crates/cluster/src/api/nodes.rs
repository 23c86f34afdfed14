//! This cluster and its workers.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use oak_control::cluster::{Cluster, Placed, Worker};
use oak_model::{Availability, ClusterId, Removal, WorkerId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use super::answer::{Answer, Refused, message, plain};

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

/// `GET /api/workers/<id or name>`.
pub(super) async fn worker(State(local): State<Shared>, Path(worker): Path<String>) -> Answer {
    let own = local.id;
    plain(&local.engine.call(move |cluster, _, _| details(cluster, own, &worker)).await??)
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
    let own = local.id;
    let changed = local.engine.call(move |cluster, now, _| {
        let id = find(cluster, &worker)?;
        cluster.set_availability(now, id, availability);
        details(cluster, own, &worker)
    });
    plain(&changed.await??)
}

/// How much the caller insists.
#[derive(Deserialize)]
pub(super) struct Insistence {
    #[serde(default)]
    force: bool,
}

/// `DELETE /api/clusters/<id>/workers/<id or name>?force=true`.
pub(super) async fn remove_worker(
    State(local): State<Shared>,
    Path((id, worker)): Path<(String, String)>,
    Query(Insistence { force }): Query<Insistence>,
) -> Answer {
    let removal = Removal::by_force(force);
    let own = local.id.to_string();
    let removed = local.engine.call(move |cluster, now, _| {
        if id != own && id != cluster.settings().name {
            return Err(Refused::not_found("this cluster knows only its own workers"));
        }
        let worker = find(cluster, &worker)?;
        cluster
            .remove_worker(now, worker, removal)
            .map_err(|kept| Refused::new(StatusCode::CONFLICT, kept.to_string()))
    });
    removed.await??;
    message("Worker removed")
}

/// Names are unique within a cluster.
fn find(cluster: &Cluster, text: &str) -> Result<WorkerId, Refused> {
    let is_meant = |worker: &&Worker| worker.id.to_string() == text || worker.facts.name == text;
    let worker = cluster.workers().find(is_meant).map(|worker| worker.id);
    worker.ok_or_else(|| Refused::not_found(format!("there is no worker `{text}` in this cluster")))
}

fn details(cluster: &Cluster, own: ClusterId, text: &str) -> Result<Value, Refused> {
    let id = find(cluster, text)?;
    let summary = cluster.worker_summary(id);
    let is_here = |placed: &&Placed| placed.places().any(|place| place.worker == id);
    let instances: Vec<_> = cluster.placed().filter(is_here).map(on_worker).collect();
    let draining = summary.as_ref().is_some_and(|summary| summary.availability == Availability::Draining);
    let mut record = json!(summary);
    if let Some(record) = record.as_object_mut() {
        record.insert("instances_left".to_owned(), json!(draining.then_some(instances.len())));
        record.insert("instance_list".to_owned(), json!(instances));
        record.insert("cluster_id".to_owned(), json!(own));
        record.insert("cluster_name".to_owned(), json!(cluster.settings().name));
    }
    Ok(record)
}

fn on_worker(placed: &Placed) -> Value {
    json!({
        "microserviceID": placed.desired.key.service,
        "job_name": placed.desired.job_name.to_string(),
        "instance_number": placed.desired.key.number,
        "status": placed.status.as_str(),
        "status_detail": placed.detail,
        "one_shot": placed.desired.spec.one_shot,
    })
}
