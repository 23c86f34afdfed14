//! Logging in, tokens, the own account.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::world::{REMOTE, World};

fn claims(token: &str) -> Value {
    let parts: Vec<_> = token.split('.').collect();
    assert_eq!(parts.len(), 3);
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap()
}

#[tokio::test]
async fn a_login_gives_two_tokens_with_the_known_claims() {
    let world = World::start().await;
    let tokens = world.login("Admin", "Admin").await;
    for (key, kind, life) in [("token", "access", 600), ("refresh_token", "refresh", 2_592_000)] {
        let claims = claims(tokens[key].as_str().unwrap());
        assert_eq!(claims["type"], kind);
        assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), life);
        assert_eq!(
            (&claims["sub"], &claims["user"], &claims["fresh"]),
            (&json!("Admin"), &json!("Admin"), &json!(false))
        );
        let roles = json!(["Admin", "Organization_Admin", "Application_Provider", "Infrastructure_Provider"]);
        assert_eq!(claims["roles"], roles);
        assert_eq!(claims["organization"], "000000010000000000000003");
        assert!(claims["jti"].is_string() && claims["csrf"].is_string() && claims["nbf"].is_u64());
    }
}

#[tokio::test]
async fn wrong_logins_are_refused_alike() {
    let world = World::start().await;
    for (name, password) in [("Admin", "wrong"), ("nobody", "Admin"), ("admin", "Admin")] {
        let body = json!({ "username": name, "password": password });
        let answer = world.call("POST", "/api/auth/login").json(&body).send().await;
        assert_eq!(answer.error(401), "the user name or the password is wrong");
    }
    let body = json!({ "username": "Admin", "password": "Admin", "organization_name": "nowhere" });
    let answer = world.call("POST", "/api/auth/login").json(&body).send().await;
    assert_eq!(answer.error(404), "there is no organisation `nowhere`");
    for body in [json!({}), json!({ "username": "Admin" }), json!({ "username": 1, "password": [] })] {
        world.call("POST", "/api/auth/login").json(&body).send().await.error(422);
    }
    world.call("POST", "/api/auth/login").body("{").send().await.error(400);
    world.call("POST", "/api/auth/login").body("[]").send().await.error(422);
    world.call("POST", "/api/auth/login").send().await.error(400);
}

#[tokio::test]
async fn the_first_password_works_only_on_this_machine_until_it_is_changed() {
    let world = World::start().await;
    let first = json!({ "username": "Admin", "password": "Admin" });
    let login = || world.call("POST", "/api/auth/login").json(&first);
    assert!(login().from(REMOTE).send().await.error(403).contains("http://localhost:10000"));
    login().header("origin", "http://evil.example").send().await.error(403);
    login().header("x-forwarded-for", "127.0.0.1").send().await.error(403);
    assert_eq!(login().header("origin", "http://localhost").send().await.status, 200);

    let token = world.admin().await;
    let change = |old: &str, new: &str| {
        world
            .call("POST", "/api/user/Admin")
            .token(&token)
            .json(&json!({ "oldPassword": old, "newPassword": new }))
    };
    assert_eq!(change("wrong", "x").send().await.error(400), "Old password is not valid!");
    assert_eq!(change("Admin", "Admin").send().await.error(400), "Old password can't be the new password!");
    assert_eq!(change("Admin", "longer").send().await.json(), json!({}));

    login().send().await.error(401);
    let body = json!({ "username": "Admin", "password": "longer" });
    assert_eq!(world.call("POST", "/api/auth/login").from(REMOTE).json(&body).send().await.status, 200);
    assert_eq!(world.get("/api/applications/", &token).send().await.error(401), "Token has been revoked");

    // Back to the first one: the rule holds again.
    let token = world.token("Admin", "longer").await;
    let body = json!({ "oldPassword": "longer", "newPassword": "Admin" });
    assert_eq!(world.call("POST", "/api/user/Admin").token(&token).json(&body).send().await.status, 200);
    login().from(REMOTE).send().await.error(403);
}

#[tokio::test]
async fn wrong_passwords_are_slowed_down_and_right_ones_are_not() {
    let world = World::start().await;
    let login = |password: &str, from| {
        let body = json!({ "username": "bob", "password": password });
        world.call("POST", "/api/auth/login").from(from).json(&body)
    };
    for _ in 0..30 {
        assert_eq!(login("bob's password", REMOTE).send().await.status, 200);
    }
    // On a slow machine some are forgiven meanwhile.
    let mut wrong = 0;
    while login("wrong", REMOTE).send().await.status == 401 {
        wrong += 1;
        assert!(wrong < 100);
    }
    assert!(wrong >= 10);
    // A right guess must not be told apart from a wrong one now.
    for password in ["wrong", "bob's password"] {
        let answer = login(password, REMOTE).send().await;
        assert!(answer.error(429).contains("wait"));
        assert!(answer.headers.contains_key("retry-after"));
    }
    assert_eq!(login("bob's password", [192, 0, 2, 8]).send().await.status, 200);
}

#[tokio::test]
async fn a_hash_of_the_original_is_good_for_one_login_and_then_replaced_by_a_better_one() {
    // Made with Python's `hashlib.pbkdf2_hmac` for `Admin`, as the original does.
    let old = "pbkdf2:sha256:260000$lHlzP0aQ3x9YkW2d$867602150a19821c0a913278cc6580634c2d76a889f225934499fc8bb01dc17f";
    let world = World::with_migrated_user("eve", old).await;
    let wrong = json!({ "username": "eve", "password": "admin" });
    world.call("POST", "/api/auth/login").json(&wrong).send().await.error(401);
    let token = world.token("eve", "Admin").await;
    let stored = world.accounts.call(|accounts, _, _| accounts.credentials("eve").unwrap().password).await;
    assert!(stored.unwrap().starts_with("$argon2id$"));
    assert_eq!(world.get("/api/user/eve", &token).send().await.status, 200, "tokens stay good");
    world.token("eve", "Admin").await;
    world.call("POST", "/api/auth/login").json(&wrong).send().await.error(401);
}

#[tokio::test]
async fn a_burst_of_first_logins_succeeds() {
    let world = World::start().await;
    let logins = (0..40).map(|_| world.token("bob", "bob's password"));
    assert_eq!(futures_util::future::join_all(logins).await.len(), 40);
}

#[tokio::test]
async fn a_refresh_token_gives_access_tokens_and_nothing_else() {
    let world = World::start().await;
    let tokens = world.login("Admin", "Admin").await;
    let (access, refresh) = (tokens["token"].as_str().unwrap(), tokens["refresh_token"].as_str().unwrap());
    let call = |token: &str| world.call("POST", "/api/auth/refresh").token(token).json(&json!({}));
    let answer = call(refresh).send().await.json();
    assert_eq!(answer.as_object().unwrap().len(), 1);
    let fresh = answer["token"].as_str().unwrap();
    assert_eq!(world.get("/api/applications/", fresh).send().await.status, 200);
    let refused = call(access).send().await;
    assert_eq!(refused.error(422), "Only refresh tokens are allowed");
    assert_eq!(refused.json()["msg"], "Only refresh tokens are allowed");
    let answer = world.get("/api/applications/", refresh).send().await;
    assert_eq!(answer.error(422), "Only non-refresh tokens are allowed");
}

#[tokio::test]
async fn bad_tokens_are_refused_as_by_the_two_guards_of_the_original() {
    let world = World::start().await;
    let bare = world.call("GET", "/api/applications/").send().await;
    assert_eq!(bare.error(401), "Missing Authorization Header");
    assert_eq!(bare.json()["msg"], "Missing Authorization Header");
    let basic = world.call("GET", "/api/services/").header("authorization", "Basic eDp5").send().await;
    assert!(basic.error(401).starts_with("Missing 'Bearer' type"));
    let other = World::start().await.admin().await;
    assert_eq!(world.get("/api/applications/", "x").send().await.error(422), "Not enough segments");
    assert_eq!(
        world.get("/api/applications/", &other).send().await.error(422),
        "Signature verification failed"
    );
    for path in ["/api/services/", "/api/service/1", "/api/user/Admin"] {
        world.get(path, "x").send().await.error(401);
        world.get(path, &other).send().await.error(401);
    }
}

#[tokio::test]
async fn everybody_sees_the_own_account_only() {
    let world = World::start().await;
    let (admin, bob) = (world.admin().await, world.bob().await);
    let answer = world.get("/api/user/bob", &bob).send().await.json();
    assert_eq!(
        answer,
        json!({
            "_id": { "$oid": "000000010000000000000002" }, "name": "bob", "email": "bob@example.org",
            "created_at": "01/01/2026 10:00", "roles": ["Application_Provider"]
        })
    );
    assert_eq!(
        world.get("/api/user/bob", &admin).send().await.error(403),
        "You have not enough permissions!"
    );
    world.get("/api/user/Admin", &bob).send().await.error(403);
    let body = json!({ "oldPassword": "bob's password", "newPassword": "x" });
    world.call("POST", "/api/user/bob").token(&admin).json(&body).send().await.error(403);
    world.get("/api/organization/", &bob).send().await.error(403);
    let organizations = world.get("/api/organization/", &admin).send().await.nested();
    assert_eq!(organizations[0]["name"], "root");
    assert_eq!(organizations[0]["_id"]["$oid"], "000000010000000000000003");
    assert_eq!(organizations[0]["member"][0]["user_id"], "000000010000000000000001");
    assert_eq!(organizations[0]["member"][0]["roles"][0], "Admin");
}

#[tokio::test]
async fn a_first_start_creates_the_admin_and_a_second_one_keeps_everything() {
    let world = World::start_empty().await;
    let before = world.login("Admin", "Admin").await;
    let token = before["token"].as_str().unwrap();
    world.create(token, "app", &["web"]).await;
    assert!(world.directory().join("root/jwt-key").exists());
    let world = world.restart().await;
    let applications = world.get("/api/applications/", token).send().await.nested();
    assert_eq!(applications[0]["application_name"], "app");
    let account = world.get("/api/user/Admin", token).send().await.json();
    assert_eq!(account["roles"].as_array().unwrap().len(), 4);
}
