//! A root and a cluster that talk, and a root that loses its memory.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a test program: a panic is how it reports"
)]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use oak_control::cluster::{self, Cluster, LocalRefusal};
use oak_control::root::{self, Root};
use oak_control::token::TokenRole;
use oak_control::{Row, SeededEntropy, Table};
use oak_model::confidential::{SecretTarget, SecretUse};
use oak_model::message::{
    ClusterHello, ClusterToRoot, ClusterToWorker, HeldInstance, Holdings, InstanceReport, WorkerHello,
    WorkerSummary, WorkerToCluster, WorkerToken, WorkloadReport,
};
use oak_model::sla::{ApplicationRequest, ServiceRequest};
use oak_model::{
    ApplicationId, Architecture, Availability, ClusterId, InstanceKey, Moment, Now, Resources, ServiceId,
    ServiceSpec, Status, WallTime, WorkerFacts, WorkerId,
};

type Disk = BTreeMap<(Table, String), Vec<u8>>;

fn now() -> Now {
    Now { moment: Moment(1_000), wall: WallTime(1_700_000_000_000) }
}

fn owner(user: &str) -> root::Owner {
    root::Owner { user: user.to_owned(), organization: None }
}

/// Messages that arrive at once and in order, while the line is there.
struct Pair {
    root: Root,
    cluster: Cluster,
    id: ClusterId,
    worker: WorkerId,
    entropy: SeededEntropy,
    root_disk: Disk,
    session: u64,
    connected: bool,
    /// What runs on the worker, with the address of the instance.
    running: Vec<(InstanceKey, Ipv4Addr)>,
}

impl Pair {
    fn new() -> Self {
        let mut entropy = SeededEntropy::new(3);
        let mut root = Root::new(root::Settings::default());
        root.begin_life(now(), &mut entropy, false);
        let id = enrol(&mut root, &mut entropy, None);
        let mut cluster =
            Cluster::new(cluster::Settings { name: "site".into(), ..cluster::Settings::default() });
        let token = WorkerToken { id: "w".into(), secret_hash: "hash".into(), valid_for_ms: 60_000 };
        cluster.token_received(now(), token, true);
        let candidate = cluster::Candidate {
            cluster: id,
            token_id: "w",
            secret_hash: "hash",
            key_fingerprint: "key",
            name: "board",
        };
        let worker = cluster.enrol_worker(now(), &mut entropy, candidate).unwrap();
        let mut pair = Self {
            root,
            cluster,
            id,
            worker,
            entropy,
            root_disk: Disk::new(),
            session: 1,
            connected: false,
            running: Vec::new(),
        };
        pair.connect();
        pair.cluster.worker_opened(now(), worker, 1, "192.0.2.1", worker_hello());
        pair.settle();
        pair
    }

    fn connect(&mut self) {
        self.session += 1;
        self.connected = true;
        let hello = self.cluster.hello();
        self.root.cluster_opened(now(), self.id, self.session, "192.0.2.9", hello).unwrap();
        self.settle();
    }

    fn disconnect(&mut self) {
        self.connected = false;
        self.cluster.root_closed();
        self.root.cluster_closed(now(), self.id, self.session);
        self.settle();
    }

    /// Carries out effects until there are none.
    fn settle(&mut self) {
        loop {
            let root = self.root.take_outbox();
            let cluster = self.cluster.take_outbox();
            if root.is_empty() && cluster.is_empty() {
                return;
            }
            for row in root.rows {
                match row.document {
                    Some(document) => self.root_disk.insert((row.table, row.key), document),
                    None => self.root_disk.remove(&(row.table, row.key)),
                };
            }
            for effect in root.effects {
                match effect {
                    root::Effect::Welcome { cluster, welcome, .. }
                        if self.connected && cluster == self.id =>
                    {
                        self.cluster.root_welcome(now(), welcome);
                    }
                    root::Effect::Send { cluster, message, .. } if self.connected && cluster == self.id => {
                        self.cluster.root_message(now(), message);
                    }
                    _ => {}
                }
            }
            for effect in cluster.effects {
                match effect {
                    cluster::Effect::ToRoot(message) if self.connected => self.up(message),
                    cluster::Effect::ToWorker { message, .. } => self.work(message),
                    _ => {}
                }
            }
        }
    }

    fn up(&mut self, message: ClusterToRoot) {
        self.root.cluster_message(now(), self.id, self.session, message).unwrap();
    }

    fn work(&mut self, message: ClusterToWorker) {
        let answer = match message {
            ClusterToWorker::Assign(assignment) => {
                let process = (assignment.desired.key, assignment.desired.instance_address);
                if !self.running.contains(&process) {
                    self.running.push(process);
                }
                WorkerToCluster::Workload(WorkloadReport {
                    key: process.0,
                    incarnation: assignment.incarnation,
                    status: Status::Running,
                    detail: "running".into(),
                    address: None,
                    ended: false,
                })
            }
            ClusterToWorker::Remove { key, incarnation } => {
                self.running.retain(|(running, _)| *running != key);
                WorkerToCluster::Removed { key, incarnation }
            }
            _ => return,
        };
        self.cluster.worker_message(now(), self.worker, 1, answer);
    }

    /// The root starts again from this disk.
    fn reload_root(&mut self, disk: &Disk) {
        let row = |((table, key), document): (&(Table, String), &Vec<u8>)| Row {
            table: *table,
            key: key.clone(),
            document: Some(document.clone()),
        };
        let rows: Vec<_> = disk.iter().map(row).collect();
        self.root = Root::load(root::Settings::default(), now(), &rows).unwrap();
        self.root_disk.clone_from(disk);
    }

    /// The root starts with an empty disk, and the cluster joins it.
    fn replace_root(&mut self) {
        self.root = Root::new(root::Settings::default());
        self.root.begin_life(now(), &mut self.entropy, false);
        self.root_disk.clear();
        let id = enrol(&mut self.root, &mut self.entropy, Some(self.id));
        assert_eq!(id, self.id, "its workers know the cluster by this identity");
    }

    fn create(&mut self, name: &str) -> ServiceId {
        let request = vec![application(name)];
        let created =
            self.root.create_applications(now(), &mut self.entropy, &owner("Ann"), request).unwrap();
        self.settle();
        self.root.application(created[0]).unwrap().services[0]
    }

    fn deploy(&mut self, service: ServiceId) -> InstanceKey {
        let key = self.root.deploy(now(), service).unwrap();
        self.settle();
        key
    }

    fn create_locally(&mut self, name: &str) -> (ApplicationId, InstanceKey) {
        let request = vec![application(name)];
        let id = self.cluster.create_local(now(), &mut self.entropy, request).unwrap()[0];
        let service = self.cluster.services().find(|service| service.application == id).unwrap().id;
        let key = self.cluster.deploy_local(now(), service).unwrap();
        self.settle();
        (id, key)
    }

    fn runs(&self, key: InstanceKey) -> bool {
        self.root.instance(key).is_some_and(|instance| instance.status == Status::Running)
    }
}

fn enrol(root: &mut Root, entropy: &mut SeededEntropy, former: Option<ClusterId>) -> ClusterId {
    enrol_as("site", root, entropy, former)
}

fn enrol_as(
    name: &str,
    root: &mut Root,
    entropy: &mut SeededEntropy,
    former: Option<ClusterId>,
) -> ClusterId {
    root.create_token(now(), "c".into(), "hash".into(), TokenRole::Cluster, Duration::from_secs(60));
    let candidate = root::Candidate {
        token_id: "c",
        secret_hash: "hash",
        key_fingerprint: "key",
        name,
        location: "",
        former,
    };
    root.enrol_cluster(now(), entropy, candidate).unwrap()
}

fn worker_hello() -> WorkerHello {
    let facts = WorkerFacts {
        name: "board".into(),
        address: "192.0.2.1".into(),
        address6: None,
        architecture: Architecture::Amd64,
        capacity: Resources { cpu_millis: 4_000, memory_mib: 1_000, storage_mib: 10_000, gpus: 0 },
        virtualization: vec!["docker".into()],
        version: "1".into(),
        labels: Vec::new(),
        addons: Vec::new(),
        position: None,
        csi_drivers: Vec::new(),
        tunnel: None,
        plain: true,
    };
    WorkerHello { facts, workloads: Vec::new(), calls: Vec::new(), own_address: None }
}

fn application(name: &str) -> ApplicationRequest {
    let service = ServiceRequest {
        name: "web".parse().unwrap(),
        namespace: "test".parse().unwrap(),
        spec: ServiceSpec { image: "image".into(), ..ServiceSpec::default() },
        replicas: None,
        update: oak_model::UpdatePolicy::default(),
        document: serde_json::Map::new(),
    };
    ApplicationRequest {
        application_id: None,
        name: name.parse().unwrap(),
        namespace: "test".parse().unwrap(),
        description: "text".into(),
        services: vec![service],
        other: serde_json::Map::new(),
    }
}

#[test]
fn a_root_without_a_disk_gets_everything_back_from_its_cluster_and_nothing_is_restarted() {
    let mut pair = Pair::new();
    let service = pair.create("shop");
    let keys = [pair.deploy(service), pair.deploy(service)];
    let before = (pair.running.clone(), pair.root.service(service).cloned());
    pair.disconnect();
    pair.replace_root();
    pair.connect();
    assert!(keys.iter().all(|key| pair.runs(*key)));
    assert_eq!(pair.root.service(service).cloned(), before.1);
    assert_eq!(pair.root.applications().next().unwrap().owner, "Ann");
    assert_eq!(pair.running, before.0);
    assert_eq!(pair.deploy(service).number, 2, "numbers go on");
    let other = pair.create("bank");
    let address = pair.root.service(other).unwrap().address;
    assert!(before.0.iter().all(|(_, used)| *used != address), "addresses in use are known");
}

#[test]
fn what_was_deployed_after_the_backup_survives_its_restore() {
    let mut pair = Pair::new();
    let service = pair.create("shop");
    let first = pair.deploy(service);
    let backup = pair.root_disk.clone();
    let second = pair.deploy(service);
    let late = pair.create("late");
    let keys = [first, second, pair.deploy(late)];
    let running = pair.running.clone();
    pair.disconnect();

    pair.reload_root(&backup);
    pair.root.begin_life(now(), &mut pair.entropy, true);
    pair.connect();
    assert!(keys.iter().all(|key| pair.runs(*key)));
    assert_eq!(pair.running, running);

    // Also when nobody says that the disk is an old one.
    pair.disconnect();
    pair.reload_root(&backup);
    pair.connect();
    assert!(keys.iter().all(|key| pair.runs(*key)));
    assert_eq!(pair.running, running);
}

/// Found by the simulator: what waited when the backup was made had got a place since, in a cluster that came later.
#[test]
fn a_restored_root_places_nothing_before_it_knows_what_its_clusters_have() {
    let mut pair = Pair::new();
    pair.disconnect();
    let service = pair.create("shop");
    let key = pair.deploy(service);
    let backup = pair.root_disk.clone();
    pair.connect();
    pair.root.tick(Now { moment: Moment(60_000), ..now() });
    pair.settle();
    let running = pair.running.clone();
    assert_eq!(running.len(), 1);
    pair.disconnect();
    pair.reload_root(&backup);
    pair.root.begin_life(now(), &mut pair.entropy, true);
    pair.root.tick(Now { moment: Moment(60_000), ..now() });
    let detail = &pair.root.instance(key).unwrap().detail;
    assert!(detail.contains("restored from a backup"), "{detail}");
    pair.connect();
    assert!(pair.runs(key));
    assert_eq!(pair.running, running);
}

/// Found by the simulator: the former place, which does not have it any more, got it again while it still ran here.
#[test]
fn what_moved_to_another_cluster_after_the_backup_stays_where_it_is() {
    let mut pair = Pair::new();
    pair.disconnect();
    let other = enrol_as("other", &mut pair.root, &mut pair.entropy, None);
    let worker = WorkerSummary {
        id: WorkerId::from_parts(1, 1),
        facts: worker_hello().facts,
        reserved: Resources::default(),
        instances: 0,
        connected: true,
        host_ports: Vec::new(),
        availability: Availability::Open,
        round_trip_us: None,
        subnet: None,
        more_subnets: Vec::new(),
        outside: None,
    };
    let hello = |lineage| ClusterHello { lineage, workers: vec![worker.clone()], ..ClusterHello::default() };
    pair.root.cluster_opened(now(), other, 1, "192.0.2.8", hello(None)).unwrap();
    let service = pair.create("shop");
    let key = pair.deploy(service);
    let instance = pair.root.instance(key).unwrap();
    assert_eq!(instance.cluster, Some(other));
    let refusal = InstanceReport {
        key,
        generation: instance.generation,
        status: Status::NoQualifiedWorkerFound,
        detail: "its workers are gone".into(),
        worker: None,
        host_address: String::new(),
        ended: false,
        address: None,
    };
    let backup = pair.root_disk.clone();
    pair.connect();
    let mut say = |message| pair.root.cluster_message(now(), other, 1, message).unwrap();
    say(ClusterToRoot::Instances(vec![refusal]));
    say(ClusterToRoot::Removed(vec![key]));
    pair.settle();
    assert!(pair.runs(key));
    let running = pair.running.clone();
    let lineage = pair.cluster.hello().lineage;
    pair.disconnect();

    pair.reload_root(&backup);
    pair.root.begin_life(now(), &mut pair.entropy, true);
    pair.connect();
    assert_eq!(pair.running, running, "nothing was stopped");
    pair.root.cluster_opened(now(), other, 1, "192.0.2.8", hello(lineage)).unwrap();
    pair.root.cluster_message(now(), other, 1, ClusterToRoot::Holdings(Holdings::default())).unwrap();
    pair.settle();
    assert_eq!(pair.root.instance(key).unwrap().cluster, Some(pair.id));
    assert!(pair.runs(key));
    assert_eq!(pair.running, running);
}

#[test]
fn what_was_taken_over_and_deleted_does_not_come_back_when_the_line_breaks_in_between() {
    let mut pair = Pair::new();
    let service = pair.create("shop");
    let key = pair.deploy(service);
    pair.disconnect();
    pair.replace_root();
    // The holdings arrive, the answer does not.
    pair.session += 1;
    let hello = pair.cluster.hello();
    pair.root.cluster_opened(now(), pair.id, pair.session, "192.0.2.9", hello).unwrap();
    for effect in pair.root.take_outbox().effects {
        if let root::Effect::Welcome { welcome, .. } = effect {
            pair.cluster.root_welcome(now(), welcome);
        }
    }
    for effect in pair.cluster.take_outbox().effects {
        if let cluster::Effect::ToRoot(message) = effect {
            pair.up(message);
        }
    }
    drop(pair.root.take_outbox());
    pair.disconnect();
    let application = pair.root.applications().next().unwrap().id;
    pair.root.delete_application(now(), application).unwrap();
    pair.connect();
    assert!(pair.root.instance(key).is_none());
    assert!(pair.running.is_empty(), "the cluster has stopped it");
}

#[test]
fn local_deployments_run_without_a_root_and_are_merged_without_restart() {
    let mut pair = Pair::new();
    let old = pair.create("shop");
    let old_key = pair.deploy(old);
    pair.disconnect();
    // Another owner's name does not matter, the same owner's does: see the end of the test.
    let (application, key) = pair.create_locally("shop");
    let (gone, gone_key) = pair.create_locally("try");
    pair.cluster.delete_local(now(), gone).unwrap();
    pair.settle();
    let running = pair.running.clone();
    assert_eq!(running.len(), 2);

    pair.connect();
    assert!(pair.runs(old_key) && pair.runs(key));
    assert!(pair.root.instance(gone_key).is_none());
    assert!(running.contains(&(key, pair.root.instance(key).unwrap().address)));
    assert_eq!(pair.root.application(application).unwrap().name.as_str(), "shop");
    assert_eq!(pair.running, running);
    // It is the root's now, for every later life of the cluster.
    assert!(matches!(pair.cluster.delete_local(now(), application), Err(LocalRefusal::OfTheRoot(_))));
    pair.disconnect();
    let (second, _) = pair.create_locally("shop");
    pair.root.delete_application(now(), application).unwrap();
    let (third, _) = pair.create_locally("bank");
    let request = self::application("bank");
    let created =
        pair.root.create_applications(now(), &mut pair.entropy, &owner(cluster::LOCAL_OWNER), vec![request]);
    assert!(created.is_ok());
    pair.connect();
    assert!(pair.running.iter().all(|(running, _)| *running != key));
    assert_eq!(pair.root.application(second).unwrap().name.as_str(), "shop");
    assert_eq!(pair.root.application(third).unwrap().name.as_str(), "bank2", "its name was taken");
    assert!(pair.root.departures().next().is_none());
}

#[test]
fn what_a_cluster_cannot_have_is_not_believed() {
    let mut pair = Pair::new();
    let service = pair.create("shop");
    let key = pair.deploy(service);
    let mut known = pair.root.service(service).unwrap().clone();
    known.next_number = u32::MAX;
    let mut desired = pair.cluster.instance(key).unwrap().desired.clone();
    desired.key.number = u32::MAX;
    let report = InstanceReport {
        key: desired.key,
        generation: desired.generation,
        status: Status::Running,
        detail: String::new(),
        worker: None,
        host_address: String::new(),
        ended: false,
        address: None,
    };
    let instances = vec![HeldInstance { desired, report }];
    let lie = Holdings { applications: Vec::new(), services: vec![known], instances };
    pair.up(ClusterToRoot::Holdings(lie));
    pair.settle();
    assert!(pair.root.instance(InstanceKey { service, number: u32::MAX }).is_none());
    for _ in 0..3 {
        let deployed = pair.deploy(service);
        assert!(pair.runs(deployed) && pair.runs(key));
    }
    // Blocks that are no blocks, or those of somebody else.
    let mut hello = pair.cluster.hello();
    let own = pair.root.cluster(pair.id).unwrap().node_blocks.clone();
    hello.node_blocks = vec!["10.0.0.0/8".parse().unwrap(), "192.168.0.0/20".parse().unwrap()];
    hello.local_block = Some("10.30.0.0/16".parse().unwrap());
    pair.root.cluster_opened(now(), pair.id, 99, "192.0.2.9", hello).unwrap();
    assert_eq!(pair.root.cluster(pair.id).unwrap().node_blocks, own);
}

#[test]
fn a_cluster_gives_out_only_its_own_addresses_and_says_what_it_cannot_do() {
    let mut pair = Pair::new();
    let service = pair.create("shop");
    let key = pair.deploy(service);
    let refused = pair.cluster.create_local(now(), &mut pair.entropy, vec![application("early")]);
    assert_eq!(refused, Err(LocalRefusal::RootConnected));
    pair.disconnect();
    let mut fixed = application("fixed");
    fixed.services[0].spec.service_address = Some(Ipv4Addr::new(10, 30, 1, 1));
    let refused = pair.cluster.create_local(now(), &mut pair.entropy, vec![fixed]);
    assert!(matches!(refused, Err(LocalRefusal::AddressOfTheRoot(_))));
    for is_pull in [false, true] {
        let mut confidential = application("confidential");
        let spec = &mut confidential.services[0].spec;
        if is_pull {
            spec.registry_credentials = Some("registry.example".parse().unwrap());
        } else {
            let target = SecretTarget::Env("PASSWORD".into());
            spec.secrets = vec![SecretUse { name: "db".parse().unwrap(), target }];
        }
        let wanted = vec![application("innocent"), confidential];
        let refused = pair.cluster.create_local(now(), &mut pair.entropy, wanted).unwrap_err();
        assert!(matches!(refused, LocalRefusal::ConfidentialOfTheRoot(..)), "{refused}");
    }
    assert!(!pair.cluster.applications().any(|known| known.local));
    let refused = pair.cluster.undeploy_local(now(), key);
    assert!(matches!(refused, Err(LocalRefusal::OfTheRoot(name)) if name.starts_with("shop")));
    let mut created = 0;
    loop {
        let request = vec![application(&format!("local{created}"))];
        match pair.cluster.create_local(now(), &mut pair.entropy, request) {
            Ok(_) => created += 1,
            Err(refusal) => {
                assert_eq!(refusal, LocalRefusal::AddressesExhausted);
                break;
            }
        }
    }
    assert!((253..=254).contains(&created), "{created} of a /24");
}
