//! Opening and closing workers, and moves on purpose.

use oak_model::Availability::{Cordoned, Draining, Open};

use super::*;

/// Two workers; instance 0 runs on the first that is returned, which nothing else does.
fn running(change: impl FnOnce(&mut ServiceSpec)) -> (Fixture, Placement, WorkerId) {
    let mut fixture = Fixture::new();
    let workers = [fixture.worker("one"), fixture.worker("two")];
    fixture.set(with_spec(0, change));
    let place = fixture.placement(0).unwrap();
    let other = workers.into_iter().find(|id| *id != place.worker).unwrap();
    fixture.reports(0, place, Status::Running, "running");
    fixture.told();
    (fixture, place, other)
}

fn with_spec(number: u32, change: impl FnOnce(&mut ServiceSpec)) -> DesiredInstance {
    let mut wanted = desired(number, 5, 100);
    change(Arc::make_mut(&mut wanted.spec));
    wanted
}

fn name_of(fixture: &Fixture, id: WorkerId) -> String {
    fixture.cluster.worker_name(id)
}

#[test]
fn the_old_one_is_told_to_stop_only_when_the_new_one_runs() {
    let (mut fixture, old, other) = running(|_| {});
    fixture.set_availability(0, old.worker, Draining);
    let (assigned, gone) = orders(&fixture.told());
    let [(0, new)] = assigned[..] else { panic!("{assigned:?}") };
    assert_eq!((new.worker, gone), (other, vec![]));
    assert!(new.incarnation > old.incarnation);
    assert_eq!(fixture.placement(0), Some(old));

    fixture.reports(0, new, Status::NodeScheduled, "pulling the image, 7 %");
    let name = name_of(&fixture, other);
    assert_eq!(
        fixture.status(0),
        (Status::Running, &*format!("moving to worker {name}: pulling the image, 7 %"))
    );
    assert_eq!(orders(&fixture.told()), (vec![], vec![]));

    fixture.reports(0, new, Status::Running, "running");
    assert_eq!(orders(&fixture.told()), (vec![], vec![(0, old)]));
    assert_eq!((fixture.placement(0), fixture.status(0)), (Some(new), (Status::Running, "running")));
    assert_eq!(fixture.left_on(old.worker), 1, "it is not empty before the old one is gone");
    fixture.says(old.worker, 1, removed(0, old.incarnation));
    assert_eq!((fixture.left_on(old.worker), fixture.left_on(other)), (0, 1));
    assert!(fixture.placed(0).retiring.is_empty());
}

/// A program needs a moment until it listens, and nobody else knows when it does.
#[test]
fn both_run_for_a_moment() {
    let (mut fixture, old, _) = running(|_| {});
    fixture.cluster.settings.handover = Duration::from_secs(1);
    fixture.set_availability(0, old.worker, Draining);
    let (assigned, _) = orders(&fixture.told());
    let [(0, new)] = assigned[..] else { panic!("{assigned:?}") };
    fixture.reports(0, new, Status::Running, "running");
    assert_eq!(orders(&fixture.told()), (vec![], vec![]));
    fixture.reports(0, new, Status::Failed, "it ended at once");
    fixture.run_until(60_000);
    assert_eq!((fixture.placement(0), orders(&fixture.told())), (Some(old), (vec![], vec![])));
    fixture.reports(0, new, Status::Running, "running");
    fixture.run_until(120_000);
    assert_eq!((fixture.placement(0), orders(&fixture.told()).1), (Some(new), vec![(0, old)]));
}

#[test]
fn a_one_shot_is_left_to_finish() {
    let (mut fixture, place, _) = running(|spec| spec.one_shot = true);
    fixture.set_availability(0, place.worker, Draining);
    fixture.run_until(120_000);
    assert_eq!((fixture.told(), fixture.placement(0)), (vec![], Some(place)));
    assert_eq!(fixture.left_on(place.worker), 1);
    fixture.reports(0, place, Status::Completed, "done");
    assert_eq!(fixture.left_on(place.worker), 0);
}

#[test]
fn of_what_at_most_one_may_run_the_old_one_stops_first() {
    let (mut fixture, old, other) = running(|spec| spec.at_most_one = true);
    fixture.set_availability(0, old.worker, Draining);
    assert_eq!(orders(&fixture.told()), (vec![], vec![(0, old)]));
    let name = name_of(&fixture, old.worker);
    let waits = format!("waiting until worker {name} has stopped it, because at most one may run");
    assert_eq!(fixture.status(0), (Status::ClusterScheduled, &*waits));
    fixture.run_until(120_000);
    assert_eq!(orders(&fixture.told()), (vec![], vec![]));
    fixture.says_at(120_000, old.worker, 1, removed(0, old.incarnation));
    let (assigned, gone) = orders(&fixture.told());
    assert!(matches!(assigned[..], [(0, new)] if new.worker == other), "{assigned:?}");
    assert_eq!(gone, []);
}

#[test]
fn what_can_stay_only_here_stays_when_at_most_one_may_run() {
    let (mut fixture, place, _) = running(|spec| {
        spec.at_most_one = true;
        spec.resources.memory_mib = 600;
    });
    let other = fixture.worker_named(if name_of(&fixture, place.worker) == "one" { "two" } else { "one" });
    let mut big = desired(7, 6, 600);
    Arc::make_mut(&mut big.spec).target.workers = vec![name_of(&fixture, other)];
    fixture.set(big);
    fixture.told();
    fixture.set_availability(0, place.worker, Draining);
    fixture.run_until(120_000);
    assert_eq!(orders(&fixture.told()), (vec![], vec![]), "it is not stopped for nothing");
    assert_eq!(fixture.status(0).0, Status::Running);
}

#[test]
fn when_the_drained_worker_is_lost_the_successor_takes_over() {
    let (mut fixture, old, _) = running(|_| {});
    fixture.set_availability(0, old.worker, Draining);
    let new = fixture.placed(0).successor.unwrap();
    fixture.close(1_000, old.worker);
    fixture.run_until(4_000);
    assert_eq!(fixture.placement(0), Some(new));
    assert_eq!(fixture.status(0).0, Status::NodeScheduled, "it does not run yet");
    fixture.reports(0, new, Status::Running, "running");
    assert_eq!(fixture.status(0).0, Status::Running);

    let report = WorkloadReport { incarnation: old.incarnation, ..fixture.report(0, Status::Running) };
    fixture.told();
    fixture.open(at(9_000), old.worker, 2, vec![report]);
    assert!(fixture.welcomes.last().unwrap().1.assignments.is_empty());
    assert_eq!(orders(&fixture.told()), (vec![], vec![(0, old)]));
    fixture.says(old.worker, 2, removed(0, old.incarnation));
    assert_eq!(fixture.left_on(old.worker), 0);
}

/// The worker of the successor has said that it runs, and will not say so again.
#[test]
fn a_successor_that_runs_when_the_drained_worker_is_lost_is_known_to_run() {
    let (mut fixture, old, _) = running(|_| {});
    fixture.cluster.settings.handover = Duration::from_secs(60);
    fixture.set_availability(0, old.worker, Draining);
    let new = fixture.placed(0).successor.unwrap();
    fixture.reports(0, new, Status::Running, "running");
    assert_eq!(fixture.placement(0), Some(old), "both run for a moment");
    fixture.close(1_000, old.worker);
    fixture.run_until(4_000);
    assert_eq!((fixture.placement(0), fixture.status(0)), (Some(new), (Status::Running, "running")));
}

#[test]
fn when_the_worker_of_the_successor_is_lost_another_one_is_found() {
    let (mut fixture, old, other) = running(|_| {});
    fixture.set_availability(0, old.worker, Draining);
    let first = fixture.placed(0).successor.unwrap();
    let three = fixture.worker("three");
    fixture.told();
    fixture.close(1_000, other);
    fixture.run_until(4_000);
    let (assigned, gone) = orders(&fixture.told());
    assert!(matches!(assigned[..], [(0, new)] if new.worker == three), "{assigned:?}");
    assert_eq!((gone, fixture.placement(0)), (vec![], Some(old)));
    assert_eq!(fixture.placed(0).retiring, [first], "it may still be there");
}

#[test]
fn a_worker_that_is_drained_while_something_moves_to_it_is_emptied_too() {
    let (mut fixture, old, other) = running(|_| {});
    fixture.set_availability(0, old.worker, Draining);
    let new = fixture.placed(0).successor.unwrap();
    fixture.set_availability(0, other, Draining);
    let three = fixture.worker("three");
    fixture.told();
    fixture.reports(0, new, Status::Running, "running");
    let (assigned, gone) = orders(&fixture.told());
    assert!(matches!(assigned[..], [(0, next)] if next.worker == three), "{assigned:?}");
    assert_eq!(gone, [(0, old)]);
}

#[test]
fn a_removal_during_a_move_removes_both() {
    let (mut fixture, old, _) = running(|_| {});
    fixture.set_availability(0, old.worker, Draining);
    let new = fixture.placed(0).successor.unwrap();
    fixture.told();
    fixture.remove(0, 6);
    let (assigned, gone) = orders(&fixture.told());
    assert!(assigned.is_empty() && gone.contains(&(0, old)) && gone.contains(&(0, new)), "{gone:?}");
    fixture.says(new.worker, 1, removed(0, new.incarnation));
    assert!(fixture.confirmed().is_empty(), "the other one may still run");
    fixture.says(old.worker, 1, removed(0, old.incarnation));
    assert_eq!(fixture.confirmed(), [key(0)]);
    assert_eq!((fixture.left_on(old.worker), fixture.left_on(new.worker)), (0, 0));
}

#[test]
fn what_finds_no_other_place_says_why_and_moves_when_there_is_one() {
    let mut fixture = Fixture::new();
    let one = fixture.worker("one");
    fixture.set(desired(0, 5, 100));
    let place = fixture.placement(0).unwrap();
    fixture.reports(0, place, Status::Running, "running");
    fixture.set_availability(0, one, Draining);
    let detail = "cannot leave worker one, which is being drained: one: cordoned";
    assert_eq!(fixture.status(0), (Status::Running, detail));
    let ClusterToRoot::Instances(reports) = fixture.to_root.last().unwrap() else { panic!("not reported") };
    assert_eq!(reports[0].detail, detail);

    let two = fixture.worker("two");
    fixture.run_until(200);
    assert_eq!(
        fixture.placed(0).successor.map(|place| place.worker),
        Some(two),
        "soon, not in half a minute"
    );
}

#[test]
fn a_closed_worker_keeps_what_it_has_and_gets_nothing_new() {
    let (mut fixture, place, other) = running(|_| {});
    fixture.set_availability(0, place.worker, Cordoned);
    for number in 1..5 {
        fixture.set(desired(number, 10, 100));
        assert_eq!(fixture.placement(number).unwrap().worker, other);
    }
    assert_eq!(fixture.placement(0), Some(place));
    assert!(fixture.placed(0).successor.is_none());
    fixture.set_availability(0, place.worker, Open);
    fixture.set(desired(9, 11, 100));
    assert_eq!(fixture.placement(9).unwrap().worker, place.worker, "it has less");
}

#[test]
fn an_opened_worker_keeps_what_has_not_begun_to_leave() {
    let mut fixture = Fixture::new();
    let one = fixture.worker("one");
    fixture.set(desired(0, 5, 600));
    fixture.set(desired(1, 6, 100));
    for number in [0, 1] {
        let place = fixture.placement(number).unwrap();
        fixture.reports(number, place, Status::Running, "running");
    }
    // Room for the small one only.
    let two = fixture.worker("two");
    let mut big = desired(7, 7, 600);
    Arc::make_mut(&mut big.spec).target.workers = vec!["two".into()];
    fixture.set(big);
    fixture.set_availability(0, one, Draining);
    let new = fixture.placed(1).successor.unwrap();
    assert!(fixture.status(0).1.starts_with("cannot leave worker one"));
    fixture.set_availability(0, one, Open);
    assert_eq!(fixture.status(0), (Status::Running, "running"));
    fixture.reports(1, new, Status::Running, "running");
    assert_eq!(fixture.placement(1), Some(new), "what had begun is finished");
    assert_eq!(new.worker, two);
    fixture.run_until(120_000);
    assert!(fixture.placed(0).successor.is_none());
}

#[test]
fn ten_at_a_time_move() {
    let mut fixture = Fixture::new();
    let one = fixture.worker("one");
    for number in 0..25 {
        fixture.set(desired(number, 5, 10));
        let place = fixture.placement(number).unwrap();
        fixture.reports(number, place, Status::Running, "running");
    }
    let two = fixture.worker("two");
    fixture.set_availability(0, one, Draining);
    let moving = |fixture: &Fixture| {
        let of = fixture
            .cluster
            .placed()
            .filter_map(|placed| Some((placed.desired.key.number, placed.successor?)));
        of.collect::<Vec<_>>()
    };
    let mut rounds = 0;
    while fixture.left_on(one) > 0 {
        let under_way = moving(&fixture);
        assert!(!under_way.is_empty() && under_way.len() <= 10, "{under_way:?}");
        let (number, new) = under_way[0];
        let old = fixture.placement(number).unwrap();
        fixture.reports(number, new, Status::Running, "running");
        assert!(moving(&fixture).len() < 10, "the old one counts until it is gone");
        fixture.says(one, 1, removed(number, old.incarnation));
        rounds += 1;
    }
    assert_eq!((rounds, fixture.left_on(two)), (25, 25));
}

/// Whatever the last thing was that reached the disk, the move is finished.
#[test]
fn a_move_goes_on_after_a_restart_at_any_step() {
    for steps in 0..4 {
        let (mut fixture, old, other) = running(|_| {});
        if steps > 0 {
            fixture.set_availability(0, old.worker, Draining);
        }
        let successor = fixture.placed(0).successor;
        if steps > 1 {
            fixture.reports(0, successor.unwrap(), Status::Running, "running");
        }
        if steps > 2 {
            fixture.says(old.worker, 1, removed(0, old.incarnation));
        }
        fixture.restart_from(fixture.disk.clone());
        // Both come back with what they had; the new one may not have heard of its assignment.
        let running = |place: Placement| WorkloadReport {
            key: key(0),
            incarnation: place.incarnation,
            status: Status::Running,
            detail: "running".into(),
            address: None,
        };
        let on_old = if steps > 2 { vec![] } else { vec![running(old)] };
        fixture.open(at(0), old.worker, 1, on_old);
        fixture.open(at(0), other, 1, vec![]);
        fixture.set_availability(0, old.worker, Draining);

        let last_welcome = fixture.welcomes.iter().rev().find(|(id, _)| *id == other).unwrap().1.clone();
        let (assigned, _) = orders(&fixture.told());
        let new = fixture.placed(0).successor.or(fixture.placement(0)).unwrap();
        assert_eq!(new.worker, other, "step {steps}");
        let is_told = assigned.contains(&(0, new))
            || last_welcome.assignments.iter().any(|assignment| assignment.incarnation == new.incarnation);
        assert!(is_told, "step {steps}");
        fixture.reports(0, new, Status::Running, "running");
        fixture.says(old.worker, 1, removed(0, old.incarnation));
        let placed = fixture.placed(0);
        assert_eq!(placed.placement, Some(new), "step {steps}");
        assert!(placed.successor.is_none() && placed.retiring.is_empty(), "step {steps}: {placed:?}");
        assert_eq!((fixture.left_on(old.worker), fixture.left_on(other)), (0, 1), "step {steps}");
    }
}

#[test]
fn a_stop_before_a_move_goes_on_after_a_restart() {
    let (mut fixture, old, other) = running(|spec| spec.at_most_one = true);
    fixture.set_availability(0, old.worker, Draining);
    fixture.restart_from(fixture.disk.clone());
    fixture.open(at(0), other, 1, vec![]);
    fixture.run_until(5_000);
    assert_eq!(fixture.placement(0), None, "the old one may still run");
    fixture.open(at(5_000), old.worker, 1, vec![]);
    assert_eq!(orders(&fixture.told()), (vec![], vec![(0, old)]));
    fixture.says_at(5_000, old.worker, 1, removed(0, old.incarnation));
    assert_eq!(fixture.placement(0).map(|place| place.worker), Some(other));
}

#[test]
fn availability_outlives_restarts_and_every_wish_is_answered() {
    let (mut fixture, place, _) = running(|_| {});
    let answers = |fixture: &Fixture| {
        let summaries = fixture.to_root.iter().filter_map(|message| match message {
            ClusterToRoot::Workers(workers) => Some(workers[0].availability),
            _ => None,
        });
        summaries.collect::<Vec<_>>()
    };
    fixture.set_availability(0, place.worker, Cordoned);
    fixture.to_root.clear();
    fixture.set_availability(0, place.worker, Cordoned);
    assert_eq!(answers(&fixture), [Cordoned], "also one that changes nothing");
    fixture.restart_from(fixture.disk.clone());
    let hello = fixture.cluster.hello();
    let summary = hello.workers.iter().find(|worker| worker.id == place.worker).unwrap();
    assert_eq!(summary.availability, Cordoned);
    fixture.open(at(0), place.worker, 1, vec![]);
    fixture.set(desired(3, 9, 100));
    assert_eq!(fixture.placement(3), None, "the other one is away");

    fixture.to_root.clear();
    fixture.set_availability(0, WorkerId::from_parts(9, 9), Draining);
    assert!(fixture.to_root.is_empty());
}
