//! Services that are called across clusters.

use std::net::Ipv4Addr;

use oak_model::overlay::{Call, Caller, OverlayChange, Readiness, RelayEnd, Target};

use super::*;

impl Fixture {
    fn open_with(&mut self, id: ClusterId, worker: u64, instances: Vec<InstanceReport>, calls: Vec<Call>) {
        let third = u8::try_from(worker).unwrap();
        let subnet = Some(ipnet::Ipv4Net::new_assert(Ipv4Addr::new(10, 18, third, 0), 25));
        let hello = ClusterHello {
            name: "any".into(),
            workers: vec![WorkerSummary { subnet, ..summary(worker, 1_000) }],
            generation: instances.iter().map(|report| report.generation).max().unwrap_or_default(),
            instances,
            calls,
            lineage: self.root.meta.lineage,
            ..ClusterHello::default()
        };
        self.root.cluster_opened(at(0), id, 1, "192.0.2.1", hello).unwrap();
        self.commit();
    }

    /// What a cluster was told since the last time.
    fn news_for(&mut self, cluster: ClusterId) -> Vec<OverlayChange> {
        let mut news = Vec::new();
        self.sent.retain(|(to, message)| match message {
            RootToCluster::Overlay(change) if *to == cluster => {
                news.push(change.clone());
                false
            }
            _ => true,
        });
        news
    }

    fn ask(&mut self, cluster: ClusterId, caller: Caller, target: Target) {
        self.root.cluster_message(at(0), cluster, 1, ClusterToRoot::Ask { caller, target }).unwrap();
        self.commit();
    }

    fn runs_on(&mut self, key: InstanceKey, worker: u64, host: u8, status: Status) -> ClusterId {
        let report = self.report_on(key, worker, host, status);
        let cluster = self.root.instance(key).unwrap().cluster.unwrap();
        self.report(cluster, report);
        cluster
    }

    fn report_on(&self, key: InstanceKey, worker: u64, host: u8, status: Status) -> InstanceReport {
        let generation = self.root.instance(key).unwrap().generation;
        let third = u8::try_from(worker).unwrap();
        InstanceReport {
            status,
            worker: Some(WorkerId::from_parts(1, worker)),
            address: Some(Ipv4Addr::new(10, 18, third, host)),
            ..running(key, generation)
        }
    }

    /// A caller in the first cluster, which it fills, and what it calls in the second one.
    fn two() -> (Self, [(ClusterId, InstanceKey); 2]) {
        let mut fixture = Self::new();
        let east = fixture.cluster("east");
        fixture.open_with(east, 1, Vec::new(), Vec::new());
        let shop = fixture.service("shop", memory(900));
        let caller = fixture.root.deploy(at(0), shop).unwrap();
        assert_eq!(fixture.runs_on(caller, 1, 2, Status::Running), east);
        let west = fixture.cluster("west");
        fixture.open_with(west, 2, Vec::new(), Vec::new());
        let store = fixture.service("store", memory(500));
        let callee = fixture.root.deploy(at(0), store).unwrap();
        assert_eq!(fixture.runs_on(callee, 2, 2, Status::Running), west);
        (fixture, [(east, caller), (west, callee)])
    }
}

#[test]
fn both_clusters_are_told_and_follow() {
    let (mut fixture, [(east, caller), (west, callee)]) = Fixture::two();
    assert!(fixture.news_for(east).is_empty() && fixture.news_for(west).is_empty());
    let address = fixture.root.service(callee.service).unwrap().address;
    let who = Caller::Service(caller.service);
    fixture.ask(east, who, Target::Address(address));

    let [told] = &fixture.news_for(east)[..] else { panic!("one message") };
    assert_eq!(told.services[0].addresses, [address]);
    assert_eq!((told.backends[0].key, told.backends[0].readiness), (callee, Readiness::Ready));
    assert_eq!(told.peers[0].subnet.to_string(), "10.18.2.0/25");
    let [told] = &fixture.news_for(west)[..] else { panic!("one message") };
    assert_eq!(told.calls, [Call { caller: who, callee: callee.service }]);
    assert_eq!(told.backends[0].key, caller);
    assert!(told.services.is_empty(), "nobody there calls the caller");

    // It fails, runs again, and is taken down: connections it has come to their end.
    for (status, readiness) in [(Status::Failed, Readiness::Closed), (Status::Running, Readiness::Ready)] {
        fixture.runs_on(callee, 2, 2, status);
        assert_eq!(fixture.news_for(east)[0].backends[0].readiness, readiness);
    }
    fixture.root.undeploy(at(0), callee).unwrap();
    fixture.commit();
    assert_eq!(fixture.news_for(east)[0].backends[0].readiness, Readiness::Closed);
    fixture.confirm_removal(west, callee);
    let [told] = &fixture.news_for(east)[..] else { panic!("one message") };
    assert_eq!((told.gone_backends.len(), told.gone_peers.len()), (1, 1));
}

#[test]
fn a_worker_of_another_cluster_is_told_with_the_relay_of_that_cluster() {
    let (mut fixture, [(east, caller), (west, callee)]) = Fixture::two();
    let address = fixture.root.service(callee.service).unwrap().address;
    fixture.ask(east, Caller::Service(caller.service), Target::Address(address));
    assert_eq!(fixture.news_for(east)[0].peers[0].relay, None, "it has none");
    let relay = RelayEnd { public_key: "key".into(), port: 50105, address: None };
    for (seen_at, expected) in [
        ("203.0.113.7", Some([203, 0, 113, 7].into())),
        ("127.0.0.1", None),
        ("2001:db8::7", "2001:db8::7".parse().ok()),
        ("::1", None),
        ("203.0.113.7", Some([203, 0, 113, 7].into())),
        ("fe80::7", None),
    ] {
        let there = fixture.report_on(callee, 2, 2, Status::Running);
        let subnet = Some("10.18.2.0/25".parse().unwrap());
        let hello = ClusterHello {
            name: "west".into(),
            workers: vec![WorkerSummary { subnet, ..summary(2, 1_000) }],
            instances: vec![there],
            lineage: fixture.root.meta.lineage,
            relay: Some(relay.clone()),
            ..ClusterHello::default()
        };
        fixture.root.cluster_opened(at(0), west, 2, seen_at, hello).unwrap();
        fixture.commit();
        let told = fixture.news_for(east).into_iter().flat_map(|news| news.peers).next_back().unwrap().relay;
        assert_eq!(told.and_then(|relay| relay.address), expected);
    }
}

#[test]
fn what_does_not_exist_is_not_found() {
    let (mut fixture, [(east, _), _]) = Fixture::two();
    for target in [
        Target::Address(Ipv4Addr::new(10, 30, 99, 99)),
        Target::Address(Ipv4Addr::new(192, 0, 2, 1)),
        Target::Name("none.test.none.test".into()),
    ] {
        fixture.ask(east, Caller::Node(WorkerId::from_parts(1, 1)), target.clone());
        assert_eq!(fixture.sent.last(), Some(&(east, RootToCluster::NotFound(target))));
    }
}

#[test]
fn a_root_that_starts_learns_the_calls_from_its_clusters_and_takes_nothing_from_anybody() {
    let (mut fixture, [(east, caller), (west, callee)]) = Fixture::two();
    let call = Call { caller: Caller::Service(caller.service), callee: callee.service };
    fixture.restart();
    fixture.welcomes.clear();
    let there = fixture.report_on(caller, 1, 2, Status::Running);
    fixture.open_with(east, 1, vec![there], vec![call]);
    let told = fixture.welcomes[0].overlay.clone();
    assert!(!told.complete, "the other one is not back yet");
    assert_eq!((told.services.len(), told.backends.len(), told.peers.len()), (1, 1, 0));
    let there = fixture.report_on(callee, 2, 2, Status::Running);
    fixture.open_with(west, 2, vec![there], Vec::new());
    assert_eq!(fixture.news_for(east)[0].peers.len(), 1);
    assert_eq!(fixture.welcomes[1].overlay.calls, [call]);
    let settled = Now { moment: Moment(15_000), ..at(0) };
    fixture.root.tick(settled);
    fixture.commit();
    let told = fixture.news_for(east);
    assert!(told[0].complete && told[0].backends.len() == 1 && told[0].peers.len() == 1);
}
