//! The rules of the root, one by one.

mod elsewhere;
mod overlay;
mod placing;
mod removal;
mod restored;
mod updates;

use std::sync::Arc;

use oak_model::message::{ClusterHello, ClusterToRoot, InstanceReport, RootToCluster, WorkerSummary};
use oak_model::sla::{ApplicationRequest, ServiceRequest};
use oak_model::{
    Architecture, Balancing, ClusterId, Generation, InstanceKey, Moment, Now, Resources, ServiceId,
    ServiceSpec, Status, WallTime, WorkerFacts, WorkerId,
};

use super::*;
use crate::token::{TokenRefused, TokenRole};
use crate::{Row, SeededEntropy};

const MINUTE: Duration = Duration::from_secs(60);

fn owner(user: &str) -> Owner {
    Owner { user: user.to_owned(), organization: None }
}

fn admin() -> Owner {
    owner("Admin")
}

fn at(ms: u64) -> Now {
    Now { moment: Moment(ms), wall: WallTime(1_000_000 + ms) }
}

fn memory(memory_mib: u32) -> ServiceSpec {
    let resources = Resources { cpu_millis: 100, memory_mib, storage_mib: 0, gpus: 0 };
    ServiceSpec { image: "image".into(), resources, ..ServiceSpec::default() }
}

fn request(name: &str, spec: ServiceSpec) -> ServiceRequest {
    ServiceRequest {
        name: name.parse().unwrap(),
        namespace: "test".parse().unwrap(),
        spec,
        replicas: None,
        update: oak_model::UpdatePolicy::default(),
        document: serde_json::Map::new(),
    }
}

/// A root with everything it ever committed and every message it sent.
struct Fixture {
    root: Root,
    entropy: SeededEntropy,
    disk: BTreeMap<(Table, String), Vec<u8>>,
    sent: Vec<(ClusterId, RootToCluster)>,
    welcomes: Vec<ClusterWelcome>,
    dismissed: Vec<(ClusterId, u64)>,
}

impl Fixture {
    fn new() -> Self {
        Self {
            root: Root::new(Settings::default()),
            entropy: SeededEntropy::new(7),
            disk: BTreeMap::new(),
            sent: Vec::new(),
            welcomes: Vec::new(),
            dismissed: Vec::new(),
        }
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
            match effect {
                Effect::Send { cluster, message, .. } => self.sent.push((cluster, message)),
                Effect::Welcome { welcome, .. } => self.welcomes.push(welcome),
                Effect::Dismiss { cluster, session } => self.dismissed.push((cluster, session)),
                Effect::TokenReady { .. }
                | Effect::AvailabilityConfirmed { .. }
                | Effect::WorkerRemoval { .. }
                | Effect::Events(_) => {}
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
        self.root = Root::load(Settings::default(), at(0), &rows).unwrap();
    }

    fn service(&mut self, name: &str, spec: ServiceSpec) -> ServiceId {
        self.service_of(request(name, spec))
    }

    fn service_of(&mut self, request: ServiceRequest) -> ServiceId {
        let request = ApplicationRequest {
            application_id: None,
            name: request.name.clone(),
            namespace: "test".parse().unwrap(),
            description: String::new(),
            services: vec![request],
            other: serde_json::Map::new(),
        };
        let created =
            self.root.create_applications(at(0), &mut self.entropy, &admin(), vec![request]).unwrap();
        self.root.application(created[0]).unwrap().services[0]
    }

    fn enrol(&mut self, name: &str, token: &str, key: &str) -> Result<ClusterId, TokenRefused> {
        let candidate = Candidate {
            token_id: token,
            secret_hash: "hash",
            key_fingerprint: key,
            name,
            location: "here",
            former: None,
        };
        self.root.enrol_cluster(at(0), &mut self.entropy, candidate)
    }

    fn cluster(&mut self, name: &str) -> ClusterId {
        self.root.create_token(at(0), name.into(), "hash".into(), TokenRole::Cluster, MINUTE);
        self.enrol(name, name, "key").unwrap()
    }

    /// The cluster connects with one worker of that memory and what it holds.
    fn open(&mut self, id: ClusterId, session: u64, memory_mib: u32, instances: Vec<InstanceReport>) {
        let generation = instances.iter().map(|report| report.generation).max().unwrap_or_default();
        let hello = ClusterHello {
            name: "any".into(),
            location: "here".into(),
            port: 10100,
            generation,
            workers: vec![summary(1, memory_mib)],
            instances,
            ..ClusterHello::default()
        };
        self.root.cluster_opened(at(0), id, session, "192.0.2.1", hello).unwrap();
        self.commit();
    }

    fn connected(&mut self, name: &str, memory_mib: u32) -> ClusterId {
        let id = self.cluster(name);
        self.open(id, 1, memory_mib, Vec::new());
        id
    }

    fn report(&mut self, cluster: ClusterId, report: InstanceReport) {
        self.root.cluster_message(at(0), cluster, 1, ClusterToRoot::Instances(vec![report])).unwrap();
        self.commit();
    }

    fn confirm_removal(&mut self, cluster: ClusterId, key: InstanceKey) {
        self.root.cluster_message(at(0), cluster, 1, ClusterToRoot::Removed(vec![key])).unwrap();
        self.commit();
    }

    fn status(&self, key: InstanceKey) -> (Status, &str) {
        let instance = self.root.instance(key).unwrap();
        (instance.status, &instance.detail)
    }
}

fn summary(number: u64, memory_mib: u32) -> WorkerSummary {
    WorkerSummary {
        id: WorkerId::from_parts(1, number),
        facts: WorkerFacts {
            name: format!("worker{number}"),
            address: "192.0.2.9".into(),
            address6: None,
            architecture: Architecture::Amd64,
            capacity: Resources { cpu_millis: 4_000, memory_mib, storage_mib: 1_000, gpus: 0 },
            virtualization: vec!["docker".into()],
            version: "1".into(),
            labels: Vec::new(),
            addons: Vec::new(),
            position: None,
            csi_drivers: Vec::new(),
            tunnel: None,
            plain: true,
        },
        reserved: Resources::ZERO,
        instances: 0,
        connected: true,
        host_ports: Vec::new(),
        availability: oak_model::Availability::Open,
        round_trip_us: None,
        subnet: None,
        more_subnets: Vec::new(),
        outside: None,
    }
}

fn running(key: InstanceKey, generation: Generation) -> InstanceReport {
    InstanceReport {
        key,
        generation,
        status: Status::Running,
        detail: "running".into(),
        worker: Some(WorkerId::from_parts(1, 1)),
        host_address: "192.0.2.9".into(),
        ended: false,
        address: None,
    }
}

fn refused(key: InstanceKey, generation: Generation) -> InstanceReport {
    let status = Status::NoWorkerCapacity;
    InstanceReport { status, worker: None, detail: "full".into(), ..running(key, generation) }
}

#[test]
fn a_deploy_without_cluster_waits_with_the_reason_and_is_placed_when_one_comes() {
    let mut fixture = Fixture::new();
    let service = fixture.service("web", memory(100));
    let key = fixture.root.deploy(at(0), service).unwrap();
    assert_eq!(fixture.status(key), (Status::TargetClusterNotActive, "no cluster has joined yet"));
    assert!(fixture.root.next_deadline().is_some());

    let cluster = fixture.connected("east", 1_000);
    let due = fixture.root.next_deadline().unwrap();
    fixture.root.tick(Now { moment: due, ..at(0) });
    fixture.commit();
    assert_eq!(fixture.status(key).0, Status::ClusterScheduled);
    assert!(
        matches!(&fixture.sent[..], [(_, RootToCluster::Records { .. }), (to, RootToCluster::Set(set))] if *to == cluster && set.key == key)
    );
}

#[test]
fn refusals_carry_the_status_words_of_the_original() {
    let mut fixture = Fixture::new();
    let named = |cluster: &str, memory_mib| {
        let mut spec = memory(memory_mib);
        spec.target.clusters.push(cluster.into());
        spec
    };
    let unknown = fixture.service("unknown", named("west", 1));
    let away = fixture.service("away", named("east", 1));
    fixture.cluster("east");
    let check = |fixture: &mut Fixture, service, expected| {
        let key = fixture.root.deploy(at(0), service).unwrap();
        assert_eq!(fixture.status(key).0, expected, "{}", fixture.status(key).1);
    };
    check(&mut fixture, unknown, Status::TargetClusterNotFound);
    check(&mut fixture, away, Status::TargetClusterNotActive);

    let small = fixture.connected("small", 100);
    assert!(fixture.root.cluster(small).unwrap().is_active());
    let full = fixture.service("full", memory(500));
    let full_there = fixture.service("fullthere", named("small", 500));
    let mut spec = memory(1);
    spec.target.workers.push("nobody".into());
    let no_node = fixture.service("nonode", spec);
    check(&mut fixture, full, Status::NoActiveClusterWithCapacity);
    check(&mut fixture, full_there, Status::TargetClusterNoCapacity);
    check(&mut fixture, no_node, Status::NoNodeFound);
}

#[test]
fn undeploy_hides_at_once_and_frees_the_address_when_the_cluster_has_confirmed() {
    let mut fixture = Fixture::new();
    let service = fixture.service("web", memory(100));
    let cluster = fixture.connected("east", 1_000);
    let key = fixture.root.deploy(at(0), service).unwrap();
    assert_eq!(fixture.root.addresses_in_use(), 2);

    fixture.root.undeploy(at(0), key).unwrap();
    fixture.commit();
    assert!(fixture.root.instance(key).is_none());
    assert_eq!(fixture.root.addresses_in_use(), 2);
    assert!(
        matches!(fixture.sent.last(), Some((_, RootToCluster::Remove { key: gone, .. })) if *gone == key)
    );

    fixture.restart();
    assert_eq!(fixture.root.addresses_in_use(), 2, "also after a restart");
    // The cluster comes back without the instance: that is a confirmation.
    fixture.open(cluster, 1, 1_000, Vec::new());
    assert_eq!(fixture.root.addresses_in_use(), 1);
    assert_eq!(fixture.root.departures().count(), 0);
}

#[test]
fn an_instance_that_was_never_placed_frees_its_address_at_once() {
    let mut fixture = Fixture::new();
    let service = fixture.service("web", memory(100));
    let key = fixture.root.deploy(at(0), service).unwrap();
    fixture.root.undeploy(at(0), key).unwrap();
    assert_eq!(fixture.root.addresses_in_use(), 1);
    assert_eq!(fixture.root.undeploy(at(0), key), Err(Refusal::UnknownInstance(key)));
}

#[test]
fn instance_numbers_are_never_reused() {
    let mut fixture = Fixture::new();
    let service = fixture.service("web", memory(100));
    let first = fixture.root.deploy(at(0), service).unwrap();
    fixture.root.undeploy(at(0), first).unwrap();
    fixture.restart();
    assert_eq!(fixture.root.deploy(at(0), service).unwrap().number, 1);
}

#[test]
fn a_token_works_once_but_again_for_the_same_key() {
    let mut fixture = Fixture::new();
    fixture.root.create_token(at(0), "t".into(), "hash".into(), TokenRole::Cluster, MINUTE);
    let id = fixture.enrol("east", "t", "key").unwrap();
    assert_eq!(fixture.enrol("east", "t", "key"), Ok(id));
    fixture.restart();
    assert_eq!(fixture.enrol("east", "t", "key"), Ok(id));
    assert_eq!(fixture.enrol("west", "t", "other"), Err(TokenRefused::Used));
    assert_eq!(fixture.enrol("west", "none", "other"), Err(TokenRefused::Unknown));
}

#[test]
fn a_worker_token_does_not_make_a_cluster_and_a_connected_name_is_taken() {
    let mut fixture = Fixture::new();
    let east = fixture.connected("east", 100);
    fixture.root.create_token(at(0), "w".into(), "hash".into(), TokenRole::Worker(east), MINUTE);
    fixture.commit();
    assert!(matches!(fixture.sent.last(), Some((_, RootToCluster::Token(token))) if token.id == "w"));
    assert_eq!(fixture.enrol("west", "w", "key"), Err(TokenRefused::WrongRole));

    fixture.root.create_token(at(0), "c".into(), "hash".into(), TokenRole::Cluster, MINUTE);
    assert_eq!(fixture.enrol("east", "c", "other"), Err(TokenRefused::NameInUse));
    fixture.root.cluster_closed(at(0), east, 1);
    assert_eq!(fixture.enrol("east", "c", "other"), Ok(east), "a rebuilt machine takes its old place");
}

#[test]
fn a_root_restored_from_an_old_copy_continues_above_what_its_clusters_have_seen() {
    let mut fixture = Fixture::new();
    let service = fixture.service("web", memory(100));
    let (east, west) = (fixture.cluster("east"), fixture.cluster("west"));
    fixture.open(east, 1, 1_000, Vec::new());
    let at_east = fixture.root.deploy(at(0), service).unwrap();
    fixture.root.cluster_closed(at(0), east, 1);
    fixture.open(west, 2, 1_000, Vec::new());
    let at_west = fixture.root.deploy(at(0), service).unwrap();
    fixture.restart();

    // East has seen far more than this copy; west less, but still more than the copy says of its instance.
    fixture.open(east, 3, 1_000, vec![running(at_east, Generation(900))]);
    fixture.open(west, 4, 1_000, vec![running(at_west, Generation(500))]);
    for key in [at_east, at_west] {
        assert!(fixture.root.instance(key).unwrap().generation > Generation(900));
        assert_eq!(fixture.status(key).0, Status::Running);
    }
    assert!(fixture.welcomes.last().unwrap().generation > Generation(900));
}

#[test]
fn a_cluster_that_claims_an_absurd_generation_is_not_believed() {
    let mut fixture = Fixture::new();
    let east = fixture.cluster("east");
    let nobody = InstanceKey { service: ServiceId::from_parts(1, 1), number: 0 };
    fixture.open(east, 1, 100, vec![running(nobody, Generation(u64::MAX))]);
    assert!(fixture.welcomes.last().unwrap().generation < Generation(100));
}

#[test]
fn reports_of_others_and_of_ended_sessions_are_ignored() {
    let mut fixture = Fixture::new();
    let service = fixture.service("web", memory(100));
    let east = fixture.connected("east", 1_000);
    let key = fixture.root.deploy(at(0), service).unwrap();
    let west = fixture.connected("west", 1_000);
    let report = running(key, fixture.root.instance(key).unwrap().generation);
    fixture.report(west, report.clone());
    let ended = ClusterToRoot::Instances(vec![report.clone()]);
    fixture.root.cluster_message(at(0), east, 99, ended).unwrap();
    assert_eq!(fixture.status(key).0, Status::ClusterScheduled);
    fixture.report(east, report);
    assert_eq!(fixture.status(key).0, Status::Running);
}

#[test]
fn a_welcome_tells_everything_that_shall_run_and_nothing_else() {
    let mut fixture = Fixture::new();
    let service = fixture.service("web", memory(10));
    let east = fixture.connected("east", 1_000);
    let keep = fixture.root.deploy(at(0), service).unwrap();
    let gone = fixture.root.deploy(at(0), service).unwrap();
    fixture.root.undeploy(at(0), gone).unwrap();
    fixture.open(east, 2, 1_000, vec![running(keep, Generation(1)), running(gone, Generation(1))]);
    let welcome = fixture.welcomes.last().unwrap();
    assert_eq!(welcome.instances.iter().map(|desired| desired.key).collect::<Vec<_>>(), [keep]);
    assert_eq!(welcome.node_blocks.len(), 1);
    assert_eq!(fixture.root.departures().count(), 1, "the cluster still has it");
}

#[test]
fn deploys_spread_over_clusters() {
    let mut fixture = Fixture::new();
    let service = fixture.service("web", memory(10));
    fixture.connected("east", 1_000);
    fixture.connected("west", 1_000);
    let keys = [fixture.root.deploy(at(0), service).unwrap(), fixture.root.deploy(at(0), service).unwrap()];
    let places: BTreeSet<_> = keys.iter().map(|key| fixture.root.instance(*key).unwrap().cluster).collect();
    assert_eq!(places.len(), 2);
}

#[test]
fn a_descriptor_is_taken_whole_or_not_at_all() {
    let mut fixture = Fixture::new();
    fixture.service("web", memory(10));
    let again = |name: &str| ApplicationRequest {
        application_id: None,
        name: name.parse().unwrap(),
        namespace: "test".parse().unwrap(),
        description: String::new(),
        services: vec![request(name, memory(1))],
        other: serde_json::Map::new(),
    };
    let outcome = fixture.root.create_applications(
        at(0),
        &mut fixture.entropy,
        &admin(),
        vec![again("new"), again("web")],
    );
    assert!(matches!(outcome, Err(Refusal::ApplicationExists { .. })));
    assert_eq!((fixture.root.applications().count(), fixture.root.services().count()), (1, 1));
    let others =
        fixture.root.create_applications(at(0), &mut fixture.entropy, &owner("Other"), vec![again("web")]);
    assert!(others.is_ok(), "names are unique per owner");
}

#[test]
fn a_service_address_asked_for_is_given_once() {
    let mut fixture = Fixture::new();
    let address = "10.30.7.7".parse().unwrap();
    let spec = ServiceSpec { service_address: Some(address), ..memory(1) };
    let service = fixture.service("web", spec.clone());
    assert_eq!(fixture.root.service(service).unwrap().address, address);
    let application = fixture.root.service(service).unwrap().application;
    let outcome = fixture.root.add_services(
        at(0),
        &mut fixture.entropy,
        application,
        vec![request("other", spec.clone())],
    );
    assert!(matches!(outcome, Err(Refusal::AddressTaken { .. })), "{outcome:?}");
    fixture.root.delete_service(at(0), service).unwrap();
    let outcome =
        fixture.root.add_services(at(0), &mut fixture.entropy, application, vec![request("other", spec)]);
    assert!(outcome.is_ok());
}

#[test]
fn every_policy_that_is_asked_for_has_an_address_of_its_own() {
    let mut fixture = Fixture::new();
    let chosen: Ipv4Addr = "10.30.7.7".parse().unwrap();
    let policies = BTreeMap::from([(Balancing::Closest, Some(chosen)), (Balancing::Sticky, None)]);
    let spec = ServiceSpec { policies, ..memory(1) };
    let id = fixture.service("web", spec.clone());
    let service = fixture.root.service(id).unwrap().clone();
    assert_eq!(service.policies.get(&Balancing::Closest), Some(&chosen));
    assert_eq!((service.policies.len(), fixture.root.addresses_in_use()), (2, 3));
    let application = service.application;
    let again = vec![request("other", spec.clone())];
    let outcome = fixture.root.add_services(at(0), &mut fixture.entropy, application, again);
    assert!(matches!(outcome, Err(Refusal::AddressTaken { .. })), "{outcome:?}");

    // A change may ask for more, not for others, and what it leaves out stays.
    let change = |policies: &[(Balancing, Option<Ipv4Addr>)]| {
        request("web", ServiceSpec { policies: policies.iter().copied().collect(), ..memory(1) })
    };
    let other = "10.30.7.8".parse().unwrap();
    let outcome = fixture.root.change_service(at(1), id, change(&[(Balancing::Closest, Some(other))]));
    assert!(matches!(outcome, Err(Refusal::AddressFixed { .. })), "{outcome:?}");
    let more = change(&[(Balancing::LocalFirst, Some(chosen))]);
    let outcome = fixture.root.change_service(at(1), id, more);
    assert!(matches!(outcome, Err(Refusal::AddressTaken { .. })), "{outcome:?}");
    fixture.root.change_service(at(1), id, change(&[(Balancing::LocalFirst, Some(other))])).unwrap();
    let changed = fixture.root.service(id).unwrap().policies.clone();
    assert!(service.policies.iter().all(|(policy, address)| changed.get(policy) == Some(address)));
    assert_eq!((changed.get(&Balancing::LocalFirst), changed.len()), (Some(&other), 3));
    fixture.commit();
    fixture.restart();
    assert_eq!(fixture.root.addresses_in_use(), 4, "also after a restart");
    fixture.root.delete_service(at(2), id).unwrap();
    assert_eq!(fixture.root.addresses_in_use(), 0);
}

#[test]
fn deleting_an_application_takes_everything_with_it() {
    let mut fixture = Fixture::new();
    let service = fixture.service("web", memory(10));
    let east = fixture.connected("east", 1_000);
    let key = fixture.root.deploy(at(0), service).unwrap();
    let application = fixture.root.service(service).unwrap().application;
    fixture.root.delete_application(at(0), application).unwrap();
    fixture.confirm_removal(east, key);
    assert_eq!(fixture.root.addresses_in_use(), 0);
    fixture.restart();
    assert_eq!(fixture.root.applications().count() + fixture.root.services().count(), 0);
    assert_eq!(
        fixture.root.delete_application(at(0), application),
        Err(Refusal::UnknownApplication(application))
    );
}

#[test]
fn waiting_instances_beyond_one_pass_are_not_starved() {
    let mut fixture = Fixture::new();
    let big = fixture.service("big", memory(5_000));
    let small = fixture.service("small", memory(1));
    // Ids sort by age, so that the ones that fit come last.
    let (big, small) = (big.min(small), big.max(small));
    fixture.root.services.get_mut(&big).unwrap().spec = Arc::new(memory(5_000));
    fixture.root.services.get_mut(&small).unwrap().spec = Arc::new(memory(1));
    for _ in 0..1_500 {
        fixture.root.deploy(at(0), big).unwrap();
    }
    let last = fixture.root.deploy(at(0), small).unwrap();
    fixture.connected("east", 1_000);
    for _ in 0..3 {
        let due = fixture.root.next_deadline().unwrap();
        fixture.root.tick(Now { moment: due, ..at(0) });
    }
    assert_eq!(fixture.status(last).0, Status::ClusterScheduled);
    let pause = fixture.root.next_deadline().unwrap();
    assert!(pause > Moment(20_000), "the rest is left alone for a while, not {pause:?}");
}

#[test]
fn a_retry_that_changes_nothing_writes_nothing() {
    let mut fixture = Fixture::new();
    let service = fixture.service("web", memory(5_000));
    fixture.connected("east", 1_000);
    fixture.root.deploy(at(0), service).unwrap();
    fixture.commit();
    fixture.root.tick(at(40_000));
    assert!(fixture.root.take_outbox().rows.is_empty());
    assert!(fixture.root.next_deadline() > Some(Moment(40_000)));
}
