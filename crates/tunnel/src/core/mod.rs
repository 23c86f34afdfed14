//! Everything that is decided about peers and sessions, without I/O, clock, threads and randomness of its own:
//! `event + now → effects`. The data path itself (encrypting with the sessions made here) is in `engine`.

pub(crate) mod gate;
pub(crate) mod lane;
pub(crate) mod paths;
pub(crate) mod probe;
pub(crate) mod relays;
mod slots;
#[cfg(test)]
mod tests;
pub(crate) mod timers;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use rand::RngCore;

use self::paths::Paths;
use self::slots::{Slot, Slots};
use self::timers::{Attempt, Due, Situation, Traffic, due};
use crate::config::Peer;
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::noise::cookie::{Stamps, knows_us};
use crate::noise::handshake::initiate;
use crate::noise::{Identity, Initiated, Initiation, Refused, SessionKeys, Timestamp, Timestamps, number};
use crate::path::{Path, Way};

/// A peer as this process knows it; never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PeerId(pub(crate) u32);

/// What the shell has to do, in this order.
pub(crate) enum Effect {
    /// Send an initiation to each of these.
    Initiate {
        peer: PeerId,
        datagram: Vec<u8>,
        to: Vec<Way>,
    },
    Reply {
        to: Way,
        datagram: Vec<u8>,
    },
    /// A session that can receive. If we initiated it, it is the one to send with, and something must be sent.
    Install {
        peer: PeerId,
        session: Established,
    },
    /// The session to send with.
    Promote {
        peer: PeerId,
        local: u32,
    },
    Close {
        local: u32,
    },
    /// Where to send from now on.
    Moved {
        peer: PeerId,
        to: Way,
    },
    /// Ask the peer on a path; `step` is the size of the question if that matters.
    Ask {
        peer: PeerId,
        to: Way,
        step: Option<usize>,
    },
    /// A peer does not answer: relays may not know any more where this node is.
    Lost,
    /// Packets to the peer may have another size now.
    Resized {
        peer: PeerId,
    },
    Keepalive {
        peer: PeerId,
    },
    /// Nobody answers: what waits for a session is given up.
    Abandon {
        peer: PeerId,
    },
    Removed {
        peer: PeerId,
    },
    /// The state file shall have this newest timestamp.
    StoreTimestamp(Duration),
}

/// A session that was agreed on.
pub(crate) struct Established {
    pub(crate) local: u32,
    pub(crate) keys: SessionKeys,
    pub(crate) is_initiator: bool,
    /// Milliseconds.
    pub(crate) created: u64,
}

/// What an event needs from outside.
pub(crate) struct Now<'a> {
    /// Milliseconds of a clock that only goes forward and counts sleep; never 0.
    pub(crate) at: u64,
    /// Time since 1970, as far as this node knows.
    pub(crate) wall: Duration,
    pub(crate) random: &'a mut dyn RngCore,
}

impl Now<'_> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.random.fill_bytes(&mut bytes);
        bytes
    }
}

struct PeerState {
    key: PublicKey,
    preshared: PresharedKey,
    persistent: Option<u64>,
    slots: Slots,
    attempt: Option<(Attempt, u32, Initiated)>,
    stamps: Stamps,
    /// By which of our keys it has shown to know us.
    knows: Option<PublicKey>,
    /// Of the newest initiation, so that none counts twice.
    newest: Timestamp,
    last_initiation: u64,
    last_handshake: Option<u64>,
    paths: Paths,
}

/// State of all peers.
pub(crate) struct Core {
    identity: Arc<Identity>,
    /// The key before the last rotation: peers that have not heard of the new one still reach us, and we them.
    previous: Option<Arc<Identity>>,
    peers: HashMap<PeerId, PeerState>,
    names: HashMap<String, PeerId>,
    /// Our names of sessions and of attempts.
    indices: HashMap<u32, PeerId>,
    timestamps: Timestamps,
    next_id: u32,
}

impl Core {
    /// `stored`: newest timestamp of the state file.
    pub(crate) fn new(key: &PrivateKey, stored: Duration, now: &Now<'_>) -> Self {
        Self {
            identity: Arc::new(Identity::new(key)),
            previous: None,
            peers: HashMap::new(),
            names: HashMap::new(),
            indices: HashMap::new(),
            timestamps: Timestamps::new(stored, now.wall),
            next_id: 0,
        }
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        self.identity.public
    }

    /// The keys under which this node is answered.
    pub(crate) fn public_keys(&self) -> impl Iterator<Item = PublicKey> {
        [Some(&self.identity), self.previous.as_ref()].into_iter().flatten().map(|identity| identity.public)
    }

    /// Paths of a peer.
    pub(crate) fn paths(&self, peer: PeerId) -> Option<&Paths> {
        self.peers.get(&peer).map(|peer| &peer.paths)
    }

    /// Newest timestamp that was used.
    pub(crate) fn newest_timestamp(&self) -> Duration {
        self.timestamps.newest()
    }

    /// When the last handshake with a peer was completed.
    pub(crate) fn last_handshake(&self, peer: PeerId) -> Option<u64> {
        self.peers.get(&peer)?.last_handshake
    }

    pub(crate) fn peer_named(&self, name: &str) -> Option<PeerId> {
        self.names.get(name).copied()
    }

    /// Changes the key of this node. Sessions go on; handshakes with the former key are still answered.
    pub(crate) fn set_key(&mut self, key: &PrivateKey, former: Option<&PrivateKey>) {
        let identity = Arc::new(Identity::new(key));
        let previous = former.map(|former| Arc::new(Identity::new(former)));
        self.previous = previous.filter(|previous| previous.public != identity.public);
        self.identity = identity;
    }

    /// The key before this one.
    pub(crate) fn former_key(&self) -> Option<PublicKey> {
        self.previous.as_ref().map(|previous| previous.public)
    }

    /// The key of a peer, and by which of ours it has shown to know us.
    pub(crate) fn keys_of(&self, peer: PeerId) -> Option<(PublicKey, Option<PublicKey>)> {
        self.peers.get(&peer).map(|peer| (peer.key, peer.knows))
    }

    /// Replaces all peers. Those whose name stays keep their sessions, also under another key. New ones are first
    /// looked for where they were `found` before.
    pub(crate) fn set_peers(
        &mut self,
        at: u64,
        peers: &[Peer],
        found: &BTreeMap<String, Path>,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let named: HashSet<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
        let gone: HashSet<PeerId> =
            self.names.extract_if(|name, _| !named.contains(name.as_str())).map(|(_, id)| id).collect();
        for id in &gone {
            if let Some(mut peer) = self.peers.remove(id) {
                self.close(peer.slots.clear(), &mut effects);
                effects.push(Effect::Removed { peer: *id });
            }
        }
        if !gone.is_empty() {
            self.indices.retain(|_, owner| !gone.contains(owner));
        }
        for peer in peers {
            let id = *self.names.entry(peer.name.clone()).or_insert_with(|| {
                self.next_id += 1;
                PeerId(self.next_id)
            });
            let known = self.peers.entry(id).or_insert_with(|| {
                let mut paths = Paths::default();
                if let Some(path) = found.get(&peer.name) {
                    effects.extend(moved(id, paths.take(at, Way::from(*path))));
                }
                PeerState::new(peer, paths)
            });
            if known.key != peer.public_key {
                // Timestamps and cookies belong to the key.
                known.newest = Timestamp::default();
                known.stamps = Stamps::default();
            }
            known.key = peer.public_key;
            known.preshared = peer.preshared_key.clone().unwrap_or_else(|| PresharedKey::from_bytes([0; 32]));
            known.persistent = peer.persistent_keepalive_s.map(|seconds| u64::from(seconds) * 1000);
            effects.extend(moved(id, known.paths.configure(at, &peer.paths)));
        }
        effects
    }

    /// A packet waits for a session.
    pub(crate) fn want_session(&mut self, now: &mut Now<'_>, peer: PeerId) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.peers.get(&peer).is_some_and(|peer| peer.attempt.is_none()) {
            self.initiate(now, peer, &mut effects);
        }
        effects
    }

    /// Begins a handshake whatever there is, on all paths.
    pub(crate) fn renew(&mut self, now: &mut Now<'_>, peer: PeerId) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.initiate(now, peer, &mut effects);
        let all = self.peers.get(&peer).map(|peer| peer.paths.all());
        for effect in &mut effects {
            if let Effect::Initiate { to, .. } = effect {
                *to = all.clone().unwrap_or_default();
            }
        }
        effects
    }

    /// An authentic packet came by a way that is not the current one.
    pub(crate) fn came(&mut self, now: u64, id: PeerId, way: Way) -> Vec<Effect> {
        let Some(peer) = self.peers.get_mut(&id) else { return Vec::new() };
        moved(id, peer.paths.came(now, way)).into_iter().collect()
    }

    /// The system refuses the own address with which the peer was sent to.
    pub(crate) fn forget_local(&mut self, now: u64, id: PeerId) -> Vec<Effect> {
        let Some(peer) = self.peers.get_mut(&id) else { return Vec::new() };
        moved(id, peer.paths.forget_local(now)).into_iter().collect()
    }

    /// The peer asked on this way.
    pub(crate) fn questioned(&mut self, now: u64, id: PeerId, way: Way) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.paths.questioned(now, way);
        }
    }

    /// The peer answered a question.
    pub(crate) fn answered(
        &mut self,
        now: u64,
        id: PeerId,
        way: Way,
        round_trip_us: u32,
        step: Option<usize>,
    ) -> Vec<Effect> {
        let Some(peer) = self.peers.get_mut(&id) else { return Vec::new() };
        let (way, is_resized) = peer.paths.answered(now, way, round_trip_us, step);
        let resized = is_resized.then_some(Effect::Resized { peer: id });
        moved(id, way).into_iter().chain(resized).collect()
    }

    /// Whether the clock has to be looked at soon: a path is in doubt.
    pub(crate) fn is_urgent(&self) -> bool {
        self.peers.values().any(|peer| peer.paths.is_urgent())
    }

    /// The first packet of a session we responded to came.
    pub(crate) fn confirmed(&mut self, now: u64, peer: PeerId, local: u32) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(state) = self.peers.get_mut(&peer) else { return effects };
        let Some(ended) = state.slots.confirmed(local) else { return effects };
        state.last_handshake = Some(now);
        // The session our own initiation asks for is here.
        let attempt = state.attempt.take();
        if let Some((_, index, _)) = attempt {
            self.indices.remove(&index);
        }
        effects.push(Effect::Promote { peer, local });
        self.close(ended, &mut effects);
        effects
    }

    /// Looks at every peer's timers.
    pub(crate) fn tick(&mut self, now: &mut Now<'_>, traffic: impl Fn(PeerId) -> Traffic) -> Vec<Effect> {
        let mut effects = Vec::new();
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in ids {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            let situation = Situation {
                attempt: peer.attempt.as_ref().map(|(attempt, ..)| *attempt),
                session: peer.slots.current().map(|slot| (slot.created, slot.is_initiator)),
                persistent: peer.persistent,
            };
            let seen = traffic(id);
            let Due { initiate, keepalive, give_up, forget } = due(now.at, &situation, &seen);
            if peer.has_session(now.at) {
                let due = peer.paths.tick(now.at, peer.persistent.is_some(), &seen);
                effects.extend(moved(id, due.moved));
                effects.extend(due.resized.then_some(Effect::Resized { peer: id }));
                effects.extend(due.lost.then_some(Effect::Lost));
                let ask = |ask: paths::Ask| Effect::Ask { peer: id, to: ask.way, step: ask.step };
                effects.extend(due.ask.into_iter().map(ask));
            }
            if give_up {
                if let Some((_, index, _)) = peer.attempt.take() {
                    self.indices.remove(&index);
                }
                effects.push(Effect::Abandon { peer: id });
            }
            if forget && let Some(peer) = self.peers.get_mut(&id) {
                let ended = peer.slots.expire(now.at.saturating_sub(timers::REJECT_AFTER));
                self.close(ended, &mut effects);
            }
            if keepalive {
                effects.push(Effect::Keepalive { peer: id });
            }
            if initiate {
                self.initiate(now, id, &mut effects);
            }
        }
        effects
    }

    /// A handshake message or cookie reply of the right length came, and passed the gate.
    pub(crate) fn receive(
        &mut self,
        now: &mut Now<'_>,
        from: Way,
        message: &[u8],
    ) -> Result<Vec<Effect>, Refused> {
        use crate::noise::{TYPE_COOKIE_REPLY, TYPE_INITIATION, TYPE_RESPONSE};
        let kind = *message.first().ok_or(Refused::Malformed)?;
        if kind == TYPE_COOKIE_REPLY {
            let id = self.indices.get(&number(message, 4)?).ok_or(Refused::Forged)?;
            let peer = self.peers.get_mut(id).ok_or(Refused::Forged)?;
            let key = peer.key;
            peer.stamps.take_reply(now.at, &key, message)?;
            return Ok(Vec::new());
        }
        let identity = self.addressed(message).ok_or(Refused::Forged)?;
        match kind {
            TYPE_INITIATION => self.respond(now, &identity, from, message),
            TYPE_RESPONSE => self.finish(now, from, message),
            _ => Err(Refused::Malformed),
        }
    }

    /// The identity whose public key the sender used.
    fn addressed(&self, message: &[u8]) -> Option<Arc<Identity>> {
        let own = [Some(&self.identity), self.previous.as_ref()];
        own.into_iter().flatten().find(|own| knows_us(&own.mac1_key, message)).cloned()
    }

    fn respond(
        &mut self,
        now: &mut Now<'_>,
        identity: &Identity,
        from: Way,
        message: &[u8],
    ) -> Result<Vec<Effect>, Refused> {
        let initiation = Initiation::open(identity, message)?;
        let known = self.peers.iter_mut().find(|(_, peer)| peer.key == initiation.peer);
        let (&id, peer) = known.ok_or(Refused::Stranger)?;
        let too_soon = peer.last_initiation != 0 && now.at < peer.last_initiation + timers::INITIATION_GAP;
        if initiation.timestamp <= peer.newest || too_soon {
            return Err(Refused::Replayed);
        }
        let local = fresh_index(&self.indices, now.random);
        let (mut response, keys) = initiation.respond(&peer.preshared, local, now.bytes())?;
        peer.newest = initiation.timestamp;
        peer.last_initiation = now.at;
        peer.knows = Some(identity.public);
        peer.stamps.stamp(now.at, &initiation.peer, &mut response);
        self.indices.insert(local, id);
        let slot = Slot { local, created: now.at, is_initiator: false };
        let peer_moved = peer.came_with_handshake(now.at, from);
        let ended = peer.slots.responded(slot);
        let mut effects = Vec::new();
        self.close(ended, &mut effects);
        let session = Established { local, keys, is_initiator: false, created: now.at };
        effects.push(Effect::Install { peer: id, session });
        effects.extend(moved(id, peer_moved));
        effects.push(Effect::Reply { to: from, datagram: response });
        Ok(effects)
    }

    fn finish(&mut self, now: &mut Now<'_>, from: Way, message: &[u8]) -> Result<Vec<Effect>, Refused> {
        let local = number(message, 8)?;
        let id = *self.indices.get(&local).ok_or(Refused::Forged)?;
        let peer = self.peers.get_mut(&id).ok_or(Refused::Forged)?;
        let (_, _, initiated) =
            peer.attempt.as_ref().filter(|(_, index, _)| *index == local).ok_or(Refused::Replayed)?;
        if !knows_us(&initiated.identity().mac1_key, message) {
            return Err(Refused::Forged);
        }
        let keys = initiated.finish(&peer.preshared, message)?;
        peer.knows = Some(initiated.identity().public);
        peer.attempt = None;
        peer.last_handshake = Some(now.at);
        let slot = Slot { local, created: now.at, is_initiator: true };
        let mut effects: Vec<Effect> =
            moved(id, peer.came_with_handshake(now.at, from)).into_iter().collect();
        let ended = peer.slots.initiated(slot);
        let session = Established { local, keys, is_initiator: true, created: now.at };
        effects.push(Effect::Install { peer: id, session });
        self.close(ended, &mut effects);
        Ok(effects)
    }

    /// Begins or repeats an attempt.
    fn initiate(&mut self, now: &mut Now<'_>, id: PeerId, effects: &mut Vec<Effect>) {
        let local = fresh_index(&self.indices, now.random);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let timestamp = self.timestamps.next(now.wall);
        let identity = peer.shown(&self.identity, self.previous.as_ref());
        let Ok((mut datagram, initiated)) = initiate(identity, &peer.key, local, now.bytes(), timestamp)
        else {
            // A public key of small order: nobody can have it.
            return;
        };
        peer.stamps.stamp(now.at, &peer.key, &mut datagram);
        let before = peer.attempt.take();
        let began = before.as_ref().map_or(now.at, |(attempt, ..)| attempt.began);
        let jitter = u64::from(now.random.next_u32()) % timers::JITTER;
        let all = peer.paths.all();
        let searches = all.len() > 1 && !peer.has_session(now.at);
        let is_soon = searches && now.at < began + timers::SEARCH_LASTS;
        let patience = if is_soon { timers::SEARCH_TIMEOUT } else { timers::REKEY_TIMEOUT };
        let attempt = Attempt { began, repeat_at: now.at + patience + jitter };
        let to = if searches || before.is_some() { all } else { all.into_iter().take(1).collect() };
        peer.attempt = Some((attempt, local, initiated));
        if let Some((_, index, _)) = &before {
            self.indices.remove(index);
        }
        self.indices.insert(local, id);
        effects.push(Effect::Initiate { peer: id, datagram, to });
        effects.extend(self.timestamps.take_due().map(Effect::StoreTimestamp));
    }

    fn close(&mut self, ended: Vec<Slot>, effects: &mut Vec<Effect>) {
        for slot in ended {
            self.indices.remove(&slot.local);
            effects.push(Effect::Close { local: slot.local });
        }
    }
}

impl PeerState {
    fn new(peer: &Peer, paths: Paths) -> Self {
        Self {
            key: peer.public_key,
            preshared: PresharedKey::from_bytes([0; 32]),
            persistent: None,
            slots: Slots::default(),
            attempt: None,
            stamps: Stamps::default(),
            knows: None,
            newest: Timestamp::default(),
            last_initiation: 0,
            last_handshake: None,
            paths,
        }
    }

    /// The key to begin a handshake with: the one the peer knows us by, as far as we know. While nobody answers it is the
    /// other one each time, because the peer may have been told of a new one, or not have been told yet.
    fn shown<'a>(
        &self,
        present: &'a Arc<Identity>,
        previous: Option<&'a Arc<Identity>>,
    ) -> &'a Arc<Identity> {
        let Some(previous) = previous else { return present };
        let shows_previous = match &self.attempt {
            Some((_, _, initiated)) => initiated.identity().public != previous.public,
            None => self.knows == Some(previous.public),
        };
        if shows_previous { previous } else { present }
    }

    fn has_session(&self, now: u64) -> bool {
        self.slots.current().is_some_and(|slot| now.saturating_sub(slot.created) < timers::REJECT_AFTER)
    }

    /// Without a session whatever works is good.
    fn came_with_handshake(&mut self, now: u64, from: Way) -> Option<Way> {
        if self.has_session(now) { self.paths.came(now, from) } else { self.paths.take(now, from) }
    }
}

fn moved(peer: PeerId, way: Option<Way>) -> Option<Effect> {
    way.map(|to| Effect::Moved { peer, to })
}

/// A name for a session that is not in use; random, so that it says nothing about how many there were.
fn fresh_index(used: &HashMap<u32, PeerId>, random: &mut dyn RngCore) -> u32 {
    loop {
        let index = random.next_u32();
        if !used.contains_key(&index) {
            return index;
        }
    }
}
