//! Logging in, users, organisations.

use super::Group;
use super::operation::{get, post};
use super::schema::{list, object, object_id, optionally, reference, text, word};

const OWN: &str = "For the user itself only.";

pub(super) fn group() -> Group {
    let name = || text("Name of the user");
    let operations = vec![
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
        get("/api/user/{name}", "Show an account")
            .about(OWN)
            .restricted()
            .path_value("name", name())
            .answers(reference("User")),
        post("/api/user/{name}", "Change a password")
            .about("For the user itself only. All its tokens end.")
            .restricted()
            .path_value("name", name())
            .takes(object([("oldPassword", text("Present password")), ("newPassword", text("New password"))]))
            .answers(object([]))
            .may(400, "the old password is wrong, or the new one is the same")
            .may(409, "it was changed by somebody else at the same time")
            .may(429, "too many wrong passwords"),
        get("/api/organization", "List all organisations")
            .about("For admins.")
            .restricted()
            .answers_nested(list(reference("Organization"))),
    ];
    Group {
        name: "accounts",
        about: "Logins, users and organisations",
        operations,
        schemas: vec![
            ("Credentials", credentials()),
            (
                "Tokens",
                object([
                    ("token", text("Access token, valid for 10 minutes")),
                    ("refresh_token", text("Token for new access tokens, valid for 30 days")),
                ]),
            ),
            ("User", user()),
            ("Organization", organization()),
        ],
    }
}

fn credentials() -> serde_json::Value {
    optionally(
        object([("username", text("Name of the user")), ("password", text("Its password"))]),
        [("organization_name", text("Organisation to work in; `root` if missing"))],
    )
}

fn role() -> serde_json::Value {
    word("Role", &["Admin", "Organization_Admin", "Application_Provider", "Infrastructure_Provider"])
}

fn user() -> serde_json::Value {
    object([
        ("_id", object_id()),
        ("name", text("Name")),
        ("email", text("Address for mail")),
        ("created_at", text("`dd/MM/yyyy HH:mm`")),
        ("roles", list(role())),
    ])
}

fn organization() -> serde_json::Value {
    let member = object([("user_id", super::schema::id()), ("roles", list(role()))]);
    object([("_id", object_id()), ("name", text("Name")), ("member", list(member))])
}
