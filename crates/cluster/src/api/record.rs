//! Objects with the keys that clients of the root decode.

use oak_control::cluster::{Cluster, KnownApplication, Placed};
use oak_model::{Service, Status};
use serde_json::{Value, json};

pub(super) fn application(known: &KnownApplication) -> Value {
    let mut record = known.application.record();
    record.insert("local".to_owned(), json!(known.local));
    Value::Object(record)
}

pub(super) fn service(cluster: &Cluster, service: &Service) -> Value {
    let placed: Vec<_> = cluster.instances_of(service.id).collect();
    let mut record = service.clone().into_record();
    let mut put = |key: &str, value| record.insert(key.to_owned(), value);
    put("status", json!(status(&placed).map(Status::as_str).unwrap_or_default()));
    put("instance_list", placed.iter().map(|placed| instance(cluster, placed)).collect());
    Value::Object(record)
}

fn status(placed: &[&Placed]) -> Option<Status> {
    let other = placed.iter().find(|placed| placed.status != Status::Running);
    other.or_else(|| placed.first()).map(|placed| placed.status)
}

fn instance(cluster: &Cluster, placed: &Placed) -> Value {
    let worker = placed.placement.and_then(|place| cluster.worker(place.worker));
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
