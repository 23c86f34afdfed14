//! The REST API of a root, spoken as any client would.

use std::sync::Mutex;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use crate::{Host, Page, eventually, request, soon};

/// A user of the API, sitting on one machine.
#[derive(Debug)]
pub struct Api<'host> {
    host: &'host Host,
    base: String,
    token: Mutex<Option<String>>,
}

/// The API refused something.
#[derive(Debug)]
pub struct Refused {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "refused with {}: {}", self.status, self.body)
    }
}

impl std::error::Error for Refused {}

/// What the tests look at in the record of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its number.
    pub number: u64,
    /// Status word.
    pub status: String,
    /// One line for people.
    pub detail: String,
    /// Name of its worker; empty without one.
    pub worker: String,
    /// Its address.
    pub address: String,
}

impl<'host> Api<'host> {
    /// The first user of a root on the same machine.
    pub fn on(host: &'host Host) -> Self {
        Self { host, base: "http://127.0.0.1:10000".to_owned(), token: Mutex::new(None) }
    }

    /// Sends a request with a token, logging in when needed. The body is sent as it is.
    ///
    /// # Errors
    /// No answer, or no login.
    pub fn send(&self, method: &str, path: &str, body: Option<&str>) -> anyhow::Result<Page> {
        let url = format!("{}{path}", self.base);
        let token = self.login()?;
        let page = request(self.host, method, &url, Some(&token), body)?;
        if page.status != 401 {
            return Ok(page);
        }
        *self.token.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
        request(self.host, method, &url, Some(&self.login()?), body)
    }

    fn login(&self) -> anyhow::Result<String> {
        let mut token = self.token.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(token) = &*token {
            return Ok(token.clone());
        }
        let body = json!({ "username": "Admin", "password": "Admin" }).to_string();
        let page = request(self.host, "POST", &format!("{}/api/auth/login", self.base), None, Some(&body))?;
        let answer = decode(&accepted(page)?)?;
        let fresh = answer["token"].as_str().context("a login without a token")?.to_owned();
        *token = Some(fresh.clone());
        Ok(fresh)
    }

    /// Sends a request that has to be accepted and returns the decoded answer.
    ///
    /// # Errors
    /// No answer, or [`Refused`].
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let text = body.map(Value::to_string);
        decode(&accepted(self.send(method, path, text.as_deref())?)?)
    }

    /// Registers the applications of a descriptor, given as the bytes to send.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub fn create(&self, descriptor: &str) -> anyhow::Result<()> {
        accepted(self.send("POST", "/api/application/", Some(descriptor))?).map(drop)
    }

    /// Id of an application, if there is one with this name.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub fn find_application(&self, name: &str) -> anyhow::Result<Option<String>> {
        let all = self.call("GET", "/api/applications/", None)?;
        let all = all.as_array().context("applications are a list")?;
        let found = all.iter().find(|application| application["application_name"] == name);
        Ok(found.and_then(|application| application["applicationID"].as_str().map(str::to_owned)))
    }

    /// Deletes the application with this name.
    ///
    /// # Errors
    /// There is none ([`Refused`] with 404), or as [`Api::call`].
    pub fn delete_application(&self, name: &str) -> anyhow::Result<()> {
        let id = self.find_application(name)?.ok_or_else(|| missing("application", name))?;
        self.call("DELETE", &format!("/api/application/{id}"), None).map(drop)
    }

    /// The record of the service with this name.
    ///
    /// # Errors
    /// There is none ([`Refused`] with 404), or as [`Api::call`].
    pub fn service(&self, name: &str) -> anyhow::Result<Value> {
        let all = self.call("GET", "/api/services/", None)?;
        let all = all.as_array().context("services are a list")?;
        let found = all.iter().find(|service| service["microservice_name"] == name);
        Ok(found.cloned().ok_or_else(|| missing("service", name))?)
    }

    /// Deploys one more instance and returns its number.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub fn deploy(&self, service: &str) -> anyhow::Result<u64> {
        let id = id_of(&self.service(service)?)?;
        let answer = self.call("POST", &format!("/api/service/{id}/instance"), None)?;
        answer["instance_number"].as_u64().context("no instance number in the answer")
    }

    /// Undeploys one instance, or all with -1.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub fn undeploy(&self, service: &str, number: i64) -> anyhow::Result<()> {
        let id = id_of(&self.service(service)?)?;
        self.call("DELETE", &format!("/api/service/{id}/instance/{number}"), None).map(drop)
    }

    /// Instances of a service.
    ///
    /// # Errors
    /// As [`Api::service`].
    pub fn instances(&self, service: &str) -> anyhow::Result<Vec<Instance>> {
        let record = self.service(service)?;
        let list = record["instance_list"].as_array().context("instances are a list")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(list
            .iter()
            .map(|record| Instance {
                number: record["instance_number"].as_u64().unwrap_or(u64::MAX),
                status: text(&record["status"]),
                detail: text(&record["status_detail"]),
                worker: text(&record["worker_name"]),
                address: text(&record["instance_ip"]),
            })
            .collect())
    }

    /// Waits until a service has exactly `count` instances and all run.
    ///
    /// # Errors
    /// Not in the usual time; tells what they are instead.
    pub fn wait_running(&self, service: &str, count: usize) -> anyhow::Result<Vec<Instance>> {
        eventually(&format!("{count} instances of {service} run"), soon() * 2, || {
            let instances = self.instances(service)?;
            let is_running = |instance: &Instance| instance.status == "RUNNING";
            ensure!(instances.len() == count && instances.iter().all(is_running), "{instances:?}");
            Ok(instances)
        })
    }

    /// Waits until one instance has a status whose word and detail contain these texts.
    ///
    /// # Errors
    /// Not in the usual time.
    pub fn wait_status(&self, service: &str, status: &str, detail: &[&str]) -> anyhow::Result<Instance> {
        eventually(&format!("{service} is {status}: {detail:?}"), soon() * 2, || {
            let instances = self.instances(service)?;
            let fits =
                |i: &&Instance| i.status == status && detail.iter().all(|part| i.detail.contains(part));
            instances.iter().find(fits).cloned().with_context(|| format!("{instances:?}"))
        })
    }

    /// A join token. Worker tokens need the cluster's name.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub fn token(&self, role: &str, cluster: Option<&str>, seconds: u64) -> anyhow::Result<String> {
        let mut body = json!({ "role": role, "ttl_seconds": seconds });
        if let Some(cluster) = cluster {
            body["cluster"] = json!(cluster);
        }
        let answer = self.call("POST", "/api/tokens", Some(&body))?;
        Ok(answer["token"].as_str().context("an answer without a token")?.to_owned())
    }
}

fn missing(kind: &str, name: &str) -> Refused {
    Refused { status: 404, body: format!("there is no {kind} {name}") }
}

fn id_of(service: &Value) -> anyhow::Result<String> {
    Ok(service["microserviceID"].as_str().context("a service without an id")?.to_owned())
}

fn accepted(page: Page) -> anyhow::Result<String> {
    if (200..300).contains(&page.status) {
        return Ok(page.body);
    }
    bail!(Refused { status: page.status, body: page.body })
}

/// Some answers of the original are JSON inside a JSON text.
fn decode(body: &str) -> anyhow::Result<Value> {
    let value: Value = serde_json::from_str(body).with_context(|| format!("not JSON: {body}"))?;
    match value {
        Value::String(inner) => Ok(serde_json::from_str(&inner).unwrap_or(Value::String(inner))),
        other => Ok(other),
    }
}
