//! Managing users.

use serde_json::{Value, json};

use crate::tenants::{PASSWORD, ROOT};
use crate::world::World;

#[tokio::test]
async fn the_dashboard_registers_edits_and_deletes_a_user() {
    let world = World::start().await;
    let admin = world.admin().await;
    let body = json!({
        "_id": { "$oid": "" }, "name": "eve", "email": "eve@example.org", "password": "first",
        "created_at": "31/01/2026 10:00", "roles": ["Application_Provider"]
    });
    let answer = world.call("POST", "/api/auth/register").token(&admin).json(&body).send().await;
    let record = answer.json();
    let id = record["_id"]["$oid"].as_str().unwrap();
    assert_eq!(id.len(), 24);
    assert_eq!(
        record,
        json!({
            "_id": { "$oid": id }, "name": "eve", "email": "eve@example.org", "created_at": "31/01/2026 10:00",
            "roles": ["Application_Provider"]
        })
    );
    let again = world.call("POST", "/api/auth/register").token(&admin).json(&body).send().await;
    assert_eq!(again.error(409), "Username already exists");
    let members = world.get(&format!("/api/users/{ROOT}"), &admin).send().await.json();
    assert_eq!(members.as_array().unwrap().last(), Some(&record));
    let all = world.get("/api/users/", &admin).send().await;
    assert_eq!(all.json().as_array().unwrap().len(), 3);
    assert!(!all.text.contains("argon2") && !all.text.contains("password") && !all.text.contains("roles"));

    let eve = world.token("eve", "first").await;
    let put = |body: Value| world.call("PUT", "/api/user/eve").token(&admin).json(&body);
    let edited = json!({
        "_id": { "$oid": id }, "created_at": "01/02/2026 00:00", "email": "new@example.org", "name": "eve",
        "roles": ["Application_Provider", "Infrastructure_Provider"]
    });
    assert_eq!(put(edited).send().await.json(), json!("ok"));
    // Neither a missing password nor the hash of the original's lists changes it.
    for hash in ["", "pbkdf2:sha256:260000$abc$00", "$argon2id$v=19$m=4096,t=10,p=1$abc$def"] {
        assert_eq!(put(json!({ "password": hash })).send().await.status, 200);
    }
    let account = world.get("/api/user/eve", &eve).send().await.json();
    assert_eq!(
        (&account["email"], &account["created_at"]),
        (&json!("new@example.org"), &json!("31/01/2026 10:00"))
    );
    assert_eq!(account["roles"], json!(["Application_Provider", "Infrastructure_Provider"]));
    assert_eq!(put(json!({ "password": "second" })).send().await.status, 200);
    world.get("/api/user/eve", &eve).send().await.error(401);
    let body = json!({ "username": "eve", "password": "first" });
    world.call("POST", "/api/auth/login").json(&body).send().await.error(401);
    world.token("eve", "second").await;
    let left = world.call("DELETE", "/api/user/eve").token(&admin).send().await.json();
    assert_eq!(left.as_array().unwrap().len(), 2);
    world.call("DELETE", "/api/user/eve").token(&admin).send().await.error(404);
    put(json!({})).send().await.error(404);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_field_by_field() {
    let world = World::start().await;
    let admin = world.admin().await;
    let good = json!({ "name": "eve", "password": "x", "email": "", "roles": [] });
    let changes = [
        ("name", json!("")),
        ("name", json!(7)),
        ("name", json!("a b")),
        ("name", json!("a/b")),
        ("name", json!("..")),
        ("name", json!("a\u{0}")),
        ("name", json!("x".repeat(65))),
        ("password", json!("")),
        ("password", json!(["x"])),
        ("password", json!("x".repeat(1025))),
        ("email", json!("nonsense")),
        ("email", json!("a@b\r\nBcc: c@d")),
        ("email", json!(1)),
        ("created_at", json!("yesterday")),
        ("roles", json!("Admin")),
        ("roles", json!(["admin"])),
        ("roles", json!([1])),
    ];
    for (field, value) in changes {
        let mut body = good.clone();
        body[field] = value.clone();
        let answer = world.call("POST", "/api/auth/register").token(&admin).json(&body).send().await;
        answer.error(422);
        assert!(answer.json()["errors"]["json"][field].is_array(), "{field} {value}: {}", answer.text);
        // There, an empty name or password is one that stays.
        if field != "password" && field != "created_at" && value != "" {
            let body = json!({ field: value });
            world.call("PUT", "/api/user/bob").token(&admin).json(&body).send().await.error(422);
        }
    }
    let body = json!({ "name": "eve" });
    world.call("PUT", "/api/user/bob").token(&admin).json(&body).send().await.error(422);
    for (body, status) in [("", 400), ("{", 400), ("[]", 422)] {
        world.call("POST", "/api/auth/register").token(&admin).body(body).send().await.error(status);
    }
    let mut body = good;
    body["organization"] = json!("0123456789abcdef01234567");
    world.call("POST", "/api/auth/register").token(&admin).json(&body).send().await.error(404);
    assert_eq!(world.get("/api/users/", &admin).send().await.json().as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn of_many_registrations_of_a_name_one_succeeds() {
    let world = World::start().await;
    let admin = world.admin().await;
    let body = json!({ "name": "eve", "password": "x", "email": "", "roles": [] });
    let calls = (0..8).map(|_| world.call("POST", "/api/auth/register").token(&admin).json(&body).send());
    let answers = futures_util::future::join_all(calls).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
    assert_eq!(answers.iter().filter(|answer| answer.status == 409).count(), 7);
}

#[tokio::test]
async fn the_last_admin_stays_admin() {
    let world = World::start().await;
    let admin = world.admin().await;
    assert!(
        world.call("DELETE", "/api/user/Admin").token(&admin).send().await.error(409).contains("last Admin")
    );
    let demoted = json!({ "roles": ["Organization_Admin"], "email": "x@example.org" });
    world.call("PUT", "/api/user/Admin").token(&admin).json(&demoted).send().await.error(409);
    let account = world.get("/api/user/Admin", &admin).send().await.json();
    assert_eq!(
        (account["roles"].as_array().unwrap().len(), &account["email"]),
        (4, &json!("Admin@example.org"))
    );
    let second = world.user(ROOT, "eve", &["Admin"]).await;
    assert_eq!(world.call("DELETE", "/api/user/Admin").token(&second).send().await.status, 200);
    world.get("/api/user/Admin", &admin).send().await.error(401);
}

#[tokio::test]
async fn a_user_with_applications_stays_and_a_namesake_inherits_nothing() {
    let world = World::start().await;
    let (admin, bob) = (world.admin().await, world.bob().await);
    let application = world.create(&bob, "app", &[]).await;
    let delete = || world.call("DELETE", "/api/user/bob").token(&admin);
    assert!(delete().send().await.error(409).contains("1 application"));
    assert_eq!(world.get("/api/user/bob", &bob).send().await.status, 200);
    let id = application["applicationID"].as_str().unwrap();
    world.call("DELETE", &format!("/api/application/{id}")).token(&bob).send().await;
    assert_eq!(delete().send().await.status, 200);
    let namesake = world.user(ROOT, "bob", &["Application_Provider"]).await;
    world.get("/api/user/bob", &bob).send().await.error(401);
    assert_eq!(world.get("/api/applications/", &namesake).send().await.nested(), json!([]));
    world.create(&namesake, "app", &[]).await;
}

#[tokio::test]
async fn accounts_that_reach_further_are_not_in_the_hands_of_one_organization() {
    let world = World::start().await;
    let (admin, lab) = (world.admin().await, world.organization("lab").await);
    let boss = world.user(&lab, "boss", &["Admin"]).await;
    // bob is in root and in lab.
    let path = format!("/api/organization/{lab}");
    let mut record = world.get(&path, &admin).send().await.json();
    let members = record["member"].as_array_mut().unwrap();
    members.push(json!({ "user_id": "000000010000000000000002", "roles": ["Application_Provider"] }));
    assert_eq!(world.call("PUT", &path).token(&admin).json(&record).send().await.status, 200);
    let put = |body: Value| world.call("PUT", "/api/user/bob").token(&boss).json(&body);
    put(json!({ "password": "mine" })).send().await.error(403);
    put(json!({ "email": "boss@example.org" })).send().await.error(403);
    assert_eq!(put(json!({ "roles": ["Organization_Admin"] })).send().await.status, 200);
    // Deleting only takes it out of the organisation.
    let left = world.call("DELETE", "/api/user/bob").token(&boss).send().await.json();
    assert_eq!(left.as_array().unwrap().len(), 1);
    let bob = world.bob().await;
    let roles = world.get("/api/permission/bob", &bob).send().await.json();
    assert_eq!(roles, json!({ "roles": ["Application_Provider"] }));
    // And it cannot be taken back by somebody who must not know of it.
    let foreign = world.call("PUT", &path).token(&boss).json(&record).send().await;
    let message = foreign.error(422);
    record["member"][1]["user_id"] = json!("0123456789abcdef01234567");
    let unknown = world.call("PUT", &path).token(&boss).json(&record).send().await.error(422);
    let same = message.replace("000000010000000000000002", "X");
    assert_eq!(same, unknown.replace("0123456789abcdef01234567", "X"));
    world.token("boss", PASSWORD).await;
}
