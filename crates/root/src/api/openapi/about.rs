//! The root itself.

use super::Group;
use super::operation::{get, put};
use super::schema::{object, optionally, reference, text, word};

pub(super) fn group() -> Group {
    const NO_SETTINGS: &str = "always: settings are in the configuration of the root, not in the API";
    let operations = vec![
        get("/healthz", "Whether the process answers")
            .open()
            .answers(object([("status", word("Always the same", &["ok"]))])),
        get("/readyz", "Whether the root can work").open().answers(reference("Readiness")),
        get("/status", "Whether the root can work")
            .about("The same as `/readyz`.")
            .open()
            .answers(reference("Readiness")),
        get("/metrics", "Numbers for Prometheus")
            .open()
            .answers_media("text/plain; version=0.0.4; charset=utf-8"),
        get("/api/v1/info", "Which program answers").open().answers(object([
            ("name", text("Always the same")),
            ("version", text("Version of the program")),
            ("api_version", text("Version of the API")),
            ("documentation", text("Path of the page of this document")),
        ])),
        get("/api/settings", "Settings")
            .about("Not offered: the dashboard of the original asks for them.")
            .restricted()
            .may(501, NO_SETTINGS),
        put("/api/settings", "Change settings").about("Not offered.").restricted().may(501, NO_SETTINGS),
        put("/apisettings", "Change settings")
            .about("Not offered; the path that the dashboard of the original uses by mistake.")
            .restricted()
            .may(501, NO_SETTINGS),
        get("/docs/openapi.json", "This document").open().answers(super::schema::open(object([]))),
        get("/api/docs", "The page of this document").open().answers_media("text/html; charset=utf-8"),
    ];
    let readiness = optionally(
        object([("status", word("`read-only` while changes get 507", &["ready", "read-only"]))]),
        [("message", text("Why it is read-only"))],
    );
    Group { name: "root", about: "The root itself", operations, schemas: vec![("Readiness", readiness)] }
}
