//! Managing organisations.

use serde_json::{Value, json};

use crate::tenants::{PASSWORD, ROOT};
use crate::world::World;

#[tokio::test]
async fn the_dashboard_creates_renames_fills_and_deletes_an_organization() {
    let world = World::start().await;
    let admin = world.admin().await;
    let body = json!({ "name": "newOrganization", "member": [] });
    let created = world.call("POST", "/api/organization/").token(&admin).json(&body).send().await;
    assert_eq!(created.status, 200);
    // The dashboard parses a string again: the id must be encoded twice.
    let id = created.nested().as_str().unwrap().to_owned();
    assert_eq!(created.text, format!("\"\\\"{id}\\\"\""));
    let find = async || {
        let list = world.get("/api/organization/", &admin).send().await.nested();
        list.as_array().unwrap().iter().find(|found| found["_id"]["$oid"] == *id).cloned()
    };
    let mut record = find().await.unwrap();
    assert_eq!((&record["name"], &record["member"]), (&json!("newOrganization"), &json!([])));
    record["name"] = json!("lab");
    record["member"] = json!([{ "user_id": "000000010000000000000002", "roles": ["Application_Provider"] }]);
    let path = format!("/api/organization/{id}");
    let answer = world.call("PUT", &path).token(&admin).json(&record).send().await;
    assert_eq!(answer.json(), json!({ "message": "Organization is updated" }));
    assert_eq!(find().await.unwrap(), record);
    let members = world.get(&format!("/api/users/{id}"), &admin).send().await.json();
    assert_eq!(
        (&members[0]["name"], &members[0]["roles"]),
        (&json!("bob"), &json!(["Application_Provider"]))
    );
    let answer = world.call("DELETE", &path).token(&admin).send().await;
    assert_eq!(answer.json(), json!({ "message": "Organization deleted" }));
    assert_eq!(find().await, None);
    world.call("DELETE", &path).token(&admin).send().await.error(404);
    world.call("PUT", &path).token(&admin).json(&record).send().await.error(404);
    assert_eq!(world.login("bob", "bob's password").await.as_object().unwrap().len(), 2, "the user stays");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_nothing_changes() {
    let world = World::start().await;
    let admin = world.admin().await;
    let lab = world.organization("lab").await;
    let before = world.get("/api/organization/", &admin).send().await.text;
    let post = |body: Value| world.call("POST", "/api/organization/").token(&admin).json(&body);
    let name = post(json!({ "name": "lab" })).send().await.error(409);
    assert!(name.contains("`lab`"), "{name}");
    for body in [
        json!({}),
        json!({ "name": "" }),
        json!({ "name": " x" }),
        json!({ "name": "a\nb" }),
        json!({ "name": 1 }),
        json!({ "name": "x".repeat(65) }),
        json!({ "name": "x", "member": {} }),
        json!({ "name": "x", "member": [1] }),
        json!({ "name": "x", "member": [{ "user_id": "0123456789abcdef01234567", "roles": [] }] }),
        json!({ "name": "x", "member": [{ "user_id": "000000010000000000000002", "roles": ["King"] }] }),
        json!({ "name": "x", "member": [
            { "user_id": "000000010000000000000002" }, { "user_id": "000000010000000000000002" }
        ] }),
        json!({ "name": "x", "quota": 1 }),
    ] {
        let answer = post(body.clone()).send().await;
        answer.error(422);
        assert!(answer.json()["errors"]["json"].is_object(), "{body}");
    }
    let put = |id: &str, body: Value| {
        world.call("PUT", &format!("/api/organization/{id}")).token(&admin).json(&body)
    };
    put(ROOT, json!({ "name": "other" })).send().await.error(409);
    put(&lab, json!({ "name": "root" })).send().await.error(409);
    assert!(put(ROOT, json!({ "member": [] })).send().await.error(409).contains("last Admin"));
    put("nonsense", json!({})).send().await.error(404);
    world.call("DELETE", &format!("/api/organization/{ROOT}")).token(&admin).send().await.error(409);
    world.call("DELETE", "/api/organization/nonsense").token(&admin).send().await.error(404);
    assert_eq!(world.get("/api/organization/", &admin).send().await.text, before);
}

#[tokio::test]
async fn an_organization_with_applications_stays() {
    let world = World::start().await;
    let (admin, lab) = (world.admin().await, world.organization("lab").await);
    let pia = world.user(&lab, "pia", &["Application_Provider"]).await;
    let application = world.create(&pia, "app", &[]).await;
    let path = format!("/api/organization/{lab}");
    let message = world.call("DELETE", &path).token(&admin).send().await.error(409);
    assert!(message.contains("1 application"), "{message}");
    let id = application["applicationID"].as_str().unwrap();
    world.call("DELETE", &format!("/api/application/{id}")).token(&admin).send().await;
    assert_eq!(world.call("DELETE", &path).token(&admin).send().await.status, 200);
    world.get("/api/applications/", &pia).send().await.error(401);
}

#[tokio::test]
async fn members_share_applications_and_in_root_everybody_has_their_own() {
    let world = World::start().await;
    let lab = world.organization("lab").await;
    let pia = world.user(&lab, "pia", &["Application_Provider"]).await;
    let paul = world.user(&lab, "paul", &["Application_Provider"]).await;
    let record = world.create(&pia, "app", &["web"]).await;
    assert_eq!((&record["userId"], &record["organization"]), (&json!("pia"), &json!(lab)));
    for path in ["/api/applications/".to_owned(), own_applications(&world, "paul", &paul).await] {
        let seen = world.get(&path, &paul).send().await.nested();
        assert_eq!(seen[0], record, "{path}");
    }
    let service = record["microservices"][0].as_str().unwrap();
    world.deploy(&paul, service).await;
    // Names are free elsewhere, also for the same owner name.
    let rita = world.user(ROOT, "rita", &["Application_Provider"]).await;
    world.create(&rita, "app", &[]).await;
    let bob = world.bob().await;
    assert_eq!(world.get("/api/applications/", &bob).send().await.nested(), json!([]));
    assert_eq!(world.get("/api/services/", &bob).send().await.nested(), json!([]));
}

async fn own_applications(world: &World, name: &str, token: &str) -> String {
    let user = world.get(&format!("/api/user/{name}"), token).send().await.json();
    format!("/api/applications/{}", user["_id"]["$oid"].as_str().unwrap())
}

#[tokio::test]
async fn a_login_names_an_organization_or_means_the_own_one() {
    let world = World::start().await;
    let (lab, shop) = (world.organization("lab").await, world.organization("shop").await);
    world.register(&lab, "pia", &["Admin"]).await;
    let login = async |organization: Option<&str>| {
        let mut body = json!({ "username": "pia", "password": PASSWORD });
        if let Some(name) = organization {
            body["organization_name"] = json!(name);
        }
        world.call("POST", "/api/auth/login").json(&body).send().await
    };
    let member = login(Some("lab")).await.json();
    let without = login(None).await.json();
    for tokens in [&member, &without] {
        let token = tokens["token"].as_str().unwrap();
        let roles = world.get("/api/permission/pia", token).send().await.json();
        assert_eq!(roles, json!({ "roles": ["Admin"] }));
        let own = world.get("/api/organization/", token).send().await.nested();
        assert_eq!((own.as_array().unwrap().len(), &own[0]["name"]), (1, &json!("lab")));
    }
    // One of which somebody is no member looks like one that does not exist.
    assert_eq!(login(Some("shop")).await.error(404), "there is no organisation `shop`");
    assert_eq!(login(Some("nowhere")).await.error(404), "there is no organisation `nowhere`");
    let stranger = login(Some("root")).await.json();
    let token = stranger["token"].as_str().unwrap();
    let roles = world.get("/api/permission/pia", token).send().await.json();
    assert_eq!(roles, json!({ "roles": [] }), "an Admin of lab is nobody in root");
    world.get("/api/organization/", token).send().await.error(403);
    assert_ne!(lab, shop);
}

#[tokio::test]
async fn whoever_leaves_an_organization_is_out_at_once() {
    let world = World::start().await;
    let (admin, lab) = (world.admin().await, world.organization("lab").await);
    let tokens = {
        world.register(&lab, "pia", &["Application_Provider"]).await;
        world.login("pia", PASSWORD).await
    };
    let (access, refresh) = (tokens["token"].as_str().unwrap(), tokens["refresh_token"].as_str().unwrap());
    assert_eq!(world.get("/api/services/", access).send().await.status, 200);
    // Another role counts at once, whatever the token says.
    let path = format!("/api/organization/{lab}");
    let id = world.get("/api/user/pia", access).send().await.json()["_id"]["$oid"].clone();
    let members = json!({ "member": [{ "user_id": id, "roles": [] }] });
    assert_eq!(world.call("PUT", &path).token(&admin).json(&members).send().await.status, 200);
    world.call("POST", "/api/application/").token(access).body("{}").send().await.error(422);
    let body = crate::world::descriptor("app", "", &[]);
    world.call("POST", "/api/application/").token(access).json(&body).send().await.error(403);
    let none = json!({ "member": [] });
    assert_eq!(world.call("PUT", &path).token(&admin).json(&none).send().await.status, 200);
    assert_eq!(world.get("/api/services/", access).send().await.error(401), "Token has been revoked");
    let refreshed = world.call("POST", "/api/auth/refresh").token(refresh).send().await;
    assert_eq!(refreshed.error(401), "Token has been revoked");
}
