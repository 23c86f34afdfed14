//! Deploying and undeploying instances.

use axum::body::Body;
use axum::extract::State;
use oak_control::root::Refusal;
use oak_model::{InstanceKey, ServiceId};
use serde_json::json;

use super::Shared;
use super::answer::{Answer, message, plain};
use super::body::ignore;
use super::caller::Caller;
use super::error::ApiError;
use super::parameter::Parameter;

/// `POST /api/service/<id>/instance`: one more instance. The dashboard sends the whole service as body, the command
/// lines send none; it means nothing.
pub(super) async fn deploy(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(service): Parameter<ServiceId>,
    body: Body,
) -> Answer {
    ignore(body).await;
    let scope = caller.scope();
    let deployed = api.parts.root.call(move |root, now, _| {
        scope.service(root, service)?;
        Ok::<_, ApiError>(root.deploy(now, service)?)
    });
    let key = deployed.await??;
    plain(&json!({ "message": "ok", "instance_number": key.number }))
}

/// `DELETE /api/service/<id>/instance/<number>`: takes one instance down, or all with -1. An instance that is down
/// already is no error.
pub(super) async fn undeploy(
    State(api): State<Shared>,
    caller: Caller,
    Parameter((service, number)): Parameter<(ServiceId, String)>,
) -> Answer {
    let chosen = Chosen::parse(&number)?;
    let scope = caller.scope();
    let undeployed = api.parts.root.call(move |root, now, _| {
        let next = scope.service(root, service)?.next_number;
        let keys = match chosen {
            Chosen::All => root.instances_of(service).map(|instance| instance.key).collect(),
            Chosen::One(number) => vec![InstanceKey { service, number }],
        };
        for key in keys {
            match root.undeploy(now, key) {
                Err(Refusal::UnknownInstance(key)) if key.number < next => {}
                other => other?,
            }
        }
        Ok::<_, ApiError>(())
    });
    undeployed.await??;
    message("ok")
}

/// Which instances are meant.
#[derive(Clone, Copy, Debug)]
enum Chosen {
    All,
    One(u32),
}

impl Chosen {
    fn parse(text: &str) -> Result<Self, ApiError> {
        if text == "-1" {
            return Ok(Self::All);
        }
        let number = text.parse().map_err(|_| {
            ApiError::bad_request("the instance must be its number, 0 or more, or -1 for all instances")
        })?;
        Ok(Self::One(number))
    }
}
