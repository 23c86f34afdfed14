//! Quotas of organisations.

use serde_json::json;

use crate::world::{World, descriptor};

#[tokio::test]
async fn a_quota_is_set_shown_with_its_use_and_enforced() {
    let world = World::start().await;
    let lab = world.organization("lab").await;
    let provider = world.user(&lab, "pia", &["Application_Provider"]).await;
    let admin = world.admin().await;
    let path = format!("/api/organization/{lab}");
    let quota = json!({ "applications": 2, "services": 3, "cpu": 2, "memory_mib": 1000 });
    let body = json!({ "quota": quota });
    assert_eq!(world.call("PUT", &path).token(&admin).json(&body).send().await.status, 200);

    let service = world.service(&provider, "one").await;
    world.deploy(&provider, &service).await;
    world.deploy(&provider, &service).await;
    let deploy = world.call("POST", &format!("/api/service/{service}/instance")).token(&provider);
    let message = deploy.send().await.error(409);
    assert!(
        message.contains("quota `cpu`") && message.contains("the limit is 2, 2 used, 1 more"),
        "{message}"
    );
    let answer = world.get(&path, &admin).send().await.json();
    assert_eq!(answer["quota"], quota);
    assert_eq!(
        answer["usage"],
        json!({
            "applications": 1, "services": 1, "instances": 2, "cpu": 2, "memory_mib": 200, "storage_mib": 0, "gpus": 0
        })
    );
    // An application that asks for too many services is not created at all.
    let body = descriptor("two", "", &["a", "b", "c"]);
    let create = world.call("POST", "/api/application/").token(&provider).json(&body);
    assert!(create.send().await.error(409).contains("quota `services`"));
    let mine = world.get("/api/applications/", &provider).send().await.nested();
    assert_eq!(mine.as_array().unwrap().len(), 1);
    // The system admin works in another organisation.
    let other = world.service(&admin, "other").await;
    for _ in 0..3 {
        world.deploy(&admin, &other).await;
    }
    // Room comes back with what is removed, and at once with a larger quota.
    let undeploy = world.call("DELETE", &format!("/api/service/{service}/instance/0")).token(&provider);
    assert_eq!(undeploy.send().await.status, 200);
    world.deploy(&provider, &service).await;
    let body = json!({ "quota": { "cpu": 2.5 } });
    assert_eq!(world.call("PUT", &path).token(&admin).json(&body).send().await.status, 200);
    assert_eq!(world.get(&path, &admin).send().await.json()["quota"], json!({ "cpu": 2.5 }));
    let deploy = world.call("POST", &format!("/api/service/{service}/instance")).token(&provider);
    deploy.send().await.error(409);
    let body = json!({ "quota": {} });
    assert_eq!(world.call("PUT", &path).token(&admin).json(&body).send().await.status, 200);
    world.deploy(&provider, &service).await;
}

#[tokio::test]
async fn of_many_requests_at_the_same_time_only_as_many_succeed_as_fit() {
    let world = World::start().await;
    let lab = world.organization("lab").await;
    let provider = world.user(&lab, "pia", &["Application_Provider"]).await;
    let admin = world.admin().await;
    let body = json!({ "quota": { "instances": 5 } });
    let set = world.call("PUT", &format!("/api/organization/{lab}")).token(&admin).json(&body);
    assert_eq!(set.send().await.status, 200);
    let service = world.service(&provider, "one").await;
    let calls = (0..20)
        .map(|_| world.call("POST", &format!("/api/service/{service}/instance")).token(&provider).send());
    let answers = futures_util::future::join_all(calls).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 5);
    assert_eq!(answers.iter().filter(|answer| answer.status == 409).count(), 15);
}

#[tokio::test]
async fn nonsense_is_refused_and_quotas_survive_a_restart() {
    let world = World::start().await;
    let lab = world.organization("lab").await;
    let admin = world.admin().await;
    let path = format!("/api/organization/{lab}");
    for quota in [json!({ "cores": 1 }), json!({ "cpu": -1 }), json!({ "instances": "many" }), json!([])] {
        let answer = world.call("PUT", &path).token(&admin).json(&json!({ "quota": quota })).send().await;
        answer.error(422);
        assert!(answer.json()["errors"]["json"].is_object());
    }
    let body = json!({ "quota": { "gpus": 0 } });
    assert_eq!(world.call("PUT", &path).token(&admin).json(&body).send().await.status, 200);
    let world = world.restart().await;
    assert_eq!(world.get(&path, &admin).send().await.json()["quota"], json!({ "gpus": 0 }));
}
