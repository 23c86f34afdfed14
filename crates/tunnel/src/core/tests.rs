//! Two cores that talk to each other, with a clock in the test's hand.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::timers::{GIVE_UP_AFTER, REKEY_TIMEOUT};
use super::*;

struct Node {
    core: Core,
    random: StdRng,
    at: u64,
    /// Sessions that can receive, and the one to send with.
    open: Vec<(u32, SessionKeys)>,
    current: Option<(u32, SessionKeys)>,
    outbox: VecDeque<Vec<u8>>,
    abandoned: bool,
    path: Way,
}

fn key(byte: u8) -> PrivateKey {
    PrivateKey::from_bytes([byte; 32])
}

fn peer(name: &str, byte: u8) -> Peer {
    Peer { name: name.to_owned(), public_key: key(byte).public(), ..Peer::default() }
}

fn path(byte: u8) -> Way {
    Way::from(Path::Direct(([192, 0, 2, byte], 51820).into()))
}

impl Node {
    fn new(own: u8, other: u8) -> Self {
        let mut random = StdRng::seed_from_u64(u64::from(own));
        let now = Now { at: 1, wall: WALL, random: &mut random };
        let mut core = Core::new(&key(own), Duration::ZERO, &now);
        core.set_peers(1, &[peer("other", other)], &BTreeMap::new());
        Self {
            core,
            random,
            at: 1,
            open: vec![],
            current: None,
            outbox: VecDeque::new(),
            abandoned: false,
            path: path(own),
        }
    }

    fn id(&self) -> PeerId {
        self.core.peer_named("other").unwrap()
    }

    fn run<T>(&mut self, event: impl FnOnce(&mut Core, &mut Now<'_>) -> T) -> T {
        let wall = WALL + Duration::from_millis(self.at);
        event(&mut self.core, &mut Now { at: self.at, wall, random: &mut self.random })
    }

    fn apply(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Initiate { datagram, .. } | Effect::Reply { datagram, .. } => {
                    self.outbox.push_back(datagram);
                }
                Effect::Install { session, .. } => {
                    self.open.push((session.local, session.keys.clone()));
                    if session.is_initiator {
                        self.current = Some((session.local, session.keys));
                    }
                }
                Effect::Promote { local, .. } => {
                    self.current = self.open.iter().find(|(open, _)| *open == local).cloned();
                    assert!(self.current.is_some());
                }
                Effect::Close { local } => {
                    self.open.retain(|(open, _)| *open != local);
                    if self.current.as_ref().is_some_and(|(current, _)| *current == local) {
                        self.current = None;
                    }
                }
                Effect::Abandon { .. } => self.abandoned = true,
                Effect::Moved { .. }
                | Effect::Ask { .. }
                | Effect::Resized { .. }
                | Effect::Lost
                | Effect::Keepalive { .. }
                | Effect::Removed { .. }
                | Effect::StoreTimestamp(_) => {}
            }
        }
    }

    fn want(&mut self) {
        let id = self.id();
        let effects = self.run(|core, now| core.want_session(now, id));
        self.apply(effects);
    }

    fn receive(&mut self, from: Way, datagram: &[u8]) -> Result<(), Refused> {
        let effects = self.run(|core, now| core.receive(now, from, datagram))?;
        self.apply(effects);
        Ok(())
    }

    /// Sends data: the other side gets it if it has the session.
    fn data_to(&mut self, other: &mut Self) -> bool {
        let Some((_, keys)) = &self.current else { return false };
        let found = other.open.iter().find(|(local, _)| *local == keys.remote).cloned();
        let Some((local, theirs)) = found else { return false };
        assert!(theirs.receive == keys.send, "both have the same keys");
        let (at, id) = (other.at, other.id());
        let effects = other.core.confirmed(at, id, local);
        other.apply(effects);
        true
    }
}

const WALL: Duration = Duration::from_secs(1_795_000_000);

/// Delivers everything there is.
fn settle(a: &mut Node, b: &mut Node) {
    while !a.outbox.is_empty() || !b.outbox.is_empty() {
        while let Some(datagram) = a.outbox.pop_front() {
            let _ = b.receive(a.path, &datagram);
        }
        while let Some(datagram) = b.outbox.pop_front() {
            let _ = a.receive(b.path, &datagram);
        }
    }
}

#[test]
fn a_handshake_makes_a_session_that_the_initiator_uses_first() {
    let (mut a, mut b) = (Node::new(1, 2), Node::new(2, 1));
    a.want();
    settle(&mut a, &mut b);
    assert!(b.current.is_none(), "not before the first packet");
    assert!(a.data_to(&mut b));
    assert!(b.data_to(&mut a));
    assert!(a.core.last_handshake(a.id()).is_some() && b.core.last_handshake(b.id()).is_some());
}

#[test]
fn an_initiation_counts_once_and_only_from_peers() {
    let (mut a, mut b, mut stranger) = (Node::new(1, 2), Node::new(2, 1), Node::new(3, 2));
    a.want();
    let initiation = a.outbox.pop_front().unwrap();
    b.receive(a.path, &initiation).unwrap();
    b.at += 1000;
    assert_eq!(b.receive(a.path, &initiation), Err(Refused::Replayed));
    stranger.want();
    let foreign = stranger.outbox.pop_front().unwrap();
    assert_eq!(b.receive(stranger.path, &foreign), Err(Refused::Stranger));
    let response = b.outbox.pop_front().unwrap();
    a.receive(b.path, &response).unwrap();
    assert_eq!(a.receive(b.path, &response), Err(Refused::Replayed));
}

#[test]
fn a_cookie_is_used_from_the_next_message_on() {
    let (mut a, mut b) = (Node::new(1, 2), Node::new(2, 1));
    let mut gate = gate::Gate::new(1, [5; 32]);
    gate.set_keys(b.core.public_keys());
    let from = a.path.path.address();
    a.want();
    let first = a.outbox.pop_front().unwrap();
    let gate::Verdict::Reply(cookie) = gate.judge(1, from, &first, 1000, || [6; 24]) else {
        panic!("no cookie");
    };
    a.receive(b.path, &cookie).unwrap();
    a.at += REKEY_TIMEOUT + timers::JITTER;
    let effects = a.run(|core, now| core.tick(now, |_| Traffic::default()));
    a.apply(effects);
    let second = a.outbox.pop_front().unwrap();
    assert_eq!(gate.judge(a.at, from, &second, 1000, || [6; 24]), gate::Verdict::Pass);
    b.receive(a.path, &second).unwrap();
    settle(&mut a, &mut b);
    assert!(a.data_to(&mut b));
}

#[test]
fn an_attempt_ends_after_ninety_seconds_and_begins_again_with_the_next_packet() {
    let mut a = Node::new(1, 2);
    a.want();
    let mut sent = 0;
    while !a.abandoned {
        sent += std::mem::take(&mut a.outbox).len();
        a.at += 250;
        assert!(a.at < 2 * GIVE_UP_AFTER);
        let effects = a.run(|core, now| core.tick(now, |_| Traffic::default()));
        a.apply(effects);
    }
    assert!((15..=18).contains(&sent), "{sent}");
    assert!(a.core.indices.is_empty());
    a.want();
    assert_eq!(a.outbox.len(), 1);
}

#[test]
fn a_new_key_of_this_node_leaves_sessions_alone_and_the_old_one_is_still_answered() {
    let (mut a, mut b) = (Node::new(1, 2), Node::new(2, 1));
    a.want();
    settle(&mut a, &mut b);
    assert!(a.data_to(&mut b));
    b.core.set_key(&key(9), Some(&key(2)));
    assert!(b.data_to(&mut a), "the session goes on");
    a.at += 1000;
    b.at += 1000;
    a.want();
    settle(&mut a, &mut b);
    assert!(a.data_to(&mut b), "a still uses the old key");
    a.core.set_peers(a.at, &[peer("other", 9)], &BTreeMap::new());
    assert!(a.data_to(&mut b) && b.data_to(&mut a));
    b.at += 1000;
    b.want();
    settle(&mut a, &mut b);
    assert!(b.data_to(&mut a), "the new key is known now");
}

/// Both directions, and whoever begins: a node with a new key and a peer that was told of it, or was not.
#[test]
fn a_peer_that_was_not_told_of_a_new_key_is_reached_by_the_former_one() {
    for (known_to_a, knew_before) in [(2, true), (2, false), (9, true), (9, false)] {
        let (mut a, mut b) = (Node::new(1, known_to_a), Node::new(2, 1));
        if knew_before {
            // By the key it has now.
            b.core.set_key(&key(known_to_a), None);
            a.want();
            settle(&mut a, &mut b);
            assert!(a.data_to(&mut b));
        }
        b.core.set_key(&key(9), Some(&key(2)));
        b.at += 1000;
        a.at += 1000;
        let began = b.core.last_handshake(b.id());
        b.want();
        settle(&mut a, &mut b);
        if b.core.last_handshake(b.id()) == began {
            assert!(!knew_before, "it goes by what the peer has shown to know");
            b.at += REKEY_TIMEOUT + timers::JITTER;
            let effects = b.run(|core, now| core.tick(now, |_| Traffic::default()));
            b.apply(effects);
            settle(&mut a, &mut b);
        }
        assert!(b.core.last_handshake(b.id()) > began, "{known_to_a} {knew_before}");
        assert!(b.data_to(&mut a) && a.data_to(&mut b));
        let knows = b.core.keys_of(b.id()).unwrap().1;
        assert_eq!(knows, Some(key(known_to_a).public()));
    }
}

#[test]
fn a_former_key_that_is_given_up_opens_nothing_more() {
    let (mut a, mut b) = (Node::new(1, 2), Node::new(2, 1));
    b.core.set_key(&key(9), Some(&key(2)));
    assert_eq!(b.core.former_key(), Some(key(2).public()));
    b.core.set_key(&key(9), None);
    a.want();
    let initiation = a.outbox.pop_front().unwrap();
    assert_eq!(b.receive(a.path, &initiation), Err(Refused::Forged));
}

#[test]
fn a_peer_that_is_removed_has_no_sessions_left() {
    let (mut a, mut b) = (Node::new(1, 2), Node::new(2, 1));
    a.want();
    settle(&mut a, &mut b);
    let effects = b.core.set_peers(b.at, &[], &BTreeMap::new());
    b.apply(effects);
    assert!(b.open.is_empty() && b.core.indices.is_empty());
    assert!(!a.data_to(&mut b));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However messages are lost, doubled and crossed: once they get through again, both sides can talk.
    #[test]
    fn two_nodes_find_together_after_any_loss(steps in prop::collection::vec((0_u8..5, any::<bool>()), 0..40)) {
        let (mut a, mut b) = (Node::new(1, 2), Node::new(2, 1));
        for (step, lost) in steps {
            a.at += 700;
            b.at += 700;
            match step {
                0 => a.want(),
                1 => b.want(),
                2 => if let Some(datagram) = a.outbox.pop_front() && !lost {
                    let _ = b.receive(a.path, &datagram);
                    let _ = b.receive(a.path, &datagram);
                },
                3 => if let Some(datagram) = b.outbox.pop_front() && !lost {
                    let _ = a.receive(b.path, &datagram);
                },
                _ => { if lost { a.data_to(&mut b); } else { b.data_to(&mut a); } }
            }
            let (ids, open) = (a.core.indices.len(), a.open.len());
            prop_assert!(open <= 3 && ids <= 4, "{open} sessions, {ids} names");
        }
        a.outbox.clear();
        b.outbox.clear();
        a.at += 100_000;
        b.at += 100_000;
        let effects = a.run(|core, now| core.tick(now, |_| Traffic::default()));
        a.apply(effects);
        a.want();
        settle(&mut a, &mut b);
        prop_assert!(a.data_to(&mut b));
        prop_assert!(b.data_to(&mut a));
    }
}

proptest! {
    #[test]
    fn no_datagram_of_a_stranger_does_anything(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0_u8..5) {
        let mut b = Node::new(2, 1);
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() { *first = kind; }
        for length in [bytes.len(), 148, 92, 64] {
            bytes.resize(length, 7);
            prop_assert!(b.receive(path(1), &bytes).is_err());
        }
    }
}
