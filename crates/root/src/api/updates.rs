//! Changing services: another revision, another number of instances, and back.

use axum::extract::State;
use axum::http::StatusCode;
use oak_control::root::{Root, Service};
use oak_model::{MAX_REPLICAS, ServiceId, sla};
use serde_json::json;

use super::Shared;
use super::answer::{Answer, plain};
use super::body::{Descriptor, Object};
use super::caller::Caller;
use super::error::ApiError;
use super::parameter::Parameter;
use super::record::ServiceView;

/// `PUT /api/service/<id>`: what the service shall be from now on, as a descriptor with exactly this service, as the
/// service alone, or as its changed record. Answers the record.
pub(super) async fn change(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(id): Parameter<ServiceId>,
    body: Descriptor,
) -> Answer {
    let change = sla::parse_change(&body.0, id)?;
    for warning in &change.warnings {
        tracing::info!(user = caller.0.name, service = %id, %warning, "change accepted with a warning");
    }
    let scope = caller.scope();
    let changed = api.parts.root.call(move |root, now, _| {
        let service = scope.service(root, id)?;
        if let Some(named) = &change.application {
            stays_in_its_application(root, service, named)?;
        }
        if let Some(secrets) = root.secret_owner(service.application) {
            root.check_secrets(&secrets, std::iter::once(&change.service.spec))?;
        }
        root.change_service(now, id, change.service)?;
        Ok::<_, ApiError>(root.service(id).map(|service| ServiceView::of(root, now, service)))
    });
    plain(&changed.await??.map(ServiceView::render))
}

/// The document puts the service into an application; it must be the one it is in.
fn stays_in_its_application(
    root: &Root,
    service: &Service,
    (id, name, namespace): &(Option<oak_model::ApplicationId>, oak_model::Name, oak_model::Name),
) -> Result<(), ApiError> {
    let is_same = root.application(service.application).is_some_and(|application| {
        id.is_none_or(|id| id == application.id)
            && application.name == *name
            && application.namespace == *namespace
    });
    if is_same {
        return Ok(());
    }
    let message = format!(
        "service {} belongs to another application and cannot move to `{name}.{namespace}`: create another service",
        service.job_name
    );
    Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, message))
}

/// `PUT /api/service/<id>/scale`: the number of instances the service keeps by itself.
pub(super) async fn scale(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(id): Parameter<ServiceId>,
    body: Object,
) -> Answer {
    let replicas = body.0.get("replicas").and_then(serde_json::Value::as_u64);
    let replicas = replicas.and_then(|number| u32::try_from(number).ok()).filter(|n| *n <= MAX_REPLICAS);
    let Some(replicas) = replicas else {
        let problem = format!("is required and must be an integer from 0 to {MAX_REPLICAS}");
        return Err(ApiError::field("replicas", &problem));
    };
    let scope = caller.scope();
    let scaled = api.parts.root.call(move |root, now, _| {
        scope.service(root, id)?;
        root.scale(now, id, replicas).map_err(ApiError::from)
    });
    let scaled = scaled.await??;
    plain(&json!({
        "microserviceID": id,
        "replicas": scaled.replicas,
        "created": scaled.created,
        "removed": scaled.removed,
    }))
}

/// `DELETE /api/service/<id>/update`: calls the update off, or takes the last one back. Answers the record.
pub(super) async fn roll_back(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(id): Parameter<ServiceId>,
) -> Answer {
    let scope = caller.scope();
    let view = api.parts.root.call(move |root, now, _| {
        scope.service(root, id)?;
        root.roll_back(now, id)?;
        Ok::<_, ApiError>(root.service(id).map(|service| ServiceView::of(root, now, service)))
    });
    plain(&view.await??.map(ServiceView::render))
}
