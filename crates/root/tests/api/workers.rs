//! Single workers: looking at one, opening, closing and emptying it.

use oak_control::root::Root;
use oak_model::message::{ClusterToRoot, WorkerSummary};
use oak_model::{Availability, ClusterId, Status, WorkerId};
use oak_store::Engine;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::world::{Answer, World, worker_id};

/// A cluster that does what it is asked, as the first report after it says.
struct Obedient(JoinHandle<()>);

impl Obedient {
    fn play(world: &mut World) -> Self {
        let mut asked = world.sent_availabilities.take().unwrap();
        let root = world.root.clone();
        Self(tokio::spawn(async move {
            while let Some((cluster, session, worker, availability)) = asked.recv().await {
                // What was on its way already is no confirmation.
                report(&root, cluster, session, worker, |_| {}).await;
                report(&root, cluster, session, worker, move |summary| {
                    summary.availability = availability;
                    summary.instances = 2;
                })
                .await;
            }
        }))
    }
}

impl Drop for Obedient {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn report(
    root: &Engine<Root>,
    cluster: ClusterId,
    session: u64,
    worker: WorkerId,
    change: impl FnOnce(&mut WorkerSummary) + Send + 'static,
) {
    let told = root.call(move |root, now, _| {
        let mut summary = root.cluster(cluster).unwrap().workers[&worker].clone();
        change(&mut summary);
        root.cluster_message(now, cluster, session, ClusterToRoot::Workers(vec![summary]))
    });
    told.await.unwrap().unwrap();
}

async fn set(world: &World, token: &str, worker: &str, body: &Value) -> Answer {
    let path = format!("/api/workers/{worker}/availability");
    world.call("PUT", &path).token(token).json(body).send().await
}

#[tokio::test]
async fn a_worker_is_drained_when_its_cluster_has_said_so() {
    let mut world = World::start().await;
    let admin = world.admin().await;
    let cluster = world.join("munich").await;
    let _cluster = Obedient::play(&mut world);
    let service = world.service(&admin, "shop").await;
    let key = world.deploy(&admin, &service).await;
    world.report(cluster, key, Status::Running, "cannot leave the worker: full").await;

    let answer = set(&world, &admin, "worker1", &json!({ "availability": "draining" })).await.json();
    assert_eq!(answer["availability"], "draining");
    assert_eq!((&answer["instances"], &answer["instances_left"]), (&json!(2), &json!(2)));
    assert_eq!((&answer["cluster_name"], &answer["cluster_id"]), (&json!("munich"), &json!(cluster)));
    assert_eq!(answer["instance_list"].as_array().unwrap().len(), 1);
    let left = &answer["instance_list"][0];
    assert_eq!((&left["microserviceID"], &left["instance_number"]), (&json!(service), &json!(0)));
    assert_eq!((&left["status"], &left["one_shot"]), (&json!("RUNNING"), &json!(false)));
    assert_eq!(left["status_detail"], "cannot leave the worker: full");
    assert!(left["job_name"].as_str().unwrap().starts_with("shop.test.web"), "{left}");

    let path = format!("/api/workers/{}", worker_id());
    assert_eq!(world.get(&path, &admin).send().await.json(), answer);
    let listed = world.get("/api/clusters/munich/workers", &admin).send().await.json();
    assert_eq!((&listed[0]["availability"], &listed[0]["instances_left"]), (&json!("draining"), &json!(2)));

    for word in ["cordoned", "open"] {
        let id = worker_id().to_string();
        let answer = set(&world, &admin, &id, &json!({ "availability": word })).await.json();
        assert_eq!(answer["availability"], word);
        assert_eq!(answer.get("instances_left"), None);
    }
}

#[tokio::test]
async fn only_admins_open_and_close_workers_and_others_see_only_their_instances() {
    let world = World::start().await;
    let (admin, bob) = (world.admin().await, world.bob().await);
    let cluster = world.join("munich").await;
    let service = world.service(&admin, "shop").await;
    let key = world.deploy(&admin, &service).await;
    world.report(cluster, key, Status::Running, "running").await;
    world.call("GET", "/api/workers/worker1").send().await.error(401);
    let seen = world.get("/api/workers/worker1/", &bob).send().await.json();
    assert_eq!((&seen["facts"]["name"], &seen["instance_list"]), (&json!("worker1"), &json!([])));
    set(&world, &bob, "worker1", &json!({ "availability": "cordoned" })).await.error(403);
    let unchanged = world.get("/api/workers/worker1", &admin).send().await.json();
    assert_eq!(unchanged["availability"], "open");
}

#[tokio::test]
async fn what_cannot_be_done_is_said_before_anything_is_asked() {
    let mut world = World::start().await;
    let admin = world.admin().await;
    let cluster = world.join("munich").await;
    let mut asked = world.sent_availabilities.take().unwrap();
    let drain = json!({ "availability": "draining" });
    for body in [json!({}), json!({ "availability": "closed" }), json!({ "availability": 1 })] {
        let message = set(&world, &admin, "worker1", &body).await.error(422);
        assert!(message.starts_with("availability"), "{message}");
    }
    let message = set(&world, &admin, "nobody", &drain).await.error(404);
    assert_eq!(message, "there is no worker `nobody`");
    world.get("/api/workers/nobody", &admin).send().await.error(404);

    // Another worker of the same name.
    let twin = WorkerId::from_parts(1, 99);
    let told = world.root.call(move |root, now, _| {
        let summary = root.cluster(cluster).unwrap().workers[&worker_id()].clone();
        let summary = WorkerSummary { id: twin, ..summary };
        root.cluster_message(now, cluster, 1, ClusterToRoot::Workers(vec![summary]))
    });
    told.await.unwrap().unwrap();
    let message = set(&world, &admin, "worker1", &drain).await.error(409);
    for id in [worker_id(), twin] {
        assert!(message.contains(&format!("{id} in cluster munich")), "{message}");
    }

    world.disconnect(cluster).await;
    let message = set(&world, &admin, &twin.to_string(), &drain).await.error(409);
    assert!(message.contains("cluster munich of worker worker1 is not connected"), "{message}");
    assert!(asked.try_recv().is_err(), "no cluster was asked anything");
}

#[tokio::test]
async fn a_cluster_that_does_not_confirm_is_named() {
    let world = World::start().await;
    let admin = world.admin().await;
    world.join("munich").await;
    let message = set(&world, &admin, "worker1", &json!({ "availability": "draining" })).await.error(504);
    assert!(message.contains("cluster munich did not confirm"), "{message}");
}

/// A root that has just started knows workers only from clusters that have come back.
#[tokio::test]
async fn a_worker_nobody_knows_may_belong_to_a_cluster_that_is_away() {
    let world = World::start().await;
    world.join("munich").await;
    let world = world.restart().await;
    let admin = world.admin().await;
    let message = world.get("/api/workers/worker1", &admin).send().await.error(404);
    assert!(message.contains("not connected") && message.ends_with("munich"), "{message}");
}

#[test]
fn every_availability_has_a_word() {
    let words: Vec<_> = Availability::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(words, ["open", "cordoned", "draining"]);
}
