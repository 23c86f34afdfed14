//! Services.

use axum::extract::State;
use oak_model::{ApplicationId, ServiceId, sla};
use serde_json::json;

use super::Shared;
use super::answer::{Answer, message, nested, plain};
use super::body::Descriptor;
use super::caller::Caller;
use super::error::ApiError;
use super::parameter::Parameter;
use super::record::{ServiceRecord, ServiceView};
use super::scope::Scope;

/// Services read in one step of the engine, so that a long list does not hold up placements.
const BATCH: usize = 256;

/// `POST /api/service/`: adds the services of a descriptor to an existing application, all or none.
pub(super) async fn create(State(api): State<Shared>, caller: Caller, body: Descriptor) -> Answer {
    let document = sla::parse(&body.0)?;
    let mut applications = document.applications.into_iter();
    let (Some(request), None) = (applications.next(), applications.next()) else {
        return Err(ApiError::field(
            "applications",
            "must hold exactly one application: the one to add services to",
        ));
    };
    let Some(id) = request.application_id else {
        let problem = "is required: the id of the application to add services to";
        return Err(ApiError::field("applications[0].applicationID", problem));
    };
    let scope = caller.scope();
    let names: Vec<_> = request.services.iter().map(|service| service.name.to_string()).collect();
    let created = api.parts.root.call(move |root, now, entropy| {
        scope.application(root, id)?;
        if let Some(secrets) = root.secret_owner(id) {
            root.check_secrets(&secrets, request.services.iter().map(|service| &service.spec))?;
        }
        Ok::<_, ApiError>(root.add_services(now, entropy, id, request.services)?)
    });
    let created = created.await??;
    plain(&json!({
        "job_id": created.last().map(ToString::to_string).unwrap_or_default(),
        "deployed_services":
            names.iter().map(|name| json!({ "service_name": name, "status": 200 })).collect::<Vec<_>>(),
        "failed_services": [],
    }))
}

/// `GET /api/service/<id>`.
pub(super) async fn show(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(id): Parameter<ServiceId>,
) -> Answer {
    let scope = caller.view();
    let view = api.parts.root.call(move |root, now, _| {
        let service = scope.service(root, id)?;
        Ok::<_, ApiError>(ServiceView::of(root, now, service))
    });
    nested(&view.await??.render())
}

/// `DELETE /api/service/<id>`: with its instances.
pub(super) async fn delete(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(id): Parameter<ServiceId>,
) -> Answer {
    let scope = caller.scope();
    let deleted = api.parts.root.call(move |root, now, _| {
        scope.service(root, id)?;
        Ok::<_, ApiError>(root.delete_service(now, id)?)
    });
    deleted.await??;
    message("Job deleted")
}

/// `GET /api/services/`: all that the caller may see.
pub(super) async fn list(State(api): State<Shared>, caller: Caller) -> Answer {
    let scope = caller.view();
    let visible = scope.clone();
    let ids = api.parts.root.call(move |root, _, _| {
        let services = root.services().map(|service| service.id);
        services.filter(|id| visible.service(root, *id).is_ok()).collect::<Vec<_>>()
    });
    let ids = ids.await?;
    nested(&render(&api, &scope, &ids).await?)
}

/// `GET /api/services/<application id>`.
pub(super) async fn list_of_application(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(id): Parameter<ApplicationId>,
) -> Answer {
    let scope = caller.view();
    let visible = scope.clone();
    let ids = api
        .parts
        .root
        .call(move |root, _, _| visible.application(root, id).map(|found| found.services.clone()));
    let ids = ids.await??;
    nested(&render(&api, &scope, &ids).await?)
}

/// Records of those services that still exist when their turn comes.
async fn render(api: &Shared, scope: &Scope, ids: &[ServiceId]) -> Result<Vec<ServiceRecord>, ApiError> {
    let mut records = Vec::with_capacity(ids.len());
    for batch in ids.chunks(BATCH) {
        let (batch, scope) = (batch.to_vec(), scope.clone());
        let views = api.parts.root.call(move |root, now, _| {
            let services = batch.iter().filter_map(|id| scope.service(root, *id).ok());
            services.map(|service| ServiceView::of(root, now, service)).collect::<Vec<_>>()
        });
        records.extend(views.await?.into_iter().map(ServiceView::render));
    }
    Ok(records)
}
