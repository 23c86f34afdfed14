//! Objects with the keys that clients of the root decode.

use oak_control::cluster::{Cluster, KnownApplication, Placed};
use oak_model::{Service, Status};
use serde_json::{Value, json};

pub(super) fn application(known: &KnownApplication) -> Value {
    let application = &known.application;
    json!({
        "_id": { "$oid": application.id },
        "applicationID": application.id,
        "application_name": application.name,
        "application_namespace": application.namespace,
        "application_desc": application.description,
        "microservices": application.services,
        "userId": application.owner,
        "local": known.local,
    })
}

pub(super) fn service(cluster: &Cluster, service: &Service) -> Value {
    let name = &service.job_name;
    let placed: Vec<_> = cluster.instances_of(service.id).collect();
    let added = [
        ("_id", json!({ "$oid": service.id })),
        ("microserviceID", json!(service.id)),
        ("applicationID", json!(service.application)),
        ("job_name", json!(name.to_string())),
        ("app_name", json!(name.application)),
        ("app_ns", json!(name.application_namespace)),
        ("service_name", json!(name.service)),
        ("service_ns", json!(name.service_namespace)),
        ("RR_ip", json!(service.address)),
        ("next_instance_progressive_number", json!(service.next_number)),
        ("status", json!(status(&placed).map(Status::as_str).unwrap_or_default())),
        ("instance_list", placed.iter().map(|placed| instance(cluster, placed)).collect()),
    ];
    let mut record = service.document.clone();
    record.extend(added.into_iter().map(|(key, value)| (key.to_owned(), value)));
    Value::Object(record)
}

fn status(placed: &[&Placed]) -> Option<Status> {
    let other = placed.iter().find(|placed| placed.status != Status::Running);
    other.or_else(|| placed.first()).map(|placed| placed.status)
}

fn instance(cluster: &Cluster, placed: &Placed) -> Value {
    let worker =
        placed.placement.and_then(|place| cluster.workers().find(|worker| worker.id == place.worker));
    json!({
        "instance_number": placed.desired.key.number,
        "status": placed.status.as_str(),
        "status_detail": if placed.removing { "being removed" } else { &placed.detail },
        "worker_id": worker.map(|worker| worker.id),
        "worker_name": worker.map(|worker| &worker.facts.name),
        "host_ip": worker.map(|worker| &worker.facts.address),
        "publicip": worker.map(|worker| &worker.facts.address),
        "instance_ip": placed.desired.instance_address,
    })
}
