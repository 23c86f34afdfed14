//! What is open ends when its user may not have it any more.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use futures_util::{StreamExt, stream};
use oak_model::exec::{Channel, ExecMessage, SUBPROTOCOL};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::exec::{Socket, connect, next, send};
use crate::tenants::PASSWORD;
use crate::world::World;

/// What one user has open.
struct Open {
    program: Socket,
    output: Body,
    events: Body,
}

impl Open {
    async fn all(world: &World, token: &str, instance: &str) -> Self {
        let path = format!("{instance}/exec?command=sh");
        let mut program = connect(world, &path, SUBPROTOCOL, Some(token)).await.unwrap();
        send(&mut program, Channel::Stdin, b"hello").await;
        assert_eq!(next(&mut program).await, ExecMessage::new(Channel::Stdout, *b"hello"));
        *world.logs.output.lock().unwrap() = Some(Ok(stream::pending().boxed()));
        let output = world.get(&format!("{instance}/logs?follow=true"), token).open().await;
        let events = world.get("/api/events", token).open().await;
        Self { program, output, events }
    }

    /// Reads everything to its end, which must come soon.
    async fn ended(mut self, how: &str, has_events: bool) {
        let patience = Duration::from_secs(20);
        let closed = async {
            loop {
                match self.program.next().await {
                    Some(Ok(Message::Close(frame))) => return frame.unwrap().reason.to_string(),
                    Some(Ok(_)) => {}
                    other => panic!("{how}: {other:?}"),
                }
            }
        };
        let reason =
            tokio::time::timeout(patience, closed).await.unwrap_or_else(|_| panic!("{how}: program"));
        assert!(reason.contains("the user"), "{how}: {reason}");
        let output = tokio::time::timeout(patience, axum::body::to_bytes(self.output, usize::MAX)).await;
        assert!(output.unwrap_or_else(|_| panic!("{how}: output")).is_err(), "{how}: as if it were complete");
        if !has_events {
            let events = tokio::time::timeout(patience, axum::body::to_bytes(self.events, usize::MAX)).await;
            let events = events.unwrap_or_else(|_| panic!("{how}: events")).unwrap();
            assert!(String::from_utf8_lossy(&events).contains("event: end"), "{how}: {events:?}");
        }
    }
}

#[tokio::test]
async fn nothing_outlives_the_dismissal_of_its_user() {
    let world = World::start().await;
    let (admin, lab) = (world.admin().await, world.organization("lab").await);
    let boss = world.user(&lab, "boss", &["Admin"]).await;
    let service = world.service(&boss, "app").await;
    world.deploy(&boss, &service).await;
    let instance = format!("/api/service/{service}/instance/0");
    let mut open = Vec::new();
    for name in ["stays", "deleted", "demoted", "changed", "left"] {
        let token = world.user(&lab, name, &["Application_Provider"]).await;
        open.push((name, Open::all(&world, &token, &instance).await));
    }
    assert_eq!(world.programs.running.load(Ordering::SeqCst), 5);

    let done = world.call("DELETE", "/api/user/deleted").token(&admin).send().await;
    assert_eq!(done.status, 200, "{}", done.text);
    for (name, change) in
        [("demoted", json!({ "roles": [] })), ("changed", json!({ "password": format!("new {PASSWORD}") }))]
    {
        let done = world.call("PUT", &format!("/api/user/{name}")).token(&boss).json(&change).send().await;
        assert_eq!(done.status, 200, "{}", done.text);
    }
    let path = format!("/api/organization/{lab}");
    let mut members = world.get(&path, &admin).send().await.json()["member"].clone();
    let others = world.get(&format!("/api/users/{lab}"), &admin).send().await.json();
    let left = others.as_array().unwrap().iter().find(|user| user["name"] == "left").unwrap();
    let before = members.as_array().unwrap().len();
    members.as_array_mut().unwrap().retain(|member| member["user_id"] != left["_id"]["$oid"]);
    assert_eq!(members.as_array().unwrap().len(), before - 1, "{members}");
    let done = world.call("PUT", &path).token(&admin).json(&json!({ "member": members })).send().await;
    assert_eq!(done.status, 200, "{}", done.text);

    let mut stays = None;
    for (name, open) in open {
        match name {
            "stays" => stays = Some(open),
            name => open.ended(name, name == "demoted").await,
        }
    }
    assert_eq!(world.programs.running.load(Ordering::SeqCst), 1);
    let mut program = stays.unwrap().program;
    send(&mut program, Channel::Stdin, b"still here").await;
    assert_eq!(next(&mut program).await, ExecMessage::new(Channel::Stdout, *b"still here"));
}
