//! Clusters, workers, and the tokens with which they join.

use serde_json::{Value, json};

use super::Group;
use super::operation::{Operation, delete, get, post, put};
use super::schema::{
    boolean, id, integer, list, nothing, number, object, open, optionally, reference, text, word,
};

const AVAILABILITY: [&str; 3] = ["open", "cordoned", "draining"];

pub(super) fn group() -> Group {
    let operations = vec![
        get("/api/clusters", "List clusters").open().answers(list(reference("Cluster"))),
        get("/api/clusters/active", "List connected clusters").open().answers(list(reference("Cluster"))),
        get("/api/v1/clusters", "List clusters")
            .about("The same as `/api/clusters`.")
            .open()
            .answers(list(reference("Cluster"))),
        get("/api/clusters/{id}/workers", "List the workers of a cluster")
            .restricted()
            .path_value("id", text("Id or name of the cluster"))
            .answers(list(reference("Worker"))),
        removal(delete("/api/clusters/{id}", "Remove a cluster"))
            .about(
                "For admins: a cluster that is gone for good. What it has is placed in other clusters. It is refused when it comes \
                 back, and joins again only with a new token.",
            )
            .path_value("id", text("Id or name of the cluster"))
            .may(409, "it is connected or has instances, and the removal is not forced"),
        removal(delete("/api/clusters/{id}/workers/{worker}", "Remove a worker"))
            .about(
                "For admins: a worker that is gone for good. What it has is placed on other workers. Answered when its cluster has \
                 stored it; from then on the worker is refused, and joins again only with a new token.",
            )
            .path_value("id", text("Id or name of the cluster"))
            .path_value("worker", text("Id or name of the worker"))
            .may(409, "it is connected or has instances, and the removal is not forced; or it is connected and runs what may run only once")
            .may(503, "the cluster is not connected")
            .may(504, "the cluster did not answer in time; it may still do so"),
        get("/api/workers/{id}", "Show a worker and what is on it")
            .restricted()
            .path_value("id", text("Id or name of the worker"))
            .answers(reference("WorkerDetails"))
            .may(409, "several workers have this name"),
        put("/api/workers/{id}/availability", "Open, close or empty a worker")
            .about("For admins. Answered when the cluster of the worker has stored it.")
            .restricted()
            .path_value("id", text("Id or name of the worker"))
            .takes(object([("availability", word("What it shall be", &AVAILABILITY))]))
            .answers(reference("WorkerDetails"))
            .may(409, "several workers have this name, or its cluster is not connected")
            .may(504, "the cluster did not confirm in time; it may still do so"),
        post("/api/tokens", "Make a join token")
            .about("For admins.")
            .restricted()
            .takes(reference("TokenRequest"))
            .answers(reference("JoinToken"))
            .may(404, "there is no such cluster")
            .may(409, "no cluster has joined, or the one asked for is not connected")
            .may(503, "the cluster did not confirm the token in time"),
    ];
    Group {
        name: "clusters and workers",
        about: "The machines",
        operations,
        schemas: vec![
            ("Cluster", cluster()),
            ("Worker", worker()),
            ("WorkerDetails", worker_details()),
            ("TokenRequest", token_request()),
            ("JoinToken", join_token()),
        ],
    }
}

/// What both removals have in common.
fn removal(operation: Operation) -> Operation {
    operation
        .restricted()
        .query("force", boolean("Remove it with what it has: the caller says that the machine is gone"))
        .may(400, "the query is not understood")
}

fn cluster() -> Value {
    let history =
        || list(object([("value", number("Percent")), ("timestamp", number("Seconds since 1970"))]));
    let texts = |about| list(text(about));
    object([
        ("_id", id()),
        ("candidate_name", text("Name")),
        ("candidate_location", text("`latitude,longitude,radius`")),
        ("cluster_name", text("Name")),
        ("cluster_location", text("`latitude,longitude,radius`")),
        ("ip", text("Address")),
        ("port", text("Port of its link")),
        ("active", boolean("Whether it is connected")),
        ("active_nodes", integer("Connected workers")),
        ("cpu_percent", number("Average load")),
        ("aggregated_cpu_percent", number("Average load")),
        ("memory_percent", number("Average load")),
        ("vcpus", integer("Cores")),
        ("total_cpu_cores", integer("Cores")),
        ("memory", integer("MiB that are not reserved")),
        ("memory_in_mb", integer("MiB that are not reserved")),
        ("vgpus", integer("GPUs")),
        ("total_gpu_cores", integer("GPUs")),
        ("vram", integer("MiB")),
        ("vram_percent", number("Load")),
        ("gpu_temp", number("Degrees Celsius")),
        ("gpu_percent", number("Load")),
        ("gpu_drivers", texts("Driver")),
        ("virtualization", texts("One entry per worker and kind")),
        ("supported_addons", texts("Name")),
        ("csi_drivers", texts("Name")),
        ("cpu_history", history()),
        ("memory_history", history()),
        ("last_modified_timestamp", number("Last sign of life, seconds since 1970")),
    ])
}

fn resources() -> Value {
    open(object([
        ("cpu_millis", integer("Thousandths of a core")),
        ("memory_mib", integer("MiB")),
        ("storage_mib", integer("MiB")),
    ]))
}

fn worker() -> Value {
    let facts = open(object([
        ("name", text("Name")),
        ("address", text("Address")),
        ("architecture", text("`amd64`, `arm64` …")),
        ("capacity", resources()),
        ("virtualization", list(text("`docker` …"))),
        ("version", text("Version of its program")),
    ]));
    open(optionally(
        object([
            ("id", id()),
            ("facts", facts),
            ("reserved", resources()),
            ("instances", integer("Instances of which something is there")),
            ("connected", boolean("Whether its cluster hears from it")),
            ("host_ports", list(json!({}))),
            ("availability", word("Whether it takes instances", &AVAILABILITY)),
            ("cpu_percent", number("Load")),
            ("memory_percent", number("Load")),
        ]),
        [("instances_left", integer("While it is emptied: instances of which something is still there"))],
    ))
}

fn worker_details() -> Value {
    let instance = object([
        ("microserviceID", id()),
        ("job_name", text("The four names of the service")),
        ("instance_number", integer("Number")),
        ("status", super::services::status()),
        ("status_detail", text("Reason, for people")),
        ("one_shot", boolean("Whether it ends by itself")),
    ]);
    let more = object([
        ("cluster_id", id()),
        ("cluster_name", text("Name of its cluster")),
        ("instance_list", list(instance)),
    ]);
    json!({ "allOf": [reference("Worker"), open(more)] })
}

fn token_request() -> Value {
    let life = json!({ "type": "integer", "minimum": 1, "maximum": 604_800, "default": 3600 });
    let mut cluster =
        nothing("Name or id, for a worker only; may be missing while there is only one cluster");
    cluster["example"] = json!("local");
    let mut request = optionally(
        object([("role", word("What joins", &["cluster", "worker"]))]),
        [("cluster", cluster), ("ttl_seconds", life)],
    );
    request["example"] = json!({ "role": "worker", "cluster": "local", "ttl_seconds": 3600 });
    request
}

fn join_token() -> Value {
    object([
        ("token", text("The token; works once")),
        ("expires_at", integer("Seconds since 1970")),
        ("join", text("Command for the new machine")),
    ])
}
