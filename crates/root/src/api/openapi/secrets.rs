//! Secrets, and credentials of registries.

use serde_json::{Value, json};

use super::Group;
use super::operation::{Operation, delete, get, put};
use super::schema::{boolean, integer, list, object, optionally, reference, text};

const WRONG_NAME: &str = "that cannot be a name, or the body is not JSON";

pub(super) fn group() -> Group {
    let mut operations = secrets();
    operations.extend(registries());
    let stored = object([("name", text("Name")), ("version", integer("Grows with every change"))]);
    Group {
        name: "secrets",
        about: "Values that services get and nobody can read, of the organisation of the caller; in `root` everybody has \
                their own",
        operations,
        schemas: vec![
            ("Secret", secret()),
            ("SecretValue", secret_value()),
            ("RegistryCredentials", registry_credentials()),
            ("RegistryLogin", registry_login()),
            ("StoredSecret", stored),
        ],
    }
}

fn secrets() -> Vec<Operation> {
    let name = || json!({ "type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$", "example": "db-password" });
    vec![
        get("/api/secrets", "List secrets")
            .about("Never with values. Also those that services need and that are not here.")
            .restricted()
            .answers(list(reference("Secret"))),
        get("/api/secrets/{name}", "Show everything about a secret but its value")
            .restricted()
            .path_value("name", name())
            .answers(reference("Secret"))
            .may(400, "that cannot be a name"),
        put("/api/secrets/{name}", "Store or replace a secret")
            .about("Either `value` or `value_base64`. Instances get it when they start.")
            .restricted()
            .path_value("name", name())
            .takes(reference("SecretValue"))
            .answers(reference("StoredSecret"))
            .may(400, WRONG_NAME)
            .may(409, "there are too many secrets"),
        delete("/api/secrets/{name}", "Remove a secret")
            .restricted()
            .path_value("name", name())
            .may(400, "that cannot be a name")
            .may(409, "services use it: the message names them"),
    ]
}

fn registries() -> Vec<Operation> {
    let host = || json!({ "type": "string", "pattern": "^[A-Za-z0-9.:-]{1,255}$", "example": "registry.example:5000" });
    vec![
        get("/api/registry-credentials", "List the registries with credentials")
            .restricted()
            .answers(list(reference("RegistryCredentials"))),
        get("/api/registry-credentials/{host}", "Show everything about credentials but the password")
            .restricted()
            .path_value("host", host())
            .answers(reference("RegistryCredentials"))
            .may(400, "that cannot be a registry"),
        put("/api/registry-credentials/{host}", "Store or replace the credentials of a registry")
            .restricted()
            .path_value("host", host())
            .takes(reference("RegistryLogin"))
            .answers(reference("StoredSecret"))
            .may(400, WRONG_NAME)
            .may(409, "there are too many secrets and registries"),
        delete("/api/registry-credentials/{host}", "Remove the credentials of a registry")
            .restricted()
            .path_value("host", host())
            .may(400, "that cannot be a registry")
            .may(409, "services use them: the message names them"),
    ]
}

fn secret() -> Value {
    optionally(
        object([("name", text("Name")), ("missing", boolean("Services need it and it is not here"))]),
        [
            ("version", integer("Grows with every change")),
            ("created", text("ISO 8601")),
            ("changed", text("ISO 8601")),
            ("used_by", list(text("If it is missing: a service that needs it"))),
        ],
    )
}

fn registry_credentials() -> Value {
    object([
        ("name", text("Host of the registry")),
        ("missing", boolean("Always false")),
        ("username", text("Name of the user there")),
        ("version", integer("Grows with every change")),
        ("created", text("ISO 8601")),
        ("changed", text("ISO 8601")),
    ])
}

fn secret_value() -> Value {
    let value = json!({ "type": "string", "minLength": 1, "description": "Text" });
    let base64 = json!({ "type": "string", "format": "byte", "description": "Bytes in base64 with padding" });
    optionally(object([]), [("value", value), ("value_base64", base64)])
}

fn registry_login() -> Value {
    object([
        (
            "username",
            json!({ "type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[^:\\x00-\\x1f\\x7f-\\x9f]+$" }),
        ),
        (
            "password",
            json!({ "type": "string", "minLength": 1, "pattern": "^[^\\x00-\\x1f\\x7f-\\x9f]+$", "description": "Password or token" }),
        ),
    ])
}
