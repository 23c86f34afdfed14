//! Clusters and workers.

use serde_json::json;

use crate::world::{World, worker_id};

#[tokio::test]
async fn clusters_need_no_login_and_inactive_ones_are_marked() {
    let world = World::start().await;
    assert_eq!(world.call("GET", "/api/clusters").send().await.json(), json!([]));
    let first = world.join("first").await;
    world.join("second").await;
    world.disconnect(first).await;
    let all = world.call("GET", "/api/clusters/").send().await.json();
    let named =
        |name: &str| all.as_array().unwrap().iter().find(|found| found["cluster_name"] == name).unwrap();
    assert_eq!((&named("first")["active"], &named("first")["active_nodes"]), (&json!(false), &json!(0)));
    let second = named("second");
    for (field, value) in [
        ("active", json!(true)),
        ("active_nodes", json!(1)),
        ("memory_in_mb", json!(7500)),
        ("total_cpu_cores", json!(4)),
        ("virtualization", json!(["docker"])),
        ("port", json!("10100")),
        ("ip", json!("192.0.2.20")),
        ("cluster_location", json!("48.1374,11.5755,1000")),
    ] {
        assert_eq!(second[field], value, "{field}");
    }
    let active = world.call("GET", "/api/clusters/active/").send().await.json();
    assert_eq!(active.as_array().unwrap().len(), 1);
    assert_eq!(active[0]["cluster_name"], "second");
}

#[tokio::test]
async fn workers_are_listed_for_users() {
    let world = World::start().await;
    let bob = world.bob().await;
    let cluster = world.join("cluster1").await;
    let path = format!("/api/clusters/{cluster}/workers");
    world.call("GET", &path).send().await.error(401);
    let workers = world.get(&path, &bob).send().await.json();
    assert_eq!(workers[0]["id"], worker_id().to_string());
    assert_eq!(workers[0]["facts"]["name"], "worker1");
    assert_eq!(workers[0]["facts"]["capacity"]["memory_mib"], 8000);
    assert_eq!(workers[0]["reserved"]["memory_mib"], 500);
    assert_eq!((&workers[0]["connected"], &workers[0]["cpu_percent"]), (&json!(true), &json!(0.0)));
    assert_eq!(world.get("/api/clusters/cluster1/workers/", &bob).send().await.json(), workers);
    world.get("/api/clusters/nowhere/workers", &bob).send().await.error(404);
    world.disconnect(cluster).await;
    assert_eq!(world.get(&path, &bob).send().await.json()[0]["connected"], json!(false));
}
