//! Join tokens.

use oak_control::root::Candidate;
use oak_link::{JoinToken, NodeKind};
use oak_model::message::ClusterToRoot;
use serde_json::{Value, json};

use crate::world::{Call, World};

fn create(world: &World, token: &str, body: &Value) -> Call {
    world.call("POST", "/api/tokens").token(token).header("host", "root.example:10000").json(body)
}

#[tokio::test]
async fn a_cluster_token_admits_a_cluster() {
    let world = World::start().await;
    let admin = world.admin().await;
    let answer = create(&world, &admin, &json!({ "role": "cluster", "ttl_seconds": 60 })).send().await.json();
    let text = answer["token"].as_str().unwrap();
    assert_eq!(answer["join"], format!("oak cluster --root root.example:10000 --token {text}"));
    assert!(answer["expires_at"].as_u64().unwrap() > 1_700_000_000);
    let token: JoinToken = text.parse().unwrap();
    assert_eq!(token.kind(), NodeKind::Cluster);
    let enrolled = world.root.call(move |root, now, entropy| {
        let candidate = Candidate {
            token_id: token.id(),
            secret_hash: &token.hash().to_string(),
            key_fingerprint: "key",
            name: "new",
            location: "",
            former: None,
        };
        root.enrol_cluster(now, entropy, candidate)
    });
    enrolled.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_worker_token_is_given_out_when_its_cluster_has_confirmed_it() {
    let mut world = World::start().await;
    let admin = world.admin().await;
    let cluster = world.join("cluster1").await;
    let mut sent = world.sent_tokens.take().unwrap();
    let root = world.root.clone();
    let playing = tokio::spawn(async move {
        while let Some((cluster, session, id)) = sent.recv().await {
            let stored = ClusterToRoot::TokenStored { id };
            root.call(move |root, now, _| root.cluster_message(now, cluster, session, stored))
                .await
                .unwrap()
                .unwrap();
        }
    });
    for named in [
        json!({ "role": "worker" }),
        json!({ "role": "worker", "cluster": "cluster1" }),
        json!({ "role": "worker", "cluster": cluster }),
    ] {
        let answer = create(&world, &admin, &named).send().await.json();
        let text = answer["token"].as_str().unwrap();
        assert_eq!(text.parse::<JoinToken>().unwrap().kind(), NodeKind::Worker);
        assert_eq!(answer["join"], format!("oak worker --cluster 192.0.2.20:10100 --token {text}"));
    }
    world.join("cluster2").await;
    let answer = create(&world, &admin, &json!({ "role": "worker" })).send().await;
    let message = answer.error(422);
    assert!(message.contains("cluster1") && message.contains("cluster2"), "{message}");
    create(&world, &admin, &json!({ "role": "worker", "cluster": "nowhere" })).send().await.error(404);
    world.disconnect(cluster).await;
    let answer = create(&world, &admin, &json!({ "role": "worker", "cluster": "cluster1" })).send().await;
    assert!(answer.error(409).contains("cluster1 is not connected"));
    playing.abort();
}

#[tokio::test]
async fn a_cluster_that_does_not_confirm_gets_no_worker() {
    let world = World::start().await;
    let admin = world.admin().await;
    world.join("cluster1").await;
    let answer = create(&world, &admin, &json!({ "role": "worker" })).send().await;
    assert!(answer.error(503).contains("did not confirm"));
}

#[tokio::test]
async fn only_admins_create_tokens_and_only_with_sense() {
    let world = World::start().await;
    let (admin, bob) = (world.admin().await, world.bob().await);
    create(&world, &bob, &json!({ "role": "cluster" })).send().await.error(403);
    create(&world, &admin, &json!({ "role": "worker" })).send().await.error(409);
    for bad in [
        json!({}),
        json!({ "role": "king" }),
        json!({ "role": "cluster", "ttl_seconds": 0 }),
        json!({ "role": "cluster", "ttl_seconds": 604_801 }),
        json!({ "role": "cluster", "ttl_seconds": "1h" }),
        json!({ "role": "cluster", "ttl_seconds": 90.5 }),
    ] {
        create(&world, &admin, &bad).send().await.error(422);
    }
    let hostile = world
        .call("POST", "/api/tokens")
        .token(&admin)
        .header("host", "x;rm")
        .json(&json!({ "role": "cluster" }));
    let answer = hostile.send().await.json();
    assert!(!answer["join"].as_str().unwrap().contains("rm"));
}
