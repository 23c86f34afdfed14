//! The UDP port of the tunnel: a node with a peer, whatever comes to it, with valid messages in between.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::mate::{Mate, WALL, key};
use super::steps::Steps;
use crate::config::{Peer, Relay};
use crate::core::gate::Gate;
use crate::core::relays::Relays;
use crate::core::{Core, Effect, Now, PeerId};
use crate::engine::control::Order;
use crate::engine::ingress::Ingress;
use crate::engine::shared::{PeerShared, Routes, Session, Shared, lock};
use crate::key::PresharedKey;
use crate::packet::merge::Merge;
use crate::path::{Path, Way};
use crate::relay::registration::{ANSWER, LENGTH, QUESTION, Registration};
use crate::sys::udp::{RECEIVE_ROOM, Received, Udp};

const OWN: u8 = 1;
const MATE: u8 = 2;
const RELAY_KEY: [u8; 32] = [3; 32];
/// Orders of one step at most: it sends no more datagrams than that.
const ORDERS: usize = 512;
/// Longest datagram, several of which fit into one train.
const LONGEST: usize = 8 << 10;
/// What a peer may have: previous, current, next.
const SESSIONS: usize = 3;

/// Nobody listens there, and nothing leaves the machine.
fn address(number: u8) -> SocketAddr {
    ([127, 0, 0, 1 + number % 4], 9).into()
}

struct Node {
    core: Core,
    random: StdRng,
    relays: Relays,
    ingress: Ingress,
    peer: Arc<PeerShared>,
    orders: Receiver<Order>,
    buffer: Vec<u8>,
    at: u64,
    /// Questions to the relay that wait for an answer.
    asked: Vec<[u8; LENGTH]>,
}

thread_local! {
    /// The kernel's part is the same for all tries.
    static SOCKET: Arc<Udp> =
        Arc::new(Udp::bind(([127, 0, 0, 1], 0).into(), 1 << 16).expect("a socket on loopback"));
}

impl Node {
    fn new() -> Self {
        let mut random = StdRng::seed_from_u64(7);
        let now = Now { at: 1, wall: WALL, random: &mut random };
        let mut core = Core::new(&key(OWN), Duration::ZERO, &now);
        let peer = Peer {
            name: "mate".to_owned(),
            public_key: key(MATE).public(),
            paths: vec![Path::Direct(address(0)), Path::Relayed { relay: address(3), tag: 5 }],
            networks: vec!["10.18.0.0/24".parse().expect("a network")],
            ..Peer::default()
        };
        core.set_peers(1, std::slice::from_ref(&peer), &BTreeMap::new());
        let (orders, inbox) = sync_channel(ORDERS);
        let mut gate = Gate::new(1, [1; 32]);
        gate.set_keys(core.public_keys());
        let shared = Shared::new(orders, gate, 1420);
        let id = core.peer_named("mate").expect("it was just added");
        let shared_peer = Arc::new(PeerShared::new(id, peer.name));
        let mut routes = Routes::default();
        routes.allowed.insert(peer.networks[0], 0);
        routes.peers.push(Arc::clone(&shared_peer));
        shared.routes.set(Arc::new(routes));
        let null = File::options().write(true).open("/dev/null").expect("the null device");
        let ingress = Ingress {
            shared: Arc::new(shared),
            socket: SOCKET.with(Arc::clone),
            queues: vec![Arc::new(null.into())],
            random: StdRng::seed_from_u64(8),
            merge: Merge::default(),
        };
        let mut relays = Relays::default();
        let relay = Relay { address: address(3), node: 9, key: PresharedKey::from_bytes(RELAY_KEY) };
        relays.configure(1, &[relay]);
        let buffer = vec![0; RECEIVE_ROOM];
        Self {
            core,
            random,
            relays,
            ingress,
            peer: shared_peer,
            orders: inbox,
            buffer,
            at: 1,
            asked: Vec::new(),
        }
    }

    /// A train of equal datagrams comes.
    fn receive(&mut self, from: SocketAddr, ecn: u8, datagram: &[u8], copies: usize) -> Vec<Vec<u8>> {
        let datagram = &datagram[..datagram.len().min(LONGEST)];
        if datagram.is_empty() {
            return Vec::new();
        }
        let train = datagram.repeat(copies);
        self.buffer[..train.len()].copy_from_slice(&train);
        let train =
            Received { from, local: None, ecn, start: 0, length: train.len(), segment: datagram.len() };
        let routes = self.ingress.shared.routes.get();
        self.ingress.take(self.at, &routes, &mut self.buffer, &train);
        self.ingress.deliver(&mut self.buffer);
        self.follow_orders()
    }

    /// What the control thread would do.
    fn follow_orders(&mut self) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Handshake(way, message) => {
                    self.ingress.shared.handshakes.fetch_sub(1, Relaxed);
                    sent.extend(self.run(|core, now| core.receive(now, way, &message).unwrap_or_default()));
                }
                Order::Confirmed(peer, local) => {
                    sent.extend(self.run(|core, now| core.confirmed(now.at, peer, local)));
                }
                Order::Came(peer, way) => sent.extend(self.run(|core, now| core.came(now.at, peer, way))),
                Order::Probe(peer, way, probe) if probe.is_answer => {
                    let took = u32::try_from(probe.clock_us & 0xffff_ffff).unwrap_or(0);
                    let answered = |core: &mut Core, now: &mut Now<'_>| {
                        core.answered(now.at, peer, way, took, probe.step)
                    };
                    sent.extend(self.run(answered));
                }
                Order::Probe(peer, way, _) => self.core.questioned(self.at, peer, way),
                Order::Registered(from, frame) => {
                    let again = self.relays.answered(self.at, from, &frame, &mut self.random);
                    self.asked.extend(again.map(|(_, frame)| frame));
                }
                Order::Want(_) | Order::Measure(_) | Order::ForgetLocal(_) | Order::Request(..) => {}
            }
        }
        sent
    }

    /// Carries out what the core wants; returns what it sends.
    fn run(&mut self, event: impl FnOnce(&mut Core, &mut Now<'_>) -> Vec<Effect>) -> Vec<Vec<u8>> {
        let wall = WALL + Duration::from_millis(self.at);
        let effects = event(&mut self.core, &mut Now { at: self.at, wall, random: &mut self.random });
        let mut sent = Vec::new();
        let mut sessions: HashMap<u32, Arc<Session>> = (*self.ingress.shared.sessions.get()).clone();
        for effect in effects {
            match effect {
                Effect::Initiate { datagram, to, .. } => {
                    assert!(to.len() <= 16, "an initiation to {} ways", to.len());
                    sent.push(datagram);
                }
                Effect::Reply { datagram, .. } => sent.push(datagram),
                Effect::Install { session, .. } => {
                    let session = Arc::new(Session::new(Arc::clone(&self.peer), &session));
                    sessions.insert(session.local, session);
                }
                Effect::Close { local } => {
                    sessions.remove(&local);
                }
                Effect::Moved { to, .. } => self.peer.way.set(Some(to)),
                _ => {}
            }
        }
        assert!(sessions.len() <= SESSIONS, "{} sessions", sessions.len());
        self.ingress.shared.sessions.set(Arc::new(sessions));
        sent
    }

    fn id(&self) -> PeerId {
        self.peer.id
    }

    fn tick(&mut self) -> Vec<Vec<u8>> {
        let at = self.at;
        lock(&self.ingress.shared.gate).renew(at, || [4; 32]);
        let due = self.relays.tick(at, &mut self.random);
        self.asked.extend(due.into_iter().map(|(_, frame)| frame));
        let traffic = self.peer.traffic();
        self.run(|core, now| core.tick(now, |_| traffic))
    }

    fn received(&self) -> u64 {
        self.peer.counters.received.bytes.load(Relaxed)
    }
}

/// Node and mate.
struct Pair {
    node: Node,
    mate: Mate,
}

impl Pair {
    /// Messages of the node get to the mate, perhaps changed, and the answers back, until nobody says anything.
    fn reach_mate(&mut self, steps: &mut Steps<'_>, mut sent: Vec<Vec<u8>>) {
        for _ in 0..4 {
            let Some(mut message) = sent.pop() else { return };
            steps.change(&mut message);
            let at = self.node.at;
            for mut answer in self.mate.receive(at, Way::from(Path::Direct(address(1))), &message) {
                steps.change(&mut answer);
                let from = address(steps.byte());
                sent.extend(self.node.receive(from, 0, &answer, 1));
            }
        }
    }

    /// Messages of the mate get to the node.
    fn reach_node(&mut self, steps: &mut Steps<'_>, sent: Vec<Vec<u8>>) {
        for mut message in sent {
            steps.change(&mut message);
            let answers = self.node.receive(address(steps.byte()), 0, &message, 1);
            self.reach_mate(steps, answers);
        }
    }

    /// A packet or a question in a session.
    fn data(&mut self, steps: &mut Steps<'_>, payload: &[u8]) {
        let skip = if steps.byte().is_multiple_of(8) { steps.long() } else { 0 };
        let Some(mut message) = self.mate.seal(payload, skip) else { return };
        steps.change(&mut message);
        let from = address(steps.byte());
        if steps.byte().is_multiple_of(4) {
            let header = Path::Relayed { relay: from, tag: 5 }.header().unwrap_or_default();
            message.splice(..0, header);
        }
        let (ecn, copies) = (steps.byte() % 4, 1 + usize::from(steps.byte() % 3));
        let sent = self.node.receive(from, ecn, &message, copies);
        self.reach_mate(steps, sent);
    }

    /// The relay answers one of the questions.
    fn relay_answers(&mut self, steps: &mut Steps<'_>) {
        let Some(question) = self.node.asked.pop() else { return };
        let key = PresharedKey::from_bytes(RELAY_KEY);
        let Some(question) = Registration::read(QUESTION, &question, &key) else { return };
        let port = steps.word();
        let seen: SocketAddr = ([192, 0, 2, steps.byte()], port).into();
        let answer = Registration { address: Some(seen), cookie: [steps.byte(); 8], ..question };
        let mut frame = answer.write(ANSWER, &key).to_vec();
        steps.change(&mut frame);
        self.node.receive(address(3), 0, &frame, 1);
    }

    fn step(&mut self, steps: &mut Steps<'_>) {
        match steps.byte() % 9 {
            0 => {
                let (from, datagram) = (address(steps.byte()), steps.bytes());
                let before = self.node.received();
                let sent = self.node.receive(from, 0, datagram, 1);
                assert_eq!(self.node.received(), before, "nobody can forge a packet");
                self.reach_mate(steps, sent);
            }
            1 => {
                let sent = self.mate.initiate(self.node.at);
                self.reach_node(steps, sent);
            }
            2 => {
                let id = self.node.id();
                let sent = self.node.run(|core, now| core.want_session(now, id));
                self.reach_mate(steps, sent);
            }
            3 => {
                let payload = steps.bytes();
                self.data(steps, payload);
            }
            4 => {
                let packet = inner(steps);
                self.data(steps, &packet);
            }
            5 => self.node.at += u64::from(steps.word()),
            6 => {
                let sent = self.node.tick();
                self.reach_mate(steps, sent);
                let sent = self.mate.tick(self.node.at);
                self.reach_node(steps, sent);
            }
            7 => self.node.ingress.shared.handshakes.store(usize::from(steps.byte()), Relaxed),
            _ => self.relay_answers(steps),
        }
    }
}

/// A packet of IPv4 from an address of the mate, whose rest is anything.
fn inner(steps: &mut Steps<'_>) -> Vec<u8> {
    let (protocol, fragment, host) = (steps.byte(), steps.word(), steps.byte());
    let rest = steps.bytes();
    let [high, low] = u16::try_from(20 + rest.len()).unwrap_or(u16::MAX).to_be_bytes();
    let [first, second] = fragment.to_be_bytes();
    let mut packet = vec![0x45, steps.byte(), high, low, 0, 1, first, second, 64, protocol, 0, 0];
    packet.extend_from_slice(&[10, 18, 0, host, 10, 18, 1, 2]);
    packet.extend_from_slice(rest);
    packet
}

/// Steps of a node, its peer, and whoever sends anything.
pub fn datagram(data: &[u8]) {
    let mut pair = Pair { node: Node::new(), mate: Mate::new(MATE, OWN) };
    let mut steps = Steps(data);
    while !steps.is_empty() {
        pair.step(&mut steps);
    }
}
