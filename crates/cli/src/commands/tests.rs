//! The user commands against a small root in memory.

mod maintenance;
mod removal;

use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::Parser;
use serde_json::{Value, json};

use super::{Failure, ServerArguments, UserCommand};
use crate::output::{Output, Style};

#[derive(Default)]
struct Root {
    applications: Vec<Value>,
    services: Vec<Value>,
}

type Shared = Arc<Mutex<Root>>;

impl Root {
    fn add_services(&mut self, application: &str, services: &Value) {
        for service in services.as_array().expect("a list") {
            let id = format!("{:024x}", self.services.len() + 0x1000);
            let mut record = service.clone();
            record["microserviceID"] = json!(id);
            record["_id"] = json!({"$oid": id});
            record["applicationID"] = json!(application);
            record["app_name"] = json!("clientsrvr");
            record["image"] = record["code"].clone();
            record["job_name"] = json!(format!(
                "clientsrvr.test.{}.test",
                service["microservice_name"].as_str().expect("a name")
            ));
            record["instance_list"] = json!([]);
            self.services.push(record);
        }
    }

    fn service(&mut self, id: &str) -> Option<&mut Value> {
        self.services.iter_mut().find(|service| service["microserviceID"] == id)
    }
}

async fn create_application(State(root): State<Shared>, Json(body): Json<Value>) -> Json<String> {
    let mut root = root.lock().expect("no panic");
    for application in body["applications"].as_array().expect("a list") {
        let id = format!("{:024x}", root.applications.len() + 1);
        let mut record = application.clone();
        record["applicationID"] = json!(id);
        record["microservices"] = json!([]);
        root.applications.push(record);
        root.add_services(&id, &application["microservices"]);
    }
    Json(Value::from(root.applications.clone()).to_string())
}

async fn create_services(State(root): State<Shared>, Json(body): Json<Value>) -> Json<Value> {
    let application = &body["applications"][0];
    let id = application["applicationID"].as_str().expect("an id");
    root.lock().expect("no panic").add_services(id, &application["microservices"]);
    Json(json!({"job_id": "x", "deployed_services": [], "failed_services": []}))
}

async fn change_service(
    State(root): State<Shared>,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Json<Value> {
    let mut root = root.lock().expect("no panic");
    let service = root.service(&id).expect("a known service");
    for (key, value) in body["applications"][0]["microservices"][0].as_object().expect("a service") {
        if key != "microserviceID" {
            service[key] = value.clone();
        }
    }
    let revision = service["revision"].as_u64().unwrap_or(0) + 1;
    service["revision"] = json!(revision);
    service["rollout"] = json!({ "state": "running", "revision": revision, "updated": 0, "total": 1 });
    Json(service.clone())
}

async fn scale(State(root): State<Shared>, Path(id): Path<String>, Json(body): Json<Value>) -> Json<Value> {
    root.lock().expect("no panic").service(&id).expect("a known service")["replicas"] =
        body["replicas"].clone();
    Json(json!({ "replicas": body["replicas"], "created": [1, 2], "removed": [] }))
}

async fn roll_back(State(root): State<Shared>, Path(id): Path<String>) -> Json<Value> {
    let mut root = root.lock().expect("no panic");
    let service = root.service(&id).expect("a known service");
    service["revision"] = json!(0);
    service["rollout"] = json!({ "state": "rolled-back", "revision": 0 });
    Json(service.clone())
}

async fn delete_service(State(root): State<Shared>, Path(id): Path<String>) -> Json<Value> {
    root.lock().expect("no panic").services.retain(|service| service["microserviceID"] != id.as_str());
    Json(json!({"message": "Job deleted"}))
}

async fn deploy(State(root): State<Shared>, Path(id): Path<String>) -> Response {
    let mut root = root.lock().expect("no panic");
    let Some(service) = root.service(&id) else { return StatusCode::NOT_FOUND.into_response() };
    let list = service["instance_list"].as_array_mut().expect("a list");
    let number = list.len();
    list.push(json!({
        "instance_number": number, "status": "RUNNING", "cluster_id": "c1", "worker_id": "w1",
        "host_ip": "10.0.0.1", "status_detail": "since a while"
    }));
    Json(json!({"message": "ok"})).into_response()
}

async fn undeploy(State(root): State<Shared>, Path((id, number)): Path<(String, u64)>) -> Json<Value> {
    if let Some(service) = root.lock().expect("no panic").service(&id) {
        let list = service["instance_list"].as_array_mut().expect("a list");
        list.retain(|instance| instance["instance_number"] != number);
    }
    Json(json!({"message": "ok"}))
}

async fn logs(Path((_, number)): Path<(String, u64)>) -> String {
    format!("output of {number}\n")
}

async fn login(Json(body): Json<Value>) -> Response {
    if body["password"] != "Admin" {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    Json(json!({"token": "t", "refresh_token": "r"})).into_response()
}

/// A root and the arguments that name it.
struct World {
    root: Shared,
    address: String,
}

impl World {
    async fn start() -> Self {
        let root = Shared::default();
        let applications = |State(root): State<Shared>| async move {
            Json(root.lock().expect("no panic").applications.clone())
        };
        let services =
            |State(root): State<Shared>| async move { Json(root.lock().expect("no panic").services.clone()) };
        let clusters = || async {
            Json(json!([{"_id": "c1", "cluster_name": "munich", "active": true, "active_nodes": 1,
                "total_cpu_cores": 4, "memory_in_mb": 16000, "ip": "10.0.0.2"}]))
        };
        let workers = || async {
            Json(json!([{"id": "w1", "connected": true, "instances": 2, "availability": "cordoned",
                "facts": {"name": "pi", "architecture": "arm64", "address": "10.0.0.1",
                    "capacity": {"cpu_millis": 4000, "memory_mib": 2048}},
                "reserved": {"cpu_millis": 1500, "memory_mib": 100}}]))
        };
        let token =
            |Json(body): Json<Value>| async move { Json(json!({"token": format!("oak1.{}", body["role"])})) };
        let router = Router::new()
            .route("/api/auth/login", post(login))
            .route("/api/application/", post(create_application))
            .route("/api/applications/", get(applications))
            .route("/api/service/", post(create_services))
            .route("/api/service/{id}", axum::routing::delete(delete_service).put(change_service))
            .route("/api/service/{id}/scale", axum::routing::put(scale))
            .route("/api/service/{id}/update", axum::routing::delete(roll_back))
            .route("/api/services/", get(services))
            .route("/api/services/{id}", get(services))
            .route("/api/service/{id}/instance", post(deploy))
            .route("/api/service/{id}/instance/{number}", axum::routing::delete(undeploy))
            .route("/api/service/{id}/instance/{number}/logs", get(logs))
            .route("/api/clusters/", get(clusters))
            .route("/api/clusters/{id}/workers", get(workers))
            .route("/api/tokens", post(token))
            .with_state(Arc::clone(&root));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { root, address }
    }

    /// Runs a command; gives what it printed, or how it failed.
    async fn oak(&self, arguments: &[&str]) -> Result<String, Failure> {
        run(&self.address, arguments).await
    }
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    server: ServerArguments,
    #[command(subcommand)]
    command: UserCommand,
}

async fn run(address: &str, arguments: &[&str]) -> Result<String, Failure> {
    let (result, data, _) = run_and_listen(address, arguments).await;
    result.map(|()| data)
}

/// Runs a command; gives how it ended, what it printed and what it said.
async fn run_and_listen(address: &str, arguments: &[&str]) -> (Result<(), Failure>, String, String) {
    let all = [&["oak", "--server", address], arguments].concat();
    let Cli { server, command } = Cli::try_parse_from(all).unwrap_or_else(|error| panic!("{error}"));
    let (mut data, mut talk) = (Vec::new(), Vec::new());
    let style = Style { colour: false, width: Some(80) };
    let mut output = Output { data: &mut data, talk: &mut talk, style };
    let result = command.run_with(&server, &mut output).await;
    (result, String::from_utf8(data).expect("text"), String::from_utf8(talk).expect("text"))
}

fn descriptor(change: impl FnOnce(&mut Value)) -> tempfile::NamedTempFile {
    let text = include_str!("../../../model/fixtures/deploy_curl_application.json");
    let mut value: Value = serde_json::from_str(text).expect("valid");
    change(&mut value);
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), value.to_string()).expect("written");
    file
}

fn text(failure: &Failure) -> String {
    let mut bytes = Vec::new();
    failure.write(&mut bytes).expect("written to memory");
    String::from_utf8(bytes).expect("text")
}

#[tokio::test]
async fn apply_does_nothing_twice() {
    let world = World::start().await;
    let file = descriptor(|_| {});
    let path = file.path().to_str().expect("text");
    let first = world.oak(&["apply", "-f", path]).await.expect("applied");
    assert_eq!(
        first,
        "application clientsrvr.test created\n\
         service clientsrvr.test.curl.test: 1 of 1 instances deployed\n\
         service clientsrvr.test.nginx.test: 1 of 1 instances deployed\n"
    );
    let second = world.oak(&["apply", "-f", path, "--deploy", "2"]).await.expect("applied");
    assert_eq!(
        second,
        "application clientsrvr.test exists\n\
         service clientsrvr.test.curl.test: 1 of 2 instances deployed\n\
         service clientsrvr.test.nginx.test: 1 of 2 instances deployed\n"
    );
    let third = world.oak(&["apply", "-f", path]).await.expect("applied");
    assert!(third.contains("curl.test: 2 instances, unchanged"), "{third}");
    let root = world.root.lock().expect("no panic");
    assert_eq!((root.applications.len(), root.services.len()), (1, 2));
}

#[tokio::test]
async fn apply_adds_missing_services_and_updates_what_differs() {
    let world = World::start().await;
    let file = descriptor(|value| {
        value["applications"][0]["microservices"].as_array_mut().expect("a list").truncate(1);
    });
    world.oak(&["apply", "-f", file.path().to_str().expect("text")]).await.expect("applied");
    let file = descriptor(|value| value["applications"][0]["microservices"][0]["memory"] = json!(200));
    let path = file.path().to_str().expect("text");
    let second = world.oak(&["apply", "-f", path]).await.expect("applied");
    assert_eq!(
        second,
        "application clientsrvr.test exists\n\
         added to application clientsrvr: nginx\n\
         service clientsrvr.test.curl.test: updating 1 instances to revision 1: memory is 100, wanted 200\n\
         service clientsrvr.test.curl.test: 1 instances, unchanged\n\
         service clientsrvr.test.nginx.test: 1 of 1 instances deployed\n"
    );
    assert_eq!(world.root.lock().expect("no panic").services[0]["memory"], 200);
    let services = world.oak(&["get", "services"]).await.expect("listed");
    assert!(services.contains("1 (0/1)"), "{services}");
    let third = world.oak(&["apply", "-f", path]).await.expect("applied");
    assert!(!third.contains("updating"), "{third}");
}

#[tokio::test]
async fn scales_and_rolls_back_by_name() {
    let world = World::start().await;
    let file = descriptor(|_| {});
    let path = file.path().to_str().expect("text");
    world.oak(&["apply", "-f", path]).await.expect("applied");
    assert_eq!(
        world.oak(&["scale", "nginx", "3"]).await.expect("scaled"),
        "service clientsrvr.test.nginx.test: 3 instances, 2 created, 0 taken down\n"
    );
    // What the root keeps by itself is not deployed one by one, and the number is left alone.
    let again = world.oak(&["apply", "-f", path, "--deploy", "5"]).await.expect("applied");
    assert!(again.contains("nginx.test: 1 instances, unchanged"), "{again}");
    assert_eq!(
        world.oak(&["rollback", "nginx"]).await.expect("rolled back"),
        "service clientsrvr.test.nginx.test: going back to revision 0\n"
    );
    assert!(world.oak(&["get", "services"]).await.expect("listed").contains("0 (back)"));
    assert_eq!(world.oak(&["scale", "none", "3"]).await.expect_err("no such").code(), 3);
}

#[tokio::test]
async fn apply_shows_all_problems_of_a_descriptor() {
    let world = World::start().await;
    let file = descriptor(|value| {
        value["applications"][0]["microservices"][0]["memory"] = json!("1");
        value["applications"][0]["microservices"][1]["vtpus"] = json!(1);
    });
    let path = file.path().to_str().expect("text");
    let failure = world.oak(&["apply", "-f", path]).await.expect_err("refused");
    let message = text(&failure);
    assert!(message.starts_with(&format!("error: the descriptor {path} has 2 problems\n")), "{message}");
    assert!(message.contains("microservices[0].memory: must be an integer"), "{message}");
    assert!(message.contains("microservices[1].vtpus: this release does not assign TPUs"), "{message}");
    assert!(world.root.lock().expect("no panic").applications.is_empty());
}

#[tokio::test]
async fn lists_for_people_and_for_programs() {
    let world = World::start().await;
    let file = descriptor(|_| {});
    world.oak(&["apply", "-f", file.path().to_str().expect("text")]).await.expect("applied");
    let services = world.oak(&["get", "services"]).await.expect("listed");
    assert!(services.starts_with("NAME "), "{services}");
    assert!(services.lines().all(|line| line.chars().count() <= 80), "{services}");
    assert!(
        services.lines().nth(2).is_some_and(|line| line.starts_with("nginx  clientsrvr   1/1")),
        "{services}"
    );
    let instances = world.oak(&["get", "instances", "nginx/0"]).await.expect("listed");
    let row: Vec<&str> = instances.lines().nth(1).expect("a row").split_whitespace().take(5).collect();
    assert_eq!(row, ["nginx/0", "RUNNING", "munich", "pi", "10.0.0.1"]);
    let workers = world.oak(&["get", "workers"]).await.expect("listed");
    assert!(workers.contains("pi    munich   connected  cordoned  arm64  1.5/4  100M/2.0G"), "{workers}");
    assert!(world.oak(&["get", "clusters"]).await.expect("listed").contains("munich"));
    assert!(world.oak(&["get", "app"]).await.expect("listed").contains("clientsrvr"));
    for kind in ["applications", "services", "instances", "clusters", "workers"] {
        let text = world.oak(&["get", kind, "-o", "json"]).await.expect("listed");
        let list: Value = serde_json::from_str(&text).expect("JSON");
        assert!(list.as_array().is_some_and(|list| !list.is_empty()), "{kind}");
    }
    assert_eq!(world.oak(&["get", "services", "none"]).await.expect_err("no such").code(), 3);
    assert_eq!(world.oak(&["get", "instances", "nginx/7"]).await.expect_err("no such").code(), 3);
    assert_eq!(world.oak(&["get", "instances", "nginx/x"]).await.expect_err("no number").code(), 2);
    world.oak(&["delete", "instance", "nginx/0"]).await.expect("deleted");
    assert_eq!(world.oak(&["get", "instances", "nginx", "-o", "json"]).await.expect("none"), "[]\n");
}

#[tokio::test]
async fn finds_instances_by_name_and_refuses_to_guess() {
    let world = World::start().await;
    let file = descriptor(|_| {});
    world.oak(&["apply", "-f", file.path().to_str().expect("text")]).await.expect("applied");
    assert_eq!(world.oak(&["logs", "nginx"]).await.expect("the only one"), "output of 0\n");
    world.oak(&["apply", "--deploy", "2", "-f", file.path().to_str().expect("text")]).await.expect("applied");
    assert_eq!(world.oak(&["logs", "nginx"]).await.expect_err("two").code(), 2);
    assert_eq!(world.oak(&["logs", "clientsrvr.test.nginx.test/1"]).await.expect("named"), "output of 1\n");
    assert_eq!(world.oak(&["logs", "nginx/x"]).await.expect_err("no number").code(), 2);
    assert_eq!(world.oak(&["delete", "instance", "curl"]).await.expect_err("a guess").code(), 2);
    assert_eq!(
        world.oak(&["delete", "instance", "nginx/1"]).await.expect("deleted"),
        "instance nginx/1 deleted\n"
    );
    assert_eq!(
        world.oak(&["delete", "service", "nginx"]).await.expect("deleted"),
        "service clientsrvr.test.nginx.test deleted\n"
    );
    let failure = world.oak(&["delete", "service", "nginx"]).await.expect_err("gone");
    assert_eq!(text(&failure), "error: there is no service nginx\nhint: `oak get services` lists them\n");
}

#[tokio::test]
async fn exit_codes_tell_denied_from_unreachable() {
    let world = World::start().await;
    let denied = world.oak(&["get", "services", "--password", "wrong"]).await.expect_err("denied");
    assert_eq!(denied.code(), 4);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let unreachable = run(&address, &["get", "services"]).await.expect_err("nobody");
    assert_eq!(unreachable.code(), 5);
    let message = text(&unreachable);
    assert!(message.contains("OAK_SERVER") && message.contains("refused"), "{message}");
    assert_eq!(run("ftp://x", &["get", "services"]).await.expect_err("no address").code(), 2);
}

#[tokio::test]
async fn prints_only_the_token_as_data() {
    let world = World::start().await;
    let token = world.oak(&["token", "create", "worker", "--ttl", "30m"]).await.expect("made");
    assert_eq!(token, "oak1.\"worker\"\n");
}
