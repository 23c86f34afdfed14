//! The thread that owns all decisions: handshakes, timers, peers. It tells the data path by publishing snapshots.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, SystemTime};

use rand::SeedableRng;
use rand::rngs::StdRng;
use tracing::{debug, info, warn};

use super::outgoing::{Outgoing, send_alone, send_packets};
use super::shared::{PeerShared, Routes, Session, Shared, lock, now};
use super::state::State;
use crate::config::{Peer, check_peers};
use crate::core::{Core, Effect, Established, Load, Now, PeerId};
use crate::path::Path;
use crate::request::{Answer, PeerStatus, Request, Status};

/// Orders that wait at most; senders on the data path drop theirs beyond that.
pub(crate) const ORDERS: usize = 512;
/// Handshake messages among them at most.
pub(crate) const HANDSHAKES: usize = 256;
/// More waiting handshake messages than this, and senders have to prove their addresses …
const MANY: usize = 32;
/// … for so long, in milliseconds.
const LOAD_LASTS: u64 = 1000;
/// Timers are looked at this often.
const TICK: u64 = 250;
/// The kernel is asked this often how long packets may be on the way to each peer.
const MEASURE: u64 = 30_000;
/// Paths that have changed are stored this often; after a crash they are only hints.
const STORE: u64 = 5_000;
/// A path that was asked for stays this long whatever comes from elsewhere.
const HOLD: u64 = 1_000;
/// IPv6 has no smaller packets (RFC 8200), and smaller ones of IPv4 are the sender's business.
const SMALLEST: u32 = 576;

/// What the thread is told.
pub(crate) enum Order {
    Handshake(Path, Vec<u8>),
    /// A packet waits for a session.
    Want(PeerId),
    /// The first packet of a session came.
    Confirmed(PeerId, u32),
    /// The way to the peer may be narrower than before.
    Measure(PeerId),
    Request(Box<Request>, SyncSender<Answer>),
}

/// State of the thread.
pub(crate) struct Control {
    core: Core,
    state: State,
    file: PathBuf,
    shared: Arc<Shared>,
    socket: Arc<OwnedFd>,
    outgoing: Outgoing,
    peers: HashMap<PeerId, Arc<PeerShared>>,
    loaded_until: u64,
    next_tick: u64,
    next_measure: u64,
    next_store: u64,
    random: StdRng,
}

impl Control {
    pub(crate) fn new(state: State, file: PathBuf, shared: Arc<Shared>, socket: Arc<OwnedFd>) -> Self {
        let at = now();
        let mut random = StdRng::from_os_rng();
        let mut first = Now { at, wall: wall(), random: &mut random };
        let core = Core::new(&state.private_key, state.newest_timestamp, &mut first);
        Self {
            core,
            state,
            file,
            shared,
            socket,
            outgoing: Outgoing::new(),
            peers: HashMap::new(),
            loaded_until: 0,
            next_tick: at,
            next_measure: at,
            next_store: at + STORE,
            random,
        }
    }

    /// Works until it is told to stop; the answer to that is the caller's.
    pub(crate) fn run(mut self, orders: &Receiver<Order>) -> Option<SyncSender<Answer>> {
        let peers = self.state.peers.clone();
        self.apply_peers(&peers);
        // Whoever had a session with the process before this one must not find out by time-outs.
        let reachable = self.peers.values().filter(|peer| peer.path.get().is_some());
        let reachable: Vec<PeerId> = reachable.map(|peer| peer.id).collect();
        for peer in reachable {
            self.event(|core, now| core.want_session(now, peer));
        }
        loop {
            let wait = self.next_tick.saturating_sub(now());
            match orders.recv_timeout(Duration::from_millis(wait)) {
                Ok(Order::Request(request, reply)) => {
                    if matches!(*request, Request::Stop) {
                        return Some(reply);
                    }
                    let _ = reply.try_send(self.answer(*request));
                }
                Ok(order) => self.order(order),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
            if now() >= self.next_tick {
                self.tick();
            }
        }
    }

    fn event(&mut self, event: impl FnOnce(&mut Core, &mut Now<'_>) -> Vec<Effect>) {
        let mut now = Now { at: now(), wall: wall(), random: &mut self.random };
        let effects = event(&mut self.core, &mut now);
        self.apply(effects);
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::Want(peer) => self.event(|core, now| core.want_session(now, peer)),
            Order::Confirmed(peer, local) => self.event(|core, now| core.confirmed(now.at, peer, local)),
            Order::Measure(peer) => self.measure(peer),
            Order::Handshake(from, message) => {
                let waiting = self.shared.handshakes.fetch_sub(1, Relaxed);
                let at = now();
                if waiting > MANY {
                    self.loaded_until = at + LOAD_LASTS;
                }
                let load = if at < self.loaded_until { Load::High } else { Load::Normal };
                self.event(|core, now| {
                    core.receive(now, from, &message, load).unwrap_or_else(|error| {
                        debug!(%from, %error, "handshake refused");
                        Vec::new()
                    })
                });
            }
            Order::Request(..) => {}
        }
    }

    fn tick(&mut self) {
        let at = now();
        self.next_tick = at + TICK;
        let peers = &self.peers;
        let traffic = |id: PeerId| peers.get(&id).map(|peer| peer.traffic()).unwrap_or_default();
        let mut now = Now { at, wall: wall(), random: &mut self.random };
        let effects = self.core.tick(&mut now, traffic);
        self.apply(effects);
        if at >= self.next_measure {
            self.next_measure = at + MEASURE;
            let all: Vec<PeerId> = self.peers.keys().copied().collect();
            all.into_iter().for_each(|peer| self.measure(peer));
        }
        if at >= self.next_store {
            self.next_store = at + STORE;
            self.remember_paths();
        }
    }

    /// Stores where peers are, if that has changed.
    fn remember_paths(&mut self) {
        let paths = self.peers.values().filter_map(|peer| Some((peer.name.clone(), peer.path.get()?)));
        let found: BTreeMap<String, Path> = paths.collect();
        if found != self.state.found {
            self.state.found = found;
            if let Err(error) = self.state.write(&self.file) {
                warn!(%error, "cannot store the paths of peers");
            }
        }
    }

    fn apply(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Initiate { peer, datagram, spread } => self.send_initiation(peer, &datagram, spread),
                Effect::Reply { to, datagram } => {
                    if let Err(error) = send_alone(&self.socket, &to, &datagram) {
                        debug!(%to, %error, "cannot send a handshake");
                    }
                }
                Effect::Install { peer, session } => self.install(peer, &session),
                Effect::Promote { peer, local } => {
                    if let Some(session) = self.shared.sessions.get().get(&local) {
                        self.publish(peer, session);
                    }
                }
                Effect::Close { local } => self.close(local),
                Effect::Moved { peer, to } => self.moved(peer, to),
                Effect::Keepalive { peer } => {
                    if let Some(session) = self.peers.get(&peer).and_then(|peer| peer.usable(now())) {
                        self.send_waiting(&session, Vec::new());
                    }
                }
                Effect::Abandon { peer } => {
                    if let Some(peer) = self.peers.get(&peer) {
                        let dropped = lock(&peer.waiting).drain(..).count();
                        peer.counters.lost_sending.fetch_add(dropped as u64, Relaxed);
                        peer.answered();
                        info!(peer = peer.name, "nobody answers");
                    }
                }
                Effect::Removed { peer } => {
                    self.peers.remove(&peer);
                }
                Effect::StoreTimestamp(newest) => {
                    self.state.newest_timestamp = newest;
                    if let Err(error) = self.state.write(&self.file) {
                        warn!(%error, "cannot store the newest timestamp");
                    }
                }
            }
        }
    }

    fn send_initiation(&self, peer: PeerId, datagram: &[u8], spread: bool) {
        let Some(peer) = self.peers.get(&peer) else { return };
        let current = peer.path.get();
        let settings = self.state.peers.iter().find(|settings| settings.name == peer.name);
        let candidates = settings.map(|settings| settings.paths.as_slice()).unwrap_or_default();
        let others = candidates.iter().filter(|path| spread && Some(**path) != current);
        for path in current.iter().chain(others) {
            if let Err(error) = send_alone(&self.socket, path, datagram) {
                debug!(%path, %error, "cannot send a handshake");
            }
        }
    }

    fn install(&mut self, id: PeerId, established: &Established) {
        let Some(peer) = self.peers.get(&id) else { return };
        let session = Arc::new(Session::new(Arc::clone(peer), established));
        let mut sessions = (*self.shared.sessions.get()).clone();
        sessions.insert(session.local, Arc::clone(&session));
        self.shared.sessions.set(Arc::new(sessions));
        if established.is_initiator {
            self.publish(id, &session);
        }
    }

    /// Makes it the session to send with. What waited goes first; if nothing did, a keepalive tells the responder
    /// that it may send.
    fn publish(&mut self, id: PeerId, session: &Arc<Session>) {
        let Some(peer) = self.peers.get(&id).cloned() else { return };
        peer.answered();
        let mut waiting = lock(&peer.waiting);
        let packets: Vec<Vec<u8>> = waiting.drain(..).collect();
        self.send_waiting(session, packets);
        peer.session.set(Some(Arc::clone(session)));
        drop(waiting);
        debug!(peer = peer.name, "session");
    }

    fn send_waiting(&mut self, session: &Session, packets: Vec<Vec<u8>>) {
        let mtu = self.shared.mtu;
        send_packets(&mut self.outgoing, &self.socket, session, mtu, packets.into_iter(), now());
    }

    fn close(&self, local: u32) {
        let mut sessions = (*self.shared.sessions.get()).clone();
        let Some(session) = sessions.remove(&local) else { return };
        self.shared.sessions.set(Arc::new(sessions));
        session.is_closed.store(true, Relaxed);
        let peer = &session.peer;
        if peer.session.get().is_some_and(|current| current.local == local) {
            peer.session.set(None);
        }
    }

    fn moved(&self, id: PeerId, to: Path) {
        let Some(peer) = self.peers.get(&id) else { return };
        if peer.path.get() != Some(to) {
            info!(peer = peer.name, path = %to, "path");
            peer.path.set(Some(to));
        }
        self.measure(id);
    }

    /// Asks the kernel how long packets to the peer may be.
    fn measure(&self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let Some(path) = peer.path.get() else { return };
        let Ok(outer) = crate::sys::path_mtu(path.address()) else { return };
        let limit = inner_limit(outer, path.address(), path.overhead()).max(SMALLEST);
        let limit = if limit < self.shared.mtu { limit } else { u32::MAX };
        if peer.limit.swap(limit, Relaxed) != limit {
            info!(peer = peer.name, limit, "longest packet");
        }
    }

    fn answer(&mut self, request: Request) -> Answer {
        match request {
            Request::SetPeers { peers } => self.set_peers(peers),
            Request::SetKey { private_key } => {
                let mut state = self.state.clone();
                state.private_key = private_key;
                self.store(state, |control| control.core.set_key(&control.state.private_key.clone()))
            }
            Request::UsePath { peer, path } => {
                let Some(id) = self.core.peer_named(&peer) else {
                    return Answer::Refused(format!("there is no peer {peer}"));
                };
                if let Some(peer) = self.peers.get(&id) {
                    peer.hold_until.store(now() + HOLD, Relaxed);
                }
                self.moved(id, path);
                Answer::Done
            }
            Request::Handshake { peer } => {
                let Some(id) = self.core.peer_named(&peer) else {
                    return Answer::Refused(format!("there is no peer {peer}"));
                };
                self.event(|core, now| core.renew(now, id));
                Answer::Done
            }
            Request::Status => Answer::Status(self.status()),
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
        let mut state = self.state.clone();
        state.peers = peers;
        self.store(state, |control| {
            let peers = control.state.peers.clone();
            control.apply_peers(&peers);
        })
    }

    /// On disk first: what is acknowledged survives.
    fn store(&mut self, mut state: State, then: impl FnOnce(&mut Self)) -> Answer {
        state.newest_timestamp = self.core.newest_timestamp();
        if let Err(error) = state.write(&self.file) {
            return Answer::Refused(format!("cannot write {}: {error}", self.file.display()));
        }
        self.state = state;
        then(self);
        Answer::Done
    }

    fn apply_peers(&mut self, peers: &[Peer]) {
        let effects = self.core.set_peers(peers);
        self.apply(effects);
        let mut routes = Routes::default();
        for peer in peers {
            let Some(id) = self.core.peer_named(&peer.name) else { continue };
            let first = self.state.found.get(&peer.name).or(peer.paths.first()).copied();
            let shared = self
                .peers
                .entry(id)
                .or_insert_with(|| Arc::new(PeerShared::new(id, peer.name.clone(), first)));
            if shared.path.get().is_none() {
                shared.path.set(first);
            }
            let place = routes.peers.len();
            routes.peers.push(Arc::clone(shared));
            for network in &peer.networks {
                routes.allowed.insert(network.trunc(), place);
            }
        }
        self.shared.routes.set(Arc::new(routes));
        self.next_measure = 0;
    }

    fn status(&self) -> Status {
        let at = now();
        let mut peers: Vec<PeerStatus> = self
            .peers
            .values()
            .map(|peer| {
                let counters = &peer.counters;
                let received = peer.traffic().last_received;
                let limit = peer.limit.load(Relaxed);
                PeerStatus {
                    name: peer.name.clone(),
                    path: peer.path.get(),
                    last_handshake_ms: self.core.last_handshake(peer.id).map(|then| at.saturating_sub(then)),
                    last_received_ms: (received != 0).then(|| at.saturating_sub(received)),
                    sent_bytes: counters.sent_bytes.load(Relaxed),
                    received_bytes: counters.received_bytes.load(Relaxed),
                    lost_sending: counters.lost_sending.load(Relaxed),
                    refused: counters.refused.load(Relaxed),
                    foreign: counters.foreign.load(Relaxed),
                    path_limit: (limit != u32::MAX).then_some(limit),
                }
            })
            .collect();
        peers.sort_by(|left, right| left.name.cmp(&right.name));
        Status { public_key: self.core.public_key(), pid: std::process::id(), peers }
    }
}

/// Time since 1970.
fn wall() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// The longest inner packet of a datagram that fits into `outer` bytes.
fn inner_limit(outer: u32, address: SocketAddr, overhead: usize) -> u32 {
    let headers = if address.is_ipv4() { 20 + 8 } else { 40 + 8 };
    let wireguard = crate::noise::DATA_HEADER + crate::noise::TAG + overhead;
    outer.saturating_sub(headers + u32::try_from(wireguard).unwrap_or(u32::MAX))
}
