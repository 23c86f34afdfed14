//! How a worker went away decides how long it is waited for, and how much it is trusted afterwards.

use super::*;

/// When an instance of a worker that went away at 1000 ms is placed elsewhere.
fn given_up_at(settings: Settings, parting: Parting) -> u64 {
    let mut fixture = Fixture::with(settings);
    fixture.worker("one");
    fixture.worker("two");
    fixture.set(desired(0, 5, 100));
    let place = fixture.placement(0).unwrap();
    fixture.part(1_000, place.worker, 1, parting);
    while fixture.placement(0) == Some(place) {
        let due = fixture.cluster.next_deadline().unwrap();
        fixture.tick(due.0);
        if fixture.placement(0) != Some(place) {
            return due.0;
        }
    }
    panic!("it was placed elsewhere before anything was due")
}

#[test]
fn silence_is_proof_a_broken_link_is_a_suspicion_a_goodbye_is_a_promise() {
    for (parting, moment) in [(Parting::Silent, 1_000), (Parting::Broken, 4_000), (Parting::Left, 16_000)] {
        assert_eq!(given_up_at(Settings::default(), parting), moment, "{parting:?}");
    }
    let patient = Settings { lost_after: Duration::from_secs(60), ..Settings::default() };
    assert_eq!(given_up_at(patient, Parting::Left), 61_000, "a goodbye is never worse than a broken link");
}

/// Loses a worker and lets it come back.
fn lose(fixture: &mut Fixture, ms: u64, id: WorkerId) {
    fixture.part(ms, id, 1, Parting::Silent);
    fixture.run_until(ms);
    fixture.open(at(ms), id, 1, Vec::new());
}

fn place_of(fixture: &mut Fixture, ms: u64, number: u32, memory_mib: u32) -> WorkerId {
    let wanted = desired(number, 100 + u64::from(number), memory_mib);
    fixture.cluster.root_message(at(ms), RootToCluster::Set(wanted));
    fixture.commit();
    fixture.placement(number).unwrap().worker
}

#[test]
fn a_worker_that_is_lost_again_and_again_is_the_last_choice_for_a_while() {
    let mut fixture = Fixture::new();
    // Of equals the one with the smaller id is chosen.
    let mut workers = [fixture.worker("one"), fixture.worker("two")];
    workers.sort_unstable();
    let [one, two] = workers;
    assert_eq!(place_of(&mut fixture, 0, 0, 500), one);
    lose(&mut fixture, 1_000, one);
    assert_eq!(fixture.placement(0).unwrap().worker, two);
    assert_eq!(place_of(&mut fixture, 1_000, 1, 100), one, "once is a reboot");
    lose(&mut fixture, 2_000, one);
    assert_eq!(place_of(&mut fixture, 2_000, 2, 100), two, "two has more already, but stays");
    assert_eq!(place_of(&mut fixture, 2_000, 3, 900), one, "better than nowhere");
    fixture.remove(3, 1_000);
    let incarnation = fixture.placement(3).unwrap().incarnation;
    fixture.says(one, 1, removed(3, incarnation));

    fixture.run_until(16_999);
    assert_eq!(place_of(&mut fixture, 16_999, 4, 10), two);
    fixture.run_until(17_000);
    assert_eq!(place_of(&mut fixture, 17_000, 5, 10), one, "15 s after it came back");

    // The next time it takes twice as long, and after half an hour all is forgiven.
    lose(&mut fixture, 20_000, one);
    fixture.run_until(49_999);
    assert_eq!(place_of(&mut fixture, 49_999, 6, 10), two);
    fixture.run_until(50_000);
    assert_eq!(place_of(&mut fixture, 50_000, 7, 10), one);
    let later = 20_000 + 1_800_001;
    fixture.run_until(later);
    lose(&mut fixture, later, one);
    assert_eq!(place_of(&mut fixture, later, 8, 10), one);
}
