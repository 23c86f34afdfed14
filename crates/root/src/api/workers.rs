//! Single workers: what is known about one, and opening, closing and emptying it.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use oak_control::root::{Root, WorkerRefusal};
use oak_model::{Availability, WorkerId};

use super::Shared;
use super::answer::{Answer, plain};
use super::body::Object;
use super::caller::Caller;
use super::error::ApiError;
use super::parameter::Parameter;
use super::permission::Action;
use super::record::{self, WorkerDetails};
use super::scope::Scope;

/// How long a cluster may take to confirm.
const CONFIRMATION: Duration = Duration::from_secs(5);

/// `GET /api/workers/<id>`: what the root knows about a worker, and the caller's instances on it. Its name is accepted
/// too.
pub(super) async fn show(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(worker): Parameter<String>,
) -> Answer {
    caller.require(Action::ViewInfrastructure)?;
    let scope = caller.view();
    let found = api.parts.root.call(move |root, _, _| details(root, &scope, &worker));
    plain(&found.await??)
}

/// `PUT /api/workers/<id>/availability` `{availability}` → the worker. Answered when the cluster has stored
/// it: from then on it also survives a restart of the cluster.
pub(super) async fn set_availability(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(worker): Parameter<String>,
    body: Object,
) -> Answer {
    caller.require(Action::ManageInfrastructure)?;
    let availability = read_availability(&body)?;
    let found = api.parts.root.call(move |root, _, _| {
        root.find_worker(&worker).map(|(cluster, worker)| (worker.id, cluster.name.clone()))
    });
    let (id, cluster) = found.await??;
    let confirmation = api.parts.availability.expect(&(id, availability));
    api.parts.root.call(move |root, _, _| root.set_availability(id, availability)).await??;
    if !confirmation.wait(CONFIRMATION).await {
        let message = format!(
            "cluster {cluster} did not confirm within {} s that the worker is {availability}; it may still do so: look with GET /api/workers/{id}, or send this again",
            CONFIRMATION.as_secs()
        );
        return Err(ApiError::new(StatusCode::GATEWAY_TIMEOUT, message));
    }
    let scope = caller.view();
    let now = api.parts.root.call(move |root, _, _| details(root, &scope, &id.to_string()));
    plain(&now.await??)
}

fn details(root: &Root, scope: &Scope, text: &str) -> Result<WorkerDetails, ApiError> {
    let (cluster, worker) = root.find_worker(text)?;
    let shown = instances_in(root, scope, worker.id);
    Ok(record::worker(cluster, worker, shown))
}

/// The instances on a worker that the caller may see, with the names of their services.
fn instances_in(root: &Root, scope: &Scope, worker: WorkerId) -> Vec<record::InstanceOnWorker> {
    root.instances_on(worker)
        .filter_map(|instance| {
            let service = scope.service(root, instance.key.service).ok()?;
            Some(record::InstanceOnWorker::of(service, instance))
        })
        .collect()
}

fn read_availability(body: &Object) -> Result<Availability, ApiError> {
    let word = body.text("availability", 16)?;
    let known = Availability::ALL.into_iter().find(|availability| availability.as_str() == word);
    known.ok_or_else(|| ApiError::field("availability", "must be \"open\", \"cordoned\" or \"draining\""))
}

impl From<WorkerRefusal> for ApiError {
    fn from(refusal: WorkerRefusal) -> Self {
        let status = match &refusal {
            WorkerRefusal::Unknown { .. } => StatusCode::NOT_FOUND,
            WorkerRefusal::Ambiguous { .. } | WorkerRefusal::ClusterAway { .. } => StatusCode::CONFLICT,
        };
        Self::new(status, refusal.to_string())
    }
}
