//! Applications.

use axum::extract::State;
use axum::http::StatusCode;
use oak_control::root::{Application, Root};
use oak_model::{ApplicationId, sla};

use super::Shared;
use super::answer::{Answer, message, nested, plain};
use super::body::{Descriptor, Object};
use super::caller::Caller;
use super::error::ApiError;
use super::parameter::Parameter;
use super::scope::Scope;

/// Longest description, in bytes.
const MAX_DESCRIPTION_BYTES: usize = 16 * 1024;

/// `POST /api/application/`: creates everything a descriptor asks for, or nothing; answers all applications of the
/// caller.
pub(super) async fn create(State(api): State<Shared>, caller: Caller, body: Descriptor) -> Answer {
    let document = sla::parse(&body.0)?;
    for warning in &document.warnings {
        tracing::info!(user = caller.0.name, %warning, "descriptor accepted with a warning");
    }
    let (owner, organization) = (caller.0.name, caller.0.organization);
    let all = api.parts.root.call(move |root, now, entropy| {
        let services = document.applications.iter().flat_map(|application| &application.services);
        root.check_secrets(organization, services.map(|service| &service.spec))?;
        root.create_applications(now, entropy, &owner, document.applications)?;
        Ok::<_, oak_control::root::Refusal>(visible(root, &Scope::OwnedBy(owner)))
    });
    list_answer(&all.await??)
}

/// `GET /api/application/<id>`.
pub(super) async fn show(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(id): Parameter<ApplicationId>,
) -> Answer {
    let scope = caller.scope();
    let found = api.parts.root.call(move |root, _, _| scope.application(root, id).cloned()).await??;
    plain(&found.record())
}

/// `PUT /api/application/<id>`: changes the description. Names stay; services have their own calls.
pub(super) async fn describe(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(id): Parameter<ApplicationId>,
    body: Object,
) -> Answer {
    let scope = caller.scope();
    let description = match body.0.get("application_desc") {
        None => None,
        Some(_) => Some(body.optional_text("application_desc", MAX_DESCRIPTION_BYTES)?.unwrap_or_default()),
    };
    let description = description.map(str::to_owned);
    let name = body.optional_text("application_name", 64)?.map(str::to_owned);
    let namespace = body.optional_text("application_namespace", 64)?.map(str::to_owned);
    let changed = api.parts.root.call(move |root, _, _| {
        let application = scope.application(root, id)?;
        let is_renamed = name.is_some_and(|name| name != application.name.as_str())
            || namespace.is_some_and(|namespace| namespace != application.namespace.as_str());
        if is_renamed {
            return Err(ApiError::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "name and namespace of an application are part of the addresses of its services and cannot be \
                 changed: create another application",
            ));
        }
        if let Some(description) = description {
            root.describe_application(id, description)?;
        }
        Ok(())
    });
    changed.await??;
    message("Application is updated")
}

/// `DELETE /api/application/<id>`: with its services and instances.
pub(super) async fn delete(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(id): Parameter<ApplicationId>,
) -> Answer {
    let scope = caller.scope();
    let deleted = api.parts.root.call(move |root, now, _| {
        scope.application(root, id)?;
        root.delete_application(now, id)
    });
    deleted.await??;
    message("Application Deleted")
}

/// `GET /api/applications/`: all for admins, the own ones for others.
pub(super) async fn list(State(api): State<Shared>, caller: Caller) -> Answer {
    let scope = caller.scope();
    list_answer(&api.parts.root.call(move |root, _, _| visible(root, &scope)).await?)
}

/// `GET /api/applications/<user id>`: the caller's own.
pub(super) async fn list_of_user(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(user): Parameter<String>,
) -> Answer {
    if user != caller.0.user.to_string() {
        return Err(ApiError::new(StatusCode::UNAUTHORIZED, "this is not the id of the user who asks"));
    }
    let scope = Scope::OwnedBy(caller.0.name);
    list_answer(&api.parts.root.call(move |root, _, _| visible(root, &scope)).await?)
}

fn visible(root: &Root, scope: &Scope) -> Vec<Application> {
    root.applications().filter(|application| scope.contains(application)).cloned().collect()
}

fn list_answer(applications: &[Application]) -> Answer {
    nested(&applications.iter().map(Application::record).collect::<Vec<_>>())
}
