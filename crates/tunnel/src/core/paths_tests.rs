//! Two nodes and the ways between them, with a clock in the test's hand.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn direct(number: u8) -> Path {
    Path::Direct(([192, 0, 2, number], 51820).into())
}

fn relay(number: u8) -> Path {
    Path::Relayed { relay: ([203, 0, 113, number], 4000).into(), tag: 7 }
}

/// One of two nodes. For both a way has the same name.
#[derive(Default)]
struct Node {
    paths: Paths,
    traffic: Traffic,
    asked: usize,
    moves: usize,
}

struct World {
    nodes: [Node; 2],
    now: u64,
    /// Ways that are broken from the node with this number.
    broken: HashSet<(usize, Path)>,
    /// Outer size that passes.
    width: u32,
    /// Nodes that send data every tick.
    talks: [bool; 2],
}

const TICK: u64 = 50;

impl World {
    fn new(lists: [&[Path]; 2]) -> Self {
        let mut nodes = [Node::default(), Node::default()];
        for (node, list) in nodes.iter_mut().zip(lists) {
            node.paths.configure(1, list);
        }
        Self { nodes, now: 1, broken: HashSet::new(), width: 1500, talks: [true, true] }
    }

    fn break_both(&mut self, path: Path) {
        self.broken.extend([(0, path), (1, path)]);
    }

    fn moved(&mut self, node: usize, way: Option<Way>) {
        self.nodes[node].moves += usize::from(way.is_some());
    }

    fn passes(&self, from: usize, path: Path, bytes: u32) -> bool {
        !self.broken.contains(&(from, path)) && bytes <= self.width
    }

    fn tick(&mut self) {
        self.now += TICK;
        for from in [0, 1] {
            let (now, to) = (self.now, 1 - from);
            let Node { paths, traffic, .. } = &mut self.nodes[from];
            let due = paths.tick(now, false, traffic);
            self.nodes[from].asked += due.ask.len();
            self.moved(from, due.moved);
            for ask in due.ask {
                let bytes = ask.step.map_or(100, |step| width_of(step).min(1500));
                if self.passes(from, ask.way.path, bytes) {
                    self.nodes[to].paths.questioned(now, ask.way);
                    if self.passes(to, ask.way.path, 100) {
                        let (way, _) = self.nodes[from].paths.answered(now, ask.way, 500, ask.step);
                        self.moved(from, way);
                    }
                }
            }
            if self.talks[from] {
                self.send(from, to);
            }
        }
    }

    fn send(&mut self, from: usize, to: usize) {
        let now = self.now;
        let Some(way) = self.nodes[from].paths.current() else { return };
        let sent = &mut self.nodes[from].traffic;
        sent.last_sent = now;
        if sent.unanswered_since == 0 {
            sent.unanswered_since = now;
        }
        if !self.passes(from, way.path, 100) {
            return;
        }
        let node = &mut self.nodes[to];
        node.traffic.last_received = now;
        node.traffic.unanswered_since = 0;
        if node.paths.current() != Some(way) {
            let moved = node.paths.came(now, way);
            self.moved(to, moved);
        }
    }

    fn run(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds / TICK {
            self.tick();
        }
    }

    fn current(&self) -> [Path; 2] {
        [0, 1].map(|node| self.nodes[node].paths.current().unwrap().path)
    }

    /// Runs until the nodes use these paths; returns how long it took.
    fn until(&mut self, paths: [Path; 2], limit: u64) -> u64 {
        let began = self.now;
        while self.current() != paths {
            self.tick();
            assert!(self.now < began + limit, "{:?} after {limit} ms", self.current());
        }
        self.now - began
    }
}

#[test]
fn the_best_that_answers_is_used() {
    let list = [direct(1), direct(2), relay(1)];
    let mut world = World::new([&list, &list]);
    world.break_both(direct(1));
    // The handshake came through the relay.
    for node in [0, 1] {
        world.nodes[node].paths.take(1, relay(1).into());
    }
    world.until([direct(2); 2], 1_000);
    world.broken.clear();
    world.until([direct(1); 2], 61_000);
    assert_eq!(world.nodes[0].paths.round_trip_us(), Some(500));
}

#[test]
fn a_broken_path_is_left_within_seconds_and_taken_again_when_it_works() {
    let list = [direct(1), relay(1)];
    let mut world = World::new([&list, &list]);
    world.run(5_000);
    assert_eq!(world.current(), [direct(1); 2]);
    world.break_both(direct(1));
    let took = world.until([relay(1); 2], 5_000);
    assert!(took <= 3_500, "{took}");
    world.run(20_000);
    assert_eq!(world.current(), [relay(1); 2]);
    world.broken.clear();
    world.until([direct(1); 2], 61_000);
}

#[test]
fn a_path_that_is_broken_in_one_direction_is_left_by_both() {
    for from in [0, 1] {
        let list = [direct(1), relay(1)];
        let mut world = World::new([&list, &list]);
        world.run(5_000);
        world.broken.insert((from, direct(1)));
        world.until([relay(1); 2], 5_000);
        world.run(60_000);
        assert_eq!(world.current(), [relay(1); 2], "and not taken again");
    }
}

#[test]
fn a_sender_without_answers_stays_where_it_is_heard() {
    let list = [direct(1), relay(1)];
    let mut world = World::new([&list, &list]);
    world.talks = [true, false];
    world.run(2_000);
    let before = world.nodes.iter().map(|node| node.moves).sum::<usize>();
    world.run(60_000);
    assert_eq!(world.current(), [direct(1); 2]);
    assert_eq!(world.nodes.iter().map(|node| node.moves).sum::<usize>(), before);
}

#[test]
fn two_nodes_that_prefer_different_paths_do_not_push_each_other_to_and_fro() {
    let mut world = World::new([&[direct(1), direct(2)], &[direct(2), direct(1)]]);
    world.run(2_000);
    let before = world.nodes.iter().map(|node| node.moves).sum::<usize>();
    world.run(120_000);
    assert_eq!(world.current(), [direct(1), direct(2)]);
    assert_eq!(world.nodes.iter().map(|node| node.moves).sum::<usize>(), before);
}

#[test]
fn a_peer_that_moved_is_followed() {
    let mut world = World::new([&[direct(1)], &[]]);
    world.nodes[1].paths.take(1, direct(1).into());
    world.run(5_000);
    // Node 0 has another address now: its packets come from elsewhere, and the former way leads nowhere.
    world.broken.insert((1, direct(1)));
    world.nodes[0].paths.configure(world.now, &[direct(5)]);
    let now = world.now;
    world.nodes[0].paths.take(now, direct(5).into());
    let took = world.until([direct(5); 2], 2_000);
    assert!(took <= DOUBT + 2 * TICK, "{took}");
}

#[test]
fn any_other_wireguard_is_where_its_packets_come_from() {
    let mut paths = Paths::default();
    assert_eq!(paths.configure(1, &[direct(1), direct(2)]), Some(direct(1).into()));
    assert_eq!(paths.came(2, direct(2).into()), Some(direct(2).into()));
    assert_eq!(paths.came(3, direct(7).into()), Some(direct(7).into()));
    let elsewhere = Way { path: direct(7), local: Some([192, 0, 2, 99].into()) };
    assert_eq!(paths.came(4, elsewhere), Some(elsewhere));
    assert_eq!(paths.since(), Some(3), "still the same path");
    assert_eq!(paths.forget_local(5), Some(direct(7).into()));
    let asked = (0..200_000)
        .step_by(250)
        .flat_map(|now| paths.tick(now, true, &Traffic { last_received: now, ..Traffic::default() }).ask);
    let asked: Vec<Ask> = asked.collect();
    assert!(asked.iter().all(|ask| ask.way.path == direct(7) && ask.step.is_none()));
    assert!(asked.len() < 20, "{}", asked.len());
}

#[test]
fn a_peer_that_was_only_heard_asking_is_found() {
    // It is behind a NAT that shows it under another port to us.
    let mut paths = Paths::default();
    paths.configure(1, &[direct(1), relay(1)]);
    paths.take(1, relay(1).into());
    paths.questioned(2, direct(77).into());
    let traffic = Traffic { last_sent: 2, last_received: 2, ..Traffic::default() };
    let asked = paths.tick(3, false, &traffic).ask;
    assert!(asked.iter().any(|ask| ask.way.path == direct(77)), "{asked:?}");
    assert_eq!(paths.answered(4, direct(77).into(), 9, None).0, Some(direct(77).into()));
    assert_eq!(paths.answered(5, direct(1).into(), 9, None).0, Some(direct(1).into()), "listed is better");
}

#[test]
fn long_packets_that_are_swallowed_are_found_out() {
    let list = [direct(1)];
    let mut world = World::new([&list, &list]);
    world.width = 1400;
    world.run(4_000);
    assert_eq!(world.nodes[0].paths.width(), 1360);
    world.run(10_000);
    assert_eq!(world.nodes[1].paths.width(), 1360);
    world.width = 1500;
    world.run(2 * WIDTH_AGAIN + 5_000);
    assert_eq!(world.nodes[0].paths.width(), u32::MAX, "and tried again later");
}

#[test]
fn a_path_without_loss_keeps_its_size() {
    let list = [direct(1)];
    let mut world = World::new([&list, &list]);
    world.run(10_000);
    world.break_both(direct(1));
    world.run(10_000);
    world.broken.clear();
    world.run(1_000);
    assert_eq!(world.nodes[0].paths.width(), u32::MAX, "an outage is no matter of size");
}

#[test]
fn questions_are_few_and_end_with_the_traffic() {
    let list = [direct(1), direct(2), direct(3), relay(1)];
    let mut world = World::new([&list, &list]);
    (1..=2).for_each(|number| world.break_both(direct(number)));
    world.nodes[0].paths.take(1, relay(1).into());
    world.run(60_000);
    assert_eq!(world.current(), [direct(3); 2]);
    world.nodes[0].asked = 0;
    world.run(600_000);
    let asked = world.nodes[0].asked;
    assert!((60..150).contains(&asked), "{asked} in ten minutes");
    world.talks = [false, false];
    world.run(ACTIVE + 1_000);
    world.nodes[0].asked = 0;
    world.run(600_000);
    assert_eq!(world.nodes[0].asked, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever breaks and heals: as long as one way works, both find it, and do not ask without end.
    #[test]
    fn a_way_that_works_is_found(steps in prop::collection::vec((0_usize..4, 0_usize..3, 1_u64..8_000), 1..12), good in 0_usize..4) {
        let list = [direct(1), direct(2), direct(3), relay(1)];
        let mut world = World::new([&list, &list]);
        // There is a session, so a way worked.
        world.run(500);
        let mut all = 500;
        for (path, which, lasts) in steps {
            match which {
                2 => { world.broken.retain(|(_, broken)| *broken != list[path]); }
                from => { world.broken.insert((from, list[path])); }
            }
            world.run(lasts);
            all += lasts;
        }
        world.broken.retain(|(_, broken)| *broken != list[good]);
        world.run(70_000);
        let current = world.current();
        for (node, path) in current.into_iter().enumerate() {
            prop_assert!(!world.broken.contains(&(node, path)), "node {node} sends into the void");
        }
        let asked = world.nodes[0].asked as u64;
        prop_assert!(asked <= 60 + (all + 70_000) / 40, "{asked} in {all} ms");
    }
}
