//! From the device to the peers: one thread for each queue of the device. The kernel keeps a flow in one queue.

use std::io::{self, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::control::Order;
use super::outgoing::{Outgoing, padded, send_packets};
use super::shared::{PeerShared, Routes, Session, Shared, lock, now};
use crate::noise::{DATA_HEADER, TAG};
use crate::packet::split::{Plan, plan};
use crate::packet::vnet::{VNET, Vnet};
use crate::packet::{Outline, ecn, fragment, icmp, mss, outline};
use crate::path::{RELAY_HEADER, Way};
use crate::sys::udp::Udp;

/// What is sent at once at most; more packets are read as long as there are some and this is not reached.
const BATCH: usize = 48 << 10;
/// Longest packet of the device with its header.
const ROOM: usize = VNET + (1 << 16);

/// One thread's state.
pub(crate) struct Egress {
    pub(crate) shared: Arc<Shared>,
    pub(crate) tun: Arc<OwnedFd>,
    pub(crate) socket: Arc<Udp>,
    pub(crate) outgoing: Outgoing,
    /// To which peers, and with how many bytes, the batch goes.
    pub(crate) sent: Vec<(Arc<PeerShared>, usize)>,
    /// The peer of the last packet, for the batch at hand.
    pub(crate) target: Option<Target>,
}

/// A packet of the device, understood.
pub(crate) struct Packet<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) outline: Outline,
    pub(crate) plan: Plan,
}

impl<'a> Packet<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (header, bytes) = bytes.split_first_chunk::<VNET>()?;
        let outline = outline(bytes)?;
        let plan = plan(&Vnet::parse(header)?, bytes, &outline)?;
        Some(Self { bytes, outline, plan })
    }

    /// The packets of the wire, for the rare cases in which they are not written where they are sent.
    pub(crate) fn cut(&self) -> impl Iterator<Item = Vec<u8>> {
        (0..self.plan.count).map(|number| {
            let mut piece = vec![0; self.plan.length(number)];
            self.plan.write(self.bytes, number, &mut piece);
            piece
        })
    }
}

/// Where a packet goes.
pub(crate) struct Target {
    address: IpAddr,
    peer: Arc<PeerShared>,
    session: Arc<Session>,
    way: Way,
}

impl Egress {
    /// Reads and sends until the device is gone.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut buffer = vec![0; ROOM];
        loop {
            let length = match rustix::io::read(&*self.tun, &mut buffer) {
                Ok(length) => length,
                Err(Errno::INTR | Errno::AGAIN) => continue,
                // The device is down: nothing to read until it is up again.
                Err(Errno::IO) => {
                    let mut wait = [rustix::event::PollFd::new(&*self.tun, rustix::event::PollFlags::IN)];
                    let second = rustix::time::Timespec { tv_sec: 1, tv_nsec: 0 };
                    let _ = rustix::event::poll(&mut wait, Some(&second));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let routes = self.shared.routes.get();
            let at = now();
            self.target = None;
            self.handle(at, &routes, &buffer[..length]);
            while self.outgoing.bytes() < BATCH {
                let mut pieces = [IoSliceMut::new(&mut buffer)];
                match preadv2(&*self.tun, &mut pieces, u64::MAX, ReadWriteFlags::NOWAIT) {
                    Ok(length) => self.handle(at, &routes, &buffer[..length]),
                    Err(_) => break,
                }
            }
            self.flush(at);
        }
    }

    fn handle(&mut self, at: u64, routes: &Routes, bytes: &[u8]) {
        let Some(packet) = Packet::read(bytes) else { return };
        let destination = packet.outline.destination;
        let target = match self.target.take_if(|target| target.address == destination) {
            Some(target) => target,
            None => {
                let Some(peer) = routes.peer_of(destination) else { return };
                match find(at, peer, destination) {
                    Some(target) => target,
                    None => return self.wait(at, peer, &packet),
                }
            }
        };
        self.send(at, &target, &packet);
        self.target = Some(target);
    }

    /// Keeps the packet until there is a session, and asks for one.
    fn wait(&mut self, at: u64, peer: &Arc<PeerShared>, packet: &Packet<'_>) {
        let mut waiting = lock(&peer.waiting);
        if let Some(target) = find(at, peer, packet.outline.destination) {
            // It was made meanwhile, and what waited was sent under this lock.
            drop(waiting);
            return self.send(at, &target, packet);
        }
        packet.cut().for_each(|piece| peer.wait(&mut waiting, piece));
        drop(waiting);
        // If the queue is full, the next packet asks again.
        let _ = self.shared.orders.try_send(Order::Want(peer.id));
    }

    fn send(&mut self, at: u64, target: &Target, packet: &Packet<'_>) {
        let Target { peer, session, way, .. } = target;
        let plan = &packet.plan;
        let limit = peer.limit.load(Relaxed).min(self.shared.mtu);
        if plan.longest() > limit as usize && self.is_too_long(at, target, packet, limit) {
            return;
        }
        let whole = plan.count * (plan.longest() + 16 + DATA_HEADER + TAG + RELAY_HEADER);
        if !self.outgoing.has_room(whole) {
            self.flush(at);
        }
        let counter = session.reserve(plan.count);
        let to = (way, ecn::of(packet.bytes));
        for number in 0..plan.count {
            let length = plan.length(number);
            let size = (length, padded(length, limit));
            let write = |out: &mut [u8]| {
                plan.write(packet.bytes, number, out);
                if plan.count == 1 {
                    mss::clamp(out, &packet.outline, limit);
                }
            };
            // Tiny segments of a huge packet may not fit at once.
            if !self.outgoing.has_room(size.1 + 64) {
                self.flush(at);
            }
            self.outgoing.add(session, counter + number as u64, to, size, write);
        }
        match self.sent.last_mut() {
            Some((last, bytes)) if last.id == peer.id => *bytes += plan.bytes(),
            _ => self.sent.push((Arc::clone(peer), plan.bytes())),
        }
    }

    /// Tells the sender that its packet is too long, or cuts it if that is allowed. False if neither can be: then the
    /// system may cut the datagram.
    fn is_too_long(&mut self, at: u64, target: &Target, packet: &Packet<'_>, limit: u32) -> bool {
        let answer = icmp::too_big(packet.bytes, &packet.outline, u16::try_from(limit).unwrap_or(u16::MAX));
        if let Some(answer) = answer {
            let header = Vnet::PLAIN.write(packet.outline.source.is_ipv4());
            let _ = rustix::io::write(&*self.tun, &[&header, answer.as_slice()].concat());
            return true;
        }
        let cut = packet.cut().map(|piece| {
            let outline = outline(&piece)?;
            fragment::fragments(&piece, &outline, limit as usize)
        });
        let Some(pieces) = cut.collect::<Option<Vec<_>>>() else { return false };
        self.flush(at);
        let pieces = pieces.concat().into_iter();
        send_packets(&mut self.outgoing, &self.socket, &target.session, self.shared.mtu, pieces, at);
        true
    }

    fn flush(&mut self, at: u64) {
        let outcome = self.outgoing.send(&self.socket);
        for (peer, bytes) in self.sent.drain(..) {
            peer.sent(at, bytes, true);
            // A batch seldom has more than one peer; who exactly lost is not worth a list.
            peer.counters.lost_sending.fetch_add(outcome.lost as u64, Relaxed);
            if outcome.too_long {
                let _ = self.shared.orders.try_send(Order::Measure(peer.id));
            }
            if outcome.sourceless {
                let _ = self.shared.orders.try_send(Order::ForgetLocal(peer.id));
            }
        }
    }
}

fn find(at: u64, peer: &Arc<PeerShared>, address: IpAddr) -> Option<Target> {
    let session = peer.usable(at)?;
    let way = peer.way.get()?;
    Some(Target { address, peer: Arc::clone(peer), session, way })
}
