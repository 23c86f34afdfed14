//! Tells relays where this node is, which also keeps the way through a NAT open and shows as what the node is seen
//! from outside.

use std::net::SocketAddr;

use rand::RngCore;

use crate::config::Relay;
use crate::relay::registration::{ANSWER, COOKIE, LENGTH, QUESTION, Registration};

/// NATs keep a mapping for 30 seconds at least, in practice.
const EVERY: u64 = 20_000;
/// Without an answer it is repeated after this time, at first.
const RETRY: u64 = 1_000;
/// The same while a peer does not answer: a NAT may have forgotten this node.
const WORRIED: u64 = 2_000;
/// So many quick ones.
const QUICK: u32 = 5;
/// Without an answer for this long the node counts as unknown to the relay.
pub(crate) const LOST_AFTER: u64 = 3 * EVERY;

/// One relay.
struct Known {
    relay: Relay,
    nonce: u64,
    cookie: [u8; COOKIE],
    asked: u64,
    next: u64,
    unanswered: u32,
    accepted: Option<u64>,
    seen_as: Option<SocketAddr>,
}

/// All relays of this node.
#[derive(Default)]
pub(crate) struct Relays(Vec<Known>);

/// State of one, for [`crate::RelayStatus`].
pub(crate) struct Seen {
    pub(crate) relay: SocketAddr,
    pub(crate) as_address: Option<SocketAddr>,
    pub(crate) accepted: Option<u64>,
}

impl Relays {
    /// Sets the list; those that stay go on.
    pub(crate) fn configure(&mut self, now: u64, relays: &[Relay]) {
        let mut before = std::mem::take(&mut self.0);
        for relay in relays {
            let known = before.iter().position(|known| known.relay == *relay);
            self.0.push(match known {
                Some(place) => before.swap_remove(place),
                None => Known {
                    relay: relay.clone(),
                    nonce: 0,
                    cookie: [0; COOKIE],
                    asked: 0,
                    next: now,
                    unanswered: 0,
                    accepted: None,
                    seen_as: None,
                },
            });
        }
    }

    /// What has to be sent now, and to which relay.
    pub(crate) fn tick(&mut self, now: u64, random: &mut dyn RngCore) -> Vec<(SocketAddr, [u8; LENGTH])> {
        self.0.iter_mut().filter(|known| now >= known.next).map(|known| known.register(now, random)).collect()
    }

    /// Registers again soon, although nothing is due.
    pub(crate) fn hurry(&mut self) {
        for known in &mut self.0 {
            known.next = known.next.min(known.asked + WORRIED);
        }
    }

    /// Takes an answer; returns what has to be sent at once: the first answer only has a cookie for us.
    pub(crate) fn answered(
        &mut self,
        now: u64,
        from: SocketAddr,
        frame: &[u8],
        random: &mut dyn RngCore,
    ) -> Option<(SocketAddr, [u8; LENGTH])> {
        let at_that_place = self.0.iter_mut().filter(|known| known.relay.address == from);
        let (known, answer) = at_that_place
            .filter_map(|known| {
                Registration::read(ANSWER, frame, &known.relay.key).map(|answer| (known, answer))
            })
            .find(|(known, answer)| answer.node == known.relay.node)?;
        if answer.nonce != known.nonce || known.nonce == 0 {
            return None;
        }
        known.nonce = 0;
        known.seen_as = answer.address;
        known.unanswered = 0;
        if answer.cookie == known.cookie {
            known.accepted = Some(now);
            known.next = now + EVERY;
            return None;
        }
        known.cookie = answer.cookie;
        Some(known.register(now, random))
    }

    /// How relays see this node.
    pub(crate) fn seen(&self) -> impl Iterator<Item = Seen> {
        self.0.iter().map(|known| Seen {
            relay: known.relay.address,
            as_address: known.seen_as,
            accepted: known.accepted,
        })
    }
}

impl Known {
    fn register(&mut self, now: u64, random: &mut dyn RngCore) -> (SocketAddr, [u8; LENGTH]) {
        self.unanswered = self.unanswered.saturating_add(1);
        self.asked = now;
        self.next = now + if self.unanswered <= QUICK { RETRY } else { EVERY };
        self.nonce = random.next_u64().max(1);
        let question =
            Registration { node: self.relay.node, nonce: self.nonce, address: None, cookie: self.cookie };
        (self.relay.address, question.write(QUESTION, &self.relay.key))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::key::PresharedKey;

    fn relay() -> Relay {
        let address = ([203, 0, 113, 1], 4000).into();
        Relay { address, node: 5, key: PresharedKey::from_bytes([3; 32]) }
    }

    /// What a relay answers that gives this cookie.
    fn answer(question: &[u8], cookie: u8) -> [u8; LENGTH] {
        let question = Registration::read(QUESTION, question, &relay().key).unwrap();
        let address = Some(([198, 51, 100, 2], 61_000).into());
        Registration { address, cookie: [cookie; COOKIE], ..question }.write(ANSWER, &relay().key)
    }

    fn accepted(relays: &Relays) -> Option<u64> {
        relays.seen().next().unwrap().accepted
    }

    #[test]
    fn a_node_comes_back_with_the_cookie_and_then_now_and_then() {
        let mut random = StdRng::seed_from_u64(1);
        let mut relays = Relays::default();
        relays.configure(1, &[relay()]);
        let (to, first) = relays.tick(1, &mut random)[0];
        assert_eq!(to, relay().address);
        let (_, second) = relays.answered(2, to, &answer(&first, 7), &mut random).unwrap();
        assert_eq!(accepted(&relays), None, "not yet");
        assert_eq!(relays.seen().next().unwrap().as_address, Some(([198, 51, 100, 2], 61_000).into()));
        assert!(relays.answered(3, to, &answer(&second, 7), &mut random).is_none());
        assert_eq!(accepted(&relays), Some(3));
        assert!(relays.tick(3 + EVERY - 1, &mut random).is_empty());
        let (_, third) = relays.tick(3 + EVERY, &mut random)[0];
        // The relay has another secret now.
        let (_, fourth) = relays.answered(3 + EVERY, to, &answer(&third, 8), &mut random).unwrap();
        assert!(relays.answered(4 + EVERY, to, &answer(&fourth, 8), &mut random).is_none());
        assert_eq!(accepted(&relays), Some(4 + EVERY));
    }

    #[test]
    fn a_node_in_a_hurry_comes_back_soon_but_not_all_the_time() {
        let mut random = StdRng::seed_from_u64(1);
        let mut relays = Relays::default();
        relays.configure(1, &[relay()]);
        let (to, first) = relays.tick(1, &mut random)[0];
        let (_, second) = relays.answered(1, to, &answer(&first, 7), &mut random).unwrap();
        assert!(relays.answered(1, to, &answer(&second, 7), &mut random).is_none());
        let mut asked = 0;
        for now in (1..10_000).step_by(50) {
            relays.hurry();
            for (to, question) in relays.tick(now, &mut random) {
                asked += 1;
                assert!(relays.answered(now, to, &answer(&question, 7), &mut random).is_none());
            }
        }
        assert_eq!(asked, 4);
    }

    #[test]
    fn answers_of_others_and_old_ones_are_ignored() {
        let mut random = StdRng::seed_from_u64(1);
        let mut relays = Relays::default();
        relays.configure(1, &[relay()]);
        let (to, first) = relays.tick(1, &mut random)[0];
        let (_, second) = relays.tick(1 + RETRY, &mut random)[0];
        let good = answer(&second, 7);
        let mut changed = good;
        changed[50] ^= 1;
        for (from, frame) in [(to, answer(&first, 7)), (to, changed), (([203, 0, 113, 9], 4000).into(), good)]
        {
            assert!(relays.answered(2 + RETRY, from, &frame, &mut random).is_none());
            assert_eq!(relays.seen().next().unwrap().as_address, None);
        }
        assert!(relays.answered(2 + RETRY, to, &good, &mut random).is_some());
        assert!(relays.answered(2 + RETRY, to, &good, &mut random).is_none(), "once");
    }

    #[test]
    fn a_silent_relay_is_asked_quickly_at_first_and_seldom_later() {
        let mut random = StdRng::seed_from_u64(1);
        let mut relays = Relays::default();
        relays.configure(1, &[relay()]);
        let asked = (1..600_000).step_by(250).map(|now| relays.tick(now, &mut random).len());
        let asked: usize = asked.sum();
        assert!((30..40).contains(&asked), "{asked} in ten minutes");
    }
}
