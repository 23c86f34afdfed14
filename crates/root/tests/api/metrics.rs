//! Numbers for Prometheus.

use std::collections::{BTreeMap, BTreeSet};

use oak_model::Status;

use crate::world::{World, eventually};

async fn scrape(world: &World) -> String {
    let answer = world.call("GET", "/metrics").send().await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    answer.text
}

/// Value of the one sample that begins with this.
fn sample(text: &str, name: &str) -> f64 {
    let found: Vec<_> = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).collect();
    assert_eq!(found.len(), 1, "{name} in\n{text}");
    found[0].parse().unwrap()
}

#[tokio::test]
async fn the_format_is_that_of_prometheus() {
    let world = World::start().await;
    world.call("GET", "/healthz").send().await;
    let text = scrape(&world).await;
    let mut kinds = BTreeMap::new();
    let mut current = "";
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(kinds.insert(name, kind).is_none(), "{name} has two types");
            current = name;
        } else if !line.starts_with("# HELP ") {
            let name = line.split(['{', ' ']).next().unwrap();
            let suffix =
                name.strip_prefix(current).unwrap_or_else(|| panic!("{line} is not under its family"));
            match kinds[current] {
                "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
                "counter" => assert!(suffix.is_empty() && name.ends_with("_total"), "{line}"),
                _ => assert!(suffix.is_empty(), "{line}"),
            }
            let value = line.rsplit(' ').next().unwrap();
            assert!(value.parse::<f64>().unwrap().is_finite(), "{line}");
        }
    }
    let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let different: BTreeSet<_> = samples.iter().map(|line| line.rsplit_once(' ').unwrap().0).collect();
    assert_eq!(samples.len(), different.len(), "a series is there twice");
}

#[tokio::test]
async fn requests_are_counted_by_route_and_status_without_ids() {
    let world = World::start().await;
    let token = world.bob().await;
    for id in ["6b055f7562584cae3c2d2606", "6b055f7562584cae3c2d2607"] {
        world.get(&format!("/api/service/{id}"), &token).send().await;
        world.call("GET", &format!("/api/service/{id}/")).send().await;
    }
    world.call("GET", "/no/such/path").send().await;
    let text = scrape(&world).await;
    let count = |route: &str, status: u16| {
        let labels = format!("route=\"{route}\",method=\"GET\",status=\"{status}\"");
        sample(&text, &format!("oakestra_root_http_requests_total{{{labels}}}")) as u64
    };
    assert_eq!(count("/api/service/{id}", 404), 2);
    assert_eq!(count("/api/service/{id}", 401), 2);
    assert_eq!(count("other", 404), 1);
    let durations = "oakestra_root_http_request_duration_seconds_count{route=\"/api/service/{id}\"}";
    assert_eq!(sample(&text, durations) as u64, 4);
}

#[tokio::test]
async fn what_exists_is_counted_and_nobody_is_named() {
    let world = World::start().await;
    let token = world.bob().await;
    let service = world.service(&token, "secretproject").await;
    let cluster = world.join("hidden").await;
    let key = world.deploy(&token, &service).await;
    world.report(cluster, key, Status::Running, "").await;
    let text = scrape(&world).await;
    for (name, wanted) in [
        ("oakestra_root_applications", 1),
        ("oakestra_root_services", 1),
        ("oakestra_root_instances{status=\"RUNNING\"}", 1),
        ("oakestra_root_instances{status=\"FAILED\"}", 0),
        ("oakestra_root_clusters{state=\"connected\"}", 1),
        ("oakestra_root_workers{state=\"connected\"}", 1),
        ("oakestra_root_link_sessions", 1),
        ("oakestra_root_store_degraded", 0),
        (&format!("oakestra_build_info{{version=\"{}\",role=\"root\"}}", env!("CARGO_PKG_VERSION")), 1),
    ] {
        assert_eq!(sample(&text, name) as u64, wanted, "{name}");
    }
    assert!(sample(&text, "oakestra_root_store_commit_duration_seconds_count") > 0.0);
    for name in ["secretproject", "hidden", "bob", "Admin", &service] {
        assert!(!text.contains(name), "{name} is named");
    }
    world.disconnect(cluster).await;
    // What was counted is good for a second.
    eventually("the worker is away", async || {
        sample(&scrape(&world).await, "oakestra_root_workers{state=\"away\"}") as u64 == 1
    })
    .await;
    assert_eq!(sample(&scrape(&world).await, "oakestra_root_link_sessions") as u64, 0);
}
