//! The rules of the cluster, one by one.

mod bounds;
mod drain;
mod leases;
mod overlay;
mod parting;
mod relay;
mod removal;
mod wishes;

use std::net::Ipv4Addr;
use std::sync::Arc;

use oak_model::message::{
    Assignment, ClusterWelcome, DesiredInstance, RootToCluster, WorkerHello, WorkerToCluster, WorkerToken,
    WorkloadReport,
};
use oak_model::{
    ApplicationId, Architecture, Availability, ClusterId, JobName, Now, Resources, ServiceId, ServiceSpec,
    Status, Surroundings, WallTime, WorkerFacts,
};

use super::*;
use crate::token::TokenRefused;
use crate::{Row, SeededEntropy};

fn at(ms: u64) -> Now {
    Now { moment: Moment(ms), wall: WallTime(1_000_000 + ms) }
}

fn key(number: u32) -> InstanceKey {
    InstanceKey { service: ServiceId::from_parts(1, 1), number }
}

fn desired(number: u32, generation: u64, memory_mib: u32) -> DesiredInstance {
    let name = |text: &str| text.parse().unwrap();
    let resources = Resources { cpu_millis: 100, memory_mib, storage_mib: 0, gpus: 0 };
    let [.., high, low] = number.to_be_bytes();
    DesiredInstance {
        key: key(number),
        generation: Generation(generation),
        application: ApplicationId::from_parts(1, 1),
        job_name: JobName {
            application: name("app"),
            application_namespace: name("test"),
            service: name("web"),
            service_namespace: name("test"),
        },
        spec: Arc::new(ServiceSpec { image: "image".into(), resources, ..ServiceSpec::default() }),
        service_addresses: vec![Ipv4Addr::new(10, 30, 0, 1)],
        policies: BTreeMap::new(),
        instance_address: Ipv4Addr::new(10, 30, high + 1, low),
        surroundings: Surroundings::default(),
        material: Vec::new(),
    }
}

struct Fixture {
    settings: Settings,
    cluster: Cluster,
    entropy: SeededEntropy,
    disk: BTreeMap<(Table, String), Vec<u8>>,
    to_workers: Vec<(WorkerId, ClusterToWorker)>,
    to_root: Vec<ClusterToRoot>,
    welcomes: Vec<(WorkerId, WorkerWelcome)>,
    dismissed: Vec<(WorkerId, u64)>,
    introductions: Vec<(WorkerId, Vec<String>, Vec<String>)>,
}

impl Fixture {
    /// A cluster that has met its root.
    fn new() -> Self {
        Self::with(Settings { handover: Duration::ZERO, ..Settings::default() })
    }

    fn with(settings: Settings) -> Self {
        let mut fixture = Self {
            settings: settings.clone(),
            cluster: Cluster::new(settings),
            entropy: SeededEntropy::new(7),
            disk: BTreeMap::new(),
            to_workers: Vec::new(),
            to_root: Vec::new(),
            welcomes: Vec::new(),
            dismissed: Vec::new(),
            introductions: Vec::new(),
        };
        fixture.root_welcome(1, Vec::new(), &["10.18.0.0/20"]);
        fixture
    }

    fn root_welcome(&mut self, generation: u64, instances: Vec<DesiredInstance>, blocks: &[&str]) {
        let node_blocks = blocks.iter().map(|block| block.parse().unwrap()).collect();
        let generation = Generation(generation);
        self.cluster.root_welcome(
            at(0),
            ClusterWelcome { generation, node_blocks, instances, ..ClusterWelcome::default() },
        );
        self.commit();
    }

    fn commit(&mut self) {
        let outbox = self.cluster.take_outbox();
        for row in outbox.rows {
            match row.document {
                Some(document) => self.disk.insert((row.table, row.key), document),
                None => self.disk.remove(&(row.table, row.key)),
            };
        }
        for effect in outbox.effects {
            match effect {
                Effect::Welcome { worker, welcome, .. } => self.welcomes.push((worker, welcome)),
                Effect::ToWorker { worker, message, .. } => self.to_workers.push((worker, message)),
                Effect::Dismiss { worker, session } => self.dismissed.push((worker, session)),
                Effect::Relay { worker, keys, peers } => self.introductions.push((worker, keys, peers)),
                Effect::ToRoot(message) => self.to_root.push(message),
            }
        }
    }

    fn restart_from(&mut self, disk: BTreeMap<(Table, String), Vec<u8>>) {
        self.disk = disk;
        let rows: Vec<_> = self
            .disk
            .iter()
            .map(|((table, key), document)| Row {
                table: *table,
                key: key.clone(),
                document: Some(document.clone()),
            })
            .collect();
        self.cluster = Cluster::load(self.settings.clone(), at(0), &rows).unwrap();
        self.to_workers.clear();
        self.to_root.clear();
        self.commit();
    }

    fn token(&mut self, id: &str) {
        let token = WorkerToken { id: id.into(), secret_hash: "hash".into(), valid_for_ms: 60_000 };
        self.cluster.token_received(at(0), token, true);
    }

    fn enrol(&mut self, token: &str, key: &str, name: &str) -> Result<WorkerId, TokenRefused> {
        let cluster = ClusterId::from_parts(1, 1);
        let candidate =
            Candidate { cluster, token_id: token, secret_hash: "hash", key_fingerprint: key, name };
        self.cluster.enrol_worker(at(0), &mut self.entropy, candidate)
    }

    fn open(&mut self, now: Now, id: WorkerId, session: u64, workloads: Vec<WorkloadReport>) {
        let facts = WorkerFacts {
            name: "ignored".into(),
            address: String::new(),
            address6: None,
            architecture: Architecture::Amd64,
            capacity: Resources { cpu_millis: 4_000, memory_mib: 1_000, storage_mib: 1_000, gpus: 0 },
            virtualization: vec!["docker".into()],
            version: "1".into(),
            labels: Vec::new(),
            addons: Vec::new(),
            position: None,
            csi_drivers: Vec::new(),
            tunnel: None,
            plain: true,
        };
        self.cluster.worker_opened(
            now,
            id,
            session,
            "192.0.2.1",
            WorkerHello { facts, workloads, calls: Vec::new(), own_address: None },
        );
        self.commit();
    }

    fn worker(&mut self, name: &str) -> WorkerId {
        self.token(name);
        let id = self.enrol(name, name, name).unwrap();
        self.open(at(0), id, 1, Vec::new());
        id
    }

    fn close(&mut self, ms: u64, id: WorkerId) {
        self.part(ms, id, 1, Parting::Broken);
    }

    fn part(&mut self, ms: u64, id: WorkerId, session: u64, parting: Parting) {
        self.cluster.worker_closed(at(ms), id, session, parting);
        self.commit();
    }

    fn set_availability(&mut self, ms: u64, worker: WorkerId, availability: Availability) {
        let message = RootToCluster::SetAvailability { worker, availability };
        self.cluster.root_message(at(ms), message);
        self.commit();
    }

    fn set(&mut self, desired: DesiredInstance) {
        self.cluster.root_message(at(0), RootToCluster::Set(desired));
        self.commit();
    }

    fn remove(&mut self, number: u32, generation: u64) {
        let generation = Generation(generation);
        self.cluster.root_message(at(0), RootToCluster::Remove { key: key(number), generation });
        self.commit();
    }

    fn says(&mut self, id: WorkerId, session: u64, message: WorkerToCluster) {
        self.says_at(0, id, session, message);
    }

    fn says_at(&mut self, ms: u64, id: WorkerId, session: u64, message: WorkerToCluster) {
        self.cluster.worker_message(at(ms), id, session, message);
        self.commit();
    }

    /// The worker says that the incarnation at a place has this status.
    fn reports(&mut self, number: u32, place: Placement, status: Status, detail: &str) {
        let (key, detail) = (key(number), detail.to_owned());
        let report = WorkloadReport {
            key,
            incarnation: place.incarnation,
            status,
            detail,
            address: None,
            ended: false,
        };
        self.says(place.worker, 1, WorkerToCluster::Workload(report));
    }

    /// Ticks whenever something is due, up to and including a moment.
    fn run_until(&mut self, ms: u64) {
        while let Some(due) = self.cluster.next_deadline().filter(|due| due.0 <= ms) {
            self.tick(due.0);
            assert!(self.cluster.next_deadline() != Some(due), "what is due at {due:?} is done");
        }
    }

    fn worker_named(&self, name: &str) -> WorkerId {
        self.cluster.workers().find(|worker| worker.facts.name == name).unwrap().id
    }

    fn placed(&self, number: u32) -> &Placed {
        self.cluster.instance(key(number)).unwrap()
    }

    /// What workers were told since the last look.
    fn told(&mut self) -> Vec<(WorkerId, ClusterToWorker)> {
        std::mem::take(&mut self.to_workers)
    }

    /// Instances on a worker, as the root is told.
    fn left_on(&self, id: WorkerId) -> u32 {
        self.cluster.worker_summary(id).unwrap().instances
    }

    fn tick(&mut self, ms: u64) {
        self.cluster.tick(at(ms));
        self.commit();
    }

    fn placement(&self, number: u32) -> Option<Placement> {
        self.cluster.instance(key(number)).unwrap().placement
    }

    fn status(&self, number: u32) -> (Status, &str) {
        let placed = self.cluster.instance(key(number)).unwrap();
        (placed.status, &placed.detail)
    }

    fn confirmed(&self) -> Vec<InstanceKey> {
        let removed = self.to_root.iter().filter_map(|message| match message {
            ClusterToRoot::Removed(keys) => Some(keys.clone()),
            _ => None,
        });
        removed.flatten().collect()
    }

    /// A report of the worker that has the instance, about the incarnation it has.
    fn report(&self, number: u32, status: Status) -> WorkloadReport {
        let incarnation = self.placement(number).unwrap().incarnation;
        WorkloadReport {
            key: key(number),
            incarnation,
            status,
            detail: status.to_string(),
            address: None,
            ended: false,
        }
    }
}

/// Instances by number, with the place that is meant.
type Orders = Vec<(u32, Placement)>;

/// The assignments and removals among messages.
fn orders(messages: &[(WorkerId, ClusterToWorker)]) -> (Orders, Orders) {
    let (mut assigned, mut removed) = (Vec::new(), Vec::new());
    for (worker, message) in messages {
        match message {
            ClusterToWorker::Assign(Assignment { incarnation, desired, .. }) => {
                assigned.push((desired.key.number, Placement { worker: *worker, incarnation: *incarnation }));
            }
            ClusterToWorker::Remove { key, incarnation } => {
                removed.push((key.number, Placement { worker: *worker, incarnation: *incarnation }));
            }
            ClusterToWorker::ReportUsage
            | ClusterToWorker::Leases { .. }
            | ClusterToWorker::Overlay(_)
            | ClusterToWorker::NotFound(_)
            | ClusterToWorker::MoreSubnets(_) => {}
        }
    }
    (assigned, removed)
}

fn removed(number: u32, incarnation: Incarnation) -> WorkerToCluster {
    WorkerToCluster::Removed { key: key(number), incarnation }
}

#[test]
fn an_instance_is_given_to_a_worker_and_its_status_goes_up() {
    let mut fixture = Fixture::new();
    let one = fixture.worker("one");
    fixture.set(desired(0, 5, 100));
    let placement = fixture.placement(0).unwrap();
    assert_eq!(placement.worker, one);
    assert!(matches!(
        &fixture.to_workers[..],
        [(to, ClusterToWorker::Assign(Assignment { incarnation, .. }))] if *to == one && *incarnation == placement.incarnation
    ));
    let report = fixture.report(0, Status::Running);
    fixture.says(one, 1, WorkerToCluster::Workload(report));
    assert_eq!(fixture.status(0).0, Status::Running);
    let last = fixture.to_root.last().unwrap();
    assert!(matches!(last, ClusterToRoot::Instances(reports) if reports[0].status == Status::Running));
}

#[test]
fn instances_of_a_silent_worker_are_placed_elsewhere_after_lost_after_and_not_before() {
    let mut fixture = Fixture::new();
    let workers = [fixture.worker("one"), fixture.worker("two")];
    fixture.set(desired(0, 5, 100));
    let first = fixture.placement(0).unwrap();
    fixture.close(1_000, first.worker);
    assert_eq!(fixture.cluster.next_deadline(), Some(Moment(4_000)));
    fixture.tick(3_999);
    assert_eq!(fixture.placement(0), Some(first));
    fixture.tick(4_000);
    let second = fixture.placement(0).unwrap();
    assert!(workers.contains(&second.worker) && second.worker != first.worker);
    assert!(second.incarnation > first.incarnation);

    // The first one returns with its process: it is not told to go on.
    let report = WorkloadReport { incarnation: first.incarnation, ..fixture.report(0, Status::Running) };
    fixture.open(at(9_000), first.worker, 2, vec![report]);
    assert!(fixture.welcomes.last().unwrap().1.assignments.is_empty());
    assert_ne!(fixture.status(0).0, Status::Running, "its report is history");
}

#[test]
fn a_worker_that_is_back_in_time_keeps_everything() {
    let mut fixture = Fixture::new();
    let one = fixture.worker("one");
    fixture.worker("two");
    fixture.set(desired(0, 5, 600));
    fixture.set(desired(1, 6, 600));
    let before = [fixture.placement(0), fixture.placement(1)];
    fixture.close(1_000, one);
    fixture.open(at(2_000), one, 2, Vec::new());
    fixture.tick(60_000);
    assert_eq!([fixture.placement(0), fixture.placement(1)], before);
}

#[test]
fn an_instance_never_loses_its_place_without_getting_another() {
    let mut fixture = Fixture::new();
    let one = fixture.worker("one");
    fixture.set(desired(0, 5, 100));
    let before = fixture.placement(0);
    fixture.close(0, one);
    fixture.tick(3_000);
    assert_eq!(fixture.placement(0), before);
    let (status, detail) = fixture.status(0);
    assert_eq!(status, Status::NoQualifiedWorkerFound);
    assert!(detail.contains("worker one is unreachable"), "{detail}");
    assert!(fixture.cluster.next_deadline().is_some(), "it is tried again");

    let two = fixture.worker("two");
    // The first one has the start grace to come back as well: perhaps it was the cluster that was cut off.
    while fixture.placement(0) == before {
        let due = fixture.cluster.next_deadline().unwrap().0;
        assert!(due < 60_000, "it is placed some time");
        fixture.tick(due);
    }
    assert_eq!(fixture.placement(0).map(|placement| placement.worker), Some(two));
}

/// Found by the system test: the instance ran on both workers until the first one reconnected.
#[test]
fn a_worker_that_returns_keeps_an_instance_that_waited_for_another_place() {
    let mut fixture = Fixture::new();
    let one = fixture.worker("one");
    fixture.set(desired(0, 5, 100));
    let before = fixture.placement(0);
    fixture.close(0, one);
    fixture.tick(3_000);
    // It comes back without knowing the instance, and is told to run it; then there is a second worker.
    fixture.open(at(4_000), one, 2, Vec::new());
    assert_eq!(fixture.welcomes.last().unwrap().1.assignments.len(), 1);
    assert_eq!(fixture.status(0), (Status::NodeScheduled, "waiting for the worker"));
    fixture.worker("two");
    fixture.tick(60_000);
    assert_eq!(fixture.placement(0), before);
}

#[test]
fn after_a_restart_workers_have_the_grace_time_to_come_back() {
    let mut fixture = Fixture::new();
    fixture.worker("one");
    fixture.set(desired(0, 5, 100));
    let before = fixture.placement(0);
    fixture.restart_from(fixture.disk.clone());
    fixture.worker("two");
    fixture.tick(14_999);
    assert_eq!(fixture.placement(0), before);
    fixture.tick(15_000);
    assert_ne!(fixture.placement(0), before);
}

#[test]
fn incarnations_only_grow_over_restarts_and_old_copies() {
    let mut fixture = Fixture::new();
    let one = fixture.worker("one");
    fixture.set(desired(0, 5, 100));
    let old_copy = fixture.disk.clone();
    fixture.restart_from(old_copy.clone());
    fixture.open(at(0), one, 2, Vec::new());
    fixture.set(desired(1, 6, 100));
    assert!(fixture.placement(1).unwrap().incarnation > fixture.placement(0).unwrap().incarnation);

    // A worker that has seen more than the copy: the cluster continues above that, and adopts its number.
    fixture.restart_from(old_copy);
    let newer = WorkloadReport { incarnation: Incarnation(70), ..fixture.report(0, Status::Running) };
    fixture.open(at(0), one, 3, vec![newer]);
    assert_eq!(fixture.placement(0).unwrap().incarnation, Incarnation(70));
    assert_eq!(fixture.status(0).0, Status::Running);
    fixture.set(desired(2, 7, 100));
    assert_eq!(fixture.placement(2).unwrap().incarnation, Incarnation(71));
}

#[test]
fn an_absurd_incarnation_is_not_believed() {
    let mut fixture = Fixture::new();
    let one = fixture.worker("one");
    fixture.set(desired(0, 5, 100));
    let absurd = WorkloadReport { incarnation: Incarnation(u64::MAX), ..fixture.report(0, Status::Running) };
    fixture.open(at(0), one, 2, vec![absurd]);
    fixture.set(desired(1, 6, 100));
    assert!(fixture.placement(1).unwrap().incarnation < Incarnation(100));
}

#[test]
fn waiting_instances_are_tried_again_when_room_is_freed() {
    let mut fixture = Fixture::new();
    let one = fixture.worker("one");
    fixture.set(desired(0, 5, 900));
    fixture.set(desired(1, 6, 900));
    assert_eq!(fixture.status(1).0, Status::NoWorkerCapacity);
    assert!(fixture.status(1).1.contains("100 of 1000 MiB memory free"), "{}", fixture.status(1).1);
    let incarnation = fixture.placement(0).unwrap().incarnation;
    fixture.remove(0, 7);
    fixture.says(one, 1, removed(0, incarnation));
    fixture.tick(fixture.cluster.next_deadline().unwrap().0);
    assert!(fixture.placement(1).is_some());
}

#[test]
fn waiting_instances_beyond_one_pass_are_not_starved() {
    let mut fixture = Fixture::new();
    for number in 0..1_500 {
        fixture.set(desired(number, 5, 5_000));
    }
    fixture.set(desired(1_500, 5, 10));
    fixture.worker("one");
    for _ in 0..2 {
        fixture.tick(fixture.cluster.next_deadline().unwrap().0);
    }
    assert!(fixture.placement(1_500).is_some());
    assert!(fixture.cluster.next_deadline().unwrap() > Moment(20_000));
}

#[test]
fn a_token_works_once_and_equal_host_names_are_told_apart() {
    let mut fixture = Fixture::new();
    fixture.token("a");
    fixture.token("b");
    let first = fixture.enrol("a", "key1", "board").unwrap();
    assert_eq!(fixture.enrol("a", "key1", "board"), Ok(first));
    assert_eq!(fixture.enrol("a", "key2", "board"), Err(TokenRefused::Used));
    let second = fixture.enrol("b", "key2", "board").unwrap();
    let names: Vec<_> = fixture.cluster.workers().map(|worker| worker.facts.name.clone()).collect();
    assert!(first != second && names.contains(&"board".to_owned()) && names.contains(&"board-2".to_owned()));
}

#[test]
fn a_worker_without_address_block_waits_until_the_root_gives_one() {
    let mut fixture = Fixture::new();
    fixture.root_welcome(2, Vec::new(), &[]);
    fixture.worker("one");
    assert!(fixture.welcomes.is_empty());
    assert!(fixture.to_root.contains(&ClusterToRoot::NeedsNodeBlock));
    // The request was lost with the session; the next welcome brings no block: it is asked for again.
    fixture.to_root.clear();
    fixture.root_welcome(3, Vec::new(), &[]);
    assert!(fixture.to_root.contains(&ClusterToRoot::NeedsNodeBlock));
    let block = RootToCluster::NodeBlocks(vec!["10.18.16.0/20".parse().unwrap()]);
    fixture.cluster.root_message(at(0), block);
    fixture.commit();
    assert_eq!(fixture.welcomes.len(), 1);
    assert_eq!(fixture.welcomes[0].1.subnet, "10.18.16.0/25".parse().unwrap());
}

#[test]
fn a_worker_keeps_its_subnet_for_life() {
    let mut fixture = Fixture::new();
    let one = fixture.worker("one");
    fixture.worker("two");
    let subnet = fixture.welcomes[0].1.subnet;
    fixture.restart_from(fixture.disk.clone());
    fixture.open(at(0), one, 2, Vec::new());
    assert_eq!(fixture.welcomes.last().unwrap().1.subnet, subnet);
    assert_ne!(fixture.welcomes[1].1.subnet, subnet);
}

#[test]
fn a_worker_that_is_filling_up_gets_a_further_subnet_for_life() {
    let mut fixture = Fixture::new();
    let one = fixture.worker("one");
    for number in 0..117 {
        fixture.set(desired(number, u64::from(number) + 1, 1));
    }
    assert_eq!(fixture.welcomes.len(), 1, "eight are left");
    fixture.told();
    fixture.set(desired(117, 118, 1));
    let further = ["10.18.0.128/25".parse().unwrap()];
    let told = fixture.told();
    assert_eq!(told.last(), Some(&(one, ClusterToWorker::MoreSubnets(further.to_vec()))));
    for number in 118..130 {
        fixture.set(desired(number, u64::from(number) + 1, 1));
    }
    assert_eq!(fixture.left_on(one), 130);
    fixture.restart_from(fixture.disk.clone());
    fixture.open(at(0), one, 2, Vec::new());
    assert_eq!(fixture.welcomes.last().unwrap().1.more_subnets, further);
    fixture.worker("two");
    assert_eq!(fixture.welcomes.last().unwrap().1.subnet, "10.18.1.0/25".parse().unwrap(), "nobody else's");
}

#[test]
fn a_worker_cannot_speak_for_another_or_for_an_ended_session() {
    let mut fixture = Fixture::new();
    let workers = [fixture.worker("one"), fixture.worker("two")];
    fixture.set(desired(0, 5, 100));
    let owner = fixture.placement(0).unwrap().worker;
    let other = if workers[0] == owner { workers[1] } else { workers[0] };
    let report = fixture.report(0, Status::Failed);
    fixture.says(other, 1, WorkerToCluster::Workload(report.clone()));
    fixture.says(owner, 9, WorkerToCluster::Workload(report.clone()));
    assert_eq!(fixture.status(0).0, Status::NodeScheduled);
    fixture.remove(0, 6);
    fixture.says(other, 1, removed(0, report.incarnation));
    assert!(fixture.cluster.instance(key(0)).is_some());
}
