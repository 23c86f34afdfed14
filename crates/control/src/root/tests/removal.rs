//! Removing clusters: what stays, what is placed elsewhere, and that nothing is left.

use oak_model::Removal;

use super::*;

impl Fixture {
    fn away(&mut self, id: ClusterId) {
        self.root.cluster_closed(at(0), id, 1);
        self.commit();
    }

    fn remove_cluster(&mut self, id: ClusterId, removal: Removal) -> Result<(), ClusterKept> {
        let result = self.root.remove_cluster(at(0), id, removal);
        self.commit();
        result
    }

    /// Nothing here or on the disk refers to a cluster, but for what is told of it.
    fn nothing_is_left_of(&self, id: ClusterId) {
        assert!(self.root.cluster(id).is_none());
        assert!(self.root.instances().all(|instance| instance.cluster != Some(id)));
        assert!(self.root.departures().all(|departure| departure.cluster != id));
        let text = id.to_string();
        let is_memory = |table: Table| matches!(table, Table::Event);
        for ((table, key), document) in self.disk.iter().filter(|((table, _), _)| !is_memory(*table)) {
            let document = String::from_utf8_lossy(document);
            // A token that was used up stays until it is forgotten: it must not work again.
            let is_used_token = *table == Table::Token && document.contains("used_by\":{");
            assert!(
                is_used_token || *key != text && !document.contains(&text),
                "{table:?} {key}: {document}"
            );
        }
    }
}

fn one(key: InstanceKey, fixture: &Fixture) -> InstanceReport {
    running(key, fixture.root.instance(key).unwrap().generation)
}

#[test]
fn an_empty_cluster_that_is_away_is_removed_and_nothing_is_left() {
    let mut fixture = Fixture::new();
    let east = fixture.connected("east", 1_000);
    fixture.root.create_token(at(0), "worker".into(), "hash".into(), TokenRole::Worker(east), MINUTE);
    let kept = fixture.remove_cluster(east, Removal::IfUnused).unwrap_err();
    assert!(
        matches!(kept, ClusterKept::Connected(_)) && kept.to_string().contains("east is connected"),
        "{kept}"
    );
    fixture.away(east);
    assert_eq!(fixture.remove_cluster(east, Removal::IfUnused), Ok(()));
    fixture.nothing_is_left_of(east);
    fixture.restart();
    assert_eq!(fixture.root.clusters().count(), 0);
    assert_eq!(fixture.remove_cluster(east, Removal::Forced), Err(ClusterKept::Unknown(east)));
    let hello = ClusterHello::default();
    let refused = fixture.root.cluster_opened(at(0), east, 9, "192.0.2.1", hello);
    assert_eq!(refused, Err(Attention::UnknownCluster(east)));
}

#[test]
fn what_a_removed_cluster_had_is_placed_elsewhere_or_waits() {
    let mut fixture = Fixture::new();
    let east = fixture.connected("east", 1_000);
    let service = fixture.service("web", memory(100));
    let key = fixture.root.deploy(at(0), service).unwrap();
    fixture.commit();
    let report = one(key, &fixture);
    fixture.report(east, report);
    fixture.away(east);
    let kept = fixture.remove_cluster(east, Removal::IfUnused).unwrap_err().to_string();
    assert!(kept.contains("east still has 1 instance (web.test.web.test/0)"), "{kept}");
    assert_eq!(fixture.root.instance(key).unwrap().cluster, Some(east));
    assert_eq!(fixture.remove_cluster(east, Removal::Forced), Ok(()));
    fixture.nothing_is_left_of(east);
    assert_eq!(fixture.status(key).0, Status::TargetClusterNotActive);
    fixture.restart();
    let west = fixture.connected("west", 1_000);
    let due = fixture.root.next_deadline().unwrap();
    fixture.root.tick(Now { moment: due, ..at(0) });
    fixture.commit();
    let instance = fixture.root.instance(key).unwrap();
    assert_eq!(
        (instance.cluster, instance.status),
        (Some(west), Status::ClusterScheduled),
        "nothing is lost"
    );
    let wish = fixture.sent.iter().rev().find_map(|(to, message)| match message {
        RootToCluster::Set(desired) if *to == west => Some(desired.clone()),
        _ => None,
    });
    assert_eq!(wish.unwrap().generation, instance.generation);
}

#[test]
fn with_force_the_machines_of_what_may_run_once_are_taken_for_dead() {
    let mut fixture = Fixture::new();
    let east = fixture.connected("east", 1_000);
    let service = fixture.service("web", ServiceSpec { at_most_one: true, ..memory(100) });
    let key = fixture.root.deploy(at(0), service).unwrap();
    let report = one(key, &fixture);
    fixture.report(east, report);
    let west = fixture.connected("west", 1_000);
    let kept = fixture.remove_cluster(east, Removal::Forced).unwrap_err().to_string();
    assert!(
        kept.contains("1 instance (web.test.web.test/0)") && kept.contains("so it is not gone"),
        "{kept}"
    );
    assert_eq!(fixture.root.instance(key).unwrap().cluster, Some(east));
    fixture.away(east);
    let late = Now { moment: Moment(3_600_000), ..at(0) };
    fixture.root.tick(late);
    fixture.commit();
    assert_eq!(fixture.root.instance(key).unwrap().cluster, Some(east), "nobody has said anything");
    assert_eq!(fixture.remove_cluster(east, Removal::Forced), Ok(()));
    assert_eq!(fixture.root.instance(key).unwrap().cluster, Some(west));
}

#[test]
fn what_is_leaving_has_left_and_what_has_ended_stays_ended() {
    let mut fixture = Fixture::new();
    let east = fixture.connected("east", 1_000);
    let service = fixture.service("web", ServiceSpec { one_shot: true, ..memory(100) });
    let [leaving, ended] = [0, 1].map(|_| fixture.root.deploy(at(0), service).unwrap());
    let report = InstanceReport { status: Status::Completed, ended: true, ..one(ended, &fixture) };
    fixture.report(east, report);
    fixture.away(east);
    fixture.root.undeploy(at(0), leaving).unwrap();
    assert_eq!(fixture.root.addresses_in_use(), 3);
    assert_eq!(fixture.remove_cluster(east, Removal::IfUnused), Ok(()), "nothing is lost with it");
    fixture.nothing_is_left_of(east);
    assert_eq!((fixture.root.departures().count(), fixture.root.addresses_in_use()), (0, 2));
    fixture.restart();
    fixture.connected("west", 1_000);
    fixture.root.tick(Now { moment: Moment(120_000), ..at(0) });
    fixture.commit();
    let instance = fixture.root.instance(ended).unwrap();
    assert_eq!((instance.status, instance.cluster), (Status::Completed, None));
    fixture.root.undeploy(at(0), ended).unwrap();
    assert_eq!(fixture.root.addresses_in_use(), 1);
}

#[test]
fn a_connected_cluster_is_sent_away_when_that_is_forced_and_says_nothing_more() {
    let mut fixture = Fixture::new();
    let east = fixture.connected("east", 1_000);
    let service = fixture.service("web", memory(100));
    let key = fixture.root.deploy(at(0), service).unwrap();
    let report = one(key, &fixture);
    assert_eq!(fixture.remove_cluster(east, Removal::Forced), Ok(()));
    assert_eq!(fixture.dismissed, [(east, 1)]);
    fixture.nothing_is_left_of(east);
    fixture.report(east, report);
    assert_eq!(fixture.status(key).0, Status::TargetClusterNotActive);
    fixture.root.cluster_closed(at(0), east, 1);
}

#[test]
fn it_joins_again_only_with_a_new_token_and_stops_what_it_had() {
    let mut fixture = Fixture::new();
    let east = fixture.connected("east", 1_000);
    let service = fixture.service("web", memory(100));
    let key = fixture.root.deploy(at(0), service).unwrap();
    let held = one(key, &fixture);
    let west = fixture.connected("west", 1_000);
    fixture.away(east);
    fixture.remove_cluster(east, Removal::Forced).unwrap();
    assert_eq!(fixture.enrol("east", "east", "key"), Err(TokenRefused::Removed));
    fixture.root.create_token(at(0), "new".into(), "hash".into(), TokenRole::Cluster, MINUTE);
    let candidate = Candidate {
        token_id: "new",
        secret_hash: "hash",
        key_fingerprint: "another key",
        name: "east",
        location: "here",
        former: Some(east),
    };
    // Its workers know it by who it was.
    assert_eq!(fixture.root.enrol_cluster(at(0), &mut fixture.entropy, candidate), Ok(east));
    fixture.open(east, 2, 1_000, vec![held]);
    let welcome = fixture.welcomes.last().unwrap();
    assert_eq!((welcome.instances.len(), welcome.take_over), (0, false), "what is not listed must go");
    assert_eq!(fixture.root.instance(key).unwrap().cluster, Some(west));
}

#[test]
fn the_address_blocks_of_a_removed_cluster_rest() {
    let mut fixture = Fixture::new();
    let east = fixture.connected("east", 1_000);
    let given = fixture.root.cluster(east).unwrap().node_blocks.clone();
    fixture.away(east);
    fixture.remove_cluster(east, Removal::IfUnused).unwrap();
    fixture.restart();
    let west = fixture.connected("west", 1_000);
    assert_ne!(fixture.root.cluster(west).unwrap().node_blocks, given);
    assert_eq!(fixture.root.node_blocks.used(), 1);
}

#[test]
fn a_worker_is_forgotten_when_its_cluster_has_removed_it() {
    let mut fixture = Fixture::new();
    let east = fixture.connected("east", 1_000);
    let worker = WorkerId::from_parts(1, 1);
    fixture.root.remove_worker(worker, Removal::Forced).unwrap();
    fixture.commit();
    let asked = RootToCluster::RemoveWorker { worker, removal: Removal::Forced };
    assert_eq!(fixture.sent.last(), Some(&(east, asked)));
    assert!(fixture.root.find_worker("worker1").is_ok(), "its cluster has not said anything");
    let mut answers = Vec::new();
    // The second time is a repetition of a question.
    for message in [
        ClusterToRoot::WorkerKept { worker, reason: "it runs".into() },
        ClusterToRoot::WorkerRemoved(worker),
        ClusterToRoot::WorkerRemoved(worker),
    ] {
        fixture.root.cluster_message(at(0), east, 1, message).unwrap();
        answers.extend(fixture.root.take_outbox().effects.into_iter().filter_map(|effect| match effect {
            Effect::WorkerRemoval { kept, .. } => Some(kept),
            _ => None,
        }));
    }
    assert_eq!(answers, [Some("it runs".to_owned()), None, None]);
    assert!(fixture.root.find_worker("worker1").is_err());
    fixture.away(east);
    assert!(fixture.root.remove_worker(worker, Removal::Forced).is_err());
}
