//! From the socket to the device: one thread for each socket of the port. The kernel keeps a sender at one socket.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard};

use ring::aead::Aad;

use super::control::{HANDSHAKES, Order};
use super::frames::Frames;
use super::shared::{PeerShared, Routes, Session, Shared, lock, now};
use crate::core::PeerId;
use crate::noise::{DATA_HEADER, nonce};
use crate::packet::merge::{Merge, Place};
use crate::packet::{flow_hash, outline};
use crate::path::{Kind, Path, classify};
use crate::replay::Replay;
use crate::sys::{self, RECEIVE_MOST, RECEIVE_ROOM, Received};

/// Decrypted bytes that wait for the device at most.
const BATCH: usize = 48 << 10;

/// One thread's state.
pub(crate) struct Ingress {
    pub(crate) shared: Arc<Shared>,
    pub(crate) socket: Arc<OwnedFd>,
    /// All queues: answers come back through the queue a flow was written to.
    pub(crate) queues: Vec<Arc<OwnedFd>>,
    pub(crate) frames: Arc<Frames>,
}

/// What a run of datagrams of one session has brought.
struct Tally {
    path: Path,
    bytes: usize,
    packets: usize,
    keepalives: usize,
    refused: u64,
    foreign: u64,
}

impl Tally {
    fn new(path: Path) -> Self {
        Self { path, bytes: 0, packets: 0, keepalives: 0, refused: 0, foreign: 0 }
    }
}

impl Ingress {
    /// Receives until the socket fails for good.
    pub(crate) fn run(self) -> io::Result<()> {
        let mut buffer = vec![0; RECEIVE_MOST * RECEIVE_ROOM];
        let mut received = Vec::with_capacity(RECEIVE_MOST);
        let mut merge = Merge::default();
        loop {
            match sys::receive(&self.socket, &mut buffer, &mut received) {
                Ok(()) => {}
                // Errors of datagrams sent before (ICMP) come here too; the socket goes on.
                Err(error) if error.raw_os_error() == Some(libc::EBADF) => return Err(error),
                Err(_) => continue,
            }
            let at = now();
            let routes = self.shared.routes.get();
            let mut waiting = 0;
            for train in &received {
                self.take(at, &routes, &mut buffer, train, &mut merge);
                waiting += train.length;
                if waiting >= BATCH {
                    self.deliver(&mut merge, &mut buffer);
                    waiting = 0;
                }
            }
            self.deliver(&mut merge, &mut buffer);
        }
    }

    /// Takes the datagrams of one sender.
    fn take(&self, at: u64, routes: &Routes, buffer: &mut [u8], train: &Received, merge: &mut Merge) {
        let end = train.start + train.length;
        let mut from = train.start;
        while from < end {
            let to = end.min(from + train.segment);
            match classify(train.from, &buffer[from..to]) {
                Kind::Data { path, skip } => {
                    let Some(session) = self.session_of(buffer, from + skip) else {
                        from = to;
                        continue;
                    };
                    if !session.is_usable(at) {
                        from = to;
                        continue;
                    }
                    from =
                        self.take_data(at, routes, buffer, (from, end, train.segment), path, &session, merge);
                }
                Kind::Handshake { path, skip } => {
                    self.pass_on(path, &buffer[from + skip..to]);
                    from = to;
                }
                Kind::Frame => {
                    self.frames.received(train.from, &buffer[from..to]);
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
    #[expect(clippy::too_many_arguments, reason = "the state of the loop it is taken out of")]
    fn take_data(
        &self,
        at: u64,
        routes: &Routes,
        buffer: &mut [u8],
        (mut from, end, segment): (usize, usize, usize),
        path: Path,
        session: &Arc<Session>,
        merge: &mut Merge,
    ) -> usize {
        let skip = path.overhead();
        let mut tally = Tally::new(path);
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
            if let Some(place) = open(buffer, data, to, session, &mut replay, &mut tally) {
                check(routes, buffer, place, &session.peer, (&mut source, &mut tally), merge);
            }
            from = to;
        }
        drop(replay);
        self.account(at, session, &tally);
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
        if tally.packets + tally.keepalives == 0 {
            return;
        }
        peer.received(at, tally.bytes, tally.packets > 0);
        if at >= peer.hold_until.load(Relaxed) && peer.path.get() != Some(tally.path) {
            // Roaming: whoever has the keys is where the newest authentic packet came from.
            peer.path.set(Some(tally.path));
            let _ = self.shared.orders.try_send(Order::Measure(peer.id));
        }
        if !session.confirmed.load(Relaxed) && !session.confirmed.swap(true, Relaxed) {
            let order = Order::Confirmed(peer.id, session.local);
            if self.shared.orders.try_send(order).is_err() {
                session.confirmed.store(false, Relaxed);
            }
        }
    }

    /// Handshakes cost computation: they wait in a bounded queue, and what has no room is dropped.
    fn pass_on(&self, path: Path, message: &[u8]) {
        if self.shared.handshakes.fetch_add(1, Relaxed) < HANDSHAKES
            && self.shared.orders.try_send(Order::Handshake(path, message.to_vec())).is_ok()
        {
            return;
        }
        self.shared.handshakes.fetch_sub(1, Relaxed);
    }

    fn deliver(&self, merge: &mut Merge, buffer: &mut [u8]) {
        merge.flush(buffer, |buffer, vnet, item, is_v4| {
            let header = vnet.write(is_v4);
            let slice = |place: &Place| IoSlice::new(&buffer[place.from..place.from + place.length]);
            let queue = &self.queues[item.hash as usize % self.queues.len()];
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

/// Lets only packets pass whose source belongs to the peer.
fn check(
    routes: &Routes,
    buffer: &[u8],
    place: Place,
    peer: &PeerShared,
    (source, tally): (&mut Option<(IpAddr, PeerId)>, &mut Tally),
    merge: &mut Merge,
) {
    let Some(outline) = outline(&buffer[place.from..place.from + place.length]) else {
        tally.foreign += 1;
        return;
    };
    if *source != Some((outline.source, peer.id)) {
        if routes.peer_of(outline.source).is_none_or(|owner| owner.id != peer.id) {
            tally.foreign += 1;
            return;
        }
        *source = Some((outline.source, peer.id));
    }
    let packet = Place { from: place.from, length: outline.total };
    let hash = flow_hash(&buffer[packet.from..packet.from + packet.length], &outline);
    merge.add(buffer, packet, &outline, hash);
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
    tally.packets += 1;
    tally.bytes += length;
    Some(Place { from, length })
}
