//! What the root tells and keeps of what happened.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test they are called from")]

use std::collections::BTreeMap;
use std::time::Duration;

use oak_control::root::{Candidate, Effect, Owner, Replay, Root, Settings, Topic};
use oak_control::token::TokenRole;
use oak_control::{Row, SeededEntropy, Table};
use oak_model::message::{ClusterHello, ClusterToRoot, InstanceReport, WorkerSummary};
use oak_model::{
    Architecture, Availability, ClusterId, Event, EventKind, InstanceKey, Moment, Now, Resources, ServiceId,
    Status, WallTime, WorkerFacts, WorkerId, sla,
};

struct World {
    root: Root,
    entropy: SeededEntropy,
    disk: BTreeMap<(Table, String), Vec<u8>>,
    told: Vec<Event>,
    cluster: ClusterId,
}

fn now() -> Now {
    Now { moment: Moment(0), wall: WallTime(1_000) }
}

fn worker(number: u64, connected: bool) -> WorkerSummary {
    let facts = WorkerFacts {
        name: format!("w{number}"),
        address: String::new(),
        address6: None,
        architecture: Architecture::Amd64,
        capacity: Resources { cpu_millis: 8_000, memory_mib: 8_000, storage_mib: 8_000, gpus: 0 },
        virtualization: vec!["docker".into()],
        version: String::new(),
        labels: Vec::new(),
        addons: Vec::new(),
        position: None,
        csi_drivers: Vec::new(),
        tunnel: None,
        plain: true,
    };
    WorkerSummary {
        id: worker_id(number),
        facts,
        reserved: Resources::ZERO,
        instances: 0,
        connected,
        host_ports: Vec::new(),
        availability: Availability::Open,
        round_trip_us: None,
        subnet: None,
        more_subnets: Vec::new(),
        outside: None,
    }
}

fn worker_id(number: u64) -> WorkerId {
    WorkerId::from_parts(1, number)
}

impl World {
    fn new() -> Self {
        let mut root = Root::new(Settings::default());
        let mut entropy = SeededEntropy::new(1);
        root.create_token(now(), "t".into(), "h".into(), TokenRole::Cluster, Duration::from_secs(60));
        let candidate = Candidate {
            token_id: "t",
            secret_hash: "h",
            key_fingerprint: "k",
            name: "c1",
            location: "",
            former: None,
        };
        let cluster = root.enrol_cluster(now(), &mut entropy, candidate).unwrap();
        let hello = ClusterHello {
            name: "c1".into(),
            workers: vec![worker(1, true), worker(2, true)],
            ..ClusterHello::default()
        };
        root.cluster_opened(now(), cluster, 1, "", hello).unwrap();
        let mut world = Self { root, entropy, disk: BTreeMap::new(), told: Vec::new(), cluster };
        world.commit();
        world
    }

    fn commit(&mut self) {
        let outbox = self.root.take_outbox();
        for row in outbox.rows {
            match row.document {
                Some(document) => self.disk.insert((row.table, row.key), document),
                None => self.disk.remove(&(row.table, row.key)),
            };
        }
        for effect in outbox.effects {
            if let Effect::Events(occurrences) = effect {
                self.told.extend(occurrences.iter().map(|occurrence| occurrence.event.clone()));
            }
        }
    }

    fn restart(&mut self) {
        self.commit();
        let rows: Vec<_> = self
            .disk
            .iter()
            .map(|((table, key), document)| Row {
                table: *table,
                key: key.clone(),
                document: Some(document.clone()),
            })
            .collect();
        self.root = Root::load(Settings::default(), now(), &rows).unwrap();
    }

    fn service(&mut self) -> ServiceId {
        let document = serde_json::json!({
            "sla_version": "v2.0", "customerID": "Admin",
            "applications": [{
                "applicationID": "", "application_name": "app", "application_namespace": "test",
                "application_desc": "", "microservices": [{
                    "microserviceID": "", "microservice_name": "web", "microservice_namespace": "test",
                    "virtualization": "container", "code": "docker.io/library/nginx:latest", "memory": 100
                }]
            }]
        });
        let document = sla::parse(document.to_string().as_bytes()).unwrap();
        let owner = Owner { user: "Admin".into(), organization: None };
        let created =
            self.root.create_applications(now(), &mut self.entropy, &owner, document.applications).unwrap();
        self.root.application(created[0]).unwrap().services[0]
    }

    fn report(&mut self, key: InstanceKey, status: Status, worker: u64, detail: &str) {
        let generation = self.root.instance(key).unwrap().generation;
        let report = InstanceReport {
            key,
            generation,
            status,
            detail: detail.into(),
            worker: Some(worker_id(worker)),
            host_address: String::new(),
            ended: false,
            address: None,
        };
        self.message(ClusterToRoot::Instances(vec![report]));
    }

    fn message(&mut self, message: ClusterToRoot) {
        self.root.cluster_message(now(), self.cluster, 1, message).unwrap();
        self.commit();
    }

    fn kinds(&self) -> Vec<EventKind> {
        self.told.iter().map(|event| event.kind).collect()
    }

    fn kept_of(&self, service: ServiceId, since: u64) -> Replay {
        self.root.events_after(since, |topic, _| matches!(topic, Topic::Service(_, id) if *id == service))
    }
}

fn details(replay: &Replay) -> Vec<String> {
    replay.events.iter().map(|occurrence| occurrence.event.detail.clone()).collect()
}

#[test]
fn the_life_of_an_instance_is_told_with_its_reasons() {
    let mut world = World::new();
    world.told.clear();
    let service = world.service();
    let key = world.root.deploy(now(), service).unwrap();
    world.commit();
    world.report(key, Status::NodeScheduled, 1, "fetching the image");
    world.report(key, Status::NodeScheduled, 1, "pulling the image, 43 %");
    world.report(key, Status::Creating, 1, "creating the container");
    world.report(key, Status::Running, 1, "running");
    world.report(key, Status::Failed, 1, "exited with code 3");
    world.message(ClusterToRoot::Workers(vec![worker(1, false)]));
    world.report(key, Status::NodeScheduled, 2, "waiting for the worker");
    world.root.delete_application(now(), world.root.service(service).unwrap().application).unwrap();
    world.commit();
    use EventKind::{
        ApplicationCreated, ApplicationDeleted, InstanceMoved, InstancePlaced, InstanceRemoved,
        InstanceRequested, InstanceScheduled, InstanceStatus, ServiceCreated, ServiceDeleted, WorkerLost,
    };
    let expected = [
        ApplicationCreated,
        ServiceCreated,
        InstanceRequested,
        InstanceScheduled,
        InstancePlaced,
        InstanceStatus,
        InstanceStatus,
        InstanceStatus,
        WorkerLost,
        InstanceMoved,
        InstanceRemoved,
        ServiceDeleted,
        ApplicationDeleted,
    ];
    assert_eq!(world.kinds(), expected);
    let numbers: Vec<_> = world.told.iter().map(|event| event.sequence).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    let moved = world.told.iter().find(|event| event.kind == InstanceMoved).unwrap();
    assert_eq!(moved.detail, "from worker w1, which was lost, to worker w2: waiting for the worker");
    let failed = world.told.iter().find(|event| event.status == Some(Status::Failed)).unwrap();
    assert_eq!((failed.detail.as_str(), failed.key()), ("exited with code 3", Some(key)));
}

#[test]
fn a_ring_keeps_its_newest_over_a_restart_and_says_what_is_missing() {
    let mut world = World::new();
    let service = world.service();
    let key = world.root.deploy(now(), service).unwrap();
    world.commit();
    let before = world.root.newest_event();
    for number in 0..100 {
        world.report(key, Status::Failed, 1, &format!("failure {number}"));
    }
    for restarted in [false, true] {
        if restarted {
            world.restart();
        }
        let replay = world.kept_of(service, before);
        assert!(replay.has_gap);
        assert_eq!(replay.events.len(), 50);
        assert_eq!(details(&replay).last().map(String::as_str), Some("failure 99"));
        assert_eq!(replay.newest, world.root.newest_event());
        // Whoever knows the first half misses nothing, and gets nothing twice.
        let half = replay.events[24].event.sequence;
        let rest = world.kept_of(service, half);
        assert!(!rest.has_gap);
        assert_eq!(rest.events.len(), 25);
        assert_eq!(rest.events[0].event.sequence, half + 1);
    }
    let rows = world
        .disk
        .keys()
        .filter(|(table, key)| *table == Table::Event && key.starts_with(&service.to_string()));
    assert!(rows.count() <= 50);
}

#[test]
fn what_happened_to_others_makes_no_gap() {
    let mut world = World::new();
    let service = world.service();
    let key = world.root.deploy(now(), service).unwrap();
    world.commit();
    let start = world.root.newest_event();
    for round in 0..100 {
        world.message(ClusterToRoot::Workers(vec![worker(1, round % 2 == 1)]));
    }
    world.report(key, Status::Running, 2, "running");
    let replay = world.kept_of(service, start);
    assert!(!replay.has_gap);
    assert_eq!(replay.events.len(), 1);
    assert!(world.root.events_after(start, |_, _| true).has_gap);
}

#[test]
fn another_life_of_the_root_does_not_reuse_numbers() {
    let mut world = World::new();
    let service = world.service();
    world.root.deploy(now(), service).unwrap();
    world.commit();
    let seen = world.root.newest_event();
    world.restart();
    world.root.begin_life(Now { wall: WallTime(5_000_000), ..now() }, &mut world.entropy, true);
    world.restart();
    assert!(world.root.newest_event() >= 5_000_000);
    let replay = world.root.events_after(seen, |_, _| true);
    assert!(replay.has_gap);
    assert!(replay.events.is_empty());
    assert!(!world.root.events_after(world.root.newest_event(), |_, _| true).has_gap);
    // A number from the future is of another life, too.
    assert!(world.root.events_after(u64::MAX, |_, _| true).has_gap);
}

#[test]
fn a_row_that_cannot_be_read_costs_its_events_only() {
    let mut world = World::new();
    world.service();
    world.commit();
    let keys: Vec<_> = world.disk.keys().filter(|(table, _)| *table == Table::Event).cloned().collect();
    world.disk.insert(keys[0].clone(), b"{}".to_vec());
    world.disk.insert((Table::Event, "strange".into()), b"[1]".to_vec());
    world.restart();
    assert!(world.root.services().count() == 1);
}

#[test]
fn the_end_of_an_application_outlives_it() {
    let mut world = World::new();
    let service = world.service();
    let application = world.root.service(service).unwrap().application;
    world.root.deploy(now(), service).unwrap();
    world.commit();
    world.root.delete_application(now(), application).unwrap();
    world.restart();
    let replay = world.root.events_after(0, |topic, _| topic.application() == Some(application));
    assert!(replay.has_gap, "what happened before is gone with it");
    let last = replay.events.last().unwrap();
    assert_eq!(last.event.kind, EventKind::ApplicationDeleted);
    assert_eq!(last.former.as_ref().map(|former| former.owner.as_str()), Some("Admin"));
    let rows =
        world.disk.keys().filter(|(table, key)| *table == Table::Event && key.contains(&service.to_string()));
    assert_eq!(rows.count(), 0);
}
