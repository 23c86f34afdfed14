//! The peer of the node that is tried: it has the keys, so what it sends is authentic, however strange.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use ring::aead::Aad;

use crate::config::Peer;
use crate::core::timers::Traffic;
use crate::core::{Core, Effect, Now};
use crate::key::PrivateKey;
use crate::noise::{SessionKeys, cipher, nonce};
use crate::path::Way;

/// Time since 1970 at the beginning.
pub(super) const WALL: Duration = Duration::from_secs(1_795_000_000);

pub(super) fn key(byte: u8) -> PrivateKey {
    PrivateKey::from_bytes([byte; 32])
}

/// A core with one peer, and the keys of its sessions.
pub(super) struct Mate {
    core: Core,
    random: StdRng,
    sessions: Vec<(u32, SessionKeys)>,
    /// The next number of a packet.
    counter: u64,
}

impl Mate {
    pub(super) fn new(own: u8, other: u8) -> Self {
        let mut random = StdRng::seed_from_u64(u64::from(own));
        let now = Now { at: 1, wall: WALL, random: &mut random };
        let mut core = Core::new(&key(own), Duration::ZERO, &now);
        let peer = Peer { name: "other".to_owned(), public_key: key(other).public(), ..Peer::default() };
        core.set_peers(1, &[peer], &BTreeMap::new());
        Self { core, random, sessions: Vec::new(), counter: 0 }
    }

    /// Returns what it sends.
    fn run(&mut self, at: u64, event: impl FnOnce(&mut Core, &mut Now<'_>) -> Vec<Effect>) -> Vec<Vec<u8>> {
        let wall = WALL + Duration::from_millis(at);
        let effects = event(&mut self.core, &mut Now { at, wall, random: &mut self.random });
        let mut sent = Vec::new();
        for effect in effects {
            match effect {
                Effect::Initiate { datagram, .. } | Effect::Reply { datagram, .. } => sent.push(datagram),
                Effect::Install { session, .. } => {
                    self.sessions.push((session.local, session.keys));
                    self.counter = 0;
                }
                Effect::Close { local } => self.sessions.retain(|(open, _)| *open != local),
                _ => {}
            }
        }
        sent
    }

    /// Begins a handshake whatever there is.
    pub(super) fn initiate(&mut self, at: u64) -> Vec<Vec<u8>> {
        let Some(id) = self.core.peer_named("other") else { return Vec::new() };
        self.run(at, |core, now| core.renew(now, id))
    }

    pub(super) fn receive(&mut self, at: u64, from: Way, datagram: &[u8]) -> Vec<Vec<u8>> {
        self.run(at, |core, now| core.receive(now, from, datagram).unwrap_or_default())
    }

    pub(super) fn tick(&mut self, at: u64) -> Vec<Vec<u8>> {
        self.run(at, |core, now| core.tick(now, |_| Traffic::default()))
    }

    /// A data message of its newest session; its number is moved by `skip`.
    pub(super) fn seal(&mut self, payload: &[u8], skip: u64) -> Option<Vec<u8>> {
        let (_, keys) = self.sessions.last()?;
        let counter = self.counter.wrapping_add(skip);
        self.counter = counter.wrapping_add(1);
        let mut sealed = payload.to_vec();
        cipher(&keys.send).seal_in_place_append_tag(nonce(counter), Aad::empty(), &mut sealed).ok()?;
        let mut message = vec![4, 0, 0, 0];
        message.extend_from_slice(&keys.remote.to_le_bytes());
        message.extend_from_slice(&counter.to_le_bytes());
        message.append(&mut sealed);
        Some(message)
    }
}
