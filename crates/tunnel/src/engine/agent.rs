//! What the agent asks of the control thread.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::control::Control;
use super::shared::{PeerShared, Routes, lock, now};
use super::state::State;
use crate::config::{Peer, Relay, check_peers, check_relays};
use crate::core::relays::LOST_AFTER;
use crate::key::PublicKey;
use crate::request::{Answer, PeerStatus, RelayStatus, Request, Status};

impl Control {
    pub(super) fn answer(&mut self, request: Request) -> Answer {
        match request {
            Request::SetPeers { peers } => self.set_peers(peers),
            Request::SetRelays { relays } => self.set_relays(relays),
            Request::SetKey { private_key, former_key } => {
                let mut state = self.state.clone();
                (state.private_key, state.former_key) = (private_key, former_key);
                self.store(state, |control| {
                    let State { private_key, former_key, .. } = &control.state;
                    control.core.set_key(private_key, former_key.as_ref());
                    lock(&control.shared.gate).set_keys(control.core.public_keys());
                    if let Some(kernel) = &mut control.kernel {
                        kernel.hurry();
                    }
                })
            }
            Request::Handshake { peer } => {
                let Some(id) = self.core.peer_named(&peer) else {
                    return Answer::Refused(format!("there is no peer {peer}"));
                };
                self.event(|core, now| core.renew(now, id));
                Answer::Done
            }
            Request::Status => Answer::Status(Box::new(self.status())),
            Request::Stop => Answer::Done,
        }
    }

    fn set_peers(&mut self, peers: Vec<Peer>) -> Answer {
        if let Err(error) = check_peers(&peers) {
            return Answer::Refused(error.to_string());
        }
        let own = self.core.public_key();
        if let Some(peer) = peers.iter().find(|peer| peer.public_key == own) {
            return Answer::Refused(format!("peer {} has the key of this node", peer.name));
        }
        if peers == self.state.peers {
            return Answer::Done;
        }
        let former: HashMap<&str, PublicKey> =
            self.state.peers.iter().map(|peer| (peer.name.as_str(), peer.public_key)).collect();
        let is_rekeyed =
            |peer: &&Peer| former.get(peer.name.as_str()).is_some_and(|key| *key != peer.public_key);
        let rekeyed: Vec<String> = peers.iter().filter(is_rekeyed).map(|peer| peer.name.clone()).collect();
        let mut state = self.state.clone();
        state.peers = peers;
        self.store(state, |control| {
            control.apply_peers();
            // So the peer hears that its new key is known before the session with the former one ends.
            for id in rekeyed.iter().filter_map(|name| control.core.peer_named(name)).collect::<Vec<_>>() {
                control.event(|core, now| core.renew(now, id));
            }
        })
    }

    fn set_relays(&mut self, relays: Vec<Relay>) -> Answer {
        if let Err(error) = check_relays(&relays) {
            return Answer::Refused(error.to_string());
        }
        if relays == self.state.relays {
            // Who says it again has a reason.
            self.relays.hurry();
            return Answer::Done;
        }
        let mut state = self.state.clone();
        state.relays = relays;
        self.store(state, |control| {
            control.relays.configure(now(), &control.state.relays);
            control.register();
        })
    }

    /// On disk first: what is acknowledged survives.
    fn store(&mut self, mut state: State, then: impl FnOnce(&mut Self)) -> Answer {
        state.newest_timestamp = self.core.newest_timestamp();
        let file = self.file();
        if let Err(error) = state.write(&file) {
            return Answer::Refused(format!("cannot write {}: {error}", file.display()));
        }
        self.state = state;
        then(self);
        Answer::Done
    }

    pub(super) fn apply_peers(&mut self) {
        let effects = self.core.set_peers(now(), &self.state.peers, &self.state.found);
        let mut routes = Routes::default();
        for peer in &self.state.peers {
            let Some(id) = self.core.peer_named(&peer.name) else { continue };
            let shared =
                self.peers.entry(id).or_insert_with(|| Arc::new(PeerShared::new(id, peer.name.clone())));
            let place = routes.peers.len();
            routes.peers.push(Arc::clone(shared));
            for network in &peer.networks {
                routes.allowed.insert(network.trunc(), place);
            }
        }
        self.apply(effects);
        self.shared.routes.set(Arc::new(routes));
        self.set_kernel_peers();
    }

    fn status(&self) -> Status {
        let mut peers: Vec<PeerStatus> =
            self.peers.values().filter_map(|peer| self.peer_status(peer)).collect();
        peers.sort_by(|left, right| left.name.cmp(&right.name));
        let at = now();
        let relays = self.relays.seen().map(|seen| RelayStatus {
            address: seen.relay,
            seen_as: seen.as_address,
            is_registered: seen.accepted.is_some_and(|then| at.saturating_sub(then) < LOST_AFTER),
        });
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config: self.config.clone(),
            public_key: self.core.public_key(),
            former_key: self.core.former_key(),
            pid: std::process::id(),
            has_ipv6: self.socket.has_ipv6(),
            kernel: self.kernel_state.clone(),
            relays: relays.collect(),
            peers,
        }
    }

    fn peer_status(&self, peer: &PeerShared) -> Option<PeerStatus> {
        let (public_key, knows) = self.core.keys_of(peer.id)?;
        let since = |then: u64| now().saturating_sub(then);
        let counters = &peer.counters;
        let received = peer.traffic().last_received;
        let limit = peer.limit.load(Relaxed);
        let paths = self.core.paths(peer.id);
        Some(PeerStatus {
            name: peer.name.clone(),
            public_key: Some(public_key),
            knows,
            path: peer.way.get().map(|way| way.path),
            in_kernel: self.kernel.as_ref().is_some_and(|kernel| kernel.carries(peer.id)),
            path_since_ms: paths.and_then(|paths| paths.since()).map(since),
            round_trip_us: paths.and_then(|paths| paths.round_trip_us()),
            last_handshake_ms: self.core.last_handshake(peer.id).map(since),
            last_received_ms: (received != 0).then(|| since(received)),
            sent_bytes: counters.sent.bytes.load(Relaxed),
            received_bytes: counters.received.bytes.load(Relaxed),
            lost_sending: counters.lost_sending.load(Relaxed),
            refused: counters.refused.load(Relaxed),
            foreign: counters.foreign.load(Relaxed),
            path_limit: (limit != u32::MAX).then_some(limit),
        })
    }
}
