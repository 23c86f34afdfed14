//! What happened.

use oak_model::EventKind;
use serde_json::{Value, json};

use super::Group;
use super::operation::get;
use super::schema::{id, integer, list, object, optionally, reference, text, word};

pub(super) fn group() -> Group {
    let since = json!({ "type": "integer", "minimum": 0, "description": "Also what came after this number" });
    let limit = || json!({ "type": "integer", "minimum": 1, "maximum": 1000, "default": 100 });
    let instance = json!({
        "type": "string",
        "pattern": "^[0-9a-f]{24}\\.[0-9]{1,9}$",
        "description": "Id of its service, a dot, its number",
    });
    let operations = vec![
        get("/api/events", "Follow what happens")
            .about(
                "Server-sent events that the caller may see. Each has a record `Event` as `data` and its `sequence` as \
                 `id`; `Last-Event-ID` resumes and is stronger than `since`. `event: gap` says that events are not kept \
                 any more, `event: end` why the stream is over: also when the caller is gone, left the organisation or has \
                 another password.",
            )
            .query("since", since)
            .query("application", id())
            .query("service", id())
            .query("instance", instance)
            .query("worker", id())
            .query("cluster", id())
            .query("kind", text("Kinds with commas between them"))
            .answers_media("text/event-stream")
            .may(429, "the caller has 32 event streams open")
            .may(503, "128 event streams are open, or the root is stopping"),
        get("/api/service/{id}/events", "List the last events of a service")
            .about("Newest last.")
            .query("limit", limit())
            .answers(list(reference("Event"))),
        get("/api/application/{id}/events", "List the last events of an application")
            .about("With those of its services, newest last.")
            .query("limit", limit())
            .answers(list(reference("Event"))),
    ];
    Group { name: "events", about: "What happened", operations, schemas: vec![("Event", event())] }
}

fn event() -> Value {
    let kinds: Vec<_> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
    optionally(
        object([
            ("sequence", integer("Grows with every event")),
            ("timestamp", text("ISO 8601")),
            ("kind", word("What happened", &kinds)),
            ("detail", text("More, for people")),
        ]),
        [
            ("applicationID", id()),
            ("microserviceID", id()),
            ("instance_number", integer("Number of the instance")),
            ("cluster_id", id()),
            ("worker_id", id()),
            ("status", super::services::status()),
        ],
    )
}
