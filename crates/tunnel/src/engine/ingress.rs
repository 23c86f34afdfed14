//! From the socket to the device: one thread for each socket of the port. The kernel keeps a sender at one socket.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard};

use rand::RngCore;
use rand::rngs::StdRng;
use ring::aead::Aad;

use super::control::{HANDSHAKES, Order, REGISTRATIONS};
use super::outgoing::send_alone;
use super::shared::{PeerShared, Routes, Session, Shared, lock, now};
use crate::core::PeerId;
use crate::core::gate::Verdict;
use crate::core::probe::Probe;
use crate::noise::{DATA_HEADER, nonce};
use crate::packet::merge::{Merge, Place};
use crate::packet::{ecn, flow_hash, mss, outline};
use crate::path::{Kind, Way, classify};
use crate::relay::registration;
use crate::replay::Replay;
use crate::sys::udp::{RECEIVE_MOST, RECEIVE_ROOM, Received, Udp};

/// Decrypted bytes that wait for the device at most.
const BATCH: usize = 48 << 10;
/// The control thread hears at most this often that a peer's packets come by another way, in milliseconds.
const CAME_GAP: u64 = 50;

/// One thread's state.
pub(crate) struct Ingress {
    pub(crate) shared: Arc<Shared>,
    pub(crate) socket: Arc<Udp>,
    /// All queues: answers come back through the queue a flow was written to.
    pub(crate) queues: Vec<Arc<OwnedFd>>,
    /// For cookies.
    pub(crate) random: StdRng,
    /// Packets that wait for the device.
    pub(crate) merge: Merge,
}

/// What a run of datagrams of one session has brought.
struct Tally {
    way: Way,
    ecn: u8,
    bytes: usize,
    packets: usize,
    keepalives: usize,
    probes: usize,
    refused: u64,
    foreign: u64,
}

impl Tally {
    fn new(way: Way, ecn: u8) -> Self {
        Self { way, ecn, bytes: 0, packets: 0, keepalives: 0, probes: 0, refused: 0, foreign: 0 }
    }
}

impl Ingress {
    /// Receives until the socket fails for good.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut buffer = vec![0; RECEIVE_MOST * RECEIVE_ROOM];
        let mut received = Vec::with_capacity(RECEIVE_MOST);
        loop {
            match self.socket.receive(&mut buffer, &mut received) {
                Ok(()) => {}
                // Errors of datagrams sent before (ICMP) come here too; the socket goes on.
                Err(error) if error.raw_os_error() == Some(libc::EBADF) => return Err(error),
                Err(_) => continue,
            }
            let at = now();
            let routes = self.shared.routes.get();
            let mut waiting = 0;
            for train in &received {
                self.take(at, &routes, &mut buffer, train);
                waiting += train.length;
                if waiting >= BATCH {
                    self.deliver(&mut buffer);
                    waiting = 0;
                }
            }
            self.deliver(&mut buffer);
        }
    }

    /// Takes the datagrams of one sender.
    pub(crate) fn take(&mut self, at: u64, routes: &Routes, buffer: &mut [u8], train: &Received) {
        let end = train.start + train.length;
        let mut from = train.start;
        while from < end {
            let to = end.min(from + train.segment);
            match classify(train.from, &buffer[from..to]) {
                Kind::Data { path, skip } => {
                    let session =
                        self.session_of(buffer, from + skip).filter(|session| session.is_usable(at));
                    let Some(session) = session else {
                        from = to;
                        continue;
                    };
                    let mut tally = Tally::new(Way { path, local: train.local }, train.ecn);
                    let run = (from, end, train.segment);
                    from = self.take_data(routes, buffer, run, &session, &mut tally);
                    self.account(at, &session, &tally);
                }
                Kind::Handshake { path, skip } => {
                    self.pass_on(at, Way { path, local: train.local }, &buffer[from + skip..to]);
                    from = to;
                }
                Kind::Registered => {
                    if let Ok(answer) = buffer[from..to].try_into() {
                        self.pass_on_answer(train.from, answer);
                    }
                    from = to;
                }
                Kind::Nothing => from = to,
            }
        }
    }

    fn session_of(&self, buffer: &[u8], from: usize) -> Option<Arc<Session>> {
        let index = buffer.get(from + 4..from + 8)?.try_into().ok()?;
        self.shared.sessions.get().get(&u32::from_le_bytes(index)).cloned()
    }

    /// Takes datagrams as long as they are of the same session and path; returns where the next one begins.
    fn take_data(
        &mut self,
        routes: &Routes,
        buffer: &mut [u8],
        (mut from, end, segment): (usize, usize, usize),
        session: &Session,
        tally: &mut Tally,
    ) -> usize {
        let path = tally.way.path;
        let skip = path.overhead();
        let mut replay = lock(&session.replay);
        let mut source = None;
        let head: [u8; 8] = start_of(buffer, from + skip);
        while from < end {
            let to = end.min(from + segment);
            let data = from + skip;
            if to < data + DATA_HEADER + crate::noise::TAG || start_of(buffer, data) != head {
                break;
            }
            if skip > 0 && classify(path.address(), &buffer[from..to]) != (Kind::Data { path, skip }) {
                break;
            }
            if let Some(place) = open(buffer, data, to, session, &mut replay, tally) {
                self.check(routes, buffer, place, &session.peer, (&mut source, tally));
            }
            from = to;
        }
        from
    }

    fn account(&self, at: u64, session: &Arc<Session>, tally: &Tally) {
        let peer = &session.peer;
        if tally.refused > 0 {
            peer.counters.refused.fetch_add(tally.refused, Relaxed);
        }
        if tally.foreign > 0 {
            peer.counters.foreign.fetch_add(tally.foreign, Relaxed);
        }
        if tally.packets + tally.keepalives > 0 {
            peer.received(at, tally.bytes, tally.packets > 0);
            self.compare(at, peer, tally.way);
        } else if tally.probes == 0 {
            return;
        }
        if !session.confirmed.load(Relaxed) && !session.confirmed.swap(true, Relaxed) {
            let order = Order::Confirmed(peer.id, session.local);
            if self.shared.orders.try_send(order).is_err() {
                session.confirmed.store(false, Relaxed);
            }
        }
    }

    /// Tells the control thread if the peer is not where it was. Whoever has the keys is where its packets come from,
    /// but a peer may also use another of several paths for a moment.
    fn compare(&self, at: u64, peer: &PeerShared, way: Way) {
        if peer.way.get() == Some(way) || at < peer.came_next.load(Relaxed) {
            return;
        }
        peer.came_next.store(at + CAME_GAP, Relaxed);
        let _ = self.shared.orders.try_send(Order::Came(peer.id, way));
    }

    /// Handshakes cost computation: they wait in a bounded queue, and what has no room is dropped.
    fn pass_on(&mut self, at: u64, way: Way, message: &[u8]) {
        let waiting = self.shared.handshakes.load(Relaxed);
        let nonce = || {
            let mut nonce = [0; 24];
            self.random.fill_bytes(&mut nonce);
            nonce
        };
        let verdict = lock(&self.shared.gate).judge(at, way.path.address(), message, waiting, nonce);
        match verdict {
            Verdict::Drop => {}
            Verdict::Reply(cookie) => {
                let _ = send_alone(&self.socket, &way, &cookie);
            }
            Verdict::Pass => {
                if self.shared.handshakes.fetch_add(1, Relaxed) >= HANDSHAKES
                    || self.shared.orders.try_send(Order::Handshake(way, message.to_vec())).is_err()
                {
                    self.shared.handshakes.fetch_sub(1, Relaxed);
                }
            }
        }
    }

    /// Hands over an answer of a relay; what has no room is dropped, and the relay asked again.
    fn pass_on_answer(&self, from: SocketAddr, answer: [u8; registration::LENGTH]) {
        let waiting = &self.shared.registrations;
        if waiting.fetch_add(1, Relaxed) >= REGISTRATIONS
            || self.shared.orders.try_send(Order::Registered(from, answer)).is_err()
        {
            waiting.fetch_sub(1, Relaxed);
        }
    }

    /// Lets only packets pass whose source belongs to the peer, and hands over questions and answers.
    fn check(
        &mut self,
        routes: &Routes,
        buffer: &mut [u8],
        place: Place,
        peer: &PeerShared,
        (source, tally): (&mut Option<(IpAddr, PeerId)>, &mut Tally),
    ) {
        let packet = &mut buffer[place.from..place.from + place.length];
        let Some(outline) = outline(packet) else {
            match Probe::read(packet) {
                Some(probe) => {
                    tally.probes += 1;
                    let _ = self.shared.orders.try_send(Order::Probe(peer.id, tally.way, probe));
                }
                None => tally.foreign += 1,
            }
            return;
        };
        tally.packets += 1;
        tally.bytes += place.length;
        if *source != Some((outline.source, peer.id)) {
            if routes.peer_of(outline.source).is_none_or(|owner| owner.id != peer.id) {
                tally.foreign += 1;
                return;
            }
            *source = Some((outline.source, peer.id));
        }
        let packet = &mut packet[..outline.total];
        if !ecn::merge(tally.ecn, packet) {
            return;
        }
        mss::clamp(packet, &outline, self.shared.mtu.min(peer.limit.load(Relaxed)));
        let hash = flow_hash(packet, &outline);
        self.merge.add(buffer, Place { from: place.from, length: outline.total }, &outline, hash);
    }

    pub(crate) fn deliver(&mut self, buffer: &mut [u8]) {
        let Self { merge, queues, .. } = self;
        merge.flush(buffer, |buffer, vnet, item, is_v4| {
            let header = vnet.write(is_v4);
            let slice = |place: &Place| IoSlice::new(&buffer[place.from..place.from + place.length]);
            let queue = &queues[item.hash as usize % queues.len()];
            if item.more.is_empty() {
                let _ = rustix::io::writev(queue, &[IoSlice::new(&header), slice(&item.first)]);
                return;
            }
            let mut pieces = Vec::with_capacity(item.more.len() + 2);
            pieces.push(IoSlice::new(&header));
            pieces.push(slice(&item.first));
            pieces.extend(item.more.iter().map(slice));
            let _ = rustix::io::writev(queue, &pieces);
        });
    }
}

/// The first eight bytes: type and session.
fn start_of(buffer: &[u8], from: usize) -> [u8; 8] {
    buffer.get(from..from + 8).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default()
}

/// Decrypts one datagram where it is. `None` for keepalives and for what is not authentic or not new.
fn open(
    buffer: &mut [u8],
    data: usize,
    to: usize,
    session: &Session,
    replay: &mut MutexGuard<'_, Replay>,
    tally: &mut Tally,
) -> Option<Place> {
    let counter = u64::from_le_bytes(start_of(buffer, data + 8));
    let from = data + DATA_HEADER;
    let sealed = &mut buffer[from..to];
    let opened = session.receive.open_in_place(nonce(counter), Aad::empty(), sealed).map(|text| text.len());
    let Ok(length) = opened else {
        tally.refused += 1;
        return None;
    };
    if !replay.accept(counter) {
        tally.refused += 1;
        return None;
    }
    if length == 0 {
        tally.keepalives += 1;
        return None;
    }
    Some(Place { from, length })
}

#[cfg(test)]
#[path = "ingress_tests.rs"]
mod tests;
