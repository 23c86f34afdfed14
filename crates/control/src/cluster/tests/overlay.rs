//! Who is told of whom.

use oak_model::message::LocalCall;
use oak_model::overlay::{Backend, Call, Caller, KnownService, OverlayChange, Peer, Readiness, Target};
use oak_model::{ServiceId, WorkerFacts};

use super::*;

pub(super) const FIRST: u64 = 1;
const SECOND: u64 = 2;

/// An instance of another service than the usual one.
fn desired_of(service: u64, number: u32) -> DesiredInstance {
    let desired = desired(number, 10 * service + u64::from(number), 100);
    let (low, last) = (u8::try_from(service).unwrap(), u8::try_from(number).unwrap());
    DesiredInstance {
        key: InstanceKey { service: ServiceId::from_parts(1, service), number },
        service_addresses: vec![Ipv4Addr::new(10, 30, 0, low)],
        instance_address: Ipv4Addr::new(10, 30, low, last),
        ..desired
    }
}

pub(super) fn service(number: u64) -> ServiceId {
    ServiceId::from_parts(1, number)
}

fn key_of(service: u64, number: u32) -> InstanceKey {
    InstanceKey { service: self::service(service), number }
}

impl Fixture {
    /// What a worker was told since the last time, put together.
    pub(super) fn news_for(&mut self, worker: WorkerId) -> OverlayChange {
        let mut all = OverlayChange::default();
        self.to_workers.retain(|(to, message)| {
            let ClusterToWorker::Overlay(change) = message else { return true };
            if *to == worker {
                let change = change.clone();
                all.complete |= change.complete;
                all.services.extend(change.services);
                all.backends.extend(change.backends);
                all.peers.extend(change.peers);
                all.gone_services.extend(change.gone_services);
                all.gone_backends.extend(change.gone_backends);
                all.gone_peers.extend(change.gone_peers);
            }
            *to != worker
        });
        all
    }

    fn runs(&mut self, session: u64, key: InstanceKey, address: [u8; 4], status: Status) -> WorkerId {
        let place = self.cluster.instance(key).unwrap().placement.unwrap();
        let report = WorkloadReport {
            key,
            incarnation: place.incarnation,
            status,
            detail: String::new(),
            address: Some(address.into()),
            ended: false,
        };
        self.cluster.worker_message(at(0), place.worker, session, WorkerToCluster::Workload(report));
        self.commit();
        place.worker
    }

    pub(super) fn ask(&mut self, worker: WorkerId, caller: Option<ServiceId>, target: Target) {
        self.cluster.worker_message(at(0), worker, 1, WorkerToCluster::Ask { caller, target });
        self.commit();
    }

    /// Opens a worker with an address of its own and what it calls.
    fn open_at(&mut self, id: WorkerId, session: u64, address: &str, calls: Vec<LocalCall>) {
        let facts = WorkerFacts { address: address.into(), ..self.cluster.worker(id).unwrap().facts.clone() };
        let hello = WorkerHello { facts, workloads: Vec::new(), calls, own_address: None };
        self.cluster.worker_opened(at(0), id, session, address, hello);
        self.commit();
    }

    /// Two workers with one instance each, of different services.
    fn two() -> (Self, WorkerId, WorkerId) {
        Self::two_with(Settings { handover: Duration::ZERO, ..Settings::default() })
    }

    pub(super) fn two_with(settings: Settings) -> (Self, WorkerId, WorkerId) {
        let mut fixture = Self::with(settings);
        fixture.worker("one");
        fixture.set(desired_of(FIRST, 0));
        let one = fixture.runs(1, key_of(FIRST, 0), [10, 18, 0, 2], Status::Running);
        fixture.cluster.set_availability(at(0), one, Availability::Cordoned);
        fixture.worker("two");
        fixture.set(desired_of(SECOND, 0));
        let two = fixture.runs(1, key_of(SECOND, 0), [10, 18, 0, 130], Status::Running);
        assert_ne!(one, two);
        (fixture, one, two)
    }
}

#[test]
fn nobody_is_told_before_somebody_calls() {
    let (mut fixture, one, two) = Fixture::two();
    assert!(fixture.news_for(one).is_empty() && fixture.news_for(two).is_empty());
    let (_, welcome) = fixture.welcomes.last().unwrap();
    assert!(welcome.overlay.complete && welcome.overlay.backends.is_empty());
}

#[test]
fn a_call_tells_both_sides() {
    let (mut fixture, one, two) = Fixture::two();
    fixture.ask(one, Some(service(FIRST)), Target::Address(Ipv4Addr::new(10, 30, 0, 2)));
    let caller = fixture.news_for(one);
    assert_eq!(caller.services.iter().map(|known| known.id).collect::<Vec<_>>(), [service(SECOND)]);
    assert_eq!(caller.backends.len(), 1);
    assert_eq!(caller.backends[0].readiness, Readiness::Ready);
    assert_eq!(caller.peers.iter().map(|peer| peer.worker).collect::<Vec<_>>(), [two]);
    let callee = fixture.news_for(two);
    assert!(callee.services.is_empty(), "it does not call");
    assert_eq!(callee.backends.iter().map(|backend| backend.key).collect::<Vec<_>>(), [key_of(FIRST, 0)]);
    assert_eq!(callee.peers.iter().map(|peer| peer.worker).collect::<Vec<_>>(), [one]);
}

#[test]
fn a_worker_is_told_with_the_addresses_that_mean_something_to_others() {
    let (mut fixture, one, two) = Fixture::two();
    fixture.ask(one, Some(service(FIRST)), Target::Address(Ipv4Addr::new(10, 30, 0, 2)));
    fixture.news_for(one);
    for (address, address6, expected) in [
        ("2001:db8::7", None, &["2001:db8::7"][..]),
        ("192.0.2.7", Some("2001:db8::7"), &["192.0.2.7", "2001:db8::7"]),
        ("192.0.2.8", Some("fe80::8"), &["192.0.2.8"]),
        ("2001:db8::8", None, &["2001:db8::8"]),
        // Nobody could do anything with that, so what was known stays.
        ("fe80::8", None, &[]),
    ] {
        let facts = fixture.cluster.worker(two).unwrap().facts.clone();
        let address6 = address6.map(|text| text.parse().unwrap());
        let facts = WorkerFacts { address: address.into(), address6, ..facts };
        let hello = WorkerHello { facts, workloads: Vec::new(), calls: Vec::new(), own_address: None };
        fixture.cluster.worker_opened(at(0), two, 2, "2001:db8::99", hello);
        fixture.commit();
        let told: Vec<_> = fixture.news_for(one).peers.iter().flat_map(Peer::own_addresses).collect();
        assert_eq!(told.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn names_and_addresses_of_instances_are_found_and_others_are_not() {
    let (mut fixture, one, _) = Fixture::two();
    let unknown = Target::Name("nothing.test.app.test".into());
    fixture.ask(one, None, unknown.clone());
    let refused = (one, ClusterToWorker::NotFound(unknown.clone()));
    assert!(!fixture.to_workers.contains(&refused), "the root may know it");
    let question = ClusterToRoot::Ask { caller: Caller::Node(one), target: unknown.clone() };
    assert_eq!(fixture.to_root.last(), Some(&question));
    fixture.cluster.root_message(at(0), RootToCluster::NotFound(unknown.clone()));
    fixture.commit();
    assert!(fixture.to_workers.contains(&refused));
    fixture.to_workers.clear();
    fixture.cluster.root_closed();
    fixture.ask(one, None, unknown);
    assert!(fixture.to_workers.contains(&refused), "without a root nobody else is asked");
    fixture.ask(one, None, Target::Address(Ipv4Addr::new(10, 30, 2, 0)));
    assert_eq!(fixture.news_for(one).services.len(), 1);
}

#[test]
fn every_change_is_told_and_only_the_change() {
    let (mut fixture, one, two) = Fixture::two();
    fixture.ask(one, None, Target::Address(Ipv4Addr::new(10, 30, 0, 2)));
    assert_eq!(fixture.news_for(two).peers.len(), 1, "the machine that calls");
    fixture.news_for(one);
    fixture.runs(1, key_of(SECOND, 0), [10, 18, 0, 130], Status::Created);
    let closed = fixture.news_for(one);
    assert_eq!(closed.backends[0].readiness, Readiness::Closed);
    assert!(closed.services.is_empty() && closed.peers.is_empty());
    fixture.runs(1, key_of(SECOND, 0), [10, 18, 0, 130], Status::Running);
    assert_eq!(fixture.news_for(one).backends[0].readiness, Readiness::Ready);
    fixture.close(10, two);
    assert_eq!(fixture.news_for(one).backends[0].readiness, Readiness::Suspect);
    fixture.cluster.remove_worker(at(20), two, oak_model::Removal::Forced).unwrap();
    fixture.commit();
    let gone = fixture.news_for(one);
    assert_eq!(gone.gone_backends, [(key_of(SECOND, 0), two)]);
    assert_eq!(gone.gone_peers, [two]);
}

#[test]
fn a_restart_takes_nothing_from_anybody_before_everybody_had_time_to_come_back() {
    let (mut fixture, one, two) = Fixture::two();
    fixture.ask(one, Some(service(FIRST)), Target::Address(Ipv4Addr::new(10, 30, 0, 2)));
    let disk = fixture.disk.clone();
    fixture.restart_from(disk);
    fixture.welcomes.clear();
    let calls = vec![LocalCall { caller: Some(service(FIRST)), callee: service(SECOND) }];
    fixture.open_at(one, 2, "192.0.2.1", calls);
    let (_, welcome) = fixture.welcomes.last().unwrap();
    assert!(!welcome.overlay.complete && welcome.overlay.backends.is_empty());
    fixture.open_at(two, 2, "192.0.2.2", Vec::new());
    fixture.news_for(one);
    fixture.runs(2, key_of(SECOND, 0), [10, 18, 0, 130], Status::Running);
    assert_eq!(fixture.news_for(one).backends.len(), 1);
    let settled = at(15_000);
    assert_eq!(fixture.cluster.next_deadline(), Some(settled.moment));
    fixture.cluster.tick(settled);
    fixture.commit();
    let all = fixture.news_for(one);
    assert!(all.complete);
    assert_eq!((all.services.len(), all.backends.len(), all.peers.len()), (1, 1, 1));
}

#[test]
fn who_gets_an_instance_of_the_caller_is_told_before_it_runs() {
    let (mut fixture, one, two) = Fixture::two();
    fixture.ask(one, Some(service(FIRST)), Target::Address(Ipv4Addr::new(10, 30, 0, 2)));
    fixture.worker("three");
    fixture.news_for(two);
    fixture.cluster.set_availability(at(0), two, Availability::Cordoned);
    fixture.set(desired_of(FIRST, 1));
    let three = fixture.cluster.instance(key_of(FIRST, 1)).unwrap().placement.unwrap().worker;
    assert!(three != one && three != two);
    assert_eq!(fixture.news_for(three).services.len(), 1);
    assert!(fixture.news_for(two).backends.is_empty());
    fixture.runs(1, key_of(FIRST, 1), [10, 18, 1, 2], Status::Running);
    assert_eq!(fixture.news_for(two).peers.iter().map(|peer| peer.worker).collect::<Vec<_>>(), [three]);
    fixture
        .cluster
        .root_message(at(0), RootToCluster::Remove { key: key_of(FIRST, 1), generation: Generation(99) });
    fixture.commit();
    assert_eq!(fixture.news_for(two).backends[0].readiness, Readiness::Closed);
}

/// A service of another cluster, and a caller there.
fn abroad(worker: WorkerId) -> OverlayChange {
    let name = |text: &str| text.parse().unwrap();
    let service = KnownService {
        id: service(7),
        application: ApplicationId::from_parts(1, 1),
        job_name: JobName {
            application: name("app"),
            application_namespace: name("test"),
            service: name("far"),
            service_namespace: name("test"),
        },
        addresses: vec![Ipv4Addr::new(10, 30, 0, 7)],
        policies: BTreeMap::new(),
        ports: Vec::new(),
        organization: None,
        exported: false,
    };
    let backend = Backend {
        key: key_of(7, 0),
        worker,
        instance_address: Ipv4Addr::new(10, 30, 7, 0),
        node_address: Ipv4Addr::new(10, 19, 0, 2),
        readiness: Readiness::Ready,
        load: oak_model::Load::default(),
    };
    let peer = Peer {
        more_subnets: Vec::new(),
        worker,
        subnet: "10.19.0.0/25".parse().unwrap(),
        underlay: Some(Ipv4Addr::new(198, 51, 100, 7)),
        underlay6: None,
        tunnel: None,
        plain: true,
        outside: None,
        relay: None,
    };
    OverlayChange {
        services: vec![service],
        backends: vec![backend],
        peers: vec![peer],
        ..OverlayChange::default()
    }
}

#[test]
fn what_is_in_another_cluster_is_told_and_kept_without_the_root() {
    let (mut fixture, one, two) = Fixture::two();
    let far = WorkerId::from_parts(9, 9);
    fixture.ask(one, Some(service(FIRST)), Target::Name("far.test.app.test".into()));
    fixture.cluster.root_message(at(0), RootToCluster::Overlay(abroad(far)));
    fixture.commit();
    let told = fixture.news_for(one);
    assert_eq!((told.services.len(), told.backends.len(), told.peers.len()), (1, 1, 1));
    assert!(fixture.news_for(two).is_empty());
    let call = Call { caller: Caller::Service(service(FIRST)), callee: service(7) };
    assert_eq!(fixture.to_root.last(), Some(&ClusterToRoot::Calls(vec![call])));
    assert_eq!(fixture.cluster.hello().calls, [call]);

    // Somebody there calls what is here.
    let there = Call { caller: Caller::Service(service(7)), callee: service(SECOND) };
    let calls = OverlayChange { calls: vec![there], ..OverlayChange::default() };
    fixture.cluster.root_message(at(0), RootToCluster::Overlay(calls));
    fixture.commit();
    assert_eq!(fixture.news_for(two).peers.iter().map(|peer| peer.worker).collect::<Vec<_>>(), [far]);
    assert_eq!(fixture.cluster.hello().calls, [call], "the root knows of the others");

    let disk = fixture.disk.clone();
    fixture.restart_from(disk);
    let calls = vec![LocalCall { caller: Some(service(FIRST)), callee: service(7) }];
    fixture.welcomes.clear();
    fixture.open_at(one, 2, "192.0.2.1", calls);
    let (_, welcome) = fixture.welcomes.last().unwrap();
    assert_eq!((welcome.overlay.backends.len(), welcome.overlay.peers.len()), (1, 1));
    let nothing = OverlayChange { complete: true, ..OverlayChange::default() };
    fixture.cluster.root_message(at(0), RootToCluster::Overlay(nothing));
    fixture.commit();
    assert_eq!(fixture.news_for(one).gone_peers, [far]);
    let left: Vec<_> = fixture.disk.keys().filter(|(table, _)| *table as u8 >= 40).collect();
    assert!(left.is_empty(), "{left:?}");
}
