//! Removing workers and clusters that are gone for good.

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use oak_control::root::{ClusterKept, Root, WorkerRefusal};
use oak_model::{Removal, WorkerId};
use serde::Deserialize;

use super::Shared;
use super::answer::{Answer, message};
use super::caller::Caller;
use super::clusters::{known, shortened};
use super::error::ApiError;
use super::parameter::Parameter;
use super::permission::Action;

/// How long a cluster may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// How much the caller insists.
#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    force: bool,
}

fn read(wanted: Result<Query<Wanted>, QueryRejection>) -> Result<Removal, ApiError> {
    let Query(wanted) =
        wanted.map_err(|_| ApiError::bad_request("the query may hold force=true or force=false"))?;
    Ok(Removal::by_force(wanted.force))
}

/// `DELETE /api/clusters/<id>?force=true`. The name of the cluster is accepted too.
pub(super) async fn cluster(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(id): Parameter<String>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Answer {
    caller.require(Action::RemoveInfrastructure)?;
    let removal = read(wanted)?;
    let removed = api.parts.root.call(move |root, now, _| {
        let id = known(root, &id)?.id;
        root.remove_cluster(now, id, removal).map_err(ApiError::from)
    });
    removed.await??;
    message("Cluster removed")
}

/// `DELETE /api/clusters/<id>/workers/<worker>?force=true`. The cluster decides, and the call is answered when it has
/// stored it: from then on it refuses the worker. Names are accepted too.
pub(super) async fn worker(
    State(api): State<Shared>,
    caller: Caller,
    Parameter((cluster, worker)): Parameter<(String, String)>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Answer {
    caller.require(Action::RemoveInfrastructure)?;
    let removal = read(wanted)?;
    let name = shortened(&cluster);
    let found = api.parts.root.call(move |root, _, _| known_worker(root, &cluster, &worker));
    let id = found.await??;
    let answer = api.parts.removals.expect(&id);
    let asked = api.parts.root.call(move |root, _, _| root.remove_worker(id, removal)).await?;
    asked.map_err(|refusal| match refusal {
        // Between the two calls the cluster may have gone, or the worker.
        WorkerRefusal::ClusterAway { .. } => ApiError::unavailable(refusal.to_string()),
        WorkerRefusal::Unknown { .. } | WorkerRefusal::Ambiguous { .. } => refusal.into(),
    })?;
    match answer.answer(ANSWER).await {
        Some(None) => message("Worker removed"),
        Some(Some(reason)) => Err(ApiError::conflict(reason)),
        None => {
            let seconds = ANSWER.as_secs();
            let text = format!(
                "cluster {name} did not answer within {seconds} s; it may still remove the worker: look with GET \
                 /api/workers/{id}, or send this again. A cluster of an older release does not know the request: upgrade it"
            );
            Err(ApiError::new(StatusCode::GATEWAY_TIMEOUT, text))
        }
    }
}

/// A worker by id or by name, which is unique within a cluster.
fn known_worker(root: &Root, cluster: &str, worker: &str) -> Result<WorkerId, ApiError> {
    let cluster = known(root, cluster)?;
    if !cluster.is_active() {
        // It may have workers that this root does not know.
        let away = WorkerRefusal::ClusterAway { worker: shortened(worker), cluster: cluster.name.clone() };
        return Err(ApiError::unavailable(away.to_string()));
    }
    let found = cluster
        .workers
        .values()
        .find(|one| one.id.to_string() == worker)
        .or_else(|| cluster.workers.values().find(|one| one.facts.name == worker));
    let unknown = || {
        let text = format!("there is no worker `{}` in cluster {}", shortened(worker), cluster.name);
        ApiError::not_found(text)
    };
    found.map(|one| one.id).ok_or_else(unknown)
}

impl From<ClusterKept> for ApiError {
    fn from(kept: ClusterKept) -> Self {
        match &kept {
            ClusterKept::Unknown(_) => Self::not_found(kept.to_string()),
            ClusterKept::Connected(_) | ClusterKept::Holds { .. } | ClusterKept::RunsOnlyOne { .. } => {
                Self::conflict(kept.to_string())
            }
        }
    }
}
