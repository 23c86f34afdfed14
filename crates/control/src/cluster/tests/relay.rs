//! Nodes behind NATs.

use std::net::IpAddr;

use oak_model::WorkerFacts;
use oak_model::overlay::{NodeKeys, RELAY_PORT, RelayEnd, TUNNEL_PORT, Target, TunnelEnd};

use super::overlay::{FIRST, service};
use super::*;

fn relay() -> RelayEnd {
    RelayEnd { public_key: "relay".into(), port: RELAY_PORT, address: None }
}

fn outside() -> IpAddr {
    [198, 51, 100, 2].into()
}

impl Fixture {
    /// Opens a worker that encrypts, behind a NAT.
    fn open_behind_nat(&mut self, id: WorkerId, session: u64, key: &str) {
        let tunnel = Some(TunnelEnd {
            public_key: key.into(),
            former_key: None,
            port: TUNNEL_PORT,
            seen_as: Vec::new(),
        });
        let facts = self.cluster.worker(id).unwrap().facts.clone();
        let facts = WorkerFacts { address: "192.168.1.2".into(), tunnel, ..facts };
        let own_address = Some([192, 168, 1, 2].into());
        let hello = WorkerHello { facts, workloads: Vec::new(), calls: Vec::new(), own_address };
        self.cluster.worker_opened(at(0), id, session, &outside().to_string(), hello);
        self.commit();
    }

    /// Two such workers, of which the first calls what the second has.
    fn behind_nats() -> (Self, WorkerId, WorkerId) {
        let settings = Settings { handover: Duration::ZERO, relay: Some(relay()), ..Settings::default() };
        let (mut fixture, one, two) = Self::two_with(settings);
        fixture.open_behind_nat(one, 1, "key of one");
        fixture.open_behind_nat(two, 1, "key of two");
        fixture.ask(one, Some(service(FIRST)), Target::Address(Ipv4Addr::new(10, 30, 0, 2)));
        (fixture, one, two)
    }

    /// What the relay was told last of a worker.
    fn introduced(&self, id: WorkerId) -> Option<(Vec<&str>, Vec<&str>)> {
        let (_, keys, peers) = self.introductions.iter().rfind(|(worker, ..)| *worker == id)?;
        Some((keys.iter().map(String::as_str).collect(), peers.iter().map(String::as_str).collect()))
    }
}

#[test]
fn a_worker_is_told_how_it_is_seen_and_of_the_relay() {
    let (fixture, one, _) = Fixture::behind_nats();
    let (_, welcome) = fixture.welcomes.iter().rfind(|(worker, _)| *worker == one).unwrap();
    assert_eq!(welcome.vantage.outside, Some(outside()));
    assert_eq!(welcome.vantage.relay, Some(relay()));
    assert_eq!(fixture.cluster.worker_summary(one).unwrap().outside, Some(outside()));
}

#[test]
fn who_has_to_do_with_each_other_may_use_the_relay() {
    let (mut fixture, one, two) = Fixture::behind_nats();
    assert_eq!(fixture.introduced(one), Some((vec!["key of one"], vec!["key of two"])));
    assert_eq!(fixture.introduced(two), Some((vec!["key of two"], vec!["key of one"])));
    // An agent that restarts does not cut what goes through the relay.
    fixture.part(0, one, 1, Parting::Broken);
    assert_eq!(fixture.introduced(one), Some((vec!["key of one"], vec!["key of two"])));
    // A new key is known on both sides.
    fixture.open_behind_nat(two, 2, "new key");
    assert_eq!(
        fixture.introduced(one),
        Some((vec!["key of one"], vec!["key of two"])),
        "it is not connected"
    );
    fixture.open_behind_nat(one, 2, "key of one");
    fixture.ask(one, Some(service(FIRST)), Target::Address(Ipv4Addr::new(10, 30, 0, 2)));
    assert_eq!(fixture.introduced(two).unwrap().0, ["new key"]);
}

#[test]
fn others_hear_as_what_a_worker_is_seen() {
    let (mut fixture, one, two) = Fixture::behind_nats();
    let news = fixture.news_for(one);
    assert_eq!(news.peers[0].outside, Some(outside()));
    let seen: std::net::SocketAddr = "198.51.100.2:61000".parse().unwrap();
    let message = WorkerToCluster::Seen(vec![seen; 9]);
    fixture.cluster.worker_message(at(0), two, 1, message.clone());
    fixture.commit();
    let told = fixture.news_for(one).peers;
    assert_eq!(told[0].tunnel.as_ref().unwrap().seen_as, [seen; 4]);
    assert!(fixture.to_root.iter().any(|message| matches!(message, ClusterToRoot::Workers(workers)
        if workers[0].facts.tunnel.as_ref().is_some_and(|end| end.seen_as.contains(&seen)))));
    fixture.cluster.worker_message(at(0), two, 1, message);
    fixture.commit();
    assert!(fixture.news_for(one).is_empty(), "no news");
    assert_eq!(fixture.cluster.worker(two).unwrap().facts.tunnel.as_ref().unwrap().seen_as.len(), 4);
}

#[test]
fn a_new_key_is_told_and_the_former_one_stays_known_to_the_relay() {
    let (mut fixture, one, two) = Fixture::behind_nats();
    fixture.news_for(one);
    let keys = |former: Option<&str>| NodeKeys {
        public_key: "new key".into(),
        former_key: former.map(str::to_owned),
    };
    let told = |fixture: &mut Fixture, keys: NodeKeys| {
        fixture.cluster.worker_message(at(0), two, 1, WorkerToCluster::Keys(keys));
        fixture.commit();
        let end = fixture.news_for(one).peers.pop().and_then(|peer| peer.tunnel);
        end.map(|end| end.keys().cloned().collect::<Vec<_>>())
    };
    let both = ["new key", "key of two"];
    assert_eq!(told(&mut fixture, keys(Some("key of two"))).unwrap(), both);
    assert_eq!(told(&mut fixture, keys(Some("key of two"))), None, "no news");
    assert_eq!(fixture.introduced(two), Some((both.to_vec(), vec!["key of one"])));
    assert_eq!(fixture.introduced(one), Some((vec!["key of one"], both.to_vec())));
    assert_eq!(told(&mut fixture, keys(None)).unwrap(), ["new key"]);
    assert_eq!(fixture.introduced(two), Some((vec!["new key"], vec!["key of one"])));
    assert_eq!(fixture.introduced(one), Some((vec!["key of one"], vec!["new key"])));
    // And after a start of the cluster.
    assert_eq!(fixture.cluster.worker(two).unwrap().facts.tunnel.as_ref().unwrap().public_key, "new key");
}
