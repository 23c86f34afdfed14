//! What is known about addresses.

use serde_json::{Value, json};

use super::Group;
use super::operation::get;
use super::schema::{anything, id, integer, list, object, open, optionally, reference, text};

pub(super) fn group() -> Group {
    let service = || text("Id of the service, or its four names with `.` or `_` between them");
    let address = || text("Address of a service or an instance, with `.` or `_` between the numbers");
    let family = || json!({ "type": "integer", "enum": [4, 6] });
    let count = json!({ "type": "integer", "minimum": 1, "maximum": 100 });
    let not_an_address = "that is not an IP address";
    let operations = vec![
        get("/api/net/service/{service}/instances", "Show a service and the addresses of its instances")
            .path_value("service", service())
            .answers(reference("NetworkService")),
        get("/api/net/service/ip/{address}/instances", "The same, by an address")
            .path_value("address", address())
            .answers(reference("NetworkService"))
            .may(400, not_an_address),
        get("/api/pubnet/service/netinfo/{service}", "Show the addresses of a service")
            .path_value("service", service())
            .answers(reference("NetworkInfo")),
        get("/api/pubnet/service/netinfo/ip/{address}", "The same, by an address")
            .path_value("address", address())
            .answers(reference("NetworkInfo"))
            .may(400, not_an_address),
        get("/api/pubnet/service/netinfo/available-ip", "Propose a free service address")
            .about("It is not held back for the caller.")
            .query("v", family())
            .answers(reference("FreeAddresses")),
        get("/api/pubnet/service/netinfo/available-ip/{count}", "Propose free service addresses")
            .about("They are not held back for the caller.")
            .path_value("count", count)
            .query("v", family())
            .answers(reference("FreeAddresses")),
    ];
    Group {
        name: "network information",
        about: "Addresses of services; also on port 10099",
        operations,
        schemas: vec![
            ("NetworkService", full()),
            ("NetworkInfo", info()),
            ("FreeAddresses", object([("available_service_ips", list(free()))])),
        ],
    }
}

/// `IpType` of the addresses of services.
pub(super) const POLICIES: &str =
    "What chooses the instance: `RR`, `Closest`, `LeastLoaded`, `Sticky`, `LocalFirst`";

pub(super) fn ip(kind: &str) -> Value {
    object([
        ("IpType", text(kind)),
        ("Address", text("IPv4")),
        ("Address_v6", text("The IPv6 address that goes with it")),
    ])
}

fn free() -> Value {
    let address = |family| json!({ "type": "string", "nullable": true, "description": family });
    object([
        ("IpType", text("`IPv4`, `IPv6`")),
        ("Address", address("IPv4")),
        ("Address_v6", address("IPv6")),
    ])
}

fn instance() -> Value {
    object([
        ("instance_number", integer("Number")),
        ("cluster_id", json!({ "type": "string", "nullable": true, "description": "Cluster it is in" })),
        ("instance_ip", text("Its address among the service addresses")),
        ("instance_ip_v6", text("The IPv6 address that goes with it")),
    ])
}

fn full() -> Value {
    let instance = optionally(
        instance(),
        [
            ("status", super::services::status()),
            ("host_ip", text("Address of its worker")),
            ("host_port", integer("Port of the overlay there")),
        ],
    );
    open(object([
        ("_id", id()),
        ("job_name", text("The four names with dots between them")),
        ("service_ip_list", list(ip(POLICIES))),
        ("instance_list", list(instance)),
        ("applicationID", anything("Application it belongs to")),
    ]))
}

fn info() -> Value {
    object([
        ("_id", id()),
        ("applicationID", id()),
        ("app_name", text("Name of its application")),
        ("app_ns", text("Namespace of its application")),
        ("service_name", text("Name")),
        ("service_ns", text("Namespace")),
        ("service_job_id", id()),
        ("service_ip_list", list(ip(POLICIES))),
        ("instance_list", list(instance())),
    ])
}
