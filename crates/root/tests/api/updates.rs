//! Changing services: updates, numbers of instances, and the way back.

use oak_model::{ServiceId, Status};
use serde_json::{Value, json};

use crate::world::{World, descriptor};

/// A service that keeps two instances, which run.
async fn running(world: &World, token: &str) -> (String, ServiceId, oak_model::ClusterId) {
    let cluster = world.join("east").await;
    let id = world.service(token, "app").await;
    let service: ServiceId = id.parse().unwrap();
    let answer = world.call("PUT", &format!("/api/service/{id}/scale/")).token(token);
    let answer = answer.json(&json!({ "replicas": 2 })).send().await;
    assert_eq!(answer.json()["created"], json!([0, 1]));
    for number in 0..2 {
        let key = oak_model::InstanceKey { service, number };
        world.report(cluster, key, Status::Running, "running").await;
    }
    (id, service, cluster)
}

#[tokio::test]
async fn scaling_answers_what_it_did_and_the_record_shows_the_number() {
    let world = World::start().await;
    let admin = world.admin().await;
    let (id, service, _) = running(&world, &admin).await;
    let path = format!("/api/service/{id}/scale");
    let answer = world.call("PUT", &path).token(&admin).json(&json!({ "replicas": 1 })).send().await.json();
    assert_eq!(answer, json!({ "microserviceID": id, "replicas": 1, "created": [], "removed": [1] }));
    let record = world.record(&admin, service).await;
    assert_eq!((&record["replicas"], record["instance_list"].as_array().unwrap().len()), (&json!(1), 1));
    // One more, as ever, is one more to keep.
    world.deploy(&admin, &id).await;
    assert_eq!(world.record(&admin, service).await["replicas"], 2);
    world.call("DELETE", &format!("/api/service/{id}/instance/-1")).token(&admin).send().await.json();
    assert_eq!(world.record(&admin, service).await["replicas"], 0);
    for wrong in [
        json!({}),
        json!({"replicas": -1}),
        json!({"replicas": 1001}),
        json!({"replicas": "2"}),
        json!({"replicas": 1.5}),
    ] {
        let message = world.call("PUT", &path).token(&admin).json(&wrong).send().await.error(422);
        assert!(message.contains("0 to 1000"), "{message}");
    }
    let bob = world.bob().await;
    world.call("PUT", &path).token(&bob).json(&json!({ "replicas": 5 })).send().await.error(404);
    assert_eq!(world.record(&admin, service).await["replicas"], 0);
}

#[tokio::test]
async fn a_descriptor_with_replicas_deploys_them() {
    let world = World::start().await;
    let admin = world.admin().await;
    let mut document = descriptor("app", "", &["web"]);
    document["applications"][0]["microservices"][0]["replicas"] = json!(3);
    world.call("POST", "/api/application/").token(&admin).json(&document).send().await.nested();
    let services = world.get("/api/services/", &admin).send().await.nested();
    assert_eq!(services[0]["instance_list"].as_array().unwrap().len(), 3);
    assert_eq!(services[0]["replicas"], 3);
}

#[tokio::test]
async fn a_change_starts_an_update_and_every_form_of_it_is_understood() {
    let world = World::start().await;
    let admin = world.admin().await;
    let (id, service, cluster) = running(&world, &admin).await;
    let path = format!("/api/service/{id}");
    let put = |body: &Value| world.call("PUT", &path).token(&admin).json(body);
    let document = descriptor("app", "", &["web"]);
    let alone = document["applications"][0]["microservices"][0].clone();

    let before = world.record(&admin, service).await;
    for same in [&document, &alone, &before] {
        let record = put(same).send().await.json();
        assert_eq!((&record["revision"], record.get("rollout")), (&json!(0), None), "{same}");
    }
    let mut changed = before.clone();
    changed["code"] = json!("docker.io/library/other:2");
    let record = put(&changed).send().await.json();
    assert_eq!((&record["revision"], &record["code"]), (&json!(1), &json!("docker.io/library/other:2")));
    let rollout = &record["rollout"];
    assert_eq!(
        (&rollout["state"], &rollout["updated"], &rollout["total"], &rollout["from_revision"]),
        (&json!("running"), &json!(0), &json!(2), &json!(0))
    );
    assert!(
        record["status_detail"].as_str().unwrap().starts_with("updating to revision 1: 0 of 2"),
        "{record}"
    );
    let revisions: Vec<_> =
        record["instance_list"].as_array().unwrap().iter().map(|i| i["revision"].clone()).collect();
    assert_eq!(revisions, [0, 0, 1], "one more, of the new revision");

    // The same again is no other update; something else has to wait.
    put(&changed).send().await.json();
    changed["code"] = json!("docker.io/library/third:3");
    assert!(put(&changed).send().await.error(409).contains("being updated to revision 1"));

    // It fails: the record is the old one again.
    let key = oak_model::InstanceKey { service, number: 2 };
    for status in [Status::Failed, Status::Creating, Status::Failed, Status::Creating, Status::Failed] {
        world.report(cluster, key, status, "no such image").await;
    }
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    let record = loop {
        let record = world.record(&admin, service).await;
        if record["rollout"]["state"] == "rolled-back" {
            break record;
        }
        assert!(tokio::time::Instant::now() < deadline, "{record}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!((&record["revision"], &record["code"]), (&json!(0), &before["code"]));
    assert_eq!(record["rollout"]["from_revision"], 1);
    assert!(record["rollout"]["reason"].as_str().unwrap().contains("failed 3 times"), "{record}");
    assert!(record["status_detail"].as_str().unwrap().contains("was rolled back"), "{record}");
    assert_eq!(record["instance_list"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn an_update_is_called_off_on_request() {
    let world = World::start().await;
    let admin = world.admin().await;
    let (id, service, _) = running(&world, &admin).await;
    let (path, update) = (format!("/api/service/{id}"), format!("/api/service/{id}/update"));
    world.call("DELETE", &update).token(&admin).send().await.error(409);
    let mut changed = world.record(&admin, service).await;
    changed["memory"] = json!(77);
    world.call("PUT", &path).token(&admin).json(&changed).send().await.json();
    let record = world.call("DELETE", &format!("{update}/")).token(&admin).send().await.json();
    assert_eq!((&record["revision"], &record["rollout"]["state"]), (&json!(0), &json!("rolled-back")));
    assert_eq!(record["rollout"]["reason"], "on request");
    assert_eq!(world.record(&admin, service).await["instance_list"].as_array().unwrap().len(), 2);
    let bob = world.bob().await;
    world.call("DELETE", &update).token(&bob).send().await.error(404);
}

#[tokio::test]
async fn what_would_be_another_service_is_refused() {
    let world = World::start().await;
    let (admin, bob) = (world.admin().await, world.bob().await);
    let (id, service, _) = running(&world, &admin).await;
    let path = format!("/api/service/{id}");
    let before = world.record(&admin, service).await;
    let with = |key: &str, value: Value| {
        let mut changed = before.clone();
        changed[key] = value;
        changed
    };
    for (body, says) in [
        (with("microservice_name", json!("other")), "cannot be renamed"),
        (with("microservice_namespace", json!("other")), "cannot be renamed"),
        (with("addresses", json!({"rr_ip": "10.30.77.77"})), "service address is"),
        (with("microserviceID", json!("0123456789abcdef01234567")), "the id of the service that changes"),
        (with("replicas", json!(1001)), "0 to 1000"),
        (with("update", json!({"order": "sideways"})), "stop-first"),
        (with("update", json!({"parallel": 0})), "1 to 1000"),
        (with("update", json!({"max_surge": 1})), "not a setting of an update"),
        (descriptor("another", "", &["web"]), "belongs to another application"),
        (descriptor("app", "", &["web", "second"]), "exactly one"),
        (descriptor("app", "", &[]), "exactly one"),
        (json!([]), "object"),
        (json!({}), "required"),
    ] {
        let message = world.call("PUT", &path).token(&admin).json(&body).send().await.error(422);
        assert!(message.contains(says), "{message}");
    }
    world.call("PUT", &path).token(&admin).body("{").send().await.error(400);
    world.call("PUT", &path).token(&bob).json(&before).send().await.error(404);
    assert_eq!(world.record(&admin, service).await["document"], before["document"]);
    assert_eq!(world.record(&admin, service).await["revision"], 0);
}
