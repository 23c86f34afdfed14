//! The thread that owns all decisions: handshakes, timers, peers. It tells the data path by publishing snapshots.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tracing::{debug, info, warn};

use super::kernel::Kernel;
use super::outgoing::{Outgoing, send_alone, send_packets, send_probe};
use super::shared::{PeerShared, Session, Shared, lock, now, now_us};
use super::state::State;
use crate::config::{SMALLEST_MTU, TunnelConfig};
use crate::core::paths::{Paths, width_of};
use crate::core::probe::{self, Probe};
use crate::core::relays::Relays;
use crate::core::{Core, Effect, Established, Now, PeerId};
use crate::path::{Path, Way};
use crate::relay::registration;
use crate::request::{Answer, KernelState, Request};
use crate::sys::udp::Udp;

/// Orders that wait at most; senders on the data path drop theirs beyond that.
pub(crate) const ORDERS: usize = 512;
/// Handshake messages among them at most.
pub(crate) const HANDSHAKES: usize = 256;
/// Answers of relays among them at most: anybody can make one.
pub(crate) const REGISTRATIONS: usize = 32;
/// Timers are looked at this often …
const TICK: u64 = 250;
/// … and this often while a path is in doubt.
const URGENT_TICK: u64 = 50;
/// The kernel is asked this often how long packets may be on the way to each peer.
const MEASURE: u64 = 30_000;
/// Paths that have changed are stored this often; after a crash they are only hints.
const STORE: u64 = 5_000;
/// An answer that took longer, in microseconds, says nothing of a path.
const LONGEST_ROUND_TRIP: u64 = 5_000_000;

/// What the thread is told.
pub(crate) enum Order {
    /// A message that passed the gate.
    Handshake(Way, Vec<u8>),
    /// A relay has answered.
    Registered(SocketAddr, [u8; registration::LENGTH]),
    /// A packet waits for a session.
    Want(PeerId),
    /// The first packet of a session came.
    Confirmed(PeerId, u32),
    /// Packets of a peer come by a way that is not the current one.
    Came(PeerId, Way),
    /// A peer asks or answers.
    Probe(PeerId, Way, Probe),
    /// The way to the peer may be narrower than before.
    Measure(PeerId),
    /// The own address with which the peer was sent to is none any more.
    ForgetLocal(PeerId),
    Request(Box<Request>, SyncSender<Answer>),
}

/// State of the thread.
pub(crate) struct Control {
    pub(super) config: TunnelConfig,
    pub(super) core: Core,
    pub(super) state: State,
    pub(super) shared: Arc<Shared>,
    pub(super) socket: Arc<Udp>,
    pub(super) peers: HashMap<PeerId, Arc<PeerShared>>,
    pub(super) relays: Relays,
    pub(super) kernel: Option<Kernel>,
    pub(super) kernel_state: KernelState,
    next_measure: u64,
    outgoing: Outgoing,
    next_tick: u64,
    next_store: u64,
    random: StdRng,
}

impl Control {
    pub(crate) fn new(config: TunnelConfig, state: State, shared: Arc<Shared>, socket: Arc<Udp>) -> Self {
        let at = now();
        let mut random = StdRng::from_os_rng();
        let first = Now { at, wall: wall(), random: &mut random };
        let mut core = Core::new(&state.private_key, state.newest_timestamp, &first);
        core.set_key(&state.private_key, state.former_key.as_ref());
        lock(&shared.gate).set_keys(core.public_keys());
        let (kernel, kernel_state) = super::kernel::open(&config, &state.private_key);
        let mut relays = Relays::default();
        relays.configure(at, &state.relays);
        Self {
            config,
            core,
            state,
            shared,
            socket,
            peers: HashMap::new(),
            relays,
            kernel,
            kernel_state,
            next_measure: at + MEASURE,
            outgoing: Outgoing::new(),
            next_tick: at,
            next_store: at + STORE,
            random,
        }
    }

    pub(super) fn file(&self) -> PathBuf {
        self.config.state_file()
    }

    /// Works until it is told to stop; the answer to that is the caller's.
    pub(crate) fn run(mut self, orders: &Receiver<Order>) -> Option<SyncSender<Answer>> {
        self.apply_peers();
        self.adopt_lanes();
        // Relays have to know where we are before anything can come through them.
        self.register();
        // Whoever had a session with the process before this one must not find out by time-outs.
        let reachable = self.peers.values().filter(|peer| peer.way.get().is_some());
        let reachable: Vec<PeerId> = reachable.map(|peer| peer.id).collect();
        for peer in reachable {
            self.event(|core, now| core.want_session(now, peer));
        }
        loop {
            let wait = self.next_tick.saturating_sub(now());
            match orders.recv_timeout(Duration::from_millis(wait)) {
                Ok(Order::Request(request, reply)) => {
                    if matches!(*request, Request::Stop) {
                        self.remember_paths();
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
            self.tick_kernel();
        }
    }

    pub(super) fn event(&mut self, event: impl FnOnce(&mut Core, &mut Now<'_>) -> Vec<Effect>) {
        let mut now = Now { at: now(), wall: wall(), random: &mut self.random };
        let effects = event(&mut self.core, &mut now);
        self.apply(effects);
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::Want(peer) => self.event(|core, now| core.want_session(now, peer)),
            Order::Confirmed(peer, local) => self.event(|core, now| core.confirmed(now.at, peer, local)),
            Order::Measure(peer) => self.measure(peer),
            Order::ForgetLocal(peer) => self.event(|core, now| core.forget_local(now.at, peer)),
            Order::Came(peer, way) => {
                self.event(|core, now| core.came(now.at, peer, way));
                if self.core.paths(peer).is_some_and(Paths::is_urgent) {
                    self.next_tick = self.next_tick.min(now() + URGENT_TICK);
                }
            }
            Order::Probe(peer, way, probe) => self.take_probe(peer, way, probe),
            Order::Registered(from, frame) => {
                self.shared.registrations.fetch_sub(1, Relaxed);
                let again = self.relays.answered(now(), from, &frame, &mut self.random);
                self.send_registrations(again.into_iter().collect());
            }
            Order::Handshake(from, message) => {
                self.shared.handshakes.fetch_sub(1, Relaxed);
                self.event(|core, now| {
                    core.receive(now, from, &message).unwrap_or_else(|error| {
                        debug!(from = %from.path, %error, "handshake refused");
                        Vec::new()
                    })
                });
            }
            Order::Request(..) => {}
        }
    }

    fn tick(&mut self) {
        let at = now();
        let mut secret = || {
            let mut bytes = [0; 32];
            self.random.fill_bytes(&mut bytes);
            bytes
        };
        lock(&self.shared.gate).renew(at, &mut secret);
        let peers = &self.peers;
        let traffic = |id: PeerId| peers.get(&id).map(|peer| peer.traffic()).unwrap_or_default();
        let mut now = Now { at, wall: wall(), random: &mut self.random };
        let effects = self.core.tick(&mut now, traffic);
        self.apply(effects);
        self.next_tick = at + if self.core.is_urgent() { URGENT_TICK } else { TICK };
        self.register();
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

    /// Tells relays where we are, if that is due.
    pub(super) fn register(&mut self) {
        let due = self.relays.tick(now(), &mut self.random);
        self.send_registrations(due);
    }

    fn send_registrations(&self, frames: Vec<(SocketAddr, [u8; registration::LENGTH])>) {
        for (relay, frame) in frames {
            if let Err(error) = send_alone(&self.socket, &Way::from(Path::Direct(relay)), &frame) {
                debug!(%relay, %error, "cannot reach the relay");
            }
        }
    }

    /// Stores where peers are, if that has changed.
    pub(super) fn remember_paths(&mut self) {
        let paths = self.peers.values().filter_map(|peer| Some((peer.name.clone(), peer.way.get()?.path)));
        let found: BTreeMap<String, Path> = paths.collect();
        if found != self.state.found {
            self.state.found = found;
            if let Err(error) = self.state.write(&self.file()) {
                warn!(%error, "cannot store the paths of peers");
            }
        }
    }

    pub(super) fn apply(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Initiate { peer, datagram, to } => self.send_initiation(peer, &datagram, &to),
                Effect::Reply { to, datagram } => {
                    if let Err(error) = send_alone(&self.socket, &to, &datagram) {
                        debug!(to = %to.path, %error, "cannot send a handshake");
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
                Effect::Ask { peer, to, step } => self.ask(peer, &to, step),
                Effect::Lost => self.relays.hurry(),
                Effect::Resized { peer } => self.measure(peer),
                Effect::Keepalive { peer } => {
                    if let Some(session) = self.peers.get(&peer).and_then(|peer| peer.usable(now())) {
                        self.send_waiting(&session, Vec::new());
                    }
                }
                Effect::Abandon { peer } => self.abandon(peer),
                Effect::Removed { peer } => {
                    self.peers.remove(&peer);
                }
                Effect::StoreTimestamp(newest) => {
                    self.state.newest_timestamp = newest;
                    if let Err(error) = self.state.write(&self.file()) {
                        warn!(%error, "cannot store the newest timestamp");
                    }
                }
            }
        }
    }

    fn abandon(&self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let dropped = lock(&peer.waiting).drain(..).count();
        peer.counters.lost_sending.fetch_add(dropped as u64, Relaxed);
        peer.answered();
        info!(peer = peer.name, "nobody answers");
    }

    fn send_initiation(&self, peer: PeerId, datagram: &[u8], to: &[Way]) {
        for way in to {
            if let Err(error) = send_alone(&self.socket, way, datagram) {
                let peer = self.peers.get(&peer).map(|peer| peer.name.as_str());
                debug!(peer, path = %way.path, %error, "cannot send a handshake");
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

    fn moved(&mut self, id: PeerId, to: Way) {
        let Some(peer) = self.peers.get(&id) else { return };
        let is_other = peer.way.get().is_none_or(|way| way.path != to.path);
        peer.way.set(Some(to));
        if is_other {
            info!(peer = peer.name, path = %to.path, "path");
            if let Some(kernel) = &mut self.kernel {
                kernel.moved(id);
            }
        }
        self.measure(id);
    }

    /// Asks the peer on a path whether it hears us; `step` is the size of the question if that matters.
    pub(super) fn ask(&mut self, id: PeerId, to: &Way, step: Option<usize>) {
        let Some(session) = self.peers.get(&id).and_then(|peer| peer.usable(now())) else { return };
        let length = match step.map(|step| self.longest(&to.path, width_of(step))) {
            Some(Some(length)) => length,
            // A short question would say that long ones pass.
            Some(None) => return,
            None => 0,
        };
        let news = self.news_for(id, to);
        let question = Probe { is_answer: false, step, clock_us: now_us(), news };
        let length = length as usize;
        send_probe(&mut self.outgoing, &self.socket, &session, to, &question.write(), length);
    }

    fn take_probe(&mut self, id: PeerId, way: Way, probe: Probe) {
        self.hear_news(id, &way, probe.news);
        if probe.is_answer {
            let took = now_us().saturating_sub(probe.clock_us);
            if took <= LONGEST_ROUND_TRIP {
                let took = u32::try_from(took).unwrap_or(u32::MAX);
                self.event(|core, now| core.answered(now.at, id, way, took, probe.step));
            }
            return;
        }
        if let Some(session) = self.peers.get(&id).and_then(|peer| peer.usable(now())) {
            let answer = probe.answer(self.news_for(id, &way)).write();
            send_probe(&mut self.outgoing, &self.socket, &session, &way, &answer, probe::LENGTH);
        }
        self.core.questioned(now(), id, way);
    }

    /// The longest inner packet on a path whose outer packets may have `width` bytes; no longer than the device's.
    fn longest(&self, path: &Path, width: u32) -> Option<u32> {
        let outer = crate::sys::path_mtu(path.address()).ok()?.min(width);
        Some(inner_limit(outer, path).clamp(SMALLEST_MTU, self.shared.mtu))
    }

    /// Finds out how long packets to the peer may be.
    fn measure(&self, id: PeerId) {
        let (Some(peer), Some(paths)) = (self.peers.get(&id), self.core.paths(id)) else { return };
        let Some(way) = peer.way.get() else { return };
        let Some(longest) = self.longest(&way.path, paths.width()) else { return };
        let limit = if longest < self.shared.mtu { longest } else { u32::MAX };
        if peer.limit.swap(limit, Relaxed) != limit {
            info!(peer = peer.name, limit = longest, "longest packet");
        }
    }
}

/// Time since 1970.
pub(super) fn wall() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// The longest inner packet of a datagram that fits into `outer` bytes.
fn inner_limit(outer: u32, path: &Path) -> u32 {
    let headers = if path.address().is_ipv4() { 20 + 8 } else { 40 + 8 };
    let wireguard = crate::noise::DATA_HEADER + crate::noise::TAG + path.overhead();
    outer.saturating_sub(headers + u32::try_from(wireguard).unwrap_or(u32::MAX))
}
