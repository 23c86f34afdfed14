//! What holds for every path: slashes, CORS, errors, limits.

use serde_json::json;

use crate::world::World;

#[tokio::test]
async fn both_slash_forms_and_a_bare_question_mark_are_served() {
    let world = World::start().await;
    let token = world.admin().await;
    for path in [
        "/api/applications",
        "/api/services",
        "/api/clusters",
        "/api/clusters/active",
        "/api/organization",
        "/api/user/Admin",
        "/healthz",
        "/readyz",
    ] {
        for end in ["", "/", "?", "/?"] {
            let answer = world.get(&format!("{path}{end}"), &token).send().await;
            assert_eq!(answer.status, 200, "{path}{end}: {}", answer.text);
        }
    }
    assert_eq!(world.call("GET", "/healthz").send().await.json(), json!({ "status": "ok" }));
}

#[tokio::test]
async fn preflights_are_answered_without_login() {
    let world = World::start().await;
    for path in ["/api/application/", "/api/service/x/instance/0", "/api/nothing"] {
        let answer = world
            .call("OPTIONS", path)
            .header("origin", "http://dashboard.example")
            .header("access-control-request-method", "PUT")
            .header("access-control-request-headers", "authorization, content-type")
            .send()
            .await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["access-control-allow-origin"], "http://dashboard.example");
        assert_eq!(answer.headers["access-control-allow-headers"], "authorization, content-type");
        assert!(answer.headers["access-control-allow-methods"].to_str().unwrap().contains("PUT"));
    }
}

#[tokio::test]
async fn every_answer_carries_cors_headers_errors_included() {
    let world = World::start().await;
    for (method, path, status) in [
        ("GET", "/api/clusters/", 200),
        ("GET", "/api/applications/", 401),
        ("GET", "/api/nothing", 404),
        ("PATCH", "/api/application/", 405),
        ("POST", "/api/auth/login", 400),
    ] {
        let answer = world.call(method, path).header("origin", "http://dashboard.example").send().await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.headers["access-control-allow-origin"], "http://dashboard.example");
        assert_eq!(answer.headers["vary"], "Origin");
        assert_eq!(world.call(method, path).send().await.headers["access-control-allow-origin"], "*");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_errors_in_json() {
    let world = World::start().await;
    for path in ["/api", "/api/", "/api/nothing", "/x", "/api/settings/mail", "//", "/api/application/a/b/c"]
    {
        world.call("GET", path).send().await.error(404);
    }
    for (method, path) in
        [("DELETE", "/api/application/"), ("PUT", "/api/clusters"), ("POST", "/"), ("BREW", "/healthz")]
    {
        let answer = world.call(method, path).send().await;
        answer.error(405);
    }
    let head = world.call("HEAD", "/api/clusters/").send().await;
    assert_eq!((head.status.as_u16(), head.text.as_str()), (200, ""));
}

#[tokio::test]
async fn bodies_are_bounded() {
    let world = World::start().await;
    let token = world.admin().await;
    let huge = vec![b' '; (1 << 20) + 1];
    let answer = world.call("POST", "/api/application/").token(&token).body(huge.clone()).send().await;
    assert!(answer.error(413).contains("1048576"));
    world
        .call("POST", "/api/service/")
        .token(&token)
        .header("content-length", "99999999999")
        .send()
        .await
        .error(413);
    let large = format!("{{\"username\":\"{}\"}}", "x".repeat(70_000));
    world.call("POST", "/api/auth/login").body(large).send().await.error(413);
    let deep = "[".repeat(100_000);
    world.call("POST", "/api/application/").token(&token).body(deep.clone()).send().await.error(400);
    world.call("POST", "/api/auth/login").body(deep[..60_000].to_owned()).send().await.error(400);
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let world = World::start().await;
    let page = world.call("GET", "/").send().await;
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    assert!(page.headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
    for path in ["/assets/page.css", "/assets/page.js"] {
        assert!(page.text.contains(path));
        let file = world.call("GET", path).send().await;
        assert_eq!(file.status, 200);
        assert!(!file.text.contains("://") && !file.text.contains("innerHTML"));
    }
    assert!(!page.text.contains("://"));
    let page = world.call("GET", "/resetPassword/some-token").send().await;
    assert!(page.text.contains("/assets/reset.js") && !page.text.contains("://"));
    assert!(!world.call("GET", "/assets/reset.js").send().await.text.contains("://"));
}
