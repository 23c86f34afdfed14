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
        let Some((header, packet)) = bytes.split_first_chunk::<VNET>() else { return };
        let (Some(vnet), Some(outline)) = (Vnet::parse(header), outline(packet)) else { return };
        let Some(plan) = plan(&vnet, packet, &outline) else { return };
        let target = match self.target.take_if(|target| target.address == outline.destination) {
            Some(target) => target,
            None => {
                let Some(peer) = routes.peer_of(outline.destination) else { return };
                match find(at, peer, outline.destination) {
                    Some(target) => target,
                    None => return self.wait(at, peer, packet, &plan, &outline),
                }
            }
        };
        self.send(at, &target, packet, &plan, &outline);
        self.target = Some(target);
    }

    /// Keeps the packet until there is a session, and asks for one.
    fn wait(&mut self, at: u64, peer: &Arc<PeerShared>, packet: &[u8], plan: &Plan, outline: &Outline) {
        let mut waiting = lock(&peer.waiting);
        if let Some(target) = find(at, peer, outline.destination) {
            // It was made meanwhile, and what waited was sent under this lock.
            drop(waiting);
            return self.send(at, &target, packet, plan, outline);
        }
        for number in 0..plan.count {
            let mut out = vec![0; plan.length(number)];
            plan.write(packet, number, &mut out);
            peer.wait(&mut waiting, out);
        }
        drop(waiting);
        // If the queue is full, the next packet asks again.
        let _ = self.shared.orders.try_send(Order::Want(peer.id));
    }

    fn send(&mut self, at: u64, target: &Target, packet: &[u8], plan: &Plan, outline: &Outline) {
        let Target { peer, session, way, .. } = target;
        let limit = peer.limit.load(Relaxed).min(self.shared.mtu);
        if plan.longest() > limit as usize && self.is_too_long(at, target, packet, plan, outline, limit) {
            return;
        }
        let whole = plan.count * (plan.longest() + 16 + DATA_HEADER + TAG + RELAY_HEADER);
        if !self.outgoing.has_room(whole) {
            self.flush(at);
        }
        let counter = session.reserve(plan.count);
        let to = (way, ecn::of(packet));
        for number in 0..plan.count {
            let length = plan.length(number);
            let size = (length, padded(length, limit));
            let write = |out: &mut [u8]| {
                plan.write(packet, number, out);
                if plan.count == 1 {
                    mss::clamp(out, outline, limit);
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
    fn is_too_long(
        &mut self,
        at: u64,
        target: &Target,
        packet: &[u8],
        plan: &Plan,
        outline: &Outline,
        limit: u32,
    ) -> bool {
        let answer = icmp::too_big(packet, outline, u16::try_from(limit).unwrap_or(u16::MAX));
        if let Some(answer) = answer {
            let header = Vnet::PLAIN.write(outline.source.is_ipv4());
            let _ = rustix::io::write(&*self.tun, &[&header, answer.as_slice()].concat());
            return true;
        }
        let mut pieces = Vec::new();
        for number in 0..plan.count {
            let mut whole = vec![0; plan.length(number)];
            plan.write(packet, number, &mut whole);
            let Some(outline) = crate::packet::outline(&whole) else { return false };
            let Some(cut) = fragment::fragments(&whole, &outline, limit as usize) else { return false };
            pieces.extend(cut);
        }
        self.flush(at);
        let pieces = pieces.into_iter();
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
