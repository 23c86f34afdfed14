//! Applications and services of this cluster. Those of the root can be looked at, local ones changed.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use oak_control::cluster::Cluster;
use oak_model::{ApplicationId, ServiceId, sla};
use serde_json::Value;

use super::answer::{Answer, Refused, message, plain};
use super::{Shared, record};

/// `GET /api/applications`.
pub(super) async fn list(State(local): State<Shared>) -> Answer {
    plain(&local.engine.call(|cluster, _, _| all(cluster)).await?)
}

/// `POST /api/application`: creates everything a descriptor asks for, or nothing.
pub(super) async fn create(State(local): State<Shared>, body: Bytes) -> Answer {
    let document = sla::parse(&body)?;
    let created = local.engine.call(move |cluster, now, entropy| {
        cluster.create_local(now, entropy, document.applications).map(|_| all(cluster))
    });
    plain(&created.await??)
}

/// `GET /api/application/<id>`.
pub(super) async fn show(State(local): State<Shared>, Path(id): Path<String>) -> Answer {
    let id: ApplicationId = parse(&id)?;
    let found = local.engine.call(move |cluster, _, _| {
        cluster.applications().find(|known| known.application.id == id).map(record::application)
    });
    plain(&found.await?.ok_or_else(|| Refused::not_found(format!("application {id} is not here")))?)
}

/// `DELETE /api/application/<id>`: with its services and instances.
pub(super) async fn delete(State(local): State<Shared>, Path(id): Path<String>) -> Answer {
    let id: ApplicationId = parse(&id)?;
    local.engine.call(move |cluster, now, _| cluster.delete_local(now, id)).await??;
    message("Application Deleted")
}

/// `POST /api/service`.
pub(super) async fn add_services() -> Answer {
    Err(Refused::new(
        StatusCode::NOT_IMPLEMENTED,
        "a cluster cannot add services to an application: create another application, or wait for the root",
    ))
}

/// `GET /api/services`.
pub(super) async fn list_services(State(local): State<Shared>) -> Answer {
    let services = local.engine.call(|cluster, _, _| {
        cluster.services().map(|service| record::service(cluster, service)).collect::<Vec<_>>()
    });
    plain(&services.await?)
}

/// `GET /api/services/<application>`.
pub(super) async fn list_services_of(State(local): State<Shared>, Path(id): Path<String>) -> Answer {
    let id: ApplicationId = parse(&id)?;
    let services = local.engine.call(move |cluster, _, _| {
        let of_application = cluster.services().filter(|service| service.application == id);
        of_application.map(|service| record::service(cluster, service)).collect::<Vec<_>>()
    });
    plain(&services.await?)
}

/// `GET /api/service/<id>`.
pub(super) async fn show_service(State(local): State<Shared>, Path(id): Path<String>) -> Answer {
    let id: ServiceId = parse(&id)?;
    let found = local
        .engine
        .call(move |cluster, _, _| cluster.service(id).map(|service| record::service(cluster, service)));
    plain(&found.await?.ok_or_else(|| Refused::not_found(format!("service {id} is not here")))?)
}

/// `DELETE /api/service/<id>`.
pub(super) async fn delete_service() -> Answer {
    Err(Refused::new(
        StatusCode::NOT_IMPLEMENTED,
        "a cluster cannot delete a single service: delete its instances or the whole application",
    ))
}

fn all(cluster: &Cluster) -> Vec<Value> {
    cluster.applications().map(record::application).collect()
}

/// Reads an identifier of a path.
pub(super) fn parse<T: std::str::FromStr>(text: &str) -> Result<T, Refused>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| Refused::bad_request(error.to_string()))
}
