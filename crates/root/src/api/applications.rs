//! Applications.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use oak_control::root::{Application, Root};
use oak_model::ApplicationId;
use oak_model::sla::{self, SlaDocument};
use serde::Deserialize;

use super::Shared;
use super::answer::{Answer, message, nested, plain};
use super::body::{Descriptor, Object};
use super::caller::Caller;
use super::error::ApiError;
use super::parameter::Parameter;
use super::permission::Action;
use super::record;

/// Longest description, in bytes.
const MAX_DESCRIPTION_BYTES: usize = 16 * 1024;

/// `POST /api/application/`: creates everything a descriptor asks for, or nothing; answers all applications of the
/// caller, see [`mine`].
///
/// With `?dry_run=true` nothing is created: the answer is the plan, with the `replicas` of each service, or `instances`
/// (1) of it.
pub(super) async fn create(
    State(api): State<Shared>,
    caller: Caller,
    wanted: Result<Query<Wanted>, QueryRejection>,
    body: Descriptor,
) -> Answer {
    let rule = "the query may hold dry_run=true and with it instances=<number of each service>";
    let Query(wanted) = wanted.map_err(|_| ApiError::bad_request(rule))?;
    if !wanted.dry_run && wanted.instances.is_some() {
        return Err(ApiError::bad_request(rule));
    }
    let document = sla::parse(&body.0)?;
    caller.require(Action::CreateApplications)?;
    if wanted.dry_run {
        return plan(&api, caller, document, wanted.instances.unwrap_or(1)).await;
    }
    for warning in &document.warnings {
        tracing::info!(user = caller.0.name, %warning, "descriptor accepted with a warning");
    }
    let (owner, scope) = (caller.owner(), mine(&caller));
    let secrets = caller.secret_owner();
    let all = api.parts.root.call(move |root, now, entropy| {
        let services = document.applications.iter().flat_map(|application| &application.services);
        root.check_secrets(&secrets, services.map(|service| &service.spec))?;
        root.create_applications(now, entropy, &owner, document.applications)?;
        Ok::<_, oak_control::root::Refusal>(visible(root, scope))
    });
    list_answer(&all.await??)
}

/// What the query of a new application may say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    #[serde(default)]
    dry_run: bool,
    instances: Option<u32>,
}

/// What a descriptor would do.
async fn plan(api: &Shared, caller: Caller, document: SlaDocument, instances: u32) -> Answer {
    let warnings: Vec<_> = document.warnings.iter().map(ToString::to_string).collect();
    let (owner, secrets) = (caller.owner(), caller.secret_owner());
    let planned = api.parts.root.call(move |root, now, entropy| {
        let services = document.applications.iter().flat_map(|application| &application.services);
        root.check_secrets(&secrets, services.map(|service| &service.spec))?;
        root.plan(now, entropy, &owner, document.applications, instances)
    });
    plain(&record::plan(&planned.await??, &warnings))
}

/// `GET /api/application/<id>`.
pub(super) async fn show(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(id): Parameter<ApplicationId>,
) -> Answer {
    let scope = caller.view();
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
        Ok::<_, ApiError>(root.delete_application(now, id)?)
    });
    deleted.await??;
    message("Application Deleted")
}

/// `GET /api/applications/`: all that the caller may see.
pub(super) async fn list(State(api): State<Shared>, caller: Caller) -> Answer {
    let scope = caller.view();
    list_answer(&api.parts.root.call(move |root, _, _| visible(root, |found| scope.contains(found))).await?)
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
    let scope = mine(&caller);
    list_answer(&api.parts.root.call(move |root, _, _| visible(root, scope)).await?)
}

/// What a user calls the own applications: those it created in the organisation it logged in to, and what it shares
/// there with others.
fn mine(caller: &Caller) -> impl Fn(&Application) -> bool + Send + 'static {
    let (scope, owner, in_root) = (caller.view(), caller.owner(), caller.0.in_root);
    move |application| {
        application.organization == owner.organization
            && (application.owner == owner.user || !in_root)
            && scope.contains(application)
    }
}

fn visible(root: &Root, is_meant: impl Fn(&Application) -> bool) -> Vec<Application> {
    root.applications().filter(|application| is_meant(application)).cloned().collect()
}

fn list_answer(applications: &[Application]) -> Answer {
    nested(&applications.iter().map(Application::record).collect::<Vec<_>>())
}
