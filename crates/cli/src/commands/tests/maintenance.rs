//! Cordon, uncordon and drain against a root that plays through a list of states of one worker.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::{login, run_and_listen, text};

/// States that the worker goes through, one per question; the last one stays.
type States = Arc<Mutex<VecDeque<Value>>>;

fn worker(availability: &str, instances: u32, list: &Value) -> Value {
    json!({
        "id": "6b055f75050aba7150cba1ae", "facts": {"name": "pi"}, "connected": true, "instances": instances,
        "availability": availability, "cluster_name": "munich", "instance_list": list
    })
}

fn instance(number: u32, detail: &str, one_shot: bool) -> Value {
    json!({
        "microserviceID": "s", "job_name": "shop.test.web.test", "instance_number": number, "status": "RUNNING",
        "status_detail": detail, "one_shot": one_shot
    })
}

async fn set(State(states): State<States>, Path(name): Path<String>, Json(body): Json<Value>) -> Response {
    if name != "pi" {
        let message = format!("there is no worker `{name}`");
        return (StatusCode::NOT_FOUND, Json(json!({"code": 404, "message": message}))).into_response();
    }
    let first = next(&states);
    assert_eq!(first["availability"], body["availability"]);
    Json(first).into_response()
}

fn next(states: &States) -> Value {
    let mut states = states.lock().expect("no panic");
    if states.len() > 1 { states.pop_front().expect("more than one") } else { states[0].clone() }
}

async fn start(states: impl IntoIterator<Item = Value>) -> String {
    let states: States = Arc::new(Mutex::new(states.into_iter().collect()));
    let show = |State(states): State<States>| async move { Json(next(&states)) };
    let router = Router::new()
        .route("/api/auth/login", post(login))
        .route("/api/workers/{id}/availability", put(set))
        .route("/api/workers/{id}", get(show))
        .with_state(states);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

#[tokio::test]
async fn closes_and_opens_a_worker() {
    let root = start([worker("cordoned", 2, &json!([])), worker("open", 1, &json!([]))]).await;
    let (result, data, _) = run_and_listen(&root, &["cordon", "pi"]).await;
    result.expect("cordoned");
    assert_eq!(data, "worker pi is cordoned, with 2 instances\n");
    let (result, data, _) = run_and_listen(&root, &["uncordon", "pi"]).await;
    result.expect("opened");
    assert_eq!(data, "worker pi is open, with 1 instance\n");
    let failure = run_and_listen(&root, &["cordon", "nobody"]).await.0.expect_err("no such worker");
    assert_eq!(failure.code(), 3);
    assert_eq!(
        text(&failure),
        "error: cannot cordon worker nobody: there is no worker `nobody` (HTTP 404)\n"
    );
}

#[tokio::test]
async fn drains_without_waiting() {
    let root = start([worker("draining", 2, &json!([]))]).await;
    let (result, data, talk) = run_and_listen(&root, &["drain", "pi"]).await;
    result.expect("begun");
    assert_eq!(data, "worker pi is draining, with 2 instances left\n");
    assert_eq!(talk, "`oak drain pi --wait` shows the progress\n");
}

#[tokio::test]
async fn waits_until_a_worker_is_empty_and_tells_what_is_new() {
    let task = instance(0, "running", true);
    let root = start([
        worker("draining", 3, &json!([task, instance(1, "running", false), instance(2, "running", false)])),
        worker(
            "draining",
            3,
            &json!([task, instance(1, "moving to worker two: pulling the image, 7 %", false)]),
        ),
        worker(
            "draining",
            2,
            &json!([task, instance(1, "moving to worker two: pulling the image, 80 %", false)]),
        ),
        worker("draining", 0, &json!([])),
    ])
    .await;
    let (result, data, talk) = run_and_listen(&root, &["drain", "pi", "--wait"]).await;
    result.expect("empty");
    assert_eq!(data, "worker pi is empty\n");
    assert_eq!(
        talk,
        "worker pi: 3 instances left\n\
         \x20 shop.test.web.test/0: one-shot, left to finish: running\n\
         \x20 shop.test.web.test/1: RUNNING: moving to worker two: pulling the image, 7 %\n\
         worker pi: 2 instances left\n\
         worker pi: 0 instances left\n"
    );
}

#[tokio::test]
async fn says_what_stays_and_why_when_the_time_is_over() {
    let stuck = "cannot leave worker pi: two: 10 of 100 MiB memory free, 50 needed";
    let list = json!([instance(0, "running", true), instance(1, stuck, false)]);
    let root = start([worker("draining", 3, &list)]).await;
    let (result, data, _) = run_and_listen(&root, &["drain", "pi", "--wait", "--timeout", "1s"]).await;
    let failure = result.expect_err("not empty");
    assert_eq!((failure.code(), data.as_str()), (1, ""));
    assert_eq!(
        text(&failure),
        "error: worker pi has 3 instances left after 1s\n\
         \x20 shop.test.web.test/0: one-shot, left to finish: running\n\
         \x20 shop.test.web.test/1: RUNNING: cannot leave worker pi: two: 10 of 100 MiB memory free, 50 needed\n\
         \x20 1 instance being stopped\n\
         hint: it goes on draining: `oak drain pi --wait` waits again, `oak uncordon pi` opens it\n"
    );
}

#[tokio::test]
async fn stops_waiting_when_somebody_opens_the_worker() {
    let root = start([worker("draining", 3, &json!([])), worker("open", 3, &json!([]))]).await;
    let failure = run_and_listen(&root, &["drain", "pi", "--wait"]).await.0.expect_err("opened");
    assert!(text(&failure).contains("is not being drained any more: somebody made it open"));
}
