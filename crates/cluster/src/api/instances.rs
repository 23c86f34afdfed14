//! Instances of local services.

use axum::extract::{Path, State};
use oak_control::cluster::LocalRefusal;
use oak_model::{InstanceKey, ServiceId};
use serde_json::json;

use super::Shared;
use super::answer::{Answer, message, plain};
use super::applications::parse;

/// `POST /api/service/<id>/instance`: one more instance.
pub(super) async fn deploy(State(local): State<Shared>, Path(service): Path<String>) -> Answer {
    let service: ServiceId = parse(&service)?;
    let key = local.engine.call(move |cluster, now, _| cluster.deploy_local(now, service)).await??;
    plain(&json!({ "message": "ok", "instance_number": key.number }))
}

/// `DELETE /api/service/<id>/instance/<number>`: takes one instance down, or all with -1.
pub(super) async fn undeploy(
    State(local): State<Shared>,
    Path((service, number)): Path<(String, String)>,
) -> Answer {
    let service: ServiceId = parse(&service)?;
    let number: Option<u32> = if number == "-1" { None } else { Some(parse(&number)?) };
    let undeployed = local.engine.call(move |cluster, now, _| {
        let keys: Vec<_> = match number {
            Some(number) => vec![InstanceKey { service, number }],
            None => cluster
                .instances_of(service)
                .filter(|placed| !placed.removing)
                .map(|placed| placed.desired.key)
                .collect(),
        };
        for key in keys {
            cluster.undeploy_local(now, key)?;
        }
        Ok::<_, LocalRefusal>(())
    });
    undeployed.await??;
    message("ok")
}
