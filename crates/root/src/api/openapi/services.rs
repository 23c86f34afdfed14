//! Services.

use oak_model::{MAX_REPLICAS, RolloutState, Status};
use serde_json::{Value, json};

use super::Group;
use super::network::{POLICIES, ip};
use super::operation::{delete, get, post, put};
use super::schema::{id, integer, list, nothing, object, object_id, open, optionally, reference, text, word};

pub(super) fn group() -> Group {
    let operations = vec![
        post("/api/service", "Add services to an application")
            .about("The descriptor holds one application with its `applicationID`. All services or none.")
            .restricted()
            .takes(reference("Descriptor"))
            .answers(reference("CreatedServices"))
            .may(404, "there is no such application")
            .may(409, "a service or its address exists already, or the quota is used up"),
        get("/api/services", "List services")
            .about("All of them for admins, the own ones for others.")
            .answers_nested(list(reference("Service"))),
        get("/api/services/{application}", "List the services of an application")
            .answers_nested(list(reference("Service"))),
        get("/api/service/{id}", "Show a service with its instances").answers_nested(reference("Service")),
        put("/api/service/{id}", "Change a service")
            .about(
                "What it shall be from now on: a descriptor with exactly this service, the service alone, or its changed \
                 record. Its instances are replaced one after the other; when that fails, the service is again what it \
                 was.",
            )
            .restricted()
            .takes(json!({ "anyOf": [reference("Microservice"), reference("Descriptor")] }))
            .answers(reference("Service"))
            .may(409, "another update is under way, or the quota is used up"),
        put("/api/service/{id}/scale", "Set how many instances a service keeps by itself")
            .restricted()
            .takes(object([("replicas", replicas())]))
            .answers(reference("Scaled"))
            .may(409, "the quota of the organisation is used up"),
        delete("/api/service/{id}/update", "Call an update off, or take the last one back")
            .restricted()
            .answers(reference("Service"))
            .may(409, "there is nothing to go back to"),
        delete("/api/service/{id}", "Delete a service").about("With its instances.").restricted(),
    ];
    Group {
        name: "services",
        about: "What runs in instances",
        operations,
        schemas: vec![
            ("CreatedServices", created()),
            ("Service", service()),
            ("Rollout", rollout()),
            ("Scaled", scaled()),
        ],
    }
}

pub(super) fn status() -> Value {
    let words: Vec<_> = Status::ALL.iter().map(|status| status.as_str()).collect();
    word("Phase of its life", &words)
}

pub(super) fn replicas() -> Value {
    json!({ "type": "integer", "minimum": 0, "maximum": MAX_REPLICAS, "description": "Instances it keeps by itself" })
}

fn scaled() -> Value {
    let numbers = |about| list(integer(about));
    object([
        ("microserviceID", id()),
        ("replicas", replicas()),
        ("created", numbers("Number of a new instance")),
        ("removed", numbers("Number of an instance that is taken down")),
    ])
}

/// The update under way, or the last one.
fn rollout() -> Value {
    let states =
        [RolloutState::Running, RolloutState::RollingBack, RolloutState::Done, RolloutState::RolledBack];
    object([
        ("state", word("How far it is", &states.map(RolloutState::as_str))),
        ("revision", integer("Where it leads")),
        ("from_revision", integer("Where it began")),
        ("updated", integer("Instances that are done")),
        ("total", integer("Instances")),
        ("detail", text("The same for people")),
        ("reason", nothing("Why it is rolled back")),
    ])
}

fn created() -> Value {
    let entry = object([("service_name", text("Name")), ("status", integer("200"))]);
    object([
        ("job_id", text("Id of the last service that was created; empty if there was none")),
        ("deployed_services", list(entry)),
        ("failed_services", list(json!({}))),
    ])
}

/// The descriptor as it was sent, and these.
fn service() -> Value {
    let known = object([
        ("_id", object_id()),
        ("microserviceID", id()),
        ("applicationID", id()),
        ("job_name", text("The four names with dots between them")),
        ("app_name", text("Name of its application")),
        ("app_ns", text("Namespace of its application")),
        ("microservice_name", text("Name")),
        ("microservice_namespace", text("Namespace")),
        ("service_name", text("Name")),
        ("service_ns", text("Namespace")),
        ("image", text("Image")),
        ("RR_ip", text("Address behind which its instances are balanced")),
        ("next_instance_progressive_number", integer("Number of the next instance")),
        ("instance_list", list(reference("Instance"))),
    ]);
    open(optionally(
        known,
        [
            ("revision", integer("Grows with every change")),
            ("replicas", replicas()),
            ("rollout", reference("Rollout")),
            ("status", status()),
            ("status_detail", text("Reason; missing before the first deployment")),
            ("service_ip_list", list(ip(POLICIES))),
            ("RR_ip_v6", text("The IPv6 address that goes with it")),
        ],
    ))
}
