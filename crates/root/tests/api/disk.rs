//! A disk that does not take everything: reading goes on, changes are refused, nothing is lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use oak_control::Row;
use oak_store::{Committed, Health, Journal, StoreError, Writes};
use tokio::sync::{oneshot, watch};

use crate::world::{World, descriptor};

/// Whoever waits for a commit.
type Waiting = oneshot::Sender<Result<(), StoreError>>;

/// Commits at once, or when the test allows it.
#[derive(Clone)]
struct Disk {
    health: Arc<watch::Sender<Health>>,
    waiting: Arc<Mutex<Vec<Waiting>>>,
    /// The next commit finds it full.
    fills: Arc<AtomicBool>,
}

impl Disk {
    fn new() -> Self {
        Self {
            health: Arc::new(watch::Sender::new(Health::Ok)),
            waiting: Arc::default(),
            fills: Arc::default(),
        }
    }

    fn degrade(&self, writes: Writes) {
        let reason = "the disk of /var/lib/oakestra is full: make room there".into();
        self.health.send_replace(Health::Degraded { since: SystemTime::now(), reason, writes });
    }

    fn recover(&self) {
        for done in self.waiting.lock().unwrap().drain(..) {
            // The request may have been given up.
            let _ = done.send(Ok(()));
        }
        self.health.send_replace(Health::Ok);
    }
}

impl Journal for Disk {
    fn submit(&self, _rows: Vec<Row>) -> Result<Committed, StoreError> {
        let (done, committed) = Committed::pending();
        if self.fills.swap(false, Ordering::SeqCst) {
            self.degrade(Writes::Stalled);
        }
        if self.health.borrow().is_stalled() {
            self.waiting.lock().unwrap().push(done);
        } else {
            done.send(Ok(())).unwrap();
        }
        Ok(committed)
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }
}

#[tokio::test]
async fn changes_are_refused_with_507_and_reading_goes_on() {
    let disk = Disk::new();
    let world = World::on_disk(disk.clone()).await;
    let token = world.admin().await;
    let service = world.service(&token, "app").await;
    disk.degrade(Writes::Stalled);
    let application = descriptor("other", "", &["web"]);
    let deploy = format!("/api/service/{service}/instance");
    let delete = format!("/api/service/{service}");
    let changes = [
        world.call("POST", "/api/application/").json(&application),
        world.call("POST", &deploy),
        world.call("PUT", &delete).json(&application),
        world.call("DELETE", &delete),
        world.call("DELETE", &format!("{deploy}/-1")),
        world.call("POST", "/api/tokens").body("{}"),
    ];
    for change in changes {
        let text = change.token(&token).send().await.error(507);
        assert!(text.contains("nothing was changed: the disk of /var/lib/oakestra is full"), "{text}");
    }
    // Who does not log in does not learn about disks.
    let answer = world.call("POST", &deploy).send().await;
    assert_eq!(answer.status, 401, "{}", answer.text);
    let again = world.admin().await;
    for path in ["/api/applications/", "/api/services/", &delete, "/api/clusters/"] {
        let read = world.get(path, &again).send();
        let answer =
            tokio::time::timeout(Duration::from_secs(20), read).await.expect("reading does not hang");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
    }
    assert_eq!(world.call("GET", "/readyz").send().await.json()["status"], "read-only");
    disk.recover();
    assert_eq!(world.call("GET", "/readyz").send().await.json()["status"], "ready");
    world.deploy(&token, &service).await;
}

#[tokio::test]
async fn a_change_under_way_when_the_disk_fills_is_answered_and_takes_effect_later() {
    let disk = Disk::new();
    let world = World::on_disk(disk.clone()).await;
    let token = world.admin().await;
    let service = world.service(&token, "app").await;
    disk.fills.store(true, Ordering::SeqCst);
    let call = world.call("POST", &format!("/api/service/{service}/instance")).token(&token).send();
    let answer = tokio::time::timeout(Duration::from_secs(20), call).await.expect("the caller is told");
    let text = answer.error(507);
    assert!(text.contains("may still take effect"), "{text}");
    disk.recover();
    let record = world.record(&token, service.parse().unwrap()).await;
    assert_eq!(record["instance_list"].as_array().unwrap().len(), 1, "{record}");
}

#[tokio::test]
async fn on_a_nearly_full_disk_removing_is_possible() {
    let disk = Disk::new();
    let world = World::on_disk(disk.clone()).await;
    let token = world.admin().await;
    let service = world.service(&token, "app").await;
    world.deploy(&token, &service).await;
    disk.degrade(Writes::Small);
    let path = format!("/api/service/{service}/instance");
    world.call("POST", &path).token(&token).send().await.error(507);
    let answer = world.call("DELETE", &format!("{path}/-1")).token(&token).send().await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}
