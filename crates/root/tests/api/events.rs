//! What happened, as a stream and as a list.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::ConnectInfo;
use axum::http::Request;
use futures_util::StreamExt;
use oak_model::Status;
use serde_json::Value;
use tower::ServiceExt;

use crate::world::{LOCAL, World};

/// An open stream of events.
struct Listener {
    body: BodyDataStream,
    text: String,
}

#[derive(Debug)]
struct Told {
    id: Option<String>,
    event: Option<String>,
    data: Option<Value>,
}

impl Listener {
    async fn open(world: &World, token: &str, path: &str, last: Option<&str>) -> Self {
        let mut request = Request::builder().uri(path).header("authorization", format!("Bearer {token}"));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let mut request = request.body(Body::empty()).unwrap();
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from((LOCAL, 40_000))));
        let response = world.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body().into_data_stream(), text: String::new() }
    }

    /// The next event, within a second.
    async fn next(&mut self) -> Told {
        loop {
            if let Some((one, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let prefix = format!("{name}: ");
                    one.lines().find_map(|line| line.strip_prefix(&prefix)).map(str::to_owned)
                };
                let told = Told {
                    id: field("id"),
                    event: field("event"),
                    data: field("data").map(|data| serde_json::from_str(&data).unwrap()),
                };
                self.text = rest.to_owned();
                return told;
            }
            let piece = tokio::time::timeout(Duration::from_secs(10), self.body.next()).await;
            let piece = piece.unwrap().unwrap().unwrap();
            self.text.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }

    async fn kinds(&mut self, count: usize) -> Vec<String> {
        let mut kinds = Vec::new();
        while kinds.len() < count {
            if let Some(data) = self.next().await.data {
                kinds.push(data["kind"].as_str().unwrap_or("?").to_owned());
            }
        }
        kinds
    }
}

#[tokio::test]
async fn a_resumed_stream_misses_nothing_and_doubles_nothing() {
    let world = World::start().await;
    let admin = world.admin().await;
    let cluster = world.join("cluster1").await;
    let mut listener = Listener::open(&world, &admin, "/api/events", None).await;
    let start = listener.next().await;
    assert!(start.data.is_none() && start.id.is_some(), "{start:?}");
    let service = world.service(&admin, "app").await;
    let key = world.deploy(&admin, &service).await;
    world.report(cluster, key, Status::Running, "fine").await;
    let expected = [
        "application_created",
        "service_created",
        "instance_requested",
        "instance_scheduled",
        "instance_placed",
    ];
    let mut ids = Vec::new();
    for kind in expected {
        let told = listener.next().await;
        assert_eq!(told.data.unwrap()["kind"], kind);
        ids.push(told.id.unwrap());
    }
    drop(listener);
    for (position, id) in ids.iter().enumerate() {
        let by_query = position % 2 == 0;
        let path = if by_query { format!("/api/events/?since={id}") } else { "/api/events".to_owned() };
        let mut resumed = Listener::open(&world, &admin, &path, (!by_query).then_some(id.as_str())).await;
        assert_eq!(resumed.next().await.event, None);
        let rest = expected.get(position + 1..).unwrap();
        assert_eq!(resumed.kinds(rest.len()).await, rest);
    }
    let mut last = Listener::open(&world, &admin, "/api/events", ids.last().map(String::as_str)).await;
    last.next().await;
    world.report(cluster, key, Status::Failed, "exited with code 1").await;
    assert_eq!(last.next().await.data.unwrap()["detail"], "exited with code 1");
}

#[tokio::test]
async fn events_survive_a_restart_and_a_cut_history_says_so() {
    let world = World::start().await;
    let admin = world.admin().await;
    let cluster = world.join("cluster1").await;
    let service = world.service(&admin, "app").await;
    let key = world.deploy(&admin, &service).await;
    let mut listener = Listener::open(&world, &admin, "/api/events", None).await;
    let known = listener.next().await.id.unwrap();
    for number in 0..60 {
        world.report(cluster, key, Status::Failed, &format!("failure {number}")).await;
    }
    drop(listener);
    let list = world.get(&format!("/api/service/{service}/events?limit=3"), &admin).send().await.json();
    let details: Vec<_> = list.as_array().unwrap().iter().map(|event| event["detail"].clone()).collect();
    assert_eq!(details, ["failure 57", "failure 58", "failure 59"]);
    let world = world.restart().await;
    let admin = world.admin().await;
    let again = world.get(&format!("/api/service/{service}/events?limit=3"), &admin).send().await.json();
    assert_eq!(again, list);
    let path = format!("/api/events?since={known}&service={service}");
    let mut resumed = Listener::open(&world, &admin, &path, None).await;
    assert_eq!(resumed.next().await.event.as_deref(), Some("gap"));
    for number in 10..60 {
        assert_eq!(resumed.next().await.data.unwrap()["detail"], format!("failure {number}"));
    }
}

#[tokio::test]
async fn everybody_hears_only_of_what_is_theirs() {
    let world = World::start().await;
    let (admin, bob) = (world.admin().await, world.bob().await);
    let mut listener = Listener::open(&world, &bob, "/api/events", None).await;
    listener.next().await;
    world.service(&admin, "foreign").await;
    let application = world.create(&bob, "mine", &["web"]).await;
    assert_eq!(listener.kinds(2).await, ["application_created", "service_created"]);
    let id = application["applicationID"].as_str().unwrap();
    assert_eq!(world.call("DELETE", &format!("/api/application/{id}")).token(&bob).send().await.status, 200);
    let told = listener.next().await;
    assert_eq!(told.data.as_ref().unwrap()["kind"], "service_deleted");
    assert_eq!(told.data.unwrap()["applicationID"], id);
    assert_eq!(listener.kinds(1).await, ["application_deleted"]);
    // Also for those who were not there.
    let mut late = Listener::open(&world, &bob, "/api/events?since=0&kind=application_deleted", None).await;
    assert_eq!(late.next().await.event.as_deref(), Some("gap"));
    assert_eq!(late.kinds(1).await, ["application_deleted"]);
}

#[tokio::test]
async fn filters_narrow_and_nonsense_is_refused() {
    let world = World::start().await;
    let admin = world.admin().await;
    let cluster = world.join("cluster1").await;
    let (one, two) = (world.service(&admin, "one").await, world.service(&admin, "two").await);
    let path = format!("/api/events?instance={two}.0&kind=instance_status,instance_placed");
    let mut listener = Listener::open(&world, &admin, &path, None).await;
    listener.next().await;
    for service in [&one, &two] {
        let key = world.deploy(&admin, service).await;
        world.report(cluster, key, Status::Running, "fine").await;
    }
    let told = listener.next().await.data.unwrap();
    assert_eq!(
        (told["microserviceID"].as_str(), told["kind"].as_str()),
        (Some(&*two), Some("instance_placed"))
    );
    for query in ["since=-1", "since=x", "kind=nothing", "application=x", "unknown=1", "instance=1"] {
        world.get(&format!("/api/events?{query}"), &admin).send().await.error(400);
    }
    world.get("/api/events", &admin).header("last-event-id", "x").send().await.error(400);
    for limit in ["0", "1001", "x", "-1"] {
        world.get(&format!("/api/service/{one}/events?limit={limit}"), &admin).send().await.error(400);
    }
}

#[tokio::test]
async fn a_slow_reader_is_cut_and_told_so() {
    let world = World::start().await;
    let admin = world.admin().await;
    let cluster = world.join("cluster1").await;
    let service = world.service(&admin, "app").await;
    let key = world.deploy(&admin, &service).await;
    let mut listener = Listener::open(&world, &admin, "/api/events", None).await;
    listener.next().await;
    for number in 0..1100 {
        world.report(cluster, key, Status::Failed, &format!("failure {number}")).await;
    }
    let last = listener.next().await;
    assert_eq!(last.event.as_deref(), Some("end"));
    assert!(last.data.unwrap()["reason"].as_str().unwrap().contains("too slow"));
    assert!(listener.body.next().await.is_none());
}

#[tokio::test]
async fn the_end_of_an_application_reaches_its_owner_however_late_it_reads_and_nobody_else() {
    let world = World::start().await;
    let (admin, bob) = (world.admin().await, world.bob().await);
    let eve = world.user(crate::tenants::ROOT, "eve", &["Application_Provider"]).await;
    let mut owner = Listener::open(&world, &bob, "/api/events", None).await;
    let mut stranger = Listener::open(&world, &eve, "/api/events", None).await;
    let application = world.create(&bob, "app", &["web"]).await;
    let path = format!("/api/application/{}", application["applicationID"].as_str().unwrap());
    assert_eq!(world.call("DELETE", &path).token(&bob).send().await.status, 200);
    // Something after it that everybody sees.
    world.join("cluster1").await;
    // Only now is anything read: the application has been gone for long.
    let seen = ["application_created", "service_created", "service_deleted", "application_deleted"];
    let all = owner.kinds(5).await;
    assert_eq!(all[..4], seen);
    assert_eq!(all[4], "cluster_joined");
    assert_eq!(stranger.kinds(1).await, ["cluster_joined"]);
    let mut late = Listener::open(&world, &admin, "/api/events?since=0", None).await;
    let told = late.kinds(3).await;
    assert!(told.contains(&"application_deleted".to_owned()), "{told:?}");
}
