//! What stands in front of the handshakes, which cost computation: whether the sender knows our key, and while there
//! is too much to do, whether it is where it says and does not ask too often (white paper, section 5.3). Its memory is
//! fixed. Consulted by the threads that receive, so that a flood does not fill the queue of the thread that decides.

use std::net::{IpAddr, SocketAddr};

use crate::key::PublicKey;
use crate::noise::cookie::{Cookies, knows_us, mac1_key};
use crate::noise::{TYPE_COOKIE_REPLY, TYPE_INITIATION, TYPE_RESPONSE, mac};

/// More waiting messages than this, and senders have to prove their addresses …
const MANY: usize = 32;
/// … for so long, in milliseconds.
const LOAD_LASTS: u64 = 1000;
/// Under load an address may ask this often, in milliseconds …
const EVERY: u64 = 50;
/// … and so often at once.
const BURST: u64 = 5;
/// Addresses share these places by a hash; who shares one with a flood waits with it, but only while there is one.
const PLACES: usize = 4096;

/// What becomes of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    /// The sender shall come back with the cookie in this message.
    Reply(Vec<u8>),
    Drop,
}

/// The state of the gate.
pub(crate) struct Gate {
    /// Keys under which this node is known, each with what proves that a sender knows it.
    own: Vec<(PublicKey, [u8; 32])>,
    cookies: Cookies,
    loaded_until: u64,
    /// Which address has which place is nobody's business.
    places: [u8; 32],
    /// When the next message of an address would be due if they came evenly.
    due: Vec<u64>,
}

impl Gate {
    /// `secret`: 32 fresh random bytes.
    pub(crate) fn new(now: u64, secret: [u8; 32]) -> Self {
        Self {
            own: Vec::new(),
            cookies: Cookies::new(now, secret),
            loaded_until: 0,
            places: secret,
            due: vec![0; PLACES],
        }
    }

    /// Sets the keys under which this node is known.
    pub(crate) fn set_keys(&mut self, keys: impl Iterator<Item = PublicKey>) {
        self.own = keys.map(|key| (key, mac1_key(&key))).collect();
    }

    /// Changes the secret of the cookies when it is old; `random` gives fresh bytes.
    pub(crate) fn renew(&mut self, now: u64, random: impl FnOnce() -> [u8; 32]) {
        self.cookies.renew(now, random);
    }

    /// Judges a message of the right length; `waiting` others wait. `nonce` gives 24 fresh random bytes.
    pub(crate) fn judge(
        &mut self,
        now: u64,
        from: SocketAddr,
        message: &[u8],
        waiting: usize,
        nonce: impl FnOnce() -> [u8; 24],
    ) -> Verdict {
        match message.first() {
            // Anybody can make one: they get only a part of the queue.
            Some(&TYPE_COOKIE_REPLY) if waiting < MANY => return Verdict::Pass,
            Some(&TYPE_INITIATION | &TYPE_RESPONSE) => {}
            _ => return Verdict::Drop,
        }
        let Some((key, _)) = self.own.iter().find(|(_, mac1_key)| knows_us(mac1_key, message)) else {
            return Verdict::Drop;
        };
        if waiting > MANY {
            self.loaded_until = now + LOAD_LASTS;
        }
        if now >= self.loaded_until {
            return Verdict::Pass;
        }
        if !self.cookies.has_cookie(from, message) {
            return self.cookies.reply(key, from, message, nonce()).map_or(Verdict::Drop, Verdict::Reply);
        }
        if self.may_ask(now, from.ip()) { Verdict::Pass } else { Verdict::Drop }
    }

    fn may_ask(&mut self, now: u64, ip: IpAddr) -> bool {
        // Whoever has one address of IPv6 has its whole network.
        let hash = match ip {
            IpAddr::V4(ip) => mac(&self.places, &ip.octets()),
            IpAddr::V6(ip) => mac(&self.places, &(ip.to_bits() >> 64).to_be_bytes()),
        };
        let place = usize::from(u16::from_le_bytes([hash[0], hash[1]])) % PLACES;
        let Some(due) = self.due.get_mut(place) else { return false };
        if *due > now + (BURST - 1) * EVERY {
            return false;
        }
        *due = (*due).max(now) + EVERY;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::PrivateKey;
    use crate::noise::cookie::Stamps;

    fn own() -> PublicKey {
        PrivateKey::from_bytes([1; 32]).public()
    }

    fn gate() -> Gate {
        let mut gate = Gate::new(0, [2; 32]);
        gate.set_keys([own()].into_iter());
        gate
    }

    fn initiation(now: u64, stamps: &mut Stamps) -> Vec<u8> {
        let mut message = vec![7; 116];
        message[0] = TYPE_INITIATION;
        stamps.stamp(now, &own(), &mut message);
        message
    }

    fn address(host: u8, port: u16) -> SocketAddr {
        ([192, 0, 2, host], port).into()
    }

    #[test]
    fn who_does_not_know_the_key_costs_nothing() {
        let mut gate = gate();
        let mut message = initiation(5, &mut Stamps::default());
        assert_eq!(gate.judge(5, address(1, 1), &message, 0, || [0; 24]), Verdict::Pass);
        message[20] ^= 1;
        assert_eq!(gate.judge(5, address(1, 1), &message, 0, || [0; 24]), Verdict::Drop);
        assert_eq!(gate.judge(5, address(1, 1), &message, 1000, || [0; 24]), Verdict::Drop);
        assert_eq!(
            gate.judge(6, address(1, 1), &initiation(6, &mut Stamps::default()), 0, || [0; 24]),
            Verdict::Pass,
            "forged ones are no load"
        );
    }

    #[test]
    fn under_load_an_address_has_to_be_proved_and_may_ask_only_so_often() {
        let mut gate = gate();
        let mut stamps = Stamps::default();
        let first = initiation(5, &mut stamps);
        let Verdict::Reply(reply) = gate.judge(5, address(1, 1), &first, MANY + 1, || [3; 24]) else {
            panic!("no cookie");
        };
        stamps.take_reply(5, &own(), &reply).unwrap();
        let proved = initiation(6, &mut stamps);
        assert!(
            matches!(gate.judge(6, address(2, 1), &proved, 0, || [3; 24]), Verdict::Reply(_)),
            "another host"
        );
        let mut passed = 0;
        for now in 6..106 {
            passed += usize::from(gate.judge(now, address(1, 1), &proved, 0, || [3; 24]) == Verdict::Pass);
        }
        assert!((6..=7).contains(&passed), "{passed}");
        assert_eq!(
            gate.judge(5 + LOAD_LASTS, address(2, 1), &first, 0, || [3; 24]),
            Verdict::Pass,
            "it is over"
        );
    }

    #[test]
    fn a_flood_of_cookie_replies_leaves_room_for_handshakes() {
        let mut gate = gate();
        let reply = [TYPE_COOKIE_REPLY; 64];
        assert_eq!(gate.judge(5, address(1, 1), &reply, MANY - 1, || [0; 24]), Verdict::Pass);
        assert_eq!(gate.judge(5, address(1, 1), &reply, MANY, || [0; 24]), Verdict::Drop);
        let message = initiation(6, &mut Stamps::default());
        assert_eq!(gate.judge(6, address(1, 1), &message, MANY, || [0; 24]), Verdict::Pass);
    }
}
