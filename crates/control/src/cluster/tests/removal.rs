//! Removing workers: what stays, what is placed elsewhere, and that nothing is left.

use oak_model::Removal;

use super::*;

impl Fixture {
    fn remove_worker(&mut self, ms: u64, id: WorkerId, removal: Removal) -> Result<(), WorkerKept> {
        let result = self.cluster.remove_worker(at(ms), id, removal);
        self.commit();
        result
    }

    /// Nothing here or on the disk refers to a worker.
    fn nothing_is_left_of(&self, id: WorkerId) {
        assert!(self.cluster.worker(id).is_none());
        assert!(!self.cluster.held.contains_key(&id) && !self.cluster.draining.contains(&id));
        assert!(self.cluster.alarms.iter().all(|(_, other)| *other != id));
        assert!(self.cluster.fleet.worker(id).is_none());
        for placed in self.cluster.placed() {
            assert!(placed.places().all(|place| place.worker != id), "{placed:?}");
        }
        let text = id.to_string();
        for ((table, key), document) in self.disk.iter().filter(|((table, _), _)| *table != Table::Token) {
            let document = String::from_utf8_lossy(document);
            assert!(*key != text && !document.contains(&text), "{table:?} {key}: {document}");
        }
    }

    fn removals_told(&self) -> Vec<WorkerId> {
        let told = self.to_root.iter().filter_map(|message| match message {
            ClusterToRoot::WorkerRemoved(id) => Some(*id),
            _ => None,
        });
        told.collect()
    }
}

#[test]
fn an_empty_worker_that_is_off_is_removed_and_nothing_is_left() {
    let mut fixture = Fixture::new();
    let one = fixture.worker("one");
    fixture.set_availability(0, one, Availability::Draining);
    fixture.close(1_000, one);
    assert_eq!(fixture.remove_worker(1_500, one, Removal::IfUnused), Ok(()));
    fixture.nothing_is_left_of(one);
    assert_eq!((fixture.removals_told(), fixture.dismissed.len()), (vec![one], 0));
    fixture.restart_from(fixture.disk.clone());
    assert_eq!(fixture.cluster.workers().count(), 0);
    assert_eq!(fixture.remove_worker(2_000, one, Removal::Forced), Err(WorkerKept::Unknown(one)));
}

#[test]
fn a_connected_worker_stays_unless_it_is_forced_and_is_sent_away_then() {
    let mut fixture = Fixture::new();
    let (one, two) = (fixture.worker("one"), fixture.worker("two"));
    fixture.set(desired(0, 5, 100));
    let place = fixture.placement(0).unwrap();
    let other = if place.worker == one { two } else { one };
    let before = fixture.disk.clone();
    let kept = fixture.remove_worker(0, place.worker, Removal::IfUnused).unwrap_err();
    assert!(matches!(kept, WorkerKept::Connected(_)) && kept.to_string().contains("oak drain"), "{kept}");
    assert_eq!(fixture.disk, before, "nothing was changed");
    fixture.told();
    assert_eq!(fixture.remove_worker(0, place.worker, Removal::Forced), Ok(()));
    fixture.nothing_is_left_of(place.worker);
    assert_eq!(fixture.dismissed, [(place.worker, 1)]);
    let now = fixture.placement(0).unwrap();
    assert!(now.worker == other && now.incarnation > place.incarnation);
    assert_eq!(orders(&fixture.told()), (vec![(0, now)], vec![]));
    // What it still says is history, and a hello that was on its way is refused.
    fixture.reports(0, place, Status::Failed, "no");
    assert_eq!(fixture.status(0).0, Status::NodeScheduled);
    fixture.open(at(100), place.worker, 7, Vec::new());
    assert_eq!(fixture.dismissed.last(), Some(&(place.worker, 7)));
    assert_eq!(fixture.cluster.workers().count(), 1);
}

#[test]
fn what_has_no_other_place_keeps_its_worker_and_waits_when_that_is_forced_away() {
    let mut fixture = Fixture::new();
    let one = fixture.worker("one");
    fixture.set(desired(0, 5, 100));
    fixture.close(0, one);
    fixture.run_until(5_000);
    let kept = fixture.remove_worker(5_000, one, Removal::IfUnused).unwrap_err().to_string();
    assert!(kept.contains("worker one still has 1 instance (app.test.web.test/0)"), "{kept}");
    assert_eq!(fixture.remove_worker(5_000, one, Removal::Forced), Ok(()));
    fixture.nothing_is_left_of(one);
    assert_eq!((fixture.placement(0), fixture.status(0).0), (None, Status::NoQualifiedWorkerFound));
    fixture.restart_from(fixture.disk.clone());
    let two = fixture.worker("two");
    fixture.run_until(60_000);
    assert_eq!(fixture.placement(0).map(|place| place.worker), Some(two), "nothing is lost");
}

#[test]
fn what_was_moving_there_stays_and_what_was_moving_away_has_moved() {
    let mut fixture = Fixture::with(Settings { handover: Duration::from_secs(60), ..Settings::default() });
    let (one, two) = (fixture.worker("one"), fixture.worker("two"));
    fixture.set(desired(0, 5, 100));
    let place = fixture.placement(0).unwrap();
    let other = if place.worker == one { two } else { one };
    fixture.reports(0, place, Status::Running, "running");
    fixture.set_availability(0, place.worker, Availability::Draining);
    let successor = fixture.placed(0).successor.unwrap();
    assert_eq!(successor.worker, other);
    // The new place is lost: the old one goes on.
    let disk = fixture.disk.clone();
    assert_eq!(fixture.remove_worker(0, other, Removal::Forced), Ok(()));
    fixture.nothing_is_left_of(other);
    assert_eq!((fixture.placement(0), fixture.placed(0).successor), (Some(place), None));
    // The old place is lost: the new one is the only one.
    fixture.restart_from(disk);
    assert_eq!(fixture.remove_worker(0, place.worker, Removal::Forced), Ok(()));
    fixture.nothing_is_left_of(place.worker);
    assert_eq!((fixture.placement(0), fixture.placed(0).successor), (Some(successor), None));
}

#[test]
fn what_is_to_go_is_gone_with_its_worker() {
    let mut fixture = Fixture::new();
    let one = fixture.worker("one");
    fixture.set(desired(0, 5, 100));
    fixture.close(0, one);
    fixture.remove(0, 6);
    assert_eq!(fixture.confirmed(), []);
    assert_eq!(fixture.remove_worker(100, one, Removal::IfUnused), Ok(()), "nothing is lost with it");
    assert_eq!(fixture.confirmed(), [key(0)]);
    assert_eq!(fixture.cluster.placed().count(), 0);
}

#[test]
fn what_has_ended_is_not_run_again_elsewhere() {
    let mut fixture = Fixture::new();
    let (one, two) = (fixture.worker("one"), fixture.worker("two"));
    fixture.set(desired(0, 5, 100));
    let place = fixture.placement(0).unwrap();
    fixture.reports(0, place, Status::Completed, "exit code 0");
    fixture.close(0, place.worker);
    assert_eq!(fixture.remove_worker(100, place.worker, Removal::IfUnused), Ok(()));
    fixture.nothing_is_left_of(place.worker);
    let last = fixture.to_root.iter().rev().find_map(|message| match message {
        ClusterToRoot::Instances(reports) => Some(reports[0].clone()),
        _ => None,
    });
    let last = last.unwrap();
    assert_eq!((last.status, last.worker, last.ended), (Status::Completed, None, true));
    fixture.restart_from(fixture.disk.clone());
    for worker in [one, two].into_iter().filter(|id| *id != place.worker) {
        fixture.open(at(0), worker, 2, Vec::new());
    }
    fixture.run_until(120_000);
    assert_eq!((fixture.placement(0), fixture.status(0).0), (None, Status::Completed));
}

#[test]
fn at_most_one_runs_whatever_the_operator_says_about_a_worker_that_is_there() {
    let mut fixture = Fixture::new();
    let (one, two) = (fixture.worker("one"), fixture.worker("two"));
    let mut wanted = desired(0, 5, 100);
    Arc::make_mut(&mut wanted.spec).at_most_one = true;
    fixture.set(wanted);
    let place = fixture.placement(0).unwrap();
    let other = if place.worker == one { two } else { one };
    fixture.reports(0, place, Status::Running, "running");
    fixture.says_at(1_000, place.worker, 1, WorkerToCluster::RenewLeases { question: 1 });
    let kept = fixture.remove_worker(1_500, place.worker, Removal::Forced).unwrap_err().to_string();
    assert!(kept.contains("is connected, so it is not gone"), "{kept}");
    fixture.close(2_000, place.worker);
    let kept = fixture.remove_worker(3_000, place.worker, Removal::IfUnused).unwrap_err().to_string();
    assert!(kept.contains("until its permission ends in 9 s") && kept.contains("surely off"), "{kept}");
    assert_eq!(fixture.placement(0), Some(place));
    // The operator has seen that the machine is off.
    let disk = fixture.disk.clone();
    assert_eq!(fixture.remove_worker(3_000, place.worker, Removal::Forced), Ok(()));
    assert_eq!(fixture.placement(0).map(|place| place.worker), Some(other));
    // Nobody knows what was permitted before a restart.
    fixture.restart_from(disk);
    let kept = fixture.remove_worker(0, place.worker, Removal::IfUnused).unwrap_err();
    assert!(matches!(kept, WorkerKept::MayRunOnlyOne { .. }), "{kept}");
    fixture.open(at(0), other, 1, Vec::new());
    fixture.run_until(20_000);
    assert_eq!(fixture.placement(0).map(|place| place.worker), Some(other));
    assert_eq!(fixture.remove_worker(20_000, place.worker, Removal::IfUnused), Ok(()));
}

#[test]
fn the_root_is_told_why_a_worker_stays_and_that_it_is_gone_as_often_as_it_asks() {
    let mut fixture = Fixture::new();
    let one = fixture.worker("one");
    let ask = |fixture: &mut Fixture, removal| {
        fixture.to_root.clear();
        fixture.cluster.root_message(at(0), RootToCluster::RemoveWorker { worker: one, removal });
        fixture.commit();
    };
    ask(&mut fixture, Removal::IfUnused);
    let [ClusterToRoot::WorkerKept { worker, reason }] = &fixture.to_root[..] else {
        panic!("{:?}", fixture.to_root)
    };
    assert!(*worker == one && reason.starts_with("worker one is connected"), "{reason}");
    for _ in 0..2 {
        ask(&mut fixture, Removal::Forced);
        assert_eq!(fixture.to_root, [ClusterToRoot::WorkerRemoved(one)]);
    }
}

#[test]
fn the_machine_joins_again_only_with_a_new_token_and_as_another_worker() {
    let mut fixture = Fixture::new();
    let one = fixture.worker("one");
    fixture.close(0, one);
    fixture.remove_worker(0, one, Removal::IfUnused).unwrap();
    assert_eq!(fixture.enrol("one", "one", "one"), Err(TokenRefused::Removed));
    // The root sends tokens that are not expired again with each welcome.
    fixture.token("one");
    assert_eq!(fixture.enrol("one", "one", "one"), Err(TokenRefused::Removed));
    fixture.token("new");
    let again = fixture.enrol("new", "one", "one").unwrap();
    assert_ne!(again, one);
    assert_eq!(fixture.cluster.worker(again).unwrap().facts.name, "one");
}

#[test]
fn the_subnet_of_a_removed_worker_rests() {
    let mut fixture = Fixture::new();
    let subnet = |fixture: &Fixture, id| fixture.cluster.worker(id).unwrap().subnet.unwrap();
    let one = fixture.worker("one");
    let given = subnet(&fixture, one);
    fixture.close(0, one);
    fixture.remove_worker(0, one, Removal::IfUnused).unwrap();
    fixture.restart_from(fixture.disk.clone());
    let mut last = None;
    for number in 0..32 {
        assert_ne!(last, Some(given), "worker {number}");
        let id = fixture.worker(&format!("worker{number}"));
        last = Some(subnet(&fixture, id));
    }
    assert_eq!(last, Some(given), "the last of all to be given again");
}
