//! `oak delete cluster` and `oak delete worker` against a root with one of each.

use std::collections::HashMap;

use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde_json::json;

use super::{login, run_and_listen, text};

const CLUSTER: &str = "6b055f320e1a7f28a42961d2";
const WORKER: &str = "6b055f75050aba7150cba1ae";

type Force = Query<HashMap<String, String>>;

fn removed_if_forced(force: &Force) -> Response {
    if force.0.get("force").is_some_and(|force| force == "true") {
        return Json(json!({"message": "removed"})).into_response();
    }
    (StatusCode::CONFLICT, Json(json!({"code": 409, "message": "it is connected: stop it first"})))
        .into_response()
}

async fn cluster(Path(id): Path<String>, force: Force) -> Response {
    assert_eq!(id, "munich");
    removed_if_forced(&force)
}

async fn worker(Path((cluster, worker)): Path<(String, String)>, force: Force) -> Response {
    assert_eq!((cluster.as_str(), worker.as_str()), (CLUSTER, WORKER), "found by name, removed by id");
    removed_if_forced(&force)
}

async fn show(Path(name): Path<String>) -> Response {
    if name != "pi" {
        let message = format!("there is no worker `{name}`");
        return (StatusCode::NOT_FOUND, Json(json!({"code": 404, "message": message}))).into_response();
    }
    let record = json!({
        "id": WORKER, "facts": {"name": "pi"}, "connected": true, "instances": 0, "availability": "open",
        "cluster_id": CLUSTER, "cluster_name": "munich", "instance_list": []
    });
    Json(record).into_response()
}

async fn start() -> String {
    let router = Router::new()
        .route("/api/auth/login", post(login))
        .route("/api/clusters/{id}", delete(cluster))
        .route("/api/clusters/{id}/workers/{worker}", delete(worker))
        .route("/api/workers/{id}", get(show));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

#[tokio::test]
async fn removes_a_worker_by_name() {
    let root = start().await;
    let failure = run_and_listen(&root, &["delete", "worker", "pi"]).await.0.expect_err("connected");
    assert!(text(&failure).contains("it is connected: stop it first"), "{}", text(&failure));
    let (result, data, talk) = run_and_listen(&root, &["delete", "worker", "pi", "--force"]).await;
    result.expect("removed");
    assert_eq!(data, "worker pi removed from cluster munich\n");
    assert!(talk.contains("oak down"), "{talk}");
    let failure = run_and_listen(&root, &["delete", "worker", "nobody"]).await.0.expect_err("no such worker");
    assert_eq!(failure.code(), 3);
}

#[tokio::test]
async fn removes_a_cluster_by_name() {
    let root = start().await;
    let failure = run_and_listen(&root, &["delete", "cluster", "munich"]).await.0.expect_err("connected");
    assert!(text(&failure).contains("cannot remove cluster munich: it is connected"), "{}", text(&failure));
    let (result, data, _) = run_and_listen(&root, &["delete", "cluster", "munich", "--force"]).await;
    result.expect("removed");
    assert_eq!(data, "cluster munich removed\n");
}

#[tokio::test]
async fn nothing_else_is_forced() {
    let root = start().await;
    let failure = run_and_listen(&root, &["delete", "service", "web", "--force"]).await.0.expect_err("usage");
    assert_eq!(failure.code(), 2);
}
