//! The audit log.

use serde_json::{Value, json};

use crate::world::{REMOTE, World, eventually};

async fn entries(world: &World, token: &str, query: &str) -> Vec<Value> {
    let answer = world.get(&format!("/api/audit?{query}"), token).send().await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["entries"].as_array().unwrap().clone()
}

#[tokio::test]
async fn changes_are_recorded_with_who_what_from_where_and_survive_a_restart() {
    let world = World::start().await;
    let admin = world.admin().await;
    world.create(&admin, "app", &["web"]).await;
    let body = json!({ "name": "eve", "password": "a secret", "email": "", "roles": [] });
    let call = world.call("POST", "/api/auth/register").from(REMOTE).token(&admin).json(&body);
    assert_eq!(call.send().await.status, 200);
    assert_eq!(world.get("/api/applications/", &admin).send().await.status, 200);
    let done = entries(&world, &admin, "result=done").await;
    assert_eq!(done.len(), 2, "neither logins nor reading: {done:?}");
    let newest = &done[0];
    for (field, value) in [
        ("user", json!("Admin")),
        ("organization", json!("000000010000000000000003")),
        ("from", json!("192.0.2.7")),
        ("method", json!("POST")),
        ("route", json!("/api/auth/register")),
        ("path", json!("/api/auth/register")),
        ("object", json!("eve")),
        ("status", json!(200)),
        ("result", json!("done")),
    ] {
        assert_eq!(newest[field], value, "{field}");
    }
    assert!(newest["at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(done[1]["route"], "/api/application");
    assert!(!world.get("/api/audit", &admin).send().await.text.contains("secret"));
    let world = world.restart().await;
    assert_eq!(entries(&world, &admin, "result=done").await, done);
}

#[tokio::test]
async fn refusals_are_recorded_failed_logins_among_them() {
    let world = World::start().await;
    let (admin, bob) = (world.admin().await, world.bob().await);
    let body = json!({ "username": "mallory", "password": "my secret guess" });
    world.call("POST", "/api/auth/login").from(REMOTE).json(&body).send().await.error(401);
    world.get("/api/organization/", &bob).send().await.error(403);
    world.call("DELETE", "/api/application/0123456789abcdef01234567").token(&bob).send().await.error(404);
    world.get("/api/services/", "forged").send().await.error(401);
    world.get("/api/nothing", &bob).send().await.error(404);
    let refused = entries(&world, &admin, "result=refused").await;
    let seen: Vec<_> = refused
        .iter()
        .rev()
        .map(|entry| {
            (entry["user"].as_str(), entry["path"].as_str().unwrap(), entry["status"].as_u64().unwrap())
        })
        .collect();
    assert_eq!(
        seen,
        [
            (Some("mallory"), "/api/auth/login", 401),
            (Some("bob"), "/api/organization/", 403),
            (Some("bob"), "/api/application/0123456789abcdef01234567", 404),
            (None, "/api/services/", 401),
        ]
    );
    assert!(!format!("{refused:?}").contains("secret"));
    assert_eq!(entries(&world, &admin, "user=bob&method=delete").await.len(), 1);
}

#[tokio::test]
async fn an_admin_of_an_organization_reads_what_was_done_there() {
    let world = World::start().await;
    let (lab, shop) = (world.organization("lab").await, world.organization("shop").await);
    let boss = world.user(&lab, "boss", &["Admin"]).await;
    world.create(&boss, "app", &[]).await;
    let own = entries(&world, &boss, "").await;
    assert_eq!((own.len(), &own[0]["user"]), (1, &json!("boss")));
    assert_eq!(entries(&world, &boss, &format!("organization={lab}")).await.len(), 1);
    world.get(&format!("/api/audit?organization={shop}"), &boss).send().await.error(403);
    let admin = world.admin().await;
    assert_eq!(entries(&world, &admin, &format!("organization={lab}&result=done")).await.len(), 1);
}

#[tokio::test]
async fn the_log_is_read_in_pages() {
    let world = World::start().await;
    let admin = world.admin().await;
    for number in 0..5 {
        world.create(&admin, &format!("app{number}"), &[]).await;
    }
    let mut query = "limit=2".to_owned();
    let mut seen = Vec::new();
    loop {
        let page = world.get(&format!("/api/audit?{query}"), &admin).send().await.json();
        seen.extend(page["entries"].as_array().unwrap().iter().map(|entry| entry["id"].as_u64().unwrap()));
        match page["next"].as_u64() {
            Some(next) => query = format!("limit=2&before={next}"),
            None => break,
        }
    }
    assert_eq!(seen, [5, 4, 3, 2, 1]);
    for bad in
        ["limit=0", "limit=1001", "limit=x", "before=-1", "result=maybe", "unknown=1", "organization=x"]
    {
        world.get(&format!("/api/audit?{bad}"), &admin).send().await.error(400);
    }
}

#[tokio::test]
async fn what_a_client_did_not_wait_for_is_finished_and_recorded() {
    let world = World::start().await;
    let admin = world.admin().await;
    let lab = world.organization("lab").await;
    world.user(&lab, "eve", &["Admin"]).await;
    let body = json!({ "name": "shop", "quota": { "instances": 3 } });
    world.call("POST", "/api/organization/").token(&admin).json(&body).hang_up();
    world.call("DELETE", "/api/user/eve").token(&admin).hang_up();
    eventually("both are recorded", || async {
        let done = entries(&world, &admin, "result=done").await;
        let is_there = |method, path| {
            done.iter()
                .any(|entry| entry["method"] == method && entry["path"] == path && entry["status"] == 200)
        };
        is_there("POST", "/api/organization/") && is_there("DELETE", "/api/user/eve")
    })
    .await;
    let all = world.get("/api/organization/", &admin).send().await.nested();
    let shop = all.as_array().unwrap().iter().find(|organization| organization["name"] == "shop").unwrap();
    assert_eq!(shop["quota"]["instances"], 3, "{shop}");
    assert!(!world.get("/api/users/", &admin).send().await.text.contains("eve"));
}
