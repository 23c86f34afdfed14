//! A root with something of everything in it, and a second tenant.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::operation::Operation;
use super::schema;
use crate::document::Document;
use crate::http::{self, Response};
use crate::system::System;

/// Without an id of its own, because it is not there.
const UNKNOWN: &str = "000000000000000000000000";
/// What changes although nobody changes anything: counters, times of signs of life, the log of what was refused.
const ALIVE: [&str; 8] = [
    "/metrics",
    "/status",
    "/api/audit",
    "/api/clusters",
    "/api/clusters/active",
    "/api/v1/clusters",
    "/api/service/{id}/events",
    "/api/application/{id}/events",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// Of `root`, to which everything belongs.
    Admin,
    /// An application provider of another organisation.
    Stranger,
}

pub(super) struct Lab {
    system: System,
    document: Document,
    admin: String,
    stranger: String,
    pub(super) wrong_tokens: [(&'static str, String); 4],
    /// What exists, by the kind of the path that has it.
    ids: BTreeMap<&'static str, String>,
}

/// An answer, and what the document says about it.
pub(super) struct Judged {
    answer: Result<Response, String>,
    complaint: Option<String>,
}

impl Lab {
    pub(super) fn start() -> Self {
        let mut system = System::start();
        let admin = login(&system, "Admin", "Admin");
        let ask = |method: &str, path: &str, body: Option<Value>| call(&system, &admin, method, path, body);
        let document = Document(ask("GET", "/docs/openapi.json", None));
        let user =
            json!({ "name": "kept", "password": "kept", "email": "kept@example.org", "roles": ["Admin"] });
        ask("POST", "/api/auth/register", Some(user));
        let other = ask("POST", "/api/organization", Some(json!({ "name": "others", "member": [] })));
        let stranger = json!({ "name": "stranger", "password": "s", "roles": ["Application_Provider"], "organization": other });
        ask("POST", "/api/auth/register", Some(stranger));
        let stranger = json!({ "username": "stranger", "password": "s", "organization_name": "others" });
        let stranger = ask("POST", "/api/auth/login", Some(stranger));
        let descriptor = json!({ "sla_version": "v2.0", "customerID": "x", "applications": [{
            "application_name": "kept", "application_namespace": "test",
            "microservices": [{ "microservice_name": "one", "microservice_namespace": "test",
                "virtualization": "container", "code": "docker.io/library/nginx:latest", "memory": 10 }],
        }] });
        let applications = ask("POST", "/api/application", Some(descriptor));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let (application, service) =
            (text(&applications[0]["applicationID"]), text(&applications[0]["microservices"][0]));
        ask("PUT", "/api/secrets/kept", Some(json!({ "value": "hidden" })));
        let registry = json!({ "username": "u", "password": "hidden" });
        ask("PUT", "/api/registry-credentials/kept.example", Some(registry));
        let token = ask("POST", "/api/tokens", Some(json!({ "role": "cluster" })));
        let address = ask("GET", &format!("/api/service/{service}"), None)["RR_ip"].clone();
        let admin_id = text(&ask("GET", "/api/user/Admin", None)["_id"]["$oid"]);
        let wrong_tokens = system.wrong_tokens(&admin);
        system.add_cluster(token["token"].as_str().unwrap());
        // Only now: an instance looks for a place again whenever something joins.
        call(&system, &admin, "POST", &format!("/api/service/{service}/instance"), None);
        let ids = BTreeMap::from([
            ("/api/user/{name}", "kept".to_owned()),
            ("/api/permission/{name}", "Admin".to_owned()),
            ("/api/users/{organization}", text(&other)),
            ("/api/organization/{id}", text(&other)),
            ("/api/applications/{user}", admin_id),
            ("/api/application/{id}", application.clone()),
            ("/api/services/{application}", application),
            ("/api/service/{id}", service.clone()),
            ("/api/net/service/{service}", service.clone()),
            ("/api/pubnet/service/netinfo/{service}", service),
            ("/api/net/service/ip/{address}", text(&address)),
            ("/api/pubnet/service/netinfo/ip/{address}", text(&address)),
            ("/api/pubnet/service/netinfo/available-ip/{count}", "3".to_owned()),
            ("/api/service/{id}/instance/{number}", "0".to_owned()),
            ("/api/secrets/{name}", "kept".to_owned()),
            ("/api/registry-credentials/{host}", "kept.example".to_owned()),
            ("/api/clusters/{id}", "near".to_owned()),
        ]);
        let stranger = text(&stranger["token"]);
        Self { system, document, admin, stranger, wrong_tokens, ids }
    }

    pub(super) fn operations(&self) -> Vec<Operation> {
        Operation::all(&self.document.0)
    }

    pub(super) fn example(&self, schema: &Value) -> Value {
        schema::example(&self.document, schema)
    }

    pub(super) fn wrong_bodies(&self, schema: &Value) -> Vec<(String, Value)> {
        schema::wrong_bodies(&self.document, schema)
    }

    /// The path of an operation on what exists.
    pub(super) fn existing(&self, operation: &Operation) -> String {
        operation.filled(|name| self.id(operation, name))
    }

    pub(super) fn with_one_replaced(&self, operation: &Operation, parameter: &str, value: &str) -> String {
        operation.filled(|name| if name == parameter { value.to_owned() } else { self.id(operation, name) })
    }

    fn id(&self, operation: &Operation, parameter: &str) -> String {
        let part = format!("{{{parameter}}}");
        let end = operation.path.find(&part).unwrap() + part.len();
        let kind = operation.path.get(..end).unwrap();
        self.ids.get(kind).map_or(UNKNOWN, String::as_str).to_owned()
    }

    pub(super) fn call(
        &self,
        operation: &Operation,
        path: &str,
        caller: Caller,
        body: Option<&[u8]>,
    ) -> Judged {
        let token = match caller {
            Caller::Admin => &self.admin,
            Caller::Stranger => &self.stranger,
        };
        self.call_as(operation, path, Some(&format!("Bearer {token}")), body)
    }

    pub(super) fn call_as(
        &self,
        operation: &Operation,
        path: &str,
        authorization: Option<&str>,
        body: Option<&[u8]>,
    ) -> Judged {
        let mut headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        headers.extend(authorization.map(|value| ("authorization".to_owned(), value.to_owned())));
        let answer = http::send(self.system.address, &operation.method, path, &headers, body);
        let complaint = answer.as_ref().ok().and_then(|answer| {
            self.document.complaint(&operation.method, &operation.path, answer.status, &answer.body)
        });
        Judged { answer, complaint }
    }

    /// What every operation that reads shows, of what does not change by itself.
    pub(super) fn look(&self) -> BTreeMap<String, String> {
        let operations = self.operations().into_iter();
        let shown = operations.filter(|operation| {
            !operation.changes() && !operation.is_endless && !ALIVE.contains(&operation.path.as_str())
        });
        shown
            .map(|operation| {
                let path = self.existing(&operation);
                let answer = self.call(&operation, &path, Caller::Admin, None).answer.unwrap();
                (path, format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)))
            })
            .collect()
    }
}

impl Judged {
    /// The status, 0 without an answer.
    pub(super) fn status(&self) -> u16 {
        self.answer.as_ref().map_or(0, |answer| answer.status)
    }

    /// Whether it is an answer of the document.
    pub(super) fn documented(self) -> Result<(), String> {
        let answer = self.answer?;
        let shown: String = String::from_utf8_lossy(&answer.body).chars().take(300).collect();
        let shown = format!("{} {shown}", answer.status);
        if let Some(complaint) = self.complaint {
            return Err(format!("differs from the document: {complaint}: {shown}"));
        }
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if answer.status >= 400 && body["code"] != answer.status {
            return Err(format!("no error in the common form: {shown}"));
        }
        let is_fault = answer.status >= 500 && answer.status != 501;
        if is_fault { Err(format!("a fault: {shown}")) } else { Ok(()) }
    }

    /// Whether it is one of these documented errors.
    pub(super) fn refused(self, statuses: &[u16]) -> Result<(), String> {
        let status = self.status();
        let shown = self
            .answer
            .as_ref()
            .map(|answer| String::from_utf8_lossy(&answer.body).chars().take(300).collect());
        let shown: String = shown.unwrap_or_default();
        self.documented()?;
        let is_right = statuses.contains(&status);
        if is_right { Ok(()) } else { Err(format!("must be one of {statuses:?}: {status} {shown}")) }
    }
}

fn login(system: &System, name: &str, password: &str) -> String {
    let body = json!({ "username": name, "password": password }).to_string();
    let answer = http::send(system.address, "POST", "/api/auth/login", &[], Some(body.as_bytes())).unwrap();
    let tokens: Value = serde_json::from_slice(&answer.body).unwrap();
    tokens["token"].as_str().unwrap().to_owned()
}

/// A call that must succeed; JSON in a string is unpacked.
fn call(system: &System, token: &str, method: &str, path: &str, body: Option<Value>) -> Value {
    let headers = [("authorization".to_owned(), format!("Bearer {token}"))];
    let body = body.map(|body| body.to_string().into_bytes());
    let answer = http::send(system.address, method, path, &headers, body.as_deref()).unwrap();
    assert_eq!(answer.status, 200, "{method} {path}: {}", String::from_utf8_lossy(&answer.body));
    let value: Value = serde_json::from_slice(&answer.body).unwrap();
    value.as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or(value)
}
