//! Instances that their cluster cannot take, and another one perhaps can.

use super::*;

#[test]
fn an_instance_moves_to_another_cluster_only_after_the_first_has_nothing_left() {
    let mut fixture = Fixture::new();
    let service = fixture.service("web", memory(100));
    let east = fixture.connected("east", 1_000);
    let key = fixture.root.deploy(at(0), service).unwrap();
    let west = fixture.connected("west", 1_000);
    let generation = fixture.root.instance(key).unwrap().generation;
    fixture.report(east, refused(key, generation));
    assert!(matches!(fixture.sent.last(), Some((to, RootToCluster::Remove { .. })) if *to == east));
    assert_eq!(fixture.root.instance(key).unwrap().cluster, Some(east));

    fixture.confirm_removal(east, key);
    assert_eq!(fixture.root.instance(key).unwrap().cluster, Some(west));
    assert!(matches!(fixture.sent.last(), Some((to, RootToCluster::Set(_))) if *to == west));
}

#[test]
fn a_refused_instance_stays_when_no_other_cluster_can_take_it() {
    let mut fixture = Fixture::new();
    let service = fixture.service("web", memory(100));
    let east = fixture.connected("east", 1_000);
    fixture.connected("tiny", 10);
    let key = fixture.root.deploy(at(0), service).unwrap();
    let generation = fixture.root.instance(key).unwrap().generation;
    fixture.report(east, refused(key, generation));
    assert_eq!(fixture.root.instance(key).unwrap().cluster, Some(east));
    assert_eq!(fixture.status(key), (Status::NoWorkerCapacity, "full"));
}

/// Found by a fault planted for the system test: the instance went back and forth without end.
#[test]
fn an_instance_that_two_clusters_refuse_does_not_wander_between_them() {
    let mut fixture = Fixture::new();
    let service = fixture.service("web", memory(100));
    let east = fixture.connected("east", 1_000);
    let key = fixture.root.deploy(at(0), service).unwrap();
    let west = fixture.connected("west", 1_000);
    let generation = |fixture: &Fixture| fixture.root.instance(key).unwrap().generation;
    let report = refused(key, generation(&fixture));
    fixture.report(east, report);
    fixture.confirm_removal(east, key);
    let report = refused(key, generation(&fixture));
    fixture.report(west, report.clone());
    assert!(matches!(fixture.sent.last(), Some((_, RootToCluster::Set(_)))), "it stays for now");

    let later = ClusterToRoot::Instances(vec![report]);
    fixture.root.cluster_message(at(31_000), west, 1, later).unwrap();
    fixture.commit();
    assert!(matches!(fixture.sent.last(), Some((to, RootToCluster::Remove { .. })) if *to == west));
}

/// Clusters `east` and `west` with measured round trips, and an instance in `east` that must be near `east`.
fn bounded(within_us: u32) -> (Fixture, ClusterId, InstanceKey) {
    let mut fixture = Fixture::new();
    let mut spec = memory(100);
    spec.target.near.push(oak_model::AreaBound {
        area: oak_model::Area::Named("east".into()),
        limit: oak_model::Limit::RoundTripUs(within_us),
        strictness: oak_model::Strictness::default(),
    });
    let service = fixture.service("web", spec);
    let measured = |fixture: &mut Fixture, name, round_trip_us| {
        let cluster = fixture.connected(name, 1_000);
        let worker = WorkerSummary { round_trip_us: Some(500), ..summary(1, 1_000) };
        fixture.root.cluster_message(at(0), cluster, 1, ClusterToRoot::Workers(vec![worker])).unwrap();
        fixture.root.cluster_measured(at(0), cluster, 1, round_trip_us);
        cluster
    };
    let east = measured(&mut fixture, "east", 1_000);
    let key = fixture.root.deploy(at(0), service).unwrap();
    measured(&mut fixture, "west", 50_000);
    fixture.commit();
    assert_eq!(fixture.root.instance(key).unwrap().cluster, Some(east));
    (fixture, east, key)
}

#[test]
fn a_refused_instance_does_not_move_to_where_its_bounds_are_broken() {
    let (mut fixture, east, key) = bounded(10_000);
    for ms in [0, 31_000, 62_000] {
        let report = refused(key, fixture.root.instance(key).unwrap().generation);
        let message = ClusterToRoot::Instances(vec![report]);
        fixture.root.cluster_message(at(ms), east, 1, message).unwrap();
        fixture.commit();
        assert!(matches!(fixture.sent.last(), Some((to, RootToCluster::Set(_))) if *to == east), "{ms}");
    }
}

#[test]
fn a_cluster_that_may_have_decided_by_old_measurements_is_asked_once_more() {
    let (mut fixture, east, key) = bounded(90_000);
    let mut refuse = |ms| {
        let before = fixture.sent.len();
        let report = refused(key, fixture.root.instance(key).unwrap().generation);
        let message = ClusterToRoot::Instances(vec![report]);
        fixture.root.cluster_message(at(ms), east, 1, message).unwrap();
        fixture.commit();
        match fixture.sent.get(before..).unwrap() {
            [] => "nothing",
            [(to, RootToCluster::Set(_))] if *to == east => "asked",
            [(to, RootToCluster::Remove { .. })] if *to == east => "moved",
            other => panic!("{other:?}"),
        }
    };
    assert_eq!([0, 1_000, 31_000].map(&mut refuse), ["asked", "nothing", "moved"]);
}
