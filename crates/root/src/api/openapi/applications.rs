//! Applications, and the descriptors they are made from.

use serde_json::{Value, json};

use super::Group;
use super::operation::{delete, get, post, put};
use super::schema::{boolean, id, integer, list, object, object_id, open, optionally, reference, text, word};

pub(super) fn group() -> Group {
    let operations = vec![
        post("/api/application", "Create applications with their services")
            .about(
                "Everything in the descriptor or nothing. Nothing is deployed yet. Answers all applications of the \
                 caller. With `dry_run` nothing is created, and the answer is the plan.",
            )
            .restricted()
            .query("dry_run", boolean("Only tell what would be created, and where its instances would go"))
            .query("instances", planned_instances())
            .takes(reference("Descriptor"))
            .answers_nested_or(list(reference("Application")), reference("Plan"))
            .may(400, "the query is not understood")
            .may(409, "an application or a service address exists already, or the quota is used up"),
        get("/api/applications", "List applications")
            .about("All of them for admins, the own ones for others.")
            .answers_nested(list(reference("Application"))),
        get("/api/applications/{user}", "List the own applications")
            .about("The id must be that of the caller.")
            .answers_nested(list(reference("Application")))
            .may(401, "the id is not that of the caller, or the token is missing, old or revoked"),
        get("/api/application/{id}", "Show an application").answers(reference("Application")),
        put("/api/application/{id}", "Change the description of an application")
            .about("Name and namespace may be sent as they are, and cannot be changed.")
            .restricted()
            .takes(optionally(
                object([]),
                [
                    ("application_desc", text("New description")),
                    ("application_name", text("Present name")),
                    ("application_namespace", text("Present namespace")),
                ],
            )),
        delete("/api/application/{id}", "Delete an application")
            .about("With its services and their instances.")
            .restricted(),
    ];
    Group {
        name: "applications",
        about: "Sets of services, created by descriptors",
        operations,
        schemas: vec![
            ("Message", object([("message", text("`ok` or a sentence"))])),
            ("Application", application()),
            ("Plan", plan()),
            ("Descriptor", descriptor()),
            ("Microservice", microservice()),
        ],
    }
}

fn application() -> Value {
    open(object([
        ("_id", object_id()),
        ("applicationID", id()),
        ("application_name", text("Name")),
        ("application_namespace", text("Namespace")),
        ("application_desc", text("Description")),
        ("userId", text("Name of the user it belongs to")),
        ("microservices", list(id())),
    ]))
}

fn planned_instances() -> Value {
    json!({
        "type": "integer",
        "minimum": 0,
        "maximum": u32::MAX,
        "description": "With `dry_run`: instances of each service that has no `replicas`; 1 if missing",
    })
}

/// The answer to a dry run.
fn plan() -> Value {
    let place = json!({ "type": "object", "nullable": true, "additionalProperties": true });
    let instance = optionally(
        object([
            ("instance_number", integer("Number")),
            ("place", described("Cluster and worker it would get; nothing if there is none", place)),
        ]),
        [("explanation", reference("Explanation"))],
    );
    let service = object([
        ("job_name", text("The four names of the service with dots between them")),
        ("instances", list(instance)),
    ]);
    object([
        ("dry_run", boolean("Always true")),
        ("all_placed", boolean("Whether there is room for everything")),
        ("warnings", list(text("What is not as it seems"))),
        ("services", list(service)),
    ])
}

/// The frame; what a service may hold is a document of its own.
fn descriptor() -> Value {
    let application = open(optionally(
        object([
            ("application_name", name("Name")),
            ("application_namespace", name("Namespace")),
            ("microservices", list(reference("Microservice"))),
        ]),
        [
            ("application_desc", text("Description")),
            ("applicationID", text("The application to add services to; otherwise missing or empty")),
        ],
    ));
    let mut applications = list(application);
    applications["maxItems"] = json!(100);
    let mut descriptor = open(object([
        ("sla_version", text("`v2.0`")),
        ("customerID", text("Not used: the caller owns what it creates")),
        ("applications", applications),
    ]));
    let application =
        json!({ "application_name": "shop", "application_namespace": "test", "microservices": [example()] });
    descriptor["example"] =
        json!({ "sla_version": "v2.0", "customerID": "Admin", "applications": [application] });
    descriptor
}

fn name(about: &str) -> Value {
    json!({ "type": "string", "pattern": "^[a-zA-Z0-9]{1,30}$", "description": about })
}

/// Says what an object or a list is for.
fn described(about: &str, mut schema: Value) -> Value {
    schema["description"] = json!(about);
    schema
}

/// A service that can be created as it is.
fn example() -> Value {
    json!({
        "microservice_name": "web",
        "microservice_namespace": "test",
        "virtualization": "container",
        "code": "docker.io/library/nginx:latest",
        "memory": 100,
        "port": "8080:80",
    })
}

fn microservice() -> Value {
    let mut microservice = open(optionally(
        object([
            ("microservice_name", name("Name")),
            ("microservice_namespace", name("Namespace")),
            ("virtualization", text("`container`")),
            ("code", text("Image, such as `docker.io/library/nginx:latest`")),
        ]),
        [
            ("cmd", list(text("Command and arguments"))),
            ("environment", list(text("`NAME=value`"))),
            ("memory", integer("MiB")),
            ("vcpus", integer("Cores")),
            ("storage", integer("MiB")),
            ("port", text("`80:80/tcp;53:53/udp`")),
            ("one_shot", boolean("Ends by itself")),
            ("at_most_one", boolean("Never two processes of an instance")),
            ("privileged", boolean("With all capabilities and devices")),
            ("exported", boolean("Services of other organisations may call it")),
            ("arch", list(word("Architecture", &["amd64", "arm64", "arm", "riscv64"]))),
            (
                "constraints",
                described(
                    "Where it may run",
                    list(open(object([("type", text("`direct`, `clusters`, …"))]))),
                ),
            ),
            ("volumes", described("Directories that outlive it", list(volume()))),
            ("added_files", list(text("`/path=text`, or `/path=base64:…`"))),
            ("healthcheck", described("How to see that it works: `http`, `tcp` or `command`", healthcheck())),
            ("restart", word("When it is started again", &["", "always", "on-failure", "never"])),
            ("stop_grace_s", integer("Seconds between the stop signal and SIGKILL")),
            ("secrets", described("Secrets it gets", list(secret()))),
            ("registry_credentials", text("Registry whose credentials pull the image")),
            ("replicas", super::services::replicas()),
            ("update", described("How its instances are replaced", update())),
        ],
    ));
    microservice["example"] = example();
    microservice
}

fn volume() -> Value {
    let config = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    optionally(
        object([("volume_id", text("Name")), ("csi_driver", text("Such as `csi.oakestra.io/hostpath`"))]),
        [("mount_path", text("Place inside the container")), ("config", config)],
    )
}

/// Exactly one of `http`, `tcp` and `command`.
fn healthcheck() -> Value {
    let port = || json!({ "type": "integer", "minimum": 1, "maximum": u16::MAX });
    let scheme = word("What it speaks", &["http"]);
    optionally(
        object([]),
        [
            (
                "http",
                optionally(object([("port", port())]), [("path", text("Default `/`")), ("scheme", scheme)]),
            ),
            ("tcp", object([("port", port())])),
            ("command", list(text("A word of the command line"))),
            ("interval_s", integer("Seconds between two checks")),
            ("timeout_s", integer("Seconds after which a check has failed")),
            ("retries", integer("Failures in a row after which it is restarted")),
            ("start_period_s", integer("Seconds after the start in which failures do not count")),
        ],
    )
}

fn secret() -> Value {
    optionally(
        object([("name", text("Name"))]),
        [("env", text("Variable it is put into")), ("file", text("Or file"))],
    )
}

/// How instances are replaced.
fn update() -> Value {
    optionally(
        object([]),
        [
            ("order", word("What comes first", &["start-first", "stop-first"])),
            ("parallel", integer("Instances replaced at the same time")),
            ("min_ready_s", integer("Seconds a new instance must run before it counts")),
            ("deadline_s", integer("Seconds in which it must")),
        ],
    )
}
