//! Secrets and credentials of registries.

use serde_json::{Value, json};

use crate::tenants::PASSWORD;
use crate::world::{World, descriptor};

fn with_secret(name: &str, secret: &Value) -> Value {
    let mut descriptor = descriptor(name, "", &["web"]);
    descriptor["applications"][0]["microservices"][0]["secrets"] = json!([secret]);
    descriptor
}

#[tokio::test]
async fn values_go_to_clusters_and_nowhere_else() {
    let world = World::start().await;
    let admin = world.admin().await;
    world.join("cluster1").await;
    let put = |value: &str| {
        let body = json!({ "value": value });
        world.call("PUT", "/api/secrets/db-password").token(&admin).json(&body).send()
    };
    let first = put("hunter2").await;
    assert_eq!((first.status.as_u16(), first.json()["name"].as_str()), (200, Some("db-password")));
    let login = json!({ "username": "puller", "password": "hunter3" });
    let path = "/api/registry-credentials/docker.io";
    assert_eq!(world.call("PUT", path).token(&admin).json(&login).send().await.status, 200);
    let wanted = with_secret("app", &json!({ "name": "db-password", "env": "DB_PASSWORD" }));
    let created = world.call("POST", "/api/application").token(&admin).json(&wanted).send().await;
    assert_eq!(created.status, 200, "{}", created.text);
    let service = created.nested()[0]["microservices"][0].as_str().unwrap().to_owned();
    world.deploy(&admin, &service).await;
    let wish = world.wishes.lock().unwrap().last().cloned().unwrap();
    let sent = serde_json::to_string(&wish).unwrap();
    // "hunter2" in base64.
    assert!(sent.contains("aHVudGVyMg=="), "{sent}");
    assert_eq!(wish.material.len(), 2);
    for path in ["/api/secrets", "/api/secrets/db-password", "/api/registry-credentials", path] {
        let answer = world.get(path, &admin).send().await;
        assert_eq!(answer.status, 200);
        assert!(!answer.text.contains("hunter") && !answer.text.contains("aHVudGVy"), "{}", answer.text);
    }
    assert_eq!(world.get(path, &admin).send().await.json()["username"], "puller");
    // Nothing in clear on disk, in either form.
    for file in ["root.db", "root.db-wal"] {
        let bytes = std::fs::read(world.directory().join(file)).unwrap_or_default();
        for text in ["hunter2", "hunter3", "aHVudGVy"] {
            assert!(!bytes.windows(text.len()).any(|window| window == text.as_bytes()), "{text} in {file}");
        }
    }
    // A new value reaches the cluster at once.
    let second = put("hunter9").await.json()["version"].as_u64();
    assert!(second > first.json()["version"].as_u64());
    let wish = world.wishes.lock().unwrap().last().cloned().unwrap();
    assert!(serde_json::to_string(&wish).unwrap().contains("aHVudGVyOQ=="));
    let used = world.call("DELETE", "/api/secrets/db-password").token(&admin).send().await.error(409);
    assert!(used.contains("app.test.web.test"), "{used}");
}

#[tokio::test]
async fn an_unknown_secret_is_refused_with_its_name() {
    let world = World::start().await;
    let admin = world.admin().await;
    let wanted = with_secret("app", &json!({ "name": "nobody-has-it", "file": "/run/secrets/x" }));
    let refused = world.call("POST", "/api/application").token(&admin).json(&wanted).send().await.error(422);
    assert!(refused.contains("nobody-has-it"), "{refused}");
    assert_eq!(world.get("/api/applications", &admin).send().await.nested(), json!([]));
    for (secret, part) in [
        (json!({ "name": "a" }), "not both"),
        (json!({ "name": "a", "env": "A", "file": "/a" }), "not both"),
        (json!({ "name": "../a", "env": "A" }), "name of a secret"),
        (json!({ "name": "a", "env": "1A" }), "name of a variable"),
        (json!({ "name": "a", "file": "/run/../etc/passwd" }), "absolute path"),
    ] {
        let wanted = with_secret("app", &secret);
        let answer = world.call("POST", "/api/application").token(&admin).json(&wanted).send().await;
        assert!(answer.error(422).contains(part), "{}", answer.text);
    }
}

#[tokio::test]
async fn nobody_uses_the_secrets_of_others() {
    let world = World::start().await;
    let (admin, bob) = (world.admin().await, world.bob().await);
    let (lab, shop) = (world.organization("lab").await, world.organization("shop").await);
    for (organization, name) in [(&lab, "ann"), (&shop, "eve")] {
        world.register(organization, name, &["Application_Provider"]).await;
    }
    let (ann, eve) = (world.token("ann", PASSWORD).await, world.token("eve", PASSWORD).await);
    let value = json!({ "value": "hunter2" });
    for token in [&ann, &admin] {
        assert_eq!(world.call("PUT", "/api/secrets/a").token(token).json(&value).send().await.status, 200);
    }
    let wanted = with_secret("app", &json!({ "name": "a", "env": "SECRET" }));
    for (token, status) in [(&ann, 200), (&eve, 422), (&bob, 422), (&admin, 200)] {
        let answer = world.call("POST", "/api/application").token(token).json(&wanted).send().await;
        assert_eq!(answer.status, status, "{}", answer.text);
    }
}

#[tokio::test]
async fn values_have_bounds() {
    let world = World::start().await;
    let admin = world.admin().await;
    let put = |name: &str, body: Value| {
        world.call("PUT", &format!("/api/secrets/{name}")).token(&admin).json(&body).send()
    };
    put("a", json!({ "value": "x".repeat(50_000) })).await.error(422);
    put("a", json!({ "value": "x".repeat(400_000) })).await.error(413);
    put("a", json!({ "value": "" })).await.error(422);
    put("a", json!({ "value": 1 })).await.error(422);
    put("a", json!({})).await.error(422);
    put("a", json!({ "value": "x", "value_base64": "eA==" })).await.error(422);
    put("a", json!({ "value_base64": "not base64" })).await.error(422);
    put("%2e%2e", json!({ "value": "x" })).await.error(400);
    put("a%2fb", json!({ "value": "x" })).await.error(400);
    assert_eq!(put("a", json!({ "value_base64": "AP8=" })).await.status, 200);
    world.call("DELETE", "/api/secrets/b").token(&admin).send().await.error(404);
    assert_eq!(world.call("DELETE", "/api/secrets/a").token(&admin).send().await.status, 200);
}

#[tokio::test]
async fn the_largest_secret_is_taken_in_every_form_and_no_larger_one() {
    const LARGEST: usize = 48 << 10;
    let world = World::start().await;
    let admin = world.admin().await;
    let put = |body: Value| world.call("PUT", "/api/secrets/large").token(&admin).json(&body).send();
    // 48 KiB are 64 KiB in base64, and up to six times as many in JSON.
    for body in
        [json!({ "value_base64": "A".repeat(LARGEST / 3 * 4) }), json!({ "value": "\u{1}".repeat(LARGEST) })]
    {
        let answer = put(body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    for body in [
        json!({ "value_base64": "A".repeat(LARGEST / 3 * 4 + 4) }),
        json!({ "value": "x".repeat(LARGEST + 1) }),
    ] {
        put(body).await.error(422);
    }
}
