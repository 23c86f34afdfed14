//! Which path leads to which handler.

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, delete, get, post, put};

use super::error::ApiError;
use super::{
    Shared, applications, audit, auth, clusters, cors, disk, events, exec, explain, forgotten, guard, health,
    instances, logs, members, organizations, secrets, services, tokens, trail, updates, users, workers,
};
use crate::dashboard;

/// All routes with everything around them.
pub(super) fn build(api: Shared) -> Router {
    let mut router = Router::new().route("/", get(dashboard::page));
    for (path, methods) in routes() {
        // Old clients use one form or the other; a redirect would break the dashboard's preflights.
        router = router.route(&format!("{path}/"), methods.clone()).route(path, methods);
    }
    router
        .fallback(|| async { ApiError::not_found("there is nothing at this path") })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(from_fn_with_state(api.clone(), disk::refuse_changes))
        .layer(from_fn_with_state(api.clone(), trail::record))
        .layer(from_fn_with_state(api.clone(), guard::guard))
        .layer(from_fn(cors::allow_every_origin))
        .with_state(api)
}

/// Every path but `/`, with its handlers.
pub(super) fn routes() -> Vec<(&'static str, MethodRouter<Shared>)> {
    vec![
        ("/api/auth/login", post(auth::login)),
        ("/api/auth/refresh", post(auth::refresh)),
        ("/api/auth/register", post(members::register)),
        ("/api/permission/{name}", get(users::permissions)),
        ("/api/user", post(forgotten::request).put(forgotten::finish)),
        (
            "/api/user/{name}",
            get(users::show).post(users::change_password).put(members::change).delete(members::delete),
        ),
        ("/api/users", get(members::list)),
        ("/api/users/{organization}", get(members::list_of_organization)),
        ("/api/organization", get(organizations::list).post(organizations::create)),
        (
            "/api/organization/{id}",
            get(organizations::show).put(organizations::change).delete(organizations::delete),
        ),
        ("/api/audit", get(audit::list)),
        ("/api/application", post(applications::create)),
        (
            "/api/application/{id}",
            get(applications::show).put(applications::describe).delete(applications::delete),
        ),
        ("/api/applications", get(applications::list)),
        ("/api/applications/{user}", get(applications::list_of_user)),
        ("/api/service", post(services::create)),
        ("/api/service/{id}", get(services::show).put(updates::change).delete(services::delete)),
        ("/api/service/{id}/scale", put(updates::scale)),
        ("/api/service/{id}/update", delete(updates::roll_back)),
        ("/api/services", get(services::list)),
        ("/api/services/{application}", get(services::list_of_application)),
        ("/api/service/{id}/instance", post(instances::deploy)),
        ("/api/service/{id}/instance/{number}", delete(instances::undeploy)),
        ("/api/service/{id}/instance/{number}/logs", get(logs::stream)),
        ("/api/service/{id}/explain", get(explain::one_more)),
        ("/api/service/{id}/instance/{number}/explain", get(explain::instance)),
        ("/api/service/{id}/instance/{number}/exec", get(exec::open)),
        ("/api/service/{id}/events", get(events::of_service)),
        ("/api/application/{id}/events", get(events::of_application)),
        ("/api/events", get(events::stream)),
        ("/api/secrets", get(secrets::list)),
        ("/api/secrets/{name}", get(secrets::show).put(secrets::put).delete(secrets::delete)),
        ("/api/registry-credentials", get(secrets::list_registries)),
        (
            "/api/registry-credentials/{host}",
            get(secrets::show_registry).put(secrets::put_registry).delete(secrets::delete_registry),
        ),
        ("/api/clusters", get(clusters::list)),
        ("/api/clusters/active", get(clusters::list_active)),
        ("/api/clusters/{id}/workers", get(clusters::workers)),
        ("/api/workers/{id}", get(workers::show)),
        ("/api/workers/{id}/availability", put(workers::set_availability)),
        ("/api/tokens", post(tokens::create)),
        ("/healthz", get(health::alive)),
        ("/readyz", get(health::ready)),
        (dashboard::STYLE_PATH, get(dashboard::style)),
        (dashboard::SCRIPT_PATH, get(dashboard::script)),
        (dashboard::RESET_PATH, get(dashboard::reset)),
        (dashboard::RESET_SCRIPT_PATH, get(dashboard::reset_script)),
    ]
}
