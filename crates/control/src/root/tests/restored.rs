//! A root that was put back to an older state, and clusters that do not come back to it.

use oak_model::message::{HeldInstance, Holdings};
use oak_model::sla::ServiceRequest;
use oak_model::{RolloutState, UpdatePolicy};
use oak_placement::Change as Proposal;

use super::*;

const PATIENCE_MS: u64 = 300_000;

/// A root with two clusters and this service, as it was when the backup was made: no cluster was connected.
fn backed_up(request: ServiceRequest) -> (Fixture, [ClusterId; 2], ServiceId) {
    let mut fixture = Fixture::new();
    fixture.root.begin_life(at(0), &mut fixture.entropy, false);
    let clusters = [fixture.cluster("east"), fixture.cluster("west")];
    let service = fixture.service_of(request);
    (fixture, clusters, service)
}

fn at_most_one() -> ServiceSpec {
    ServiceSpec { at_most_one: true, ..memory(100) }
}

impl Fixture {
    /// It starts from the backup, and one of its clusters comes back.
    fn restored_without_east(&mut self, west: ClusterId) {
        self.restart();
        self.root.begin_life(at(0), &mut self.entropy, true);
        self.open(west, 1, 1_000, Vec::new());
    }

    fn pass_to(&mut self, ms: u64) {
        while let Some(due) = self.root.next_deadline().filter(|due| due.0 <= ms) {
            self.root.tick(Now { moment: due, ..at(ms) });
            self.commit();
        }
    }
}

#[test]
fn it_goes_on_without_a_cluster_that_stays_away_and_says_so_before() {
    let (mut fixture, [_, west], service) = backed_up(request("web", memory(100)));
    let key = fixture.root.deploy(at(0), service).unwrap();
    fixture.restored_without_east(west);
    fixture.pass_to(PATIENCE_MS - 1);
    let (status, detail) = fixture.status(key);
    assert_eq!(status, Status::TargetClusterNotActive);
    assert_eq!(
        detail,
        "this root was restored from a backup and does not know yet what cluster east has of it; it waits for at \
         most 300 s"
    );
    let explained = fixture.root.explain(at(PATIENCE_MS - 1), service, Some(0)).unwrap();
    let mut reasons: Vec<_> =
        explained.clusters.iter().map(|asked| (&*asked.name, &*asked.reasons)).collect();
    reasons.sort_by_key(|(name, _)| *name);
    assert_eq!(
        reasons,
        [("east", &[ClusterReason::NotConnected, ClusterReason::NotKnown][..]), ("west", &[][..])],
        "the second one would take it"
    );
    assert_eq!(explained.changes, [Proposal::ConnectCluster { cluster: "east".into() }]);
    fixture.pass_to(PATIENCE_MS + 30_000);
    assert_eq!(fixture.root.instance(key).unwrap().cluster, Some(west));
}

#[test]
fn a_line_that_comes_and_goes_does_not_make_it_wait_longer() {
    let (mut fixture, [east, west], service) = backed_up(request("web", memory(100)));
    let key = fixture.root.deploy(at(0), service).unwrap();
    fixture.restored_without_east(west);
    // It followed another life of this root, and is gone before it has told what it holds.
    let lineage = Some(Lineage { root: 1, restored: 0 });
    for session in 2..20 {
        let now = at(session * 20_000);
        let hello = ClusterHello { lineage, ..ClusterHello::default() };
        fixture.root.cluster_opened(now, east, session, "192.0.2.1", hello).unwrap();
        fixture.root.cluster_closed(now, east, session);
        fixture.pass_to(now.moment.0);
    }
    assert_eq!(fixture.root.instance(key).unwrap().cluster, Some(west));
}

#[test]
fn what_may_run_at_most_once_waits_until_the_cluster_is_back() {
    let (mut fixture, [east, west], service) = backed_up(request("web", at_most_one()));
    let key = fixture.root.deploy(at(0), service).unwrap();
    fixture.restored_without_east(west);
    fixture.pass_to(10 * PATIENCE_MS);
    let (_, detail) = fixture.status(key);
    assert!(detail.ends_with(
        "cluster east has of it; at most one may run, so it waits until that is back or is removed"
    ));
    fixture.open(east, 1, 1_000, Vec::new());
    fixture.pass_to(10 * PATIENCE_MS + 30_000);
    assert!(fixture.root.instance(key).unwrap().cluster.is_some());
}

#[test]
fn the_number_of_instances_is_kept_again_when_the_time_is_over() {
    for (spec, expected) in [(memory(100), 2), (at_most_one(), 0)] {
        let (mut fixture, [_, west], service) =
            backed_up(ServiceRequest { replicas: Some(2), ..request("web", spec) });
        fixture.root.remove_instances(at(0), service);
        fixture.restored_without_east(west);
        fixture.pass_to(PATIENCE_MS - 1);
        assert_eq!(fixture.root.instances_of(service).count(), 0, "east may have them");
        fixture.pass_to(2 * PATIENCE_MS);
        assert_eq!(fixture.root.instances_of(service).count(), expected);
        let asked = fixture.root.explain(at(2 * PATIENCE_MS), service, None).unwrap();
        assert_eq!(asked.detail.contains("cluster east has of it"), expected == 0, "{}", asked.detail);
    }
}

#[test]
fn an_update_says_what_it_waits_for() {
    let update = |image: &str| ServiceRequest {
        update: UpdatePolicy { min_ready_s: 0, ..UpdatePolicy::default() },
        ..request("web", ServiceSpec { image: image.into(), ..at_most_one() })
    };
    let (mut fixture, [_, west], service) = backed_up(update("one"));
    fixture.restored_without_east(west);
    fixture.root.change_service(at(0), service, update("two")).unwrap();
    fixture.pass_to(2 * PATIENCE_MS);
    let progress =
        fixture.root.progress(at(2 * PATIENCE_MS), fixture.root.service(service).unwrap()).unwrap();
    assert_eq!(progress.state, RolloutState::Running);
    assert!(progress.detail.contains("what cluster east has of it"), "{}", progress.detail);
}

#[test]
fn a_cluster_that_joins_it_for_the_first_time_is_not_waited_for() {
    let (mut fixture, [east, west], service) = backed_up(request("web", at_most_one()));
    fixture.restored_without_east(west);
    fixture.open(east, 1, 1_000, Vec::new());
    fixture.cluster("new");
    let key = fixture.root.deploy(at(0), service).unwrap();
    assert!(fixture.root.instance(key).unwrap().cluster.is_some(), "{:?}", fixture.status(key));
}

/// A root with an empty disk, and the cluster of another one that joined it with what it holds: two of three replicas.
fn rebuilt() -> (Fixture, ServiceId) {
    let mut former = Fixture::new();
    former.connected("east", 1_000);
    let service = former.service_of(ServiceRequest { replicas: Some(3), ..request("web", at_most_one()) });
    former.pass_to(60_000);
    let instances: Vec<_> = former.root.instances_of(service).map(|instance| instance.key).take(2).collect();
    let report = |key: InstanceKey| running(key, former.root.instance(key).unwrap().generation);
    let holdings = Holdings {
        applications: former.root.applications().cloned().collect(),
        services: vec![former.root.service(service).unwrap().clone()],
        instances: instances
            .iter()
            .map(|key| HeldInstance { desired: former.root.wish(*key).unwrap(), report: report(*key) })
            .collect(),
    };
    let mut fixture = Fixture::new();
    fixture.root.begin_life(at(0), &mut fixture.entropy, false);
    let east = fixture.cluster("east");
    let lineage = Some(Lineage { root: 1, restored: 0 });
    let hello = ClusterHello { lineage, ..ClusterHello::default() };
    fixture.root.cluster_opened(at(0), east, 1, "192.0.2.1", hello).unwrap();
    fixture.root.holdings_received(at(0), east, holdings);
    fixture.commit();
    (fixture, service)
}

#[test]
fn a_root_that_lost_its_disk_waits_for_others_before_it_replaces_what_they_may_have() {
    let (mut fixture, service) = rebuilt();
    fixture.pass_to(PATIENCE_MS - 1);
    assert_eq!(fixture.root.instances_of(service).count(), 2);
    fixture.pass_to(2 * PATIENCE_MS);
    assert_eq!(fixture.root.instances_of(service).count(), 3);
    fixture.restart();
    fixture.root.remove_instance(at(1), InstanceKey { service, number: 0 });
    fixture.pass_to(PATIENCE_MS / 2);
    assert_eq!(fixture.root.instances_of(service).count(), 3, "it does not wait once more");
}

#[test]
fn neither_does_it_replace_anything_when_it_is_started_again_meanwhile() {
    let (mut fixture, service) = rebuilt();
    fixture.pass_to(PATIENCE_MS - 1);
    fixture.restart();
    fixture.pass_to(PATIENCE_MS - 1);
    assert_eq!(fixture.root.instances_of(service).count(), 2);
    fixture.pass_to(2 * PATIENCE_MS);
    assert_eq!(fixture.root.instances_of(service).count(), 3);
}
