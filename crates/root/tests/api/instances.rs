//! Deploying, undeploying, and what is shown about it.

use oak_model::Status;
use oak_model::message::{ClusterToRoot, InstanceUsage, NodeUsage, UsageReport};
use serde_json::{Value, json};

use crate::world::{World, worker_id};

#[tokio::test]
async fn a_service_shows_no_status_until_it_is_deployed_and_undeployed_after() {
    let world = World::start().await;
    let token = world.admin().await;
    let service = world.service(&token, "app").await;
    let id = service.parse().unwrap();
    assert_eq!(world.record(&token, id).await.get("status"), None);
    world.deploy(&token, &service).await;
    let record = world.record(&token, id).await;
    assert_eq!(record["status"], "TargetClusterNotActive");
    assert_eq!(record["status_detail"], "no cluster has joined yet");
    let path = format!("/api/service/{service}/instance/-1");
    let answer = world.call("DELETE", &path).token(&token).send().await;
    assert_eq!(answer.json(), json!({ "message": "ok" }));
    let record = world.record(&token, id).await;
    assert_eq!((&record["status"], &record["instance_list"]), (&json!("UNDEPLOYED"), &json!([])));
    assert_eq!(record["next_instance_progressive_number"], 1);
}

#[tokio::test]
async fn the_body_of_a_deployment_is_ignored_and_numbers_are_not_reused() {
    let world = World::start().await;
    let token = world.admin().await;
    let service = world.service(&token, "app").await;
    let path = format!("/api/service/{service}/instance");
    let calls = [
        world.call("POST", &path),
        world.call("POST", &path).body("{not json"),
        world.call("POST", &format!("{path}/")).json(&world.record(&token, service.parse().unwrap()).await),
        world.call("POST", &format!("{path}?")).body(vec![0xff; 2_000_000]),
    ];
    for (number, call) in calls.into_iter().enumerate() {
        let answer = call.token(&token).send().await.json();
        assert_eq!(answer, json!({ "message": "ok", "instance_number": number }));
    }
    let delete = async |number: &str| {
        let path = format!("/api/service/{service}/instance/{number}");
        world.call("DELETE", &path).token(&token).send().await
    };
    assert_eq!(delete("1").await.status, 200);
    assert_eq!(delete("1").await.status, 200, "gone already");
    delete("4").await.error(404);
    for bad in ["x", "-2", "1.5", "99999999999"] {
        delete(bad).await.error(400);
    }
    assert_eq!(world.deploy(&token, &service).await.number, 4);
    let record = world.record(&token, service.parse().unwrap()).await;
    let numbers: Vec<_> = record["instance_list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["instance_number"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, [0, 2, 3, 4]);
}

#[tokio::test]
async fn an_instance_goes_from_scheduled_to_running_with_measurements() {
    let world = World::start().await;
    let token = world.admin().await;
    let cluster = world.join("cluster1").await;
    let service = world.service(&token, "app").await;
    let key = world.deploy(&token, &service).await;
    let record = world.record(&token, key.service).await;
    let instance = &record["instance_list"][0];
    assert_eq!(instance["status"], "CLUSTER_SCHEDULED");
    assert_eq!(instance["cluster_id"], cluster.to_string());
    assert_eq!(instance["cluster_location"], "48.1374,11.5755,1000");
    assert_eq!(instance["cpu_history"], json!([]));

    world.report(cluster, key, Status::Running, "running").await;
    let usage = UsageReport {
        nodes: vec![NodeUsage { worker: Some(worker_id()), cpu_percent: 12.345, memory_percent: 30.0 }],
        instances: vec![InstanceUsage {
            key,
            cpu_percent: 0.421,
            memory_bytes: 1_048_576,
            disk_bytes: 204_800,
            log_tail: Some("hello\n".into()),
        }],
    };
    world.message(cluster, ClusterToRoot::Usage(usage)).await;
    let record = world.record(&token, key.service).await;
    assert_eq!((&record["status"], &record["status_detail"]), (&json!("RUNNING"), &json!("running")));
    let instance = &record["instance_list"][0];
    for (field, value) in [
        ("cpu_percent", json!("0.42")),
        ("memory_percent", json!("1048576")),
        ("disk", json!("204800")),
        ("logs", json!("hello\n")),
        ("host_ip", json!("192.0.2.31")),
        ("publicip", json!("192.0.2.31")),
        ("host_port", json!(50103)),
        ("worker_id", json!(worker_id())),
        ("worker_name", json!("worker1")),
    ] {
        assert_eq!(instance[field], value, "{field}");
    }
    assert_eq!(instance["memory_history"][0]["value"], "1048576");
    assert!(instance["cpu_history"][0]["timestamp"].as_str().unwrap().starts_with("20"));
    assert!(instance["instance_ip"].as_str().unwrap().starts_with("10.30."));
    assert_ne!(instance["instance_ip"], record["RR_ip"]);
}

#[tokio::test]
async fn the_status_of_a_service_is_that_of_the_one_that_does_not_run() {
    let world = World::start().await;
    let token = world.admin().await;
    let cluster = world.join("cluster1").await;
    let service = world.service(&token, "app").await;
    let first = world.deploy(&token, &service).await;
    let second = world.deploy(&token, &service).await;
    let shown = async || {
        let record = world.record(&token, first.service).await;
        (record["status"].clone(), record["status_detail"].clone())
    };
    world.report(cluster, second, Status::Running, "fine").await;
    world.report(cluster, first, Status::Failed, "exit code 1, next start in 4 s").await;
    assert_eq!(shown().await, (json!("FAILED"), json!("exit code 1, next start in 4 s")));
    world.report(cluster, first, Status::Running, "fine").await;
    assert_eq!(shown().await, (json!("RUNNING"), json!("fine")));
}

#[tokio::test]
async fn a_lost_cluster_is_named_in_the_detail_and_the_status_stays() {
    let world = World::start().await;
    let token = world.admin().await;
    let cluster = world.join("cluster1").await;
    let service = world.service(&token, "app").await;
    let key = world.deploy(&token, &service).await;
    world.report(cluster, key, Status::Running, "fine").await;
    world.disconnect(cluster).await;
    let check = |record: &Value, since: &str| {
        assert_eq!(record["status"], "RUNNING");
        let detail = record["status_detail"].as_str().unwrap();
        assert!(detail.starts_with(&format!("cluster cluster1 is not connected since {since}")), "{detail}");
        assert!(detail.ends_with("last known: fine"), "{detail}");
        assert_eq!(record["instance_list"][0]["status_detail"], detail);
    };
    check(&world.record(&token, key.service).await, "20");
    let world = world.restart().await;
    check(&world.record(&token, key.service).await, "the start of the root");
}
