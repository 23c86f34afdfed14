//! Clusters and their workers.

use axum::extract::State;
use oak_control::root::Cluster;
use oak_model::ClusterId;

use super::Shared;
use super::answer::{Answer, plain};
use super::caller::Caller;
use super::error::ApiError;
use super::parameter::Parameter;
use super::permission::Action;
use super::record;

/// `GET /api/clusters/`: all of them. No authentication, as in the original.
pub(super) async fn list(State(api): State<Shared>) -> Answer {
    let clusters = api.parts.root.call(|root, _, _| root.clusters().map(record::cluster).collect::<Vec<_>>());
    plain(&clusters.await?)
}

/// `GET /api/clusters/active`: those whose link is up.
pub(super) async fn list_active(State(api): State<Shared>) -> Answer {
    let clusters = api.parts.root.call(|root, _, _| {
        root.clusters().filter(|cluster| cluster.is_active()).map(record::cluster).collect::<Vec<_>>()
    });
    plain(&clusters.await?)
}

/// `GET /api/clusters/<id>/workers`: what the root knows about each worker. The name of the cluster is accepted too.
pub(super) async fn workers(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(id): Parameter<String>,
) -> Answer {
    caller.require(Action::ViewInfrastructure)?;
    let workers = api.parts.root.call(move |root, _, _| known(root, &id).map(record::workers));
    plain(&workers.await??)
}

/// A cluster by id or by name.
pub(super) fn find<'a>(root: &'a oak_control::root::Root, text: &str) -> Option<&'a Cluster> {
    let by_id = text.parse::<ClusterId>().ok().and_then(|id| root.cluster(id));
    by_id.or_else(|| root.clusters().find(|cluster| cluster.name == text))
}

/// The same; 404 if there is none.
pub(super) fn known<'a>(root: &'a oak_control::root::Root, text: &str) -> Result<&'a Cluster, ApiError> {
    let unknown = || ApiError::not_found(format!("there is no cluster `{}`", shortened(text)));
    find(root, text).ok_or_else(unknown)
}

/// A text from outside as it is repeated in messages.
pub(super) fn shortened(text: &str) -> String {
    text.chars().take(60).collect()
}
