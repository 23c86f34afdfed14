//! The client against a small server that behaves like a root: logins expire, answers are nested, connections break.
#![allow(clippy::expect_used, reason = "the server of the tests is test code too")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use oak_client::{Client, ClientErrorKind, Credentials, LogOptions, TokenRole};
use serde_json::{Value, json};

#[derive(Default)]
struct Root {
    logins: AtomicUsize,
    /// Tokens below this number have expired.
    valid_from: AtomicUsize,
    /// How a refused token is answered.
    refusal: std::sync::Mutex<Option<(StatusCode, Value)>>,
}

type Shared = Arc<Root>;

impl Root {
    fn admits(&self, headers: &HeaderMap) -> bool {
        let token = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let number = token.strip_prefix("Bearer token").and_then(|number| number.parse::<usize>().ok());
        number.is_some_and(|number| number >= self.valid_from.load(Ordering::SeqCst))
    }
}

async fn login(State(root): State<Shared>, Json(body): Json<Value>) -> Response {
    if body != json!({"username": "Admin", "password": "Admin"}) {
        return (StatusCode::UNAUTHORIZED, Json(json!({"code": 401, "status": "Unauthorized"})))
            .into_response();
    }
    let number = root.logins.fetch_add(1, Ordering::SeqCst);
    Json(json!({"token": format!("token{number}"), "refresh_token": "r"})).into_response()
}

async fn services(State(root): State<Shared>, headers: HeaderMap) -> Response {
    if !root.admits(&headers) {
        let refusal = root.refusal.lock().expect("no panic").clone();
        let (status, body) = refusal.unwrap_or((StatusCode::UNAUTHORIZED, json!({"message": "Missing"})));
        return (status, Json(body)).into_response();
    }
    let list = json!([{
        "_id": {"$oid": "665f2a0e9b1e8a3d4c2b2003"}, "microserviceID": "665f2a0e9b1e8a3d4c2b2003",
        "microservice_name": "nginx", "memory": 100, "RR_ip": null, "status": "RUNNING",
        "instance_list": [{"instance_number": 0, "status": "RUNNING", "cpu_percent": 0.5, "publicip": null}]
    }]);
    Json(list.to_string()).into_response()
}

async fn clusters() -> Response {
    let list = r#"[{"_id":"665f3b0e9b1e8a3d4c2b3001","cluster_name":"c1","port":10100,"active":true,
        "active_nodes":2,"aggregated_cpu_percent":12,"memory_in_mb":16000.5,"virtualization":null}]"#;
    ([("content-type", "text/html; charset=utf-8")], list).into_response()
}

async fn refuse(Path(id): Path<String>) -> Response {
    let code: u16 = id.parse().expect("a status");
    let status = StatusCode::from_u16(code).expect("a status");
    (status, Json(json!({"code": code, "status": "x", "message": format!("reason {code}")}))).into_response()
}

async fn logs(Query(query): Query<Vec<(String, String)>>) -> Response {
    let asked = query.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("&");
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    tokio::spawn(async move {
        for piece in [format!("{asked}\n"), "second\n".to_owned()] {
            if sender.send(Ok(piece.into())).await.is_err() {
                return;
            }
        }
    });
    Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver)).into_response()
}

async fn tokens(Json(body): Json<Value>) -> Response {
    Json(json!({"token": body.to_string(), "expires_at": 1_800_000_000})).into_response()
}

async fn start() -> (Shared, String) {
    let root = Shared::default();
    let router = Router::new()
        .route("/api/auth/login", post(login))
        .route("/api/services/", get(services))
        .route("/api/clusters/", get(clusters))
        .route("/api/clusters/{id}/workers", get(refuse))
        .route("/api/application/{id}", delete(refuse).get(refuse))
        .route("/api/service/{id}/instance/{number}/logs", get(logs))
        .route("/api/tokens", post(tokens))
        .with_state(Arc::clone(&root));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, router).await });
    (root, format!("http://{address}"))
}

fn admin(server: &str) -> Client {
    Client::new(server, Credentials::new("Admin", "Admin")).expect("an address")
}

#[tokio::test]
async fn logs_in_once_and_again_when_the_token_expired() {
    let (root, server) = start().await;
    let client = admin(&server);
    let (first, second) = tokio::join!(client.services(), client.services());
    assert_eq!(first.expect("listed"), second.expect("listed"));
    assert_eq!(root.logins.load(Ordering::SeqCst), 1, "calls that start together share the login");

    root.valid_from.store(1, Ordering::SeqCst);
    assert!(client.services().await.is_ok());
    assert_eq!(root.logins.load(Ordering::SeqCst), 2);

    // What the original says to a token of an earlier key.
    let foreign = (StatusCode::UNPROCESSABLE_ENTITY, json!({"msg": "Signature verification failed"}));
    *root.refusal.lock().expect("no panic") = Some(foreign);
    root.valid_from.store(2, Ordering::SeqCst);
    assert!(client.services().await.is_ok());

    root.valid_from.store(100, Ordering::SeqCst);
    let error = client.services().await.expect_err("never admitted");
    assert_eq!(error.to_string(), "cannot list the services: Signature verification failed (HTTP 422)");
}

#[tokio::test]
async fn reads_nested_and_plain_answers_with_gaps() {
    let (_root, server) = start().await;
    let client = admin(&server);
    let services = client.services().await.expect("nested");
    assert_eq!((services[0].name.as_str(), services[0].address.as_str()), ("nginx", ""));
    assert_eq!(services[0].instances[0].cpu_percent, "0.5");
    assert_eq!(services[0].other["memory"], 100);
    let clusters = client.clusters().await.expect("plain");
    assert_eq!((clusters[0].name.as_str(), clusters[0].port.as_str()), ("c1", "10100"));
    assert!((clusters[0].memory_mib - 16000.5).abs() < f64::EPSILON);
}

#[tokio::test]
async fn sorts_errors_by_what_to_do() {
    let (_root, server) = start().await;
    let client = admin(&server);
    for (status, kind) in [
        ("403", ClientErrorKind::Denied),
        ("404", ClientErrorKind::NotFound),
        ("409", ClientErrorKind::Conflict),
        ("422", ClientErrorKind::Invalid),
        ("400", ClientErrorKind::Invalid),
        ("500", ClientErrorKind::Server),
    ] {
        let error = client.application(status).await.expect_err(status);
        assert_eq!(error.kind(), kind);
        assert_eq!(
            error.to_string(),
            format!("cannot read application {status}: reason {status} (HTTP {status})")
        );
    }
    let error = client.delete_application("501").await.expect_err("unknown");
    assert_eq!(error.kind(), ClientErrorKind::NotFound);
    for bad in ["", "..", "."] {
        let error = client.delete_application(bad).await.expect_err("never sent");
        assert_eq!(error.kind(), ClientErrorKind::Invalid);
    }
}

#[tokio::test]
async fn tells_a_wrong_password_from_a_dead_server() {
    let (_root, server) = start().await;
    let wrong = Client::new(&server, Credentials::new("Admin", "wrong")).expect("an address");
    let error = wrong.services().await.expect_err("denied");
    assert_eq!(error.kind(), ClientErrorKind::Denied);
    assert!(error.to_string().contains("log in to http://127.0.0.1:"), "{error}");

    // A port that was free a moment ago and is closed again.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let error = admin(&address.to_string()).services().await.expect_err("nobody there");
    assert_eq!(error.kind(), ClientErrorKind::Unreachable);
    assert!(!error.to_string().contains("/api/"), "{error}");
}

#[tokio::test]
async fn streams_logs() {
    let (_root, server) = start().await;
    let options = LogOptions { tail: Some(10), follow: true, ..LogOptions::default() };
    let mut stream = admin(&server).logs("665f2a0e9b1e8a3d4c2b2003", 0, options).await.expect("opened");
    let mut text = Vec::new();
    while let Some(piece) = stream.next().await.expect("unbroken") {
        text.extend_from_slice(&piece);
    }
    assert_eq!(String::from_utf8_lossy(&text), "tail=10&follow=true\nsecond\n");
}

#[tokio::test]
async fn asks_for_tokens_as_agreed() {
    let (_root, server) = start().await;
    let role = TokenRole::Worker { cluster: Some("c1".to_owned()) };
    let token = admin(&server).create_token(&role, Duration::from_secs(3600)).await.expect("made");
    assert_eq!(token.expires_at, 1_800_000_000);
    assert_eq!(
        serde_json::from_str::<Value>(&token.token).ok(),
        Some(json!({"role": "worker", "cluster": "c1", "ttl_seconds": 3600}))
    );
    assert!(!format!("{token:?}").contains("c1"));
}
