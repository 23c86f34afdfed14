//! At most one: who may run what, and when an instance may be started elsewhere.

use super::*;

/// One of which at most one may run, on the first of two workers.
fn leased(settings: Settings) -> (Fixture, Placement, WorkerId) {
    let mut fixture = Fixture::with(settings);
    let workers = [fixture.worker("one"), fixture.worker("two")];
    let mut wanted = desired(0, 5, 100);
    Arc::make_mut(&mut wanted.spec).at_most_one = true;
    fixture.set(wanted);
    let place = fixture.placement(0).unwrap();
    let other = workers.into_iter().find(|id| *id != place.worker).unwrap();
    fixture.reports(0, place, Status::Running, "running");
    fixture.told();
    (fixture, place, other)
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn asks(fixture: &mut Fixture, ms: u64, worker: WorkerId, question: u64) -> Vec<(InstanceKey, Incarnation)> {
    fixture.told();
    fixture.says_at(ms, worker, 1, WorkerToCluster::RenewLeases { question });
    let told = fixture.told();
    let [(to, ClusterToWorker::Leases { question: answered, valid_for_ms, instances })] = &told[..] else {
        panic!("{told:?}")
    };
    let lease = u64::try_from(fixture.settings.lease.as_millis()).unwrap();
    assert_eq!((*to, *answered, *valid_for_ms), (worker, question, lease));
    instances.clone()
}

#[test]
fn a_worker_may_run_what_is_placed_on_it_and_nothing_else() {
    let (mut fixture, place, other) = leased(Settings::default());
    fixture.set(desired(1, 6, 100));
    assert_eq!(asks(&mut fixture, 0, place.worker, 7), [(key(0), place.incarnation)]);
    assert_eq!(asks(&mut fixture, 0, other, 1), []);
    fixture.remove(0, 8);
    assert_eq!(asks(&mut fixture, 0, place.worker, 8), [], "it is to go");
}

#[test]
fn it_is_not_placed_elsewhere_before_its_permission_has_ended() {
    let (mut fixture, place, other) = leased(Settings::default());
    asks(&mut fixture, 1_000, place.worker, 1);
    fixture.close(2_000, place.worker);
    fixture.run_until(5_000);
    let (status, detail) = fixture.status(0);
    assert_eq!(status, Status::ClusterScheduled);
    assert!(detail.contains("when its permission has ended, because at most one may run"), "{detail}");
    // 10 s from the answer, and a margin for the kill.
    fixture.run_until(11_499);
    assert_eq!(fixture.placement(0), Some(place));
    assert_eq!(orders(&fixture.told()), (vec![], vec![]));
    fixture.run_until(11_500);
    assert_eq!(fixture.placement(0).map(|place| place.worker), Some(other));
}

#[test]
fn without_a_permission_there_is_nothing_to_wait_for() {
    let (mut fixture, place, other) = leased(Settings::default());
    fixture.close(2_000, place.worker);
    fixture.run_until(5_000);
    assert_eq!(fixture.placement(0).map(|place| place.worker), Some(other));
}

#[test]
fn others_on_the_same_worker_do_not_wait() {
    let (mut fixture, place, _) = leased(Settings::default());
    fixture.set(desired(1, 6, 100));
    fixture.set(desired(2, 7, 100));
    let beside = (1..3).find(|number| fixture.placement(*number).unwrap().worker == place.worker).unwrap();
    asks(&mut fixture, 1_000, place.worker, 1);
    fixture.close(2_000, place.worker);
    fixture.run_until(5_000);
    assert_ne!(fixture.placement(beside).unwrap().worker, place.worker);
    assert_eq!(fixture.placement(0), Some(place));
}

#[test]
fn a_worker_that_is_back_before_the_end_goes_on_with_it() {
    let (mut fixture, place, _) = leased(Settings::default());
    asks(&mut fixture, 1_000, place.worker, 1);
    fixture.close(2_000, place.worker);
    fixture.run_until(6_000);
    let report = fixture.report(0, Status::Running);
    fixture.open(at(6_000), place.worker, 1, vec![report]);
    assert_eq!(fixture.welcomes.last().unwrap().1.assignments.len(), 1);
    assert_eq!(asks(&mut fixture, 6_000, place.worker, 2), [(key(0), place.incarnation)]);
    fixture.run_until(120_000);
    assert_eq!((fixture.placement(0), fixture.status(0).0), (Some(place), Status::Running));
}

#[test]
fn a_confirmed_stop_ends_the_wait_at_once() {
    let (mut fixture, place, other) = leased(Settings { lease: seconds(300), ..Settings::default() });
    asks(&mut fixture, 1_000, place.worker, 1);
    fixture.set_availability(2_000, place.worker, Availability::Draining);
    fixture.close(3_000, place.worker);
    fixture.run_until(60_000);
    assert_eq!(fixture.placement(0), None);
    // Back again, it is told to stop, and confirms.
    fixture.open(at(60_000), place.worker, 1, vec![]);
    fixture.says_at(60_500, place.worker, 1, removed(0, place.incarnation));
    assert_eq!(fixture.placement(0).map(|place| place.worker), Some(other));
}

#[test]
fn what_was_stopping_when_its_worker_was_lost_is_placed_when_the_permission_has_ended() {
    let (mut fixture, place, other) = leased(Settings::default());
    asks(&mut fixture, 1_000, place.worker, 1);
    fixture.set_availability(2_000, place.worker, Availability::Draining);
    fixture.close(3_000, place.worker);
    fixture.run_until(11_499);
    assert_eq!(fixture.placement(0), None);
    fixture.run_until(11_500);
    assert_eq!(fixture.placement(0).map(|place| place.worker), Some(other));
}

/// It does not know any more what it had permitted a moment before.
#[test]
fn after_a_restart_the_cluster_waits_as_if_it_had_just_permitted_everything() {
    let (mut fixture, place, other) = leased(Settings { lease: seconds(60), ..Settings::default() });
    fixture.restart_from(fixture.disk.clone());
    fixture.open(at(0), other, 1, vec![]);
    fixture.run_until(60_000);
    assert_eq!(fixture.placement(0), Some(place), "the permission ends now, and the kill takes time");
    fixture.run_until(60_500);
    assert_eq!(fixture.placement(0).map(|place| place.worker), Some(other));
}
