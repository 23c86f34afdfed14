//! Who may send through a relay to whom, where they are, and how much. Pure.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use super::registration::{ANSWER, COOKIE, LENGTH, QUESTION, Registration, node_of};
use super::{InvalidMembers, MAX_NODES, MAX_PAIRS, RelayLimits, RelayMembers};
use crate::key::PresharedKey;
use crate::noise::cookie::Cookies;

/// A node that has not told where it is for this long is nowhere.
const FORGET_AFTER: u64 = 90_000;
/// A limit may be exceeded for so long, in milliseconds.
const BURST: u64 = 500;

/// Bytes that may be sent now.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    per_second: u64,
    left: u64,
    at: u64,
}

impl Bucket {
    fn new(now: u64, per_second: u64) -> Self {
        Self { per_second, left: Self::most(per_second), at: now }
    }

    fn most(per_second: u64) -> u64 {
        (per_second.saturating_mul(BURST) / 1000).max(1)
    }

    fn refill(&mut self, now: u64) {
        let more = u128::from(self.per_second) * u128::from(now.saturating_sub(self.at)) / 1000;
        // Otherwise a slow rate would never add up.
        if more > 0 {
            let more = u64::try_from(more).unwrap_or(u64::MAX);
            self.left = self.left.saturating_add(more).min(Self::most(self.per_second));
            self.at = now;
        }
    }

    fn has(&self, bytes: u64) -> bool {
        self.left >= bytes
    }

    fn take(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
    }
}

/// Where a node is, and the own address of the relay at which it registered: a NAT lets in nothing from another one.
pub(crate) type Place = (SocketAddr, Option<IpAddr>);

struct Node {
    key: PresharedKey,
    /// Where it is, and since when that is known.
    place: Option<(Place, u64)>,
}

struct Pair {
    nodes: [u64; 2],
    bucket: Bucket,
}

/// What was done with datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) forwarded_bytes: u64,
    pub(crate) refused: u64,
    pub(crate) over_limit: u64,
}

/// Members and their places.
pub(crate) struct Table {
    limits: RelayLimits,
    nodes: HashMap<u64, Node>,
    pairs: HashMap<u64, Pair>,
    all: Bucket,
    cookies: Cookies,
    pub(crate) counts: Counts,
}

impl Table {
    /// `secret`: 32 fresh random bytes.
    pub(crate) fn new(now: u64, limits: RelayLimits, secret: [u8; 32]) -> Self {
        Self {
            limits,
            nodes: HashMap::new(),
            pairs: HashMap::new(),
            all: Bucket::new(now, limits.bytes_per_second),
            cookies: Cookies::new(now, secret),
            counts: Counts::default(),
        }
    }

    /// Replaces the members; who stays, with the same key, stays where it is.
    pub(crate) fn set(&mut self, now: u64, members: &RelayMembers) -> Result<(), InvalidMembers> {
        if members.nodes.len() > MAX_NODES || members.pairs.len() > MAX_PAIRS {
            return Err(InvalidMembers::TooMany);
        }
        for (tag, [first, second]) in &members.pairs {
            let are_known = members.nodes.contains_key(first) && members.nodes.contains_key(second);
            if !are_known || first == second {
                return Err(InvalidMembers::Pair(*tag));
            }
        }
        let mut nodes = HashMap::new();
        for (number, key) in &members.nodes {
            let known = self.nodes.remove(number).filter(|node| node.key == *key);
            nodes.insert(*number, known.unwrap_or_else(|| Node { key: key.clone(), place: None }));
        }
        self.nodes = nodes;
        let mut pairs = HashMap::new();
        for (tag, both) in &members.pairs {
            let known = self.pairs.remove(tag).filter(|pair| pair.nodes == *both);
            let fresh = || Pair { nodes: *both, bucket: Bucket::new(now, self.limits.pair_bytes_per_second) };
            pairs.insert(*tag, known.unwrap_or_else(fresh));
        }
        self.pairs = pairs;
        Ok(())
    }

    /// Changes the secret of the cookies when it is old; `random` gives fresh bytes.
    pub(crate) fn renew(&mut self, now: u64, random: impl FnOnce() -> [u8; 32]) {
        self.cookies.renew(now, random);
    }

    /// A node tells where it is; returns the answer.
    pub(crate) fn register(&mut self, now: u64, from: Place, frame: &[u8]) -> Option<[u8; LENGTH]> {
        let answer = self.answer(now, from, frame);
        self.counts.refused += u64::from(answer.is_none());
        answer
    }

    fn answer(&mut self, now: u64, place: Place, frame: &[u8]) -> Option<[u8; LENGTH]> {
        let node = self.nodes.get_mut(&node_of(frame)?)?;
        let question = Registration::read(QUESTION, frame, &node.key)?;
        let (from, _) = place;
        let cookie = self.cookies.cookie_for(from);
        let cookie: [u8; COOKIE] = *cookie.first_chunk()?;
        if question.cookie == cookie {
            node.place = Some((place, now));
        }
        let answer = Registration { address: Some(from), cookie, ..question };
        Some(answer.write(ANSWER, &node.key))
    }

    /// Where datagrams with this tag and from there go; `longest` of them, `bytes` in all.
    pub(crate) fn forward(
        &mut self,
        now: u64,
        from: SocketAddr,
        tag: u64,
        (longest, bytes): (usize, usize),
    ) -> Option<Place> {
        let bytes = bytes as u64;
        let target = if longest <= self.limits.longest { self.target(now, from, tag) } else { None };
        let Some((to, pair)) = target else {
            self.counts.refused += 1;
            return None;
        };
        let pair = self.pairs.get_mut(&pair)?;
        pair.bucket.refill(now);
        self.all.refill(now);
        if !pair.bucket.has(bytes) || !self.all.has(bytes) {
            self.counts.over_limit += 1;
            return None;
        }
        pair.bucket.take(bytes);
        self.all.take(bytes);
        self.counts.forwarded_bytes += bytes;
        Some(to)
    }

    fn target(&self, now: u64, from: SocketAddr, tag: u64) -> Option<(Place, u64)> {
        let place = |node: u64| {
            let (place, since) = self.nodes.get(&node)?.place?;
            (now.saturating_sub(since) < FORGET_AFTER).then_some(place)
        };
        let [first, second] = self.pairs.get(&tag)?.nodes;
        let (first, second) = (place(first)?, place(second)?);
        // Two at one place are one machine that registered as both: it would be sent its own datagrams.
        if first == second {
            return None;
        }
        // Both behind one NAT have different ports, so a sender is one of them at most.
        let to = if from == first.0 {
            second
        } else if from == second.0 {
            first
        } else {
            return None;
        };
        Some((to, tag))
    }

    /// Members whose place is known.
    pub(crate) fn present(&self, now: u64) -> BTreeMap<u64, SocketAddr> {
        let place = |(number, node): (&u64, &Node)| {
            let ((place, _), since) = node.place?;
            (now.saturating_sub(since) < FORGET_AFTER).then_some((*number, place))
        };
        self.nodes.iter().filter_map(place).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Where all of them reach the relay.
    const OWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1));

    fn at(host: u8) -> SocketAddr {
        ([192, 0, 2, host], 4000).into()
    }

    fn key(byte: u8) -> PresharedKey {
        PresharedKey::from_bytes([byte; 32])
    }

    fn members() -> RelayMembers {
        RelayMembers {
            nodes: [(1, key(1)), (2, key(2)), (3, key(3))].into(),
            pairs: [(77, [1, 2]), (78, [2, 3])].into(),
        }
    }

    fn table() -> Table {
        let limits = RelayLimits { pair_bytes_per_second: 10_000, bytes_per_second: 15_000, longest: 1500 };
        let mut table = Table::new(0, limits, [9; 32]);
        table.set(0, &members()).unwrap();
        table
    }

    /// Registers as a node does: once for the cookie and once with it. Returns the frame that was followed.
    fn register(table: &mut Table, now: u64, node: u64, from: SocketAddr) -> [u8; LENGTH] {
        let key = key(u8::try_from(node).unwrap());
        let mut question = Registration { node, nonce: now + 1, address: None, cookie: [0; COOKIE] };
        let answer = table.register(now, (from, Some(OWN)), &question.write(QUESTION, &key)).unwrap();
        let answer = Registration::read(ANSWER, &answer, &key).unwrap();
        assert_eq!((answer.address, answer.nonce), (Some(from), now + 1));
        question.cookie = answer.cookie;
        let frame = question.write(QUESTION, &key);
        table.register(now, (from, Some(OWN)), &frame).unwrap();
        frame
    }

    #[test]
    fn only_the_two_of_a_pair_reach_each_other() {
        let mut table = table();
        assert_eq!(table.forward(1, at(1), 77, (100, 100)), None, "nobody is known");
        for node in 1..=3 {
            register(&mut table, 1, u64::from(node), at(node));
        }
        assert_eq!(table.forward(2, at(1), 77, (100, 100)), Some((at(2), Some(OWN))));
        assert_eq!(table.forward(2, at(2), 77, (100, 100)), Some((at(1), Some(OWN))));
        assert_eq!(table.forward(2, at(3), 77, (100, 100)), None, "of another pair");
        assert_eq!(table.forward(2, at(1), 78, (100, 100)), None);
        assert_eq!(table.forward(2, at(9), 77, (100, 100)), None, "a stranger");
        assert_eq!(table.forward(2, at(1), 77, (1501, 1501)), None, "too long");
        assert_eq!(table.forward(2 + FORGET_AFTER, at(1), 77, (100, 100)), None, "not heard of for long");
        assert_eq!(table.counts.forwarded_bytes, 200);
        assert_eq!(table.counts.refused, 6);
    }

    #[test]
    fn nobody_is_sent_their_own_datagrams() {
        let mut table = table();
        for node in 1..=2 {
            register(&mut table, 1, node, at(1));
        }
        assert_eq!(table.forward(2, at(1), 77, (100, 100)), None);
    }

    #[test]
    fn a_copied_registration_changes_nothing() {
        let mut table = table();
        let copied = register(&mut table, 1, 1, at(1));
        assert!(table.register(2, (at(9), None), &copied).is_some(), "answered, like any authentic one");
        assert_eq!(table.present(2), [(1, at(1))].into());
        register(&mut table, 3, 1, at(8));
        assert_eq!(table.present(3), [(1, at(8))].into(), "the node itself moved");
        table.set(4, &RelayMembers { nodes: [(1, key(7))].into(), pairs: BTreeMap::new() }).unwrap();
        assert!(table.register(5, (at(1), None), &copied).is_none(), "the key is another one now");
        assert!(table.present(5).is_empty());
    }

    #[test]
    fn a_pair_and_all_together_have_a_rate() {
        let mut table = table();
        for node in 1..=3 {
            register(&mut table, 0, u64::from(node), at(node));
        }
        let sent = |table: &mut Table, tag: u64, now: u64| {
            (0..100).filter(|_| table.forward(now, at(2), tag, (1000, 1000)).is_some()).count()
        };
        assert_eq!(sent(&mut table, 77, 0), 5, "half a second's worth");
        assert_eq!(sent(&mut table, 78, 0), 2, "what all together have left");
        let total: usize = (1..=2000).map(|now| sent(&mut table, 77, now)).sum();
        assert!((19..=20).contains(&total), "{total} in two seconds");
    }

    #[test]
    fn pairs_are_of_two_known_nodes() {
        let mut table = table();
        for both in [[1, 1], [1, 9]] {
            let wrong = RelayMembers { pairs: [(5, both)].into(), ..members() };
            assert_eq!(table.set(0, &wrong), Err(InvalidMembers::Pair(5)));
        }
    }

    proptest! {
        #[test]
        fn nothing_from_strangers_is_answered_or_followed(
            mut frame in prop::collection::vec(any::<u8>(), 0..100), node in 0_u64..4, tag in 76_u64..80,
        ) {
            let mut table = table();
            for length in [frame.len(), LENGTH] {
                frame.resize(length, 0);
                if let Some(place) = frame.get_mut(8..16) {
                    place.copy_from_slice(&node.to_be_bytes());
                }
                if let Some(first) = frame.first_mut() {
                    *first = QUESTION;
                }
                prop_assert!(table.register(1, (at(1), None), &frame).is_none());
                prop_assert!(table.forward(1, at(1), tag, (10, 10)).is_none());
            }
            prop_assert!(table.present(1).is_empty());
        }
    }
}
