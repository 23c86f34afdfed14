//! Instances and their output.

use serde_json::{Value, json};

use super::Group;
use super::operation::{Operation, delete, get, post};
use super::schema::{boolean, id_or_empty, integer, list, number, object, open, reference, text, word};

pub(super) fn group() -> Group {
    let number = || json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX });
    let number_or_all = json!({ "type": "integer", "minimum": -1, "maximum": u32::MAX });
    let lines =
        json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX, "description": "Only the last lines" });
    let all = || boolean("All clusters and workers, not only the first ones");
    let operations = vec![
        post("/api/service/{id}/instance", "Deploy one more instance")
            .restricted()
            .may(409, "the quota of the organisation is used up")
            .about(
                "Answers when the instance is stored; its status says what becomes of it. A body is ignored.",
            )
            .answers(object([
                ("message", text("`ok`")),
                ("instance_number", integer("Number of the instance")),
            ])),
        delete("/api/service/{id}/instance/{number}", "Take an instance down")
            .restricted()
            .about("-1 means all. One that is down already is no error.")
            .path_value("number", number_or_all)
            .may(400, "that is not a number"),
        get("/api/service/{id}/explain", "Tell where one more instance would go, or why nowhere")
            .about("With the numbers of every worker, and the smallest change that would help.")
            .query("all", all())
            .answers(reference("Explanation"))
            .may(400, "the query is not understood"),
        get("/api/service/{id}/instance/{number}/explain", "Tell why an instance is where it is, or nowhere")
            .about("With the numbers of every worker, and the smallest change that would help.")
            .path_value("number", number())
            .query("all", all())
            .answers(reference("Explanation"))
            .may(400, "the query or the number is not understood"),
        get("/api/service/{id}/instance/{number}/logs", "Read the output of an instance")
            .about(
                "Standard output and standard error: text, or server-sent events (one per line, with `timestamp` and \
                 `text`; `Last-Event-ID` resumes) with `format=sse` or `Accept: text/event-stream`. Events follow unless \
                 `follow=false`. It is cut off when the caller may not see it any more.",
            )
            .path_value("number", number())
            .query("tail", lines)
            .query("follow", boolean("Go on with what comes"))
            .query("since", text("Only what was written in the last `10m`, `2h` …, or from a time of RFC 3339 on"))
            .query("timestamps", boolean("Each line begins with its time"))
            .query("download", boolean("As a file; not with `follow` or events"))
            .query("format", word("Form of the answer", &["text", "sse"]))
            .answers_either("text/plain; charset=utf-8", "text/event-stream")
            .may(409, "the instance has no output yet")
            .may(502, "the worker failed to read it")
            .may(429, "the caller has 32 outputs open")
            .may(503, "a link on the way is down, or 128 outputs are open"),
        exec(number()),
    ];
    Group {
        name: "instances",
        about: "Running copies of services",
        operations,
        schemas: vec![("Explanation", explanation()), ("Instance", instance())],
    }
}

fn explanation() -> Value {
    open(object([
        ("job_name", text("The four names of the service with dots between them")),
        ("status", super::services::status()),
        ("status_detail", text("Reason, for people")),
        ("clusters_total", integer("Clusters there are")),
        ("workers_total", integer("Workers there are")),
        ("workers_that_can_take_it", integer("Those of them that could take it")),
        ("clusters", list(json!({ "type": "object" }))),
    ]))
}

fn exec(number: Value) -> Operation {
    let mut command = list(text("A word"));
    command["minItems"] = json!(1);
    get("/api/service/{id}/instance/{number}/exec", "Run a program inside an instance")
        .about(
            "A WebSocket with the protocol `oak.exec.v1`: binary messages, each the number of a channel (0 input, 1 output, \
             2 errors, 3 end, 4 size of the terminal) and its bytes. Browsers offer the token as the protocol \
             `bearer.<token>` beside it. The program is ended when the caller may not run it any more.",
        )
        .restricted()
        .path_value("number", number)
        .needs_query("command", command)
        .query("cmd", text("Another way to write `command`"))
        .query("tty", boolean("With a terminal"))
        .query("columns", terminal())
        .query("rows", terminal())
        .upgrades("The program runs; the connection is a WebSocket")
        .may(400, "the query does not say what to run, or the request is no WebSocket")
        .may(409, "the instance does not run yet, or the program cannot be run")
        .may(502, "the worker failed to run it")
        .may(429, "the caller has 16 programs running")
        .may(503, "a link on the way is down, or 64 programs are running")
}

fn terminal() -> Value {
    json!({ "type": "integer", "minimum": 0, "maximum": u16::MAX })
}

fn instance() -> Value {
    let history = || list(object([("value", text("Number")), ("timestamp", text("ISO 8601"))]));
    object([
        ("instance_number", integer("Number, never used again")),
        ("revision", integer("Revision of the service it was made from")),
        ("status", super::services::status()),
        ("status_detail", text("Reason, for people")),
        ("cluster_id", id_or_empty("Cluster it is in")),
        ("cluster_location", text("`latitude,longitude,radius`")),
        ("worker_id", id_or_empty("Worker it is on")),
        ("worker_name", text("Name of the worker")),
        ("publicip", text("Address of the worker")),
        ("host_ip", text("Address of the worker")),
        ("host_port", integer("Without meaning")),
        ("instance_ip", text("Address of this instance among the service addresses")),
        ("cpu_percent", text("Of one core")),
        ("memory_percent", text("Bytes, in spite of the name")),
        ("disk", text("Bytes")),
        ("cpu_history", history()),
        ("memory_history", history()),
        ("logs", text("End of the output")),
        ("last_modified_timestamp", number("Seconds since 1970")),
    ])
}
