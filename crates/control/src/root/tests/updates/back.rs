//! Updates that fail or are called off: the way back, and the way out when there is none.

use super::super::super::keep::MAX_FORMER;
use super::*;

/// Two instances of a service, on their way back to what does not run either.
fn stuck() -> (Site, ServiceId) {
    let mut site = Site::new(10_000);
    let id = site.create(wanted(image("bad"), Some(2)));
    site.steps(4);
    site.change(id, wanted(image("one"), Some(2))).unwrap();
    site.steps(4);
    site.fixture.root.roll_back(site.now(), id).unwrap();
    (site, id)
}

#[test]
fn a_revision_that_fails_is_rolled_back_and_costs_no_instance() {
    let mut site = Site::new(10_000);
    let id = site.create(wanted(image("one"), Some(5)));
    site.steps(4);
    site.count_from_here();
    let before = site.fixture.root.service(id).unwrap().clone();
    site.change(id, wanted(image("broken"), Some(5))).unwrap();
    site.steps(20);
    assert_eq!(site.state(id), Some(RolloutState::RolledBack));
    assert_eq!(site.numbers(id), [0, 1, 2, 3, 4]);
    assert_eq!(site.least, 5);
    let service = site.fixture.root.service(id).unwrap();
    assert_eq!((&service.spec, &service.document), (&before.spec, &before.document));
    let progress = site.progress(id).unwrap();
    assert_eq!(progress.reason, "instance 5 failed 3 times: bad");
    // The number of the failed revision is not used again.
    site.change(id, wanted(image("two"), Some(5))).unwrap();
    assert_eq!(site.fixture.root.service(id).unwrap().upkeep.revision, 2);
}

#[test]
fn a_revision_that_does_not_come_up_in_time_is_rolled_back() {
    let mut site = Site::new(10_000);
    let id = site.create(wanted(image("one"), Some(2)));
    site.steps(4);
    site.count_from_here();
    site.change(id, wanted(image("hangs"), Some(2))).unwrap();
    site.steps(110);
    assert_eq!(site.state(id), Some(RolloutState::Running));
    site.steps(20);
    assert_eq!(site.state(id), Some(RolloutState::RolledBack));
    let progress = site.progress(id).unwrap();
    assert!(progress.reason.contains("not ready within 60 s: NODE_SCHEDULED: fetching"), "{progress:?}");
    assert_eq!((site.least, site.numbers(id)), (2, vec![0, 1]));
}

#[test]
fn an_update_without_room_says_how_to_make_room() {
    let mut site = Site::new(100);
    let large = |name: &str| wanted(ServiceSpec { image: name.into(), ..memory(60) }, Some(1));
    let id = site.create(large("one"));
    site.steps(4);
    site.change(id, large("two")).unwrap();
    site.steps(130);
    assert_eq!(site.state(id), Some(RolloutState::RolledBack));
    let progress = site.progress(id).unwrap();
    assert!(progress.reason.contains("found no place within 60 s"), "{progress:?}");
    assert!(progress.reason.ends_with("the old instance makes room first"), "{progress:?}");
    let mut second = large("two");
    second.update.order = UpdateOrder::StopFirst;
    site.change(id, second).unwrap();
    site.steps(20);
    assert_eq!(site.state(id), Some(RolloutState::Done));
}

#[test]
fn half_of_an_update_is_rolled_back_on_request_without_a_gap_and_a_finished_one_too() {
    let mut site = Site::new(10_000);
    let id = site.create(wanted(image("one"), Some(5)));
    site.steps(4);
    site.count_from_here();
    site.change(id, wanted(image("two"), Some(5))).unwrap();
    while site.instances(id).iter().filter(|(_, image)| image == "two").count() < 3 {
        site.step();
    }
    site.fixture.root.roll_back(site.now(), id).unwrap();
    assert_eq!(site.state(id), Some(RolloutState::RollingBack));
    site.steps(30);
    assert_eq!(site.state(id), Some(RolloutState::RolledBack));
    assert!(site.instances(id).iter().all(|(_, image)| image == "one"));
    assert_eq!((site.instances(id).len(), site.least), (5, 5));
    let nothing = site.fixture.root.roll_back(site.now(), id);
    assert!(matches!(nothing, Err(Refusal::NothingToRollBack(_))));

    site.change(id, wanted(image("three"), Some(5))).unwrap();
    site.steps(30);
    assert_eq!(site.state(id), Some(RolloutState::Done));
    site.fixture.root.roll_back(site.now(), id).unwrap();
    site.steps(30);
    assert!(site.instances(id).iter().all(|(_, image)| image == "one"));
    assert_eq!((site.instances(id).len(), site.least), (5, 5));
}

#[test]
fn a_rollback_to_what_does_not_run_either_can_be_left_by_another_update() {
    let (mut site, id) = stuck();
    site.steps(50);
    assert_eq!(
        site.state(id),
        Some(RolloutState::RollingBack),
        "what runs is not given up for what does not"
    );
    site.change(id, wanted(image("three"), Some(2))).unwrap();
    site.steps(50);
    assert_eq!(site.state(id), Some(RolloutState::Done));
    assert_eq!(site.instances(id).len(), 2);
    assert!(site.instances(id).iter().all(|(_, image)| image == "three"));
}

#[test]
fn a_stuck_update_can_be_left_as_often_as_somebody_likes() {
    let (mut site, id) = stuck();
    site.steps(4);
    for attempt in 0..3 * MAX_FORMER {
        assert_eq!(site.state(id), Some(RolloutState::RollingBack), "before attempt {attempt}");
        site.change(id, wanted(image(&format!("broken{attempt}")), Some(2))).unwrap();
        site.steps(2);
        site.fixture.root.roll_back(site.now(), id).unwrap();
        site.steps(2);
        let former = site.fixture.root.service(id).unwrap().upkeep.former.len();
        assert!(
            former <= 2,
            "attempt {attempt}: {former} revisions are kept, and instances have one of them"
        );
    }
    site.change(id, wanted(image("three"), Some(2))).unwrap();
    site.steps(50);
    assert_eq!(site.state(id), Some(RolloutState::Done));
    assert!(site.instances(id).iter().all(|(_, image)| image == "three"));
    assert!(site.fixture.root.service(id).unwrap().upkeep.former.is_empty());
}

#[test]
fn where_instances_of_too_many_revisions_run_the_fewest_make_room() {
    let mut site = Site::new(10_000);
    let total = 3 * MAX_FORMER;
    let id = site.create(wanted(image("bad"), Some(total)));
    site.steps(4);
    // Of each revision two instances come to run, and are not given up for what does not.
    for number in 0..=MAX_FORMER + 1 {
        site.change(id, wanted(image(&format!("number{number}")), Some(total))).unwrap();
        site.steps(4);
        site.fixture.root.roll_back(site.now(), id).unwrap();
        site.steps(2);
        assert_eq!(site.state(id), Some(RolloutState::RollingBack), "number {number}");
        let former = &site.fixture.root.service(id).unwrap().upkeep.former;
        assert!(former.len() <= MAX_FORMER as usize, "{} revisions are kept", former.len());
    }
    let images: Vec<_> = site.instances(id).into_iter().map(|(_, image)| image).collect();
    let runs = |number: u32| images.contains(&format!("number{number}"));
    assert!(!runs(0) && (1..=MAX_FORMER + 1).all(runs), "{images:?}");
    site.change(id, wanted(image("three"), Some(total))).unwrap();
    site.steps(200);
    assert_eq!(site.state(id), Some(RolloutState::Done));
    assert_eq!(site.instances(id).len(), total as usize);
}
