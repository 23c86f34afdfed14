//! Services.

use std::collections::BTreeSet;

use serde_json::json;

use crate::world::{World, descriptor};

#[tokio::test]
async fn concurrent_additions_lose_nothing() {
    let world = World::start().await;
    let token = world.admin().await;
    let application = world.create(&token, "app", &[]).await;
    let id = application["applicationID"].as_str().unwrap();
    let names: Vec<String> = (0..40).map(|number| format!("s{number}")).collect();
    let calls = names.iter().map(|name| {
        world.call("POST", "/api/service/").token(&token).json(&descriptor("app", id, &[name])).send()
    });
    let answers = futures_util::future::join_all(calls).await;
    let created: BTreeSet<_> = answers
        .iter()
        .map(|answer| {
            let body = answer.json();
            assert_eq!(body["failed_services"], json!([]));
            assert_eq!(body["deployed_services"][0]["status"], 200);
            body["job_id"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(created.len(), 40);
    let record = world.get(&format!("/api/application/{id}"), &token).send().await.json();
    let listed: BTreeSet<_> = record["microservices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap().to_owned())
        .collect();
    assert_eq!(listed, created);
    let services = world.get(&format!("/api/services/{id}/"), &token).send().await.nested();
    assert_eq!(services.as_array().unwrap().len(), 40);
}

#[tokio::test]
async fn additions_happen_completely_or_not_at_all() {
    let world = World::start().await;
    let (admin, bob) = (world.admin().await, world.bob().await);
    let application = world.create(&admin, "app", &["web"]).await;
    let id = application["applicationID"].as_str().unwrap();
    let add = |id: &str, services: &[&str], token: &str| {
        world.call("POST", "/api/service").token(token).json(&descriptor("app", id, services))
    };
    assert!(add(id, &["new", "web"], &admin).send().await.error(409).contains("app.test.web.test"));
    assert_eq!(world.get(&format!("/api/application/{id}"), &admin).send().await.json(), application);
    add(id, &["new"], &bob).send().await.error(404);
    add("0123456789abcdef01234567", &["new"], &admin).send().await.error(404);
    let answer = add("", &["new"], &admin).send().await;
    answer.error(422);
    assert!(answer.json()["errors"]["json"]["applications[0].applicationID"].is_array());
    let none = json!({ "sla_version": "v2.0", "customerID": "", "applications": [] });
    world.call("POST", "/api/service").token(&admin).json(&none).send().await.error(422);
}

#[tokio::test]
async fn names_and_foreign_ids_are_unknown_services() {
    let world = World::start().await;
    let (admin, bob) = (world.admin().await, world.bob().await);
    let id = world.service(&admin, "app").await;
    let path = format!("/api/service/{id}");
    for path in ["/api/service/web", "/api/service/0123456789abcdef01234567", "/api/service/%ff"] {
        world.get(path, &admin).send().await.error(404);
    }
    let application =
        world.get("/api/applications/", &admin).send().await.nested()[0]["applicationID"].clone();
    for (method, path) in [
        ("GET", path.clone()),
        ("DELETE", path.clone()),
        ("POST", format!("{path}/instance")),
        ("DELETE", format!("{path}/instance/0")),
        ("DELETE", format!("{path}/instance/-1")),
        ("GET", format!("{path}/instance/0/logs")),
        ("GET", format!("/api/services/{}", application.as_str().unwrap())),
    ] {
        world.call(method, &path).token(&bob).send().await.error(404);
    }
    world.call("PUT", &path).token(&admin).json(&json!({})).send().await.error(422);
    let answer = world.call("DELETE", &path).token(&admin).send().await;
    assert_eq!(answer.json(), json!({ "message": "Job deleted" }));
    world.get(&path, &admin).send().await.error(404);
    let all = world.get("/api/applications/", &admin).send().await.nested();
    assert_eq!(all[0]["microservices"], json!([]));
}
