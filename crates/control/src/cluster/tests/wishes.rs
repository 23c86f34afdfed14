//! What the root wants: removing, wanting again, changing.

use super::*;

#[test]
fn a_removal_is_confirmed_only_after_the_worker_has_confirmed() {
    let mut fixture = Fixture::new();
    let one = fixture.worker("one");
    fixture.set(desired(0, 5, 100));
    let incarnation = fixture.placement(0).unwrap().incarnation;
    fixture.remove(0, 6);
    assert!(fixture.confirmed().is_empty());
    assert!(matches!(fixture.to_workers.last(), Some((_, ClusterToWorker::Remove { .. }))));
    fixture.says(one, 1, removed(0, Incarnation(incarnation.0 - 1)));
    assert!(fixture.confirmed().is_empty(), "that was an older one");
    fixture.says(one, 1, removed(0, incarnation));
    assert_eq!(fixture.confirmed(), [key(0)]);
    assert!(fixture.cluster.instance(key(0)).is_none());
}

#[test]
fn a_removal_outlives_restarts_and_is_repeated_to_a_returning_worker() {
    let mut fixture = Fixture::new();
    let one = fixture.worker("one");
    fixture.set(desired(0, 5, 100));
    fixture.remove(0, 6);
    fixture.restart_from(fixture.disk.clone());
    fixture.open(at(0), one, 2, Vec::new());
    assert!(fixture.welcomes.last().unwrap().1.assignments.is_empty());
    assert!(matches!(fixture.to_workers.last(), Some((_, ClusterToWorker::Remove { .. }))));
    fixture.tick(60_000);
    assert!(fixture.cluster.instance(key(0)).is_some(), "nobody else decides that it is gone");
}

#[test]
fn what_has_no_place_or_is_not_here_is_confirmed_at_once() {
    let mut fixture = Fixture::new();
    fixture.set(desired(0, 5, 100));
    fixture.remove(0, 6);
    fixture.remove(9, 7);
    assert_eq!(fixture.confirmed(), [key(0), key(9)]);
}

#[test]
fn older_wishes_of_the_root_are_refused() {
    let mut fixture = Fixture::new();
    fixture.worker("one");
    fixture.set(desired(0, 5, 100));
    fixture.set(desired(0, 4, 777));
    fixture.remove(0, 4);
    let placed = fixture.cluster.instance(key(0)).unwrap();
    assert_eq!((placed.desired.generation, placed.removing), (Generation(5), false));
    assert_eq!(placed.desired.spec.resources.memory_mib, 100);
    assert_eq!(fixture.cluster.hello().generation, Generation(5));
}

/// A root that restarts while it moves an instance has forgotten that it was moving.
#[test]
fn what_the_root_wants_back_during_its_removal_is_placed_anew_afterwards() {
    let mut fixture = Fixture::new();
    let one = fixture.worker("one");
    fixture.set(desired(0, 5, 100));
    let first = fixture.placement(0).unwrap();
    fixture.remove(0, 6);
    fixture.root_welcome(7, vec![desired(0, 7, 100)], &["10.18.0.0/20"]);
    fixture.restart_from(fixture.disk.clone());
    fixture.open(at(0), one, 2, Vec::new());
    fixture.says(one, 2, removed(0, first.incarnation));
    assert!(fixture.confirmed().is_empty());
    assert!(fixture.placement(0).unwrap().incarnation > first.incarnation);
    assert!(matches!(fixture.to_workers.last(), Some((_, ClusterToWorker::Assign(_)))));

    let second = fixture.placement(0).unwrap();
    fixture.remove(0, 8);
    fixture.says(one, 2, removed(0, second.incarnation));
    assert_eq!(fixture.confirmed(), [key(0)]);
    assert_eq!(fixture.cluster.fleet.reserved(one), Some((Resources::ZERO, 0)));
}

/// A root restored from an old copy gives a number again that its cluster knows with another address.
#[test]
fn a_changed_instance_replaces_the_old_one_on_its_worker() {
    let mut fixture = Fixture::new();
    let one = fixture.worker("one");
    fixture.set(desired(0, 5, 100));
    let first = fixture.placement(0).unwrap();
    fixture.set(desired(0, 6, 100));
    assert_eq!(fixture.placement(0), Some(first), "only the generation is new");
    let changed = DesiredInstance { instance_address: Ipv4Addr::new(10, 30, 9, 9), ..desired(0, 7, 300) };
    fixture.set(changed.clone());
    let second = fixture.placement(0).unwrap();
    assert_eq!(second.worker, one);
    assert!(second.incarnation > first.incarnation);
    let assignment = Assignment { incarnation: second.incarnation, desired: changed, organization: None };
    assert_eq!(fixture.to_workers.last(), Some(&(one, ClusterToWorker::Assign(assignment))));
    assert_eq!(fixture.cluster.fleet.reserved(one).unwrap().0.memory_mib, 300);
}

#[test]
fn a_completed_instance_frees_its_room_and_is_not_placed_again() {
    let mut fixture = Fixture::new();
    let one = fixture.worker("one");
    fixture.worker("two");
    fixture.set(desired(0, 5, 900));
    let placement = fixture.placement(0).unwrap();
    let report = fixture.report(0, Status::Completed);
    fixture.says(placement.worker, 1, WorkerToCluster::Workload(report));
    assert_eq!(fixture.cluster.fleet.reserved(placement.worker), Some((Resources::ZERO, 0)));
    fixture.close(0, placement.worker);
    fixture.tick(10_000);
    fixture.restart_from(fixture.disk.clone());
    fixture.open(at(0), one, 2, Vec::new());
    fixture.tick(60_000);
    assert_eq!(fixture.placement(0), Some(placement));
    assert_eq!(fixture.status(0).0, Status::Completed);
}
