//! Descriptors of small test applications.

use serde_json::{Value, json};

/// What a shell executes to wait until it is asked to end.
pub const IDLE: &str = "trap 'exit 0' TERM; sleep 10000 & wait";

/// A service of a test application.
#[derive(Clone, Debug)]
pub struct Microservice {
    record: Value,
}

impl Microservice {
    /// A service that runs `command` in the curl image (a shell with coreutils and curl), with 50 MiB and no
    /// processor share.
    pub fn shell(name: &str, command: &str) -> Self {
        Self::new(name, "docker.io/curlimages/curl:7.82.0").set("cmd", json!(["sh", "-c", command]))
    }

    /// A service that does nothing until it is asked to end.
    pub fn idle(name: &str) -> Self {
        Self::shell(name, IDLE)
    }

    /// A service with the nginx image.
    pub fn nginx(name: &str) -> Self {
        Self::new(name, "docker.io/library/nginx:latest")
    }

    /// A service with any image.
    pub fn new(name: &str, image: &str) -> Self {
        let record = json!({
            "microserviceID": "",
            "microservice_name": name,
            "microservice_namespace": "test",
            "virtualization": "container",
            "code": image,
            "memory": 50,
            "vcpus": 0,
            "storage": 0,
        });
        Self { record }
    }

    /// Only on these workers: names with `;` in between.
    #[must_use]
    pub fn on(self, workers: &str) -> Self {
        self.set("constraints", json!([{ "type": "direct", "node": workers }]))
    }

    /// Sets a field.
    #[must_use]
    pub fn set(mut self, field: &str, value: Value) -> Self {
        self.record[field] = value;
        self
    }
}

/// A descriptor with one application.
pub fn application(name: &str, services: impl IntoIterator<Item = Microservice>) -> String {
    let services: Vec<Value> = services.into_iter().map(|service| service.record).collect();
    json!({
        "sla_version": "v2.0",
        "customerID": "Admin",
        "applications": [{
            "applicationID": "",
            "application_name": name,
            "application_namespace": "test",
            "application_desc": "",
            "microservices": services,
        }],
    })
    .to_string()
}
