//! Logging in, users, organisations, and who did what.

use oak_control::root::QuotaKind;
use serde_json::{Map, Value, json};

use super::super::audit;
use super::Group;
use super::operation::{Operation, delete, get, post, put};
use super::schema::{id, integer, list, nothing, object, object_id, optionally, reference, text, word};

pub(super) fn group() -> Group {
    let mut operations = logins();
    operations.extend(own_account());
    operations.extend(users());
    operations.extend(organizations());
    operations.push(audit());
    Group {
        name: "accounts",
        about: "Logins, users, organisations, and the audit log",
        operations,
        schemas: vec![
            ("Credentials", credentials()),
            ("Tokens", tokens()),
            ("User", user()),
            ("NewUser", new_user()),
            ("Organization", organization()),
            ("OrganizationChange", organization_change()),
            ("Quota", quota()),
            ("AuditPage", audit_page()),
        ],
    }
}

fn logins() -> Vec<Operation> {
    vec![
        post("/api/auth/login", "Log in")
            .open()
            .takes(reference("Credentials"))
            .answers(reference("Tokens"))
            .may(401, "the user name or the password is wrong")
            .may(403, "the first password works only on the machine of the root until it is changed")
            .may(404, "there is no such organisation")
            .may(429, "too many wrong passwords: `Retry-After` says how long to wait"),
        post("/api/auth/refresh", "Get a new access token")
            .about("The bearer token of this call is the refresh token.")
            .answers(object([("token", text("Access token, valid for 10 minutes"))])),
        post("/api/user", "Ask for a link to set a forgotten password")
            .about(
                "Sent by mail. The answer is the same whether or not there is such a user with an address.",
            )
            .open()
            .takes(object([("username", text("Name of the user"))]))
            .answers(object([]))
            .may(409, "this root is not configured to send mail")
            .may(429, "too many requests for this user"),
        put("/api/user", "Set a forgotten password")
            .open()
            .takes(object([("token", text("From the link")), ("password", text("New password"))]))
            .answers(object([]))
            .may(400, "the link is unknown, used or too old"),
    ]
}

fn own_account() -> Vec<Operation> {
    let name = || text("Name of the user");
    vec![
        get("/api/user/{name}", "Show the own account")
            .restricted()
            .path_value("name", name())
            .answers(reference("User")),
        get("/api/permission/{name}", "Show the own roles")
            .restricted()
            .path_value("name", name())
            .answers(object([("roles", list(role()))])),
        post("/api/user/{name}", "Change the own password")
            .about("All tokens of the user end.")
            .restricted()
            .path_value("name", name())
            .takes(object([("oldPassword", text("Present password")), ("newPassword", text("New password"))]))
            .answers(object([]))
            .may(400, "the old password is wrong, or the new one is the same")
            .may(409, "it was changed by somebody else at the same time")
            .may(429, "too many wrong passwords"),
    ]
}

fn users() -> Vec<Operation> {
    let name = || text("Name of the user");
    vec![
        post("/api/auth/register", "Register a user")
            .about("For those who manage members. The user becomes a member of the organisation of the caller.")
            .restricted()
            .takes(reference("NewUser"))
            .answers(reference("User"))
            .may(404, "there is no such organisation")
            .may(409, "the name is taken"),
        get("/api/users", "List users")
            .about("All of them for an Admin of `root`, without roles; members of the own organisation for others.")
            .restricted()
            .answers(list(reference("User"))),
        get("/api/users/{organization}", "List the members of an organisation")
            .restricted()
            .path_value("organization", text("Id of the organisation"))
            .answers(list(reference("User"))),
        put("/api/user/{name}", "Change a user")
            .about(
                "What is left out stays. Roles are those in the organisation of the caller. The whole record may be sent \
                 back.",
            )
            .restricted()
            .path_value("name", name())
            .takes(optionally(
                object([]),
                [
                    ("email", text("Address for mail")),
                    ("password", nothing("New password; null, an empty text or a hash mean that it stays")),
                    ("roles", list(role())),
                ],
            ))
            .answers(word("Always the same", &["ok"]))
            .may(409, "there would be no Admin left, or somebody else changed the user at the same time"),
        delete("/api/user/{name}", "Remove a user")
            .about("One who is in other organisations only leaves this one, unless an Admin of `root` asks.")
            .restricted()
            .path_value("name", name())
            .answers(list(reference("User")))
            .may(409, "the user has applications, or there would be no Admin left"),
    ]
}

fn organizations() -> Vec<Operation> {
    let id_text = || text("Id of the organisation");
    vec![
        get("/api/organization", "List organisations")
            .about("All of them for an Admin of `root`, the own one for those who manage it.")
            .restricted()
            .answers_nested(list(reference("Organization"))),
        post("/api/organization", "Create an organisation")
            .about("For an Admin of `root`. Answers its id.")
            .restricted()
            .takes(organization_creation())
            .answers_nested(id())
            .may(404, "a member is no user")
            .may(409, "the name is taken"),
        get("/api/organization/{id}", "Show an organisation with its quota and what it uses")
            .restricted()
            .path_value("id", id_text())
            .answers(reference("Organization")),
        put("/api/organization/{id}", "Change an organisation")
            .about("What is left out stays. Only an Admin of `root` changes the quota.")
            .restricted()
            .path_value("id", id_text())
            .takes(reference("OrganizationChange"))
            .may(409, "the name is taken, or there would be no Admin left"),
        delete("/api/organization/{id}", "Delete an organisation")
            .about("For an Admin of `root`. Its users stay.")
            .restricted()
            .path_value("id", id_text())
            .may(409, "it has applications, or it is `root`"),
    ]
}

fn audit() -> Operation {
    let before = json!({ "type": "integer", "minimum": 0, "description": "Only entries before this one" });
    get("/api/audit", "Read the audit log")
        .about("For Admins, what was done in their organisation; newest first.")
        .restricted()
        .query("limit", json!({ "type": "integer", "minimum": 1, "maximum": 1000, "default": 100 }))
        .query("before", before)
        .query("user", text("Name of the user"))
        .query("organization", id())
        .query("method", word("Method of the request", &audit::METHODS))
        .query("result", word("Whether it was carried out", &["done", "refused"]))
        .answers(reference("AuditPage"))
}

fn credentials() -> Value {
    optionally(
        object([("username", text("Name of the user")), ("password", text("Its password"))]),
        [("organization_name", nothing("Organisation to work in; `root` if missing, null or empty"))],
    )
}

fn tokens() -> Value {
    object([
        ("token", text("Access token, valid for 10 minutes")),
        ("refresh_token", text("Token for new access tokens, valid for 30 days")),
    ])
}

fn role() -> Value {
    word("Role", &["Admin", "Organization_Admin", "Application_Provider", "Infrastructure_Provider"])
}

fn user() -> Value {
    optionally(
        object([
            ("_id", object_id()),
            ("name", text("Name")),
            ("email", text("Address for mail")),
            ("created_at", text("`dd/MM/yyyy HH:mm`")),
        ]),
        [("roles", list(role()))],
    )
}

fn new_user() -> Value {
    optionally(
        object([("name", text("Name")), ("password", text("Password"))]),
        [
            ("email", text("Address for mail, or empty")),
            ("roles", list(role())),
            ("created_at", text("`dd/MM/yyyy HH:mm`")),
            ("organization", text("Id of another organisation, for an Admin of `root`")),
        ],
    )
}

fn members() -> Value {
    list(object([("user_id", id()), ("roles", list(role()))]))
}

fn organization() -> Value {
    object([
        ("_id", object_id()),
        ("name", text("Name")),
        ("member", members()),
        ("quota", reference("Quota")),
        ("usage", reference("Quota")),
    ])
}

fn organization_creation() -> Value {
    optionally(object([("name", text("Name"))]), [("member", members()), ("quota", reference("Quota"))])
}

fn organization_change() -> Value {
    let parts = [("name", text("Name")), ("member", members()), ("quota", reference("Quota"))];
    optionally(object([]), parts)
}

/// Only the kinds that have a limit, or are in use.
fn quota() -> Value {
    let kind = |kind: QuotaKind| {
        let schema = match kind {
            QuotaKind::CpuMillis => json!({ "type": "number", "minimum": 0, "description": "Cores" }),
            _ => integer("The most, or what is used"),
        };
        (kind.name().to_owned(), schema)
    };
    let kinds: Map<String, Value> = QuotaKind::ALL.into_iter().map(kind).collect();
    json!({ "type": "object", "properties": kinds, "additionalProperties": false })
}

fn audit_page() -> Value {
    let entry = optionally(
        object([
            ("id", integer("Place in the log")),
            ("at", text("ISO 8601")),
            ("user", nothing("Who; for a refused login the name that was given")),
            ("organization", nothing("Organisation the user was logged in to")),
            ("from", text("Address")),
            ("method", text("Method of the request")),
            ("route", text("Path with the names of its parameters")),
            ("path", text("Path")),
            ("object", nothing("What was created")),
            ("status", integer("Status of the answer")),
            ("result", word("Whether it was carried out", &["done", "refused"])),
        ]),
        [("unrecorded", integer("Refusals before this one that were too many to be recorded"))],
    );
    let next = json!({ "type": "integer", "nullable": true, "description": "`before` of the next page" });
    object([("entries", list(entry)), ("next", next)])
}
