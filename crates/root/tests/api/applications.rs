//! Applications.

use serde_json::json;

use crate::world::{World, descriptor};

#[tokio::test]
async fn creating_answers_all_applications_of_the_caller_nested() {
    let world = World::start().await;
    let (admin, bob) = (world.admin().await, world.bob().await);
    world.create(&bob, "other", &[]).await;
    world.create(&admin, "first", &[]).await;
    let answer = world
        .call("POST", "/api/application")
        .token(&admin)
        .json(&descriptor("second", "", &["a", "b"]))
        .send()
        .await;
    let all = answer.nested();
    // Ids of one second have no order.
    let named = |name: &str| all.as_array().unwrap().iter().find(|found| found["application_name"] == name);
    assert_eq!(all.as_array().unwrap().len(), 2);
    assert!(named("first").is_some());
    let second = named("second").unwrap();
    assert_eq!(second["_id"]["$oid"], second["applicationID"]);
    assert_eq!(second["application_namespace"], "test");
    assert_eq!(second["application_desc"], "a description");
    assert_eq!(second["userId"], "Admin");
    let services = second["microservices"].as_array().unwrap();
    assert!(services.len() == 2 && services.iter().all(|id| id.as_str().unwrap().len() == 24));
}

#[tokio::test]
async fn a_taken_name_changes_nothing() {
    let world = World::start().await;
    let token = world.admin().await;
    world.create(&token, "app", &["web"]).await;
    let mut both = descriptor("new", "", &["web"]);
    let taken = descriptor("app", "", &[])["applications"][0].clone();
    both["applications"].as_array_mut().unwrap().push(taken);
    let answer = world.call("POST", "/api/application/").token(&token).json(&both).send().await;
    assert!(answer.error(409).contains("`app` in namespace `test` exists already"));
    let all = world.get("/api/applications/", &token).send().await.nested();
    assert_eq!(all.as_array().unwrap().len(), 1);
    // Another user may use the name.
    world.create(&world.bob().await, "app", &[]).await;
}

#[tokio::test]
async fn a_refused_descriptor_names_every_problem_by_path() {
    let world = World::start().await;
    let token = world.admin().await;
    let mut bad = descriptor("app", "", &["web"]);
    let service = &mut bad["applications"][0]["microservices"][0];
    service["memory"] = json!("much");
    service["virtualization"] = json!("vm");
    bad["applications"][0]["application_name"] = json!("not a name");
    let answer = world.call("POST", "/api/application/").token(&token).json(&bad).send().await;
    let message = answer.error(422);
    let body = answer.json();
    for path in [
        "applications[0].application_name",
        "applications[0].microservices[0].memory",
        "applications[0].microservices[0].virtualization",
    ] {
        let listed = body["errors"]["json"][path].as_array().unwrap();
        assert!(listed.len() == 1 && listed[0].is_string(), "{body}");
        assert!(message.contains(path), "{message}");
    }
    for (body, status) in
        [("{\"sla_version\":", 400), ("", 400), ("[]", 422), ("{}", 422), ("\u{feff}\"x\"", 422)]
    {
        let answer = world.call("POST", "/api/application/").token(&token).body(body).send().await;
        answer.error(status);
        assert!(answer.json()["errors"]["json"].is_object() || answer.json()["errors"]["json"].is_array());
    }
    let syntax = world.call("POST", "/api/application/").token(&token).body("{").send().await.json();
    assert_eq!(syntax["errors"]["json"][0], "Invalid JSON body.");
    let answer =
        world.call("POST", "/api/application/").token(&token).body(vec![b'{', 0xff, b'}']).send().await;
    assert!(answer.error(400).contains("UTF-8"));
}

#[tokio::test]
async fn one_application_is_a_plain_object_and_foreign_ones_do_not_exist() {
    let world = World::start().await;
    let (admin, bob) = (world.admin().await, world.bob().await);
    let record = world.create(&admin, "app", &["web"]).await;
    let path = format!("/api/application/{}", record["applicationID"].as_str().unwrap());
    assert_eq!(world.get(&path, &admin).send().await.json(), record);
    let unknown = world.get("/api/application/0123456789abcdef01234567", &bob).send().await;
    let foreign = world.get(&path, &bob).send().await;
    unknown.error(404);
    foreign.error(404);
    world.call("DELETE", &path).token(&bob).send().await.error(404);
    world.call("PUT", &path).token(&bob).json(&record).send().await.error(404);
    for id in ["app", "0", "%ff", "..%2f"] {
        world.get(&format!("/api/application/{id}"), &admin).send().await.error(404);
    }
    // An admin handles the applications of everybody.
    let theirs = world.create(&bob, "theirs", &[]).await;
    let path = format!("/api/application/{}", theirs["applicationID"].as_str().unwrap());
    assert_eq!(world.get(&path, &admin).send().await.json(), theirs);
    assert_eq!(world.call("DELETE", &path).token(&admin).send().await.status, 200);
}

#[tokio::test]
async fn only_the_description_can_be_changed() {
    let world = World::start().await;
    let token = world.admin().await;
    let mut record = world.create(&token, "app", &["web"]).await;
    let path = format!("/api/application/{}", record["applicationID"].as_str().unwrap());
    record["application_desc"] = json!("new");
    let answer = world.call("PUT", &path).token(&token).json(&record).send().await;
    assert_eq!(answer.json(), json!({ "message": "Application is updated" }));
    assert_eq!(world.get(&path, &token).send().await.json(), record);
    let renamed = json!({ "application_name": "other", "application_desc": "lost" });
    world.call("PUT", &path).token(&token).json(&renamed).send().await.error(422);
    let wrong = json!({ "application_desc": 1 });
    world.call("PUT", &path).token(&token).json(&wrong).send().await.error(422);
    assert_eq!(world.get(&path, &token).send().await.json(), record);
}

#[tokio::test]
async fn deleting_removes_everything_at_once() {
    let world = World::start().await;
    let token = world.admin().await;
    let record = world.create(&token, "app", &["a", "b"]).await;
    let path = format!("/api/application/{}", record["applicationID"].as_str().unwrap());
    let service = record["microservices"][0].as_str().unwrap();
    world.deploy(&token, service).await;
    let answer = world.call("DELETE", &path).token(&token).send().await;
    assert_eq!(answer.json(), json!({ "message": "Application Deleted" }));
    assert_eq!(world.get("/api/applications", &token).send().await.nested(), json!([]));
    assert_eq!(world.get("/api/services", &token).send().await.nested(), json!([]));
    assert_eq!(world.root.call(|root, _, _| root.instance_count()).await.unwrap(), 0);
    world.call("DELETE", &path).token(&token).send().await.error(404);
}

#[tokio::test]
async fn admins_list_all_and_others_their_own() {
    let world = World::start().await;
    let (admin, bob) = (world.admin().await, world.bob().await);
    world.create(&admin, "one", &["web"]).await;
    world.create(&bob, "two", &["web"]).await;
    let count = async |path: &str, token: &str| {
        world.get(path, token).send().await.nested().as_array().unwrap().len()
    };
    assert_eq!(count("/api/applications/", &admin).await, 2);
    assert_eq!(count("/api/applications/", &bob).await, 1);
    assert_eq!(count("/api/services/", &admin).await, 2);
    assert_eq!(count("/api/services/", &bob).await, 1);
    assert_eq!(count("/api/applications/000000010000000000000001", &admin).await, 1);
    assert_eq!(count("/api/applications/000000010000000000000002", &bob).await, 1);
    for foreign in ["000000010000000000000001", "bob", "%ff"] {
        let answer = world.get(&format!("/api/applications/{foreign}"), &bob).send().await;
        assert!(answer.status == 401 || answer.status == 404);
    }
}
