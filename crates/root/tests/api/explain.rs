//! Explanations and plans.

use serde_json::{Value, json};

use crate::world::{World, descriptor};

/// A descriptor with one service that differs from the usual one.
fn changed(name: &str, change: &Value) -> Value {
    let mut document = descriptor(name, "", &["web"]);
    let service = document["applications"][0]["microservices"][0].as_object_mut().unwrap();
    service.extend(change.as_object().unwrap().clone());
    document
}

#[tokio::test]
async fn a_plan_tells_where_everything_would_go_and_changes_nothing() {
    let world = World::start().await;
    let token = world.admin().await;
    let cluster = world.join("cluster1").await;
    let path = "/api/application/?dry_run=true&instances=2";
    let document = changed("shop", &json!({ "memory": 100 }));
    let plan = world.call("POST", path).token(&token).json(&document).send().await.json();
    assert_eq!(plan["all_placed"], true);
    let instances = plan["services"][0]["instances"].as_array().unwrap();
    assert_eq!(instances.len(), 2);
    assert_eq!(instances[1]["place"]["cluster_id"], cluster.to_string());
    assert_eq!(instances[1]["instance_number"], 1);
    assert_eq!(world.get("/api/applications/", &token).send().await.nested(), json!([]));
    // The same words as without `dry_run`, and they are not taken by the plan.
    let created = world.call("POST", "/api/application/").token(&token).json(&document).send().await;
    assert_eq!(created.status, 200);
    world.call("POST", path).token(&token).json(&document).send().await.error(409);
    let wrong = changed("other", &json!({ "memory": "x" }));
    world.call("POST", path).token(&token).json(&wrong).send().await.error(422);
    for query in ["dry_run=maybe", "instances=-1", "dry_run=true&instances=x"] {
        let path = format!("/api/application/?{query}");
        world.call("POST", &path).token(&token).json(&wrong).send().await.error(400);
    }
    let many = "/api/application?dry_run=true&instances=1001";
    let document = changed("many", &json!({}));
    world.call("POST", many).token(&token).json(&document).send().await.error(422);
}

#[tokio::test]
async fn a_refused_instance_is_explained_with_numbers_and_the_smallest_change() {
    let world = World::start().await;
    let token = world.admin().await;
    world.join("cluster1").await;
    let document = changed("shop", &json!({ "memory": 9000 }));
    let path = "/api/application?dry_run=true";
    let plan = world.call("POST", path).token(&token).json(&document).send().await.json();
    assert_eq!(plan["all_placed"], false);
    let planned = &plan["services"][0]["instances"][0];
    assert_eq!(planned["place"], Value::Null);

    let all = world.call("POST", "/api/application").token(&token).json(&document).send().await.nested();
    let service = all[0]["microservices"][0].as_str().unwrap().to_owned();
    let key = world.deploy(&token, &service).await;
    for path in [
        format!("/api/service/{service}/instance/{}/explain", key.number),
        format!("/api/service/{service}/explain/?all=true"),
    ] {
        let explained = world.get(&path, &token).send().await.json();
        assert_eq!(explained["status"], "NoActiveClusterWithCapacity");
        assert_eq!(explained["workers_that_can_take_it"], 0);
        assert_eq!(explained["suggestion"]["text"], "lower memory from 9000 to 8000");
        let change = &explained["suggestion"]["changes"][0];
        assert_eq!((&change["kind"], &change["to"]), (&json!("lower_memory"), &json!(8000)));
        let cluster = &explained["clusters"][0];
        assert_eq!(cluster["refused_by"], json!({ "memory": 1 }));
        let reason = &cluster["workers"][0]["reasons"][0];
        assert_eq!(reason["rule"], "memory");
        assert_eq!(reason["text"], "8000 of 8000 MiB memory free, 9000 needed");
        assert_eq!(cluster["workers"][0]["free"]["memory_mib"], 8000);
    }
    let explained = &planned["explanation"];
    assert_eq!(explained["suggestion"]["text"], "lower memory from 9000 to 8000");
}

#[tokio::test]
async fn a_placed_instance_is_explained_by_the_numbers_of_its_worker() {
    let world = World::start().await;
    let token = world.admin().await;
    world.join("cluster1").await;
    let service = world.service(&token, "app").await;
    let before = world.get(&format!("/api/service/{service}/explain"), &token).send().await.json();
    assert_eq!(before["place"]["cluster_name"], "cluster1");
    assert_eq!(before["suggestion"], Value::Null);
    assert_eq!(before["clusters"][0]["workers"][0]["chosen"], true);
}

#[tokio::test]
async fn what_others_own_is_not_explained() {
    let world = World::start().await;
    let (admin, bob) = (world.admin().await, world.bob().await);
    let service = world.service(&admin, "app").await;
    let key = world.deploy(&admin, &service).await;
    for path in [
        format!("/api/service/{service}/explain"),
        format!("/api/service/{service}/instance/{}/explain", key.number),
    ] {
        world.get(&path, &bob).send().await.error(404);
        assert_eq!(world.get(&path, &admin).send().await.status, 200);
        world.get(&format!("{path}?all=x"), &admin).send().await.error(400);
        assert!(world.call("GET", &path).send().await.status == 401);
    }
    world.get(&format!("/api/service/{service}/instance/7/explain"), &admin).send().await.error(404);
    world.get("/api/service/000000000000000000000000/explain", &admin).send().await.error(404);
}

#[tokio::test]
async fn a_plan_is_refused_by_quota_and_secrets_like_the_real_call() {
    let world = World::start().await;
    let lab = world.organization("lab").await;
    let provider = world.user(&lab, "pia", &["Application_Provider"]).await;
    let admin = world.admin().await;
    world.join("cluster1").await;
    let plan = "/api/application?dry_run=true&instances=";
    let quota = json!({ "quota": { "services": 1, "instances": 2 } });
    let path = format!("/api/organization/{lab}");
    assert_eq!(world.call("PUT", &path).token(&admin).json(&quota).send().await.status, 200);
    let post = async |path: &str, document: &Value| {
        world.call("POST", path).token(&provider).json(document).send().await
    };

    let many = descriptor("many", "", &["a", "b"]);
    let real = post("/api/application", &many).await.error(409);
    assert!(real.contains("quota `services`"), "{real}");
    assert_eq!(post(&format!("{plan}0"), &many).await.error(409), real);
    // A service that keeps more instances than there may be.
    let kept = changed("kept", &json!({ "replicas": 3 }));
    let real = post("/api/application", &kept).await.error(409);
    assert!(real.contains("quota `instances`") && real.contains("the limit is 2, 0 used, 3 more"), "{real}");
    assert_eq!(post(&format!("{plan}1"), &kept).await.error(409), real, "its own number counts");
    let kept = changed("kept", &json!({ "replicas": 2 }));
    let planned = post(&format!("{plan}1"), &kept).await.json();
    assert_eq!(planned["services"][0]["instances"].as_array().unwrap().len(), 2);
    // Deploying so many would be refused.
    let single = changed("single", &json!({}));
    assert_eq!(post(&format!("{plan}2"), &single).await.status, 200);
    post(&format!("{plan}3"), &single).await.error(409);
    // A secret that is not there.
    let secret = changed("secret", &json!({ "secrets": [{ "name": "key", "env": "KEY" }] }));
    let real = post("/api/application", &secret).await;
    let planned = post(&format!("{plan}1"), &secret).await;
    assert_eq!((planned.status, &planned.text), (real.status, &real.text));
    assert_eq!(real.status, 422, "{}", real.text);
    // Whoever may not create applications may not plan them.
    let nobody = world.user(&lab, "nina", &[]).await;
    world.call("POST", plan).token(&nobody).json(&single).send().await.error(400);
    let path = format!("{plan}1");
    world.call("POST", &path).token(&nobody).json(&single).send().await.error(403);
    assert_eq!(world.get("/api/applications/", &provider).send().await.nested(), json!([]));
}
