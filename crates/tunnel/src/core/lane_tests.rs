//! Two nodes and what is between them, second by second.

use proptest::prelude::*;

use super::*;

const START: u64 = 1_000_000;

/// One side with its kernel.
#[derive(Clone, Copy, Default)]
struct Side {
    lane: Lane,
    counts: Counts,
    heard: Option<Heard>,
    is_fit: bool,
    is_kept_alive: bool,
}

/// What gets through.
#[derive(Clone, Copy)]
struct Network {
    now: u64,
    sides: [Side; 2],
    /// Lane packets from the first side, and from the second one.
    passes: [bool; 2],
    engines_talk: bool,
    /// Who has something to say.
    speaks: [bool; 2],
}

fn address(side: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, u8::try_from(side).unwrap()], 50_103))
}

impl Network {
    fn new() -> Self {
        let side = Side { is_fit: true, ..Side::default() };
        Self { now: START, sides: [side; 2], passes: [true; 2], engines_talk: true, speaks: [false; 2] }
    }

    fn facts(&self, side: usize) -> Facts {
        let Side { counts, heard, is_fit, .. } = self.sides[side];
        Facts { path: is_fit.then(|| address(1 - side)), is_wide: true, heard, counts: Some(counts) }
    }

    fn says(&self, side: usize) -> Heard {
        let Counts { sent, received, .. } = self.sides[side].counts;
        let is_ready = self.sides[side].lane.is_ready(self.now, &self.facts(side));
        Heard { at: self.now, is_ready, port: 7, sees_own: true, sent, received }
    }

    /// A question and its answer.
    fn ask(&mut self) {
        if self.engines_talk {
            let said = [self.says(0), self.says(1)];
            (self.sides[0].heard, self.sides[1].heard) = (Some(said[1]), Some(said[0]));
        }
    }

    fn second(&mut self) -> Vec<(usize, Step)> {
        self.now += 1_000;
        for from in [0, 1] {
            if self.sides[from].is_kept_alive || (self.speaks[from] && self.sides[from].lane.is_used()) {
                self.sides[from].counts.sent += 32;
                if self.passes[from] {
                    self.sides[1 - from].counts.received += 32;
                }
            }
            self.sides[from].counts.has_session |= self.passes == [true; 2];
        }
        let mut done = Vec::new();
        for side in [0, 1] {
            let facts = self.facts(side);
            for step in self.sides[side].lane.tick(self.now, &facts) {
                match step {
                    Step::Ask => self.ask(),
                    Step::Try(to) => {
                        assert_eq!(to.port(), 7);
                        self.sides[side].is_kept_alive = true;
                    }
                    Step::Rest | Step::Leave(_) => self.sides[side].is_kept_alive = false,
                    Step::Use => {}
                }
                done.push((side, step));
            }
        }
        done
    }

    fn seconds(&mut self, count: u64) -> Vec<(usize, Step)> {
        (0..count).flat_map(|_| self.second()).collect()
    }

    fn used(&self) -> [bool; 2] {
        self.sides.map(|side| side.lane.is_used())
    }

    /// Both use the lane and have nothing to say.
    fn in_use() -> Self {
        let mut network = Self::new();
        network.ask();
        network.seconds(30);
        assert_eq!(network.used(), [true; 2]);
        network
    }
}

#[test]
fn two_sides_that_are_ready_use_the_lane_and_then_leave_each_other_alone() {
    let mut network = Network::in_use();
    assert_eq!(network.seconds(600), []);
    network.speaks = [true; 2];
    assert_eq!(network.seconds(600), []);
    assert_eq!(network.used(), [true; 2]);
}

#[test]
fn nothing_is_tried_with_a_side_that_has_no_lane_or_is_not_ready() {
    let mut network = Network::new();
    network.sides[1].is_fit = false;
    network.ask();
    let done = network.seconds(60);
    assert!(done.iter().all(|(_, step)| *step == Step::Ask), "{done:?}");
    assert!(done.len() <= 2 * TELLS as usize, "{done:?}");
    let alone = Network { engines_talk: false, ..Network::new() }.seconds(60);
    assert_eq!(alone, [], "whoever has said nothing is asked nothing");
}

#[test]
fn one_direction_is_not_enough_and_failures_are_repeated_less_and_less_often() {
    for passes in [[true, false], [false, true], [false, false]] {
        let mut network = Network { passes, ..Network::new() };
        network.sides.iter_mut().for_each(|side| side.counts.has_session = true);
        network.ask();
        let done = network.seconds(3_600);
        assert!(!done.iter().any(|(_, step)| *step == Step::Use), "{done:?}");
        let tried = done.iter().filter(|(_, step)| matches!(step, Step::Try(_))).count();
        assert!((4..40).contains(&tried), "{tried}");
    }
}

#[test]
fn a_lane_that_loses_packets_of_either_direction_is_left_by_both_within_seconds() {
    for passes in [[true, false], [false, true], [false, false]] {
        let mut network = Network::in_use();
        network.speaks = [true; 2];
        network.seconds(10);
        network.passes = passes;
        network.seconds(7);
        assert_eq!(network.used(), [false; 2], "{passes:?}");
        network.passes = [true; 2];
        network.seconds(90);
        assert_eq!(network.used(), [true; 2], "and used again after a while");
    }
}

#[test]
fn who_only_listens_is_no_reason_to_leave() {
    for speaks in [[true, false], [false, true]] {
        let mut network = Network { speaks, ..Network::in_use() };
        let done = network.seconds(300);
        assert!(done.iter().all(|(_, step)| *step == Step::Ask), "{done:?}");
        assert_eq!(network.used(), [true; 2]);
    }
}

#[test]
fn an_engine_that_has_ended_is_no_reason_to_leave_as_long_as_something_comes() {
    let mut network = Network { engines_talk: false, speaks: [true; 2], ..Network::in_use() };
    assert_eq!(network.seconds(600), []);
    // The kernel of somebody who only listens says something every 10 s.
    network.speaks = [true, false];
    for _ in 0..20 {
        network.seconds(10);
        network.sides[0].counts.received += 32;
    }
    assert!(network.sides[0].lane.is_used());
    network.seconds(30);
    assert!(!network.sides[0].lane.is_used(), "but not for ever");
}

#[test]
fn a_side_that_is_not_fit_any_more_leaves_at_once_and_the_other_one_hears_it() {
    let mut network = Network::in_use();
    network.sides[0].is_fit = false;
    let done = network.second();
    assert!(done.contains(&(0, Step::Leave(Why::Unfit))) && done.contains(&(0, Step::Ask)), "{done:?}");
    assert!(done.contains(&(1, Step::Leave(Why::Unfit))), "{done:?}");
    network.sides[0].is_fit = true;
    network.seconds(20);
    assert_eq!(network.used(), [true; 2]);
}

#[test]
fn an_adopted_lane_stays_until_the_other_side_says_otherwise() {
    let mut to = address(1);
    to.set_port(7);
    let mut network = Network::in_use();
    network.sides[0].lane = Lane::adopted(network.now, to);
    network.sides[0].heard = None;
    network.engines_talk = false;
    let done = network.seconds(60);
    assert!(done.iter().all(|(_, step)| *step == Step::Ask) && network.used() == [true; 2], "{done:?}");
    network.engines_talk = true;
    network.ask();
    network.seconds(60);
    assert_eq!(network.used(), [true; 2]);
    network.sides[0].heard = None;
    network.sides[0].is_fit = false;
    network.second();
    assert!(!network.sides[0].lane.is_used(), "the path is another one");
}

proptest! {
    /// Whatever happened: once everything works again the lane is used, and once it does not nobody stays in it.
    #[test]
    fn both_sides_come_to_the_same_end(
        events in prop::collection::vec((0_u8..8, 1_u64..30), 0..20),
        passes in prop_oneof![Just([true; 2]), Just([true, false]), Just([false, true]), Just([false; 2])],
    ) {
        let mut network = Network::new();
        network.ask();
        for (event, seconds) in events {
            match event {
                0..=3 => network.passes = [event & 1 == 0, event & 2 == 0],
                4 => network.engines_talk = !network.engines_talk,
                5 => network.sides[0].is_fit = !network.sides[0].is_fit,
                6 => network.sides[1].is_fit = !network.sides[1].is_fit,
                _ => network.speaks = [seconds & 1 == 0, seconds & 2 == 0],
            }
            network.seconds(seconds);
        }
        network.sides.iter_mut().for_each(|side| side.is_fit = true);
        (network.engines_talk, network.speaks, network.passes) = (true, [true; 2], passes);
        network.ask();
        network.seconds((BACK_OFF << DOUBLINGS) / 1_000 * 2);
        // The paths' own questions, now and then.
        for _ in 0..120 {
            network.ask();
            network.seconds(60);
        }
        if passes == [true; 2] {
            prop_assert_eq!(network.used(), [true; 2]);
        } else {
            prop_assert_eq!(network.used(), [false; 2]);
        }
    }
}
