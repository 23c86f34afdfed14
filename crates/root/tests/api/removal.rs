//! Removing clusters and workers that are gone for good.

use oak_control::root::Root;
use oak_model::message::ClusterToRoot;
use oak_model::{ClusterId, Removal, Status, WorkerId};
use oak_store::Engine;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::world::{World, worker_id};

/// A cluster that removes what it is asked to, or says why not.
fn play(world: &mut World, refuses: Option<&'static str>) -> JoinHandle<Vec<(WorkerId, Removal)>> {
    let mut asked = world.sent_removals.take().unwrap();
    let root: Engine<Root> = world.root.clone();
    tokio::spawn(async move {
        let (cluster, session, worker, removal): (ClusterId, _, _, _) = asked.recv().await.unwrap();
        let message = match refuses {
            Some(reason) => ClusterToRoot::WorkerKept { worker, reason: reason.to_owned() },
            None => ClusterToRoot::WorkerRemoved(worker),
        };
        let told = root.call(move |root, now, _| root.cluster_message(now, cluster, session, message));
        told.await.unwrap().unwrap();
        vec![(worker, removal)]
    })
}

#[tokio::test]
async fn a_worker_is_gone_when_its_cluster_has_said_so() {
    let mut world = World::start().await;
    let admin = world.admin().await;
    let cluster = world.join("munich").await;
    let asked = play(&mut world, None);
    let path = format!("/api/clusters/{cluster}/workers/worker1?force=true");
    let answer = world.call("DELETE", &path).token(&admin).send().await.json();
    assert_eq!(answer["message"], "Worker removed");
    assert_eq!(asked.await.unwrap(), [(worker_id(), Removal::Forced)]);
    world.get("/api/workers/worker1", &admin).send().await.error(404);
    assert_eq!(world.get("/api/clusters/munich/workers", &admin).send().await.json(), json!([]));
    let message = world.call("DELETE", &path).token(&admin).send().await.error(404);
    assert_eq!(message, "there is no worker `worker1` in cluster munich");
    let audit = world.get("/api/audit?limit=10", &admin).send().await.json();
    let routes: Vec<_> =
        audit["entries"].as_array().unwrap().iter().map(|entry| entry["route"].clone()).collect();
    assert!(routes.contains(&json!("/api/clusters/{id}/workers/{worker}")), "{routes:?}");
}

#[tokio::test]
async fn why_a_worker_stays_is_for_its_cluster_to_say() {
    let mut world = World::start().await;
    let admin = world.admin().await;
    world.join("munich").await;
    let asked = play(&mut world, Some("worker worker1 is connected: stop it"));
    let path = format!("/api/clusters/munich/workers/{}/", worker_id());
    let message = world.call("DELETE", &path).token(&admin).send().await.error(409);
    assert_eq!(message, "worker worker1 is connected: stop it");
    assert_eq!(asked.await.unwrap(), [(worker_id(), Removal::IfUnused)]);
    world.get("/api/workers/worker1", &admin).send().await.json();
}

#[tokio::test]
async fn a_cluster_that_cannot_be_asked_or_does_not_answer_is_named() {
    let world = World::start().await;
    let admin = world.admin().await;
    let cluster = world.join("munich").await;
    let path = "/api/clusters/munich/workers/worker1";
    let message = world.call("DELETE", path).token(&admin).send().await.error(504);
    assert!(message.contains("cluster munich did not answer"), "{message}");
    world.disconnect(cluster).await;
    let message = world.call("DELETE", path).token(&admin).send().await.error(503);
    assert!(message.contains("cluster munich of worker worker1 is not connected"), "{message}");
}

#[tokio::test]
async fn a_cluster_that_is_away_and_empty_is_removed() {
    let world = World::start().await;
    let admin = world.admin().await;
    let cluster = world.join("munich").await;
    let message = world.call("DELETE", "/api/clusters/munich").token(&admin).send().await.error(409);
    assert!(message.contains("cluster munich is connected"), "{message}");
    world.disconnect(cluster).await;
    let answer = world.call("DELETE", "/api/clusters/munich/").token(&admin).send().await.json();
    assert_eq!(answer["message"], "Cluster removed");
    assert_eq!(world.call("GET", "/api/clusters").send().await.json(), json!([]));
    world.call("DELETE", "/api/clusters/munich").token(&admin).send().await.error(404);
    // Also after a restart.
    let world = world.restart().await;
    assert_eq!(world.call("GET", "/api/clusters").send().await.json(), json!([]));
}

#[tokio::test]
async fn what_a_removed_cluster_had_is_placed_in_another_one() {
    let world = World::start().await;
    let admin = world.admin().await;
    let cluster = world.join("munich").await;
    let service = world.service(&admin, "shop").await;
    let key = world.deploy(&admin, &service).await;
    world.report(cluster, key, Status::Running, "running").await;
    world.disconnect(cluster).await;
    let path = format!("/api/clusters/{cluster}");
    let message = world.call("DELETE", &path).token(&admin).send().await.error(409);
    assert!(message.contains("munich still has 1 instance (shop.test.web"), "{message}");
    let other = world.join("berlin").await;
    world.call("DELETE", &format!("{path}?force=true")).token(&admin).send().await.json();
    let record = world.record(&admin, key.service).await;
    let instance = &record["instance_list"][0];
    assert_eq!((&instance["cluster_id"], &instance["instance_number"]), (&json!(other), &json!(0)));
    assert!(world.dismissed.lock().unwrap().is_empty(), "it had no session");
}

#[tokio::test]
async fn a_connected_cluster_is_sent_away_when_its_removal_is_forced() {
    let world = World::start().await;
    let admin = world.admin().await;
    world.join("munich").await;
    world.call("DELETE", "/api/clusters/munich?force=true").token(&admin).send().await.json();
    assert_eq!(*world.dismissed.lock().unwrap(), [1]);
}
