//! Output of instances.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use oak_root::api::{LogError, LogRequest};

use crate::world::World;

#[tokio::test]
async fn output_is_streamed_to_the_owner() {
    let world = World::start().await;
    let bob = world.bob().await;
    let service = world.service(&bob, "app").await;
    let key = world.deploy(&bob, &service).await;
    let path = format!("/api/service/{service}/instance/0/logs");
    for token in [&bob, &world.admin().await] {
        let pieces = [Bytes::from_static(b"one\n"), Bytes::from_static(b"tw"), Bytes::from_static(b"o\n")];
        *world.logs.output.lock().unwrap() = Some(Ok(stream::iter(pieces).map(Ok).boxed()));
        let answer = world.get(&format!("{path}?tail=2&follow=true"), token).send().await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (200, "one\ntwo\n"));
        assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    }
    *world.logs.output.lock().unwrap() = Some(Ok(stream::empty().boxed()));
    assert_eq!(world.get(&format!("{path}/?"), &bob).send().await.text, "");
    let opened = world.logs.opened.lock().unwrap().clone();
    let two = LogRequest { tail: Some(2), follow: true, ..LogRequest::default() };
    assert_eq!(opened, [(key, two), (key, two), (key, LogRequest::default())]);
}

#[tokio::test]
async fn what_cannot_be_read_says_why() {
    let world = World::start().await;
    let token = world.admin().await;
    let service = world.service(&token, "app").await;
    world.deploy(&token, &service).await;
    let path = format!("/api/service/{service}/instance/0/logs");
    for (error, status) in [
        (LogError::NotThere("no worker yet".into()), 409),
        (LogError::Unreachable("cluster c1 is not connected".into()), 503),
        (LogError::Failed("disk".into()), 502),
    ] {
        let text = error.to_string();
        *world.logs.output.lock().unwrap() = Some(Err(error));
        assert_eq!(world.get(&path, &token).send().await.error(status), text);
    }
    for query in ["tail=x", "tail=-1", "follow=maybe", "tail=1&tail=2"] {
        world.get(&format!("{path}?{query}"), &token).send().await.error(400);
    }
    world.get(&format!("/api/service/{service}/instance/7/logs"), &token).send().await.error(404);
    world.get(&format!("/api/service/{service}/instance/x/logs"), &token).send().await.error(404);
}

#[tokio::test]
async fn a_panic_is_an_answer_with_an_incident_number() {
    let world = World::start().await;
    let token = world.admin().await;
    let service = world.service(&token, "app").await;
    world.deploy(&token, &service).await;
    world.logs.panics.store(true, Ordering::SeqCst);
    let path = format!("/api/service/{service}/instance/0/logs");
    let answer = world.get(&path, &token).header("origin", "http://dashboard.example").send().await;
    let message = answer.error(500);
    assert!(message.contains("incident") && !message.contains("the test wants"), "{message}");
    assert_eq!(answer.headers["access-control-allow-origin"], "http://dashboard.example");
}
