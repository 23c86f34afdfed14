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
/// So many quick ones.
const QUICK: u32 = 5;
/// Without an answer for this long the node counts as unknown to the relay.
pub(crate) const LOST_AFTER: u64 = 3 * EVERY;

/// One relay.
struct Known {
    relay: Relay,
    nonce: u64,
    cookie: [u8; COOKIE],
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

    /// Takes an answer; returns what has to be sent at once: the first answer only has a cookie for us.
    pub(crate) fn answered(
        &mut self,
        now: u64,
        from: SocketAddr,
        frame: &[u8],
        random: &mut dyn RngCore,
    ) -> Option<(SocketAddr, [u8; LENGTH])> {
        let known = self.0.iter_mut().find(|known| known.relay.address == from)?;
        let answer = Registration::read(ANSWER, frame, &known.relay.key)?;
        if answer.node != known.relay.node || answer.nonce != known.nonce || known.nonce == 0 {
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
        self.next = now + if self.unanswered <= QUICK { RETRY } else { EVERY };
        self.nonce = random.next_u64().max(1);
        let question =
            Registration { node: self.relay.node, nonce: self.nonce, address: None, cookie: self.cookie };
        (self.relay.address, question.write(QUESTION, &self.relay.key))
    }
}
