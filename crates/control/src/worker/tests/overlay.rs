//! What is elsewhere.

use std::net::SocketAddr;

use oak_model::message::{LocalCall, WorkerToCluster};
use oak_model::overlay::{Backend, KnownService, NodeKeys, Peer, Readiness, RelayEnd, Target, TunnelEnd};
use oak_model::{Balancing, Load, WorkerFacts, WorkerId};

use super::*;
use crate::worker::{Answer, OwnPlace};

const DB: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 9);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 18, 7, 2);
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 18, 0, 99);

fn db() -> ServiceId {
    ServiceId::from_parts(1, 9)
}

fn other_worker() -> WorkerId {
    WorkerId::from_parts(1, 7)
}

fn service() -> KnownService {
    let name = |text: &str| text.parse().unwrap();
    KnownService {
        id: db(),
        application: ApplicationId::from_parts(1, 1),
        job_name: JobName {
            application: name("app"),
            application_namespace: name("test"),
            service: name("db"),
            service_namespace: name("test"),
        },
        addresses: vec![DB],
        policies: BTreeMap::new(),
        ports: Vec::new(),
        organization: None,
        exported: false,
    }
}

fn backend(number: u32, readiness: Readiness) -> Backend {
    let last = u8::try_from(number).unwrap();
    Backend {
        key: InstanceKey { service: db(), number },
        worker: other_worker(),
        instance_address: Ipv4Addr::new(10, 30, 2, last),
        node_address: Ipv4Addr::new(10, 18, 7, 2 + last),
        readiness,
        load: Load::default(),
    }
}

fn news() -> OverlayChange {
    let subnet = "10.18.7.0/25".parse().unwrap();
    OverlayChange {
        services: vec![service()],
        backends: vec![backend(0, Readiness::Ready), backend(1, Readiness::Closed)],
        peers: vec![Peer {
            more_subnets: Vec::new(),
            worker: other_worker(),
            subnet,
            underlay: Some(Ipv4Addr::new(192, 0, 2, 7)),
            underlay6: None,
            tunnel: None,
            plain: true,
            outside: None,
            relay: None,
        }],
        ..OverlayChange::default()
    }
}

impl Fixture {
    fn asked(&mut self) -> Vec<(Option<ServiceId>, Target)> {
        let asked = self.effects.drain(..).filter_map(|effect| match effect {
            Effect::ToCluster(WorkerToCluster::Ask { caller, target }) => Some((caller, target)),
            _ => None,
        });
        asked.collect()
    }

    fn ask(&mut self, ms: u64, source: Ipv4Addr, target: Target) {
        self.worker.ask(at(ms), source, target);
        self.commit();
    }

    fn noticing() -> Self {
        let mut fixture = Self::new(vec![assignment(1, 1)]);
        fixture.worker.settings.asks = true;
        fixture
    }

    fn table(&self) -> NetworkTable {
        self.worker.present_network()
    }
}

#[test]
fn a_call_is_asked_for_once_and_the_answer_is_followed_and_remembered() {
    let mut fixture = Fixture::noticing();
    let source = fixture.worker.workload(key(1)).unwrap().address().unwrap();
    fixture.asked();
    let target = Target::Address(DB);
    fixture.ask(0, source, target.clone());
    fixture.ask(1, source, target.clone());
    assert_eq!(fixture.asked(), [(Some(key(1).service), target.clone())]);
    assert_eq!(fixture.worker.answer(&target, None), Answer::Pending);

    fixture.message(ClusterToWorker::Overlay(news()));
    assert_eq!(fixture.worker.answer(&target, None), Answer::Service(db()));
    let expect = |table: &NetworkTable| {
        assert_eq!(table.services.get(&DB), Some(&vec![THERE]), "who takes no new connections gets none");
        assert_eq!(table.instances.get(&Ipv4Addr::new(10, 30, 2, 0)), Some(&THERE));
        assert!(table.elsewhere.contains(&Ipv4Addr::new(10, 18, 7, 3)), "but keeps those it has");
        assert_eq!(table.peers.len(), 1);
    };
    expect(&fixture.table());
    fixture.restart(&[(1, Found::Running)]);
    expect(&fixture.table());
    let facts = WorkerFacts { name: "one".into(), ..facts() };
    let calls = fixture.worker.hello(facts).calls;
    assert_eq!(calls, [LocalCall { caller: Some(key(1).service), callee: db() }]);
}

fn facts() -> WorkerFacts {
    WorkerFacts {
        name: String::new(),
        address: String::new(),
        address6: None,
        architecture: oak_model::Architecture::Amd64,
        capacity: oak_model::Resources::ZERO,
        virtualization: Vec::new(),
        version: String::new(),
        labels: Vec::new(),
        addons: Vec::new(),
        position: None,
        csi_drivers: Vec::new(),
        tunnel: None,
        plain: true,
    }
}

#[test]
fn as_what_this_node_is_seen_is_told_once_and_with_every_hello() {
    let mut fixture = Fixture::noticing();
    let subnet = fixture.worker.subnet().unwrap();
    let relay = Some(RelayEnd { public_key: "key".into(), port: 50105, address: None });
    let vantage = Vantage { outside: Some([198, 51, 100, 2].into()), relay };
    let welcome = WorkerWelcome {
        more_subnets: Vec::new(),
        subnet,
        assignments: vec![assignment(1, 1)],
        overlay: OverlayChange::default(),
        vantage: vantage.clone(),
    };
    fixture.worker.welcome(at(0), welcome);
    fixture.commit();
    fixture.effects.clear();
    let seen: Vec<SocketAddr> = vec!["198.51.100.2:61000".parse().unwrap()];
    for _ in 0..2 {
        fixture.worker.set_seen_as(seen.clone());
        fixture.commit();
    }
    let told = |effect: &&Effect| matches!(effect, Effect::ToCluster(WorkerToCluster::Seen(_)));
    assert_eq!(fixture.effects.iter().filter(told).count(), 1);
    let tunnel =
        Some(TunnelEnd { public_key: "own".into(), former_key: None, port: 50103, seen_as: Vec::new() });
    let hello = fixture.worker.hello(WorkerFacts { tunnel, ..facts() });
    assert_eq!(hello.facts.tunnel.unwrap().seen_as, seen);
    assert_eq!(fixture.table().own, OwnPlace { vantage: vantage.clone(), seen_as: seen, keys: None });
    // Without a cluster the relay is still known.
    fixture.restart(&[(1, Found::Running)]);
    assert_eq!(fixture.table().own.vantage, vantage);
}

#[test]
fn new_keys_are_told_once_and_with_every_hello() {
    let mut fixture = Fixture::noticing();
    fixture.effects.clear();
    let keys = NodeKeys { public_key: "new".into(), former_key: Some("own".into()) };
    for _ in 0..2 {
        fixture.worker.set_keys(keys.clone());
        fixture.commit();
    }
    let told = |effect: &&Effect| **effect == Effect::ToCluster(WorkerToCluster::Keys(keys.clone()));
    assert_eq!(fixture.effects.iter().filter(told).count(), 1);
    assert_eq!(fixture.table().own.keys, Some(keys.clone()), "the network is brought in step");
    let tunnel =
        Some(TunnelEnd { public_key: "own".into(), former_key: None, port: 50103, seen_as: Vec::new() });
    let hello = fixture.worker.hello(WorkerFacts { tunnel, ..facts() });
    assert!(hello.facts.tunnel.unwrap().keys().eq(["new", "own"].map(str::to_owned).iter()));
    assert_eq!(fixture.worker.hello(facts()).facts.tunnel, None, "it does not encrypt");
}

#[test]
fn the_machine_itself_calls_as_well_and_names_work_like_addresses() {
    let mut fixture = Fixture::noticing();
    fixture.asked();
    let target = Target::Name("db.test.app.test".into());
    fixture.ask(0, NOBODY, target.clone());
    assert_eq!(fixture.asked(), [(None, target.clone())]);
    fixture.message(ClusterToWorker::Overlay(news()));
    assert_eq!(fixture.worker.answer(&target, None), Answer::Service(db()));
}

#[test]
fn suspects_are_the_last_resort() {
    let mut fixture = Fixture::noticing();
    let mut change = news();
    change.backends = vec![backend(0, Readiness::Suspect), backend(1, Readiness::Closed)];
    fixture.message(ClusterToWorker::Overlay(change));
    assert_eq!(fixture.table().services.get(&DB), Some(&vec![THERE]));
    let ready = OverlayChange { backends: vec![backend(1, Readiness::Ready)], ..OverlayChange::default() };
    fixture.message(ClusterToWorker::Overlay(ready));
    assert_eq!(fixture.table().services.get(&DB), Some(&vec![Ipv4Addr::new(10, 18, 7, 3)]));
}

#[test]
fn what_does_not_exist_is_refused_for_a_while() {
    let mut fixture = Fixture::noticing();
    let target = Target::Address(DB);
    fixture.ask(0, NOBODY, target.clone());
    fixture.message_at(10, ClusterToWorker::NotFound(target.clone()));
    assert_eq!(fixture.worker.answer(&target, None), Answer::NotFound);
    assert_eq!(fixture.table().services.get(&DB), Some(&Vec::new()), "refused at once");
    fixture.asked();
    fixture.ask(20, NOBODY, target.clone());
    assert!(fixture.asked().is_empty(), "not asked again at once");
    let due = fixture.tick();
    assert!(due >= Moment(5_000), "{due:?}");
    assert_eq!(fixture.table().services.get(&DB), None);
}

#[test]
fn without_an_answer_only_what_is_here_is_reached() {
    let mut fixture = Fixture::noticing();
    let here = Ipv4Addr::new(10, 30, 0, 1);
    assert_eq!(fixture.table().services.get(&here), None, "nothing of it runs here, perhaps elsewhere");
    fixture.ask(0, NOBODY, Target::Address(here));
    fixture.ask(0, NOBODY, Target::Address(DB));
    assert_eq!(fixture.tick(), Moment(1_000));
    assert!(fixture.table().services.contains_key(&here));
    assert_eq!(fixture.table().services.get(&DB), Some(&Vec::new()));
}

#[test]
fn a_complete_list_replaces_what_was_known() {
    let mut fixture = Fixture::noticing();
    fixture.message(ClusterToWorker::Overlay(news()));
    fixture.message(ClusterToWorker::Overlay(OverlayChange { complete: true, ..OverlayChange::default() }));
    let table = fixture.table();
    assert!(table.elsewhere.is_empty() && table.peers.is_empty());
    let left: Vec<_> = fixture.disk.keys().filter(|(table, _)| *table as u8 >= 40).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_runs_here_is_reached_at_once_and_others_when_somebody_has_called() {
    let mut fixture = Fixture::noticing();
    fixture.run(1);
    let here = Ipv4Addr::new(10, 30, 0, 1);
    let own = fixture.worker.workload(key(1)).unwrap().address().unwrap();
    let table = fixture.table();
    assert_eq!(table.services.get(&here), Some(&vec![own]));
    assert!(table.untold.contains(&here), "and somebody wants to know of the first call");
    fixture.ask(0, NOBODY, Target::Address(here));
    let there = Backend { key: key(2), ..backend(0, Readiness::Ready) };
    let known = KnownService { id: key(1).service, addresses: vec![here], ..service() };
    let change = OverlayChange { services: vec![known], backends: vec![there], ..OverlayChange::default() };
    fixture.message(ClusterToWorker::Overlay(change));
    let table = fixture.table();
    assert_eq!(table.services.get(&here), Some(&vec![own, THERE]));
    assert!(table.untold.is_empty());
    // Cut off, nobody knows whether the others can be reached; those that are connected to them stay so.
    fixture.worker.cluster_closed();
    let table = fixture.table();
    assert_eq!(table.services.get(&here), Some(&vec![own]));
    assert!(table.elsewhere.contains(&THERE));
}

/// The client's service is called under every policy, and has instances on two nodes.
fn with_policies(fixture: &mut Fixture) -> [Ipv4Addr; 4] {
    use Balancing::{Closest, LeastLoaded, LocalFirst, Sticky};
    let addresses = [1, 2, 3, 4].map(|last| Ipv4Addr::new(10, 30, 5, last));
    let policies = [Closest, LeastLoaded, Sticky, LocalFirst].into_iter().zip(addresses).collect();
    let mut news = news();
    news.services = vec![KnownService { policies, ..service() }];
    let far = WorkerId::from_parts(1, 8);
    let elsewhere = Backend {
        key: InstanceKey { service: db(), number: 2 },
        worker: far,
        instance_address: Ipv4Addr::new(10, 30, 2, 2),
        node_address: Ipv4Addr::new(10, 18, 8, 2),
        load: Load::from(12),
        ..backend(0, Readiness::Ready)
    };
    news.backends = vec![backend(0, Readiness::Ready), elsewhere];
    let peer = Peer { worker: far, subnet: "10.18.8.0/25".parse().unwrap(), ..news.peers[0].clone() };
    news.peers.push(peer);
    let source = fixture.worker.workload(key(1)).unwrap().address().unwrap();
    fixture.ask(0, source, Target::Address(addresses[0]));
    fixture.worker.message(at(1), ClusterToWorker::Overlay(news));
    fixture.commit();
    addresses
}

#[test]
fn each_policy_leads_to_what_it_wants() {
    let mut fixture = Fixture::noticing();
    let [closest, least, sticky, local] = with_policies(&mut fixture);
    let (near, far) = (THERE, Ipv4Addr::new(10, 18, 8, 2));
    let table = fixture.table();
    for address in [DB, closest, least, sticky, local] {
        assert_eq!(table.services.get(&address), Some(&vec![near, far]), "{address}");
    }
    assert_eq!(table.policies.get(&sticky), Some(&Balancing::Sticky));
    assert_eq!(table.weights, BTreeMap::from([(near, 16), (far, 4)]));
    let gateways =
        [(7, 7), (8, 8)].map(|(id, net)| (WorkerId::from_parts(1, id), Ipv4Addr::new(10, 18, net, 1)));
    assert_eq!(table.measured, BTreeMap::from(gateways));

    let measure = |fixture: &mut Fixture, one, other| {
        let measured = [(other_worker(), Some(one)), (WorkerId::from_parts(1, 8), Some(other))];
        fixture.worker.round_trips(&measured);
        fixture.commit();
        fixture.table().services.get(&closest).cloned()
    };
    assert_eq!(measure(&mut fixture, 5_000, 20_000), Some(vec![near]));
    assert_eq!(measure(&mut fixture, 5_000, 2_000), Some(vec![far]));
    assert_eq!(fixture.table().services.get(&DB), Some(&vec![near, far]));
}

fn organization(number: u64) -> Option<OrganizationId> {
    Some(OrganizationId::from_parts(1, number))
}

/// Instance 1 of one organisation, and of another one an instance of another service.
fn two_tenants(exported: bool) -> Fixture {
    let mine = Assignment { organization: organization(1), ..assignment(1, 1) };
    let mut theirs = with_spec(2, 1, |spec| spec.exported = exported);
    theirs.organization = organization(2);
    theirs.desired.key.service = ServiceId::from_parts(1, 5);
    theirs.desired.application = ApplicationId::from_parts(1, 5);
    theirs.desired.service_addresses = vec![Ipv4Addr::new(10, 30, 0, 5)];
    let mut fixture = Fixture::new(vec![mine, theirs]);
    fixture.worker.set_asks(true);
    fixture.commit();
    fixture
}

fn addresses_of(fixture: &Fixture) -> Vec<Ipv4Addr> {
    fixture.worker.workloads().filter_map(Workload::address).collect()
}

#[test]
fn organizations_reach_their_own_and_what_is_exported() {
    let theirs = Ipv4Addr::new(10, 30, 0, 5);
    for exported in [false, true] {
        let mut fixture = two_tenants(exported);
        let table = fixture.table();
        let first = &table.tenants[&organization(1)];
        assert_eq!(first.reaches.contains(&theirs), exported);
        assert!(first.reaches.contains(&Ipv4Addr::new(10, 30, 0, 1)));
        assert!(table.tenants[&organization(2)].reaches.contains(&theirs));
        assert!(table.owned.contains(&theirs), "nobody has to ask whose it is");
        assert_eq!(table.tenants.values().map(|tenant| tenant.members.len()).sum::<usize>(), 2);
        // What is told of elsewhere says whose it is, too.
        let known = KnownService { organization: organization(2), exported, ..service() };
        let change = OverlayChange { services: vec![known], ..OverlayChange::default() };
        fixture.message(ClusterToWorker::Overlay(change));
        assert_eq!(fixture.table().tenants[&organization(1)].reaches.contains(&DB), exported);
    }
}

#[test]
fn a_no_for_one_organization_is_none_for_another() {
    let mut fixture = two_tenants(false);
    let [mine, theirs] = addresses_of(&fixture)[..] else { panic!("two instances") };
    fixture.ask(0, mine, Target::Address(DB));
    fixture.message(ClusterToWorker::NotFound(Target::Address(DB)));
    assert!(fixture.table().tenants[&organization(1)].refused.contains(&DB));
    assert!(!fixture.table().services.contains_key(&DB), "others may ask");
    fixture.asked();
    fixture.ask(1, theirs, Target::Address(DB));
    assert_eq!(fixture.asked().len(), 1);
    // Both ask, and the answer may be for either: nobody is refused because of it.
    let other = Target::Address(Ipv4Addr::new(10, 30, 0, 77));
    fixture.ask(2, mine, other.clone());
    fixture.ask(2, theirs, other.clone());
    fixture.message(ClusterToWorker::NotFound(other.clone()));
    assert_eq!(fixture.worker.answer(&other, None), Answer::Pending);
    assert_eq!(
        fixture.worker.answer(&Target::Address(DB), Some(ApplicationId::from_parts(1, 1))),
        Answer::NotFound
    );
}
