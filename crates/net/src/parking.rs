//! Packets to unknown addresses wait here until the node learns about the address.
//!
//! A TUN device that lives as long as this process takes the route to service addresses from the
//! bridge. What arrives is to an address that no rule translates: it waits, somebody is told, and when the
//! table has the address, the packet is sent again as if it came from the host, so that it is
//! translated (or refused) like any other. When the agent ends, the device goes with it and the bridge's
//! route is in force again: calls to unknown addresses are refused at once.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::config::NetworkConfig;
use crate::flows::is_untranslated;
use crate::host::{PARKING_METRIC, to_services};
use crate::names::parking_name;
use crate::netlink::route;
use crate::netlink::{Socket, conntrack, link};
use crate::park::{Packet, Park, Unknown};
use crate::sys;

/// Pairs told but not asked for yet. When full, a pair is told with its next packet.
const TOLD: usize = 256;
/// Tables on their way to the thread; it takes them as they come.
const TABLES: usize = 4;
/// No packet is larger, whatever the MTU.
const MAX_PACKET: usize = 65_535;
/// Packets read in a row before anything else gets its turn.
const BATCH: usize = 64;
/// Tries to get the name, 5 ms apart, from a device that is on its way out.
const OPEN_TRIES: u32 = 100;
/// How often all flows are looked at because of a packet that came too late.
const FORGET_AGAIN: Duration = Duration::from_millis(100);

/// What the rules have addresses for.
#[derive(Debug, Default)]
struct Known {
    /// Translated or refused.
    all: BTreeSet<IpAddr>,
    /// Refused to some: packets of others come back and wait on.
    partly: BTreeSet<IpAddr>,
}

/// The device and the thread that reads it; both end when this is dropped.
#[derive(Debug)]
pub(crate) struct Parking {
    tables: Option<SyncSender<Known>>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Parking {
    /// Makes the device in the current thread's namespace and starts to read it. Also returns where
    /// unknown addresses are told.
    pub(crate) fn open(config: &NetworkConfig) -> io::Result<(Self, mpsc::Receiver<Unknown>)> {
        let device = open_device(&parking_name(&config.bridge))?;
        configure(config)?;
        let flags = SocketFlags::CLOEXEC;
        let raw = |family| socket_with(family, SocketType::RAW, flags, Some(ipproto::RAW));
        let raw6 = if config.ipv6 { Some(raw(AddressFamily::INET6)?) } else { None };
        let raw = raw(AddressFamily::INET)?;
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (tables, inbox) = sync_channel(TABLES);
        let (told, unknown) = mpsc::channel(TOLD);
        let mut attendant = Attendant {
            device,
            raw,
            raw6,
            netfilter: Socket::netfilter()?,
            wake: Arc::clone(&wake),
            inbox,
            told,
            gateway: config.gateway(),
            gateway6: config.gateway6(),
            known: Known::default(),
            park: Park::default(),
            forgot: None,
        };
        let run = move || {
            if let Err(error) = attendant.run() {
                warn!(%error, "packets to unknown addresses do not wait any more");
            }
        };
        let thread = Builder::new().name("oak-net-park".to_owned()).spawn(run)?;
        Ok((Self { tables: Some(tables), wake, thread: Some(thread) }, unknown))
    }

    /// Sends what waits for these addresses on its way. To be called when rules know them and their
    /// untranslated flows are forgotten. `partly` are those that rules refuse to some and others may ask for.
    pub(crate) fn release(&self, all: BTreeSet<IpAddr>, partly: BTreeSet<IpAddr>) {
        if let Some(tables) = &self.tables {
            // Fails only if the thread has ended, which it said.
            let _ = tables.send(Known { all, partly });
            self.ring();
        }
    }

    fn ring(&self) {
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

impl Drop for Parking {
    fn drop(&mut self) {
        self.tables = None;
        self.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Makes the device, which exists until the file is closed.
fn open_device(name: &str) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let device = rustix::fs::open("/dev/net/tun", flags, Mode::empty())?;
    for _ in 0..OPEN_TRIES {
        match sys::make_tun(device.as_fd(), name) {
            // A program that the last owner was starting has the file until it runs.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            outcome => return outcome.map(|()| File::from(device)),
        }
        let moment = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
        let _ = poll(&mut [], Some(&moment));
    }
    Err(Errno::BUSY.into())
}

/// Brings the device up and gives it the route to service addresses.
fn configure(config: &NetworkConfig) -> io::Result<()> {
    let mut socket = Socket::route()?;
    let found = link::find(&mut socket, &parking_name(&config.bridge))?;
    let device = found.ok_or(io::ErrorKind::NotFound)?.index;
    link::take_into_group(&mut socket, device)?;
    let _ = link::forbid_link_local(&mut socket, device);
    // The host sizes its packets by this device, whatever becomes of them after translation.
    link::set_mtu(&mut socket, device, config.mtu)?;
    link::set_up(&mut socket, device)?;
    for route in to_services(config, device, PARKING_METRIC) {
        route::replace_route(&mut socket, &route)?;
    }
    Ok(())
}

/// What the thread owns.
struct Attendant {
    device: File,
    raw: OwnedFd,
    /// None without IPv6.
    raw6: Option<OwnedFd>,
    netfilter: Socket,
    wake: Arc<OwnedFd>,
    inbox: Receiver<Known>,
    told: mpsc::Sender<Unknown>,
    gateway: Ipv4Addr,
    gateway6: Ipv6Addr,
    known: Known,
    park: Park,
    /// When flows were last looked at because of a late packet.
    forgot: Option<Instant>,
}

impl Attendant {
    /// Runs until the owner lets go of it.
    fn run(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; MAX_PACKET];
        loop {
            self.wait()?;
            let _ = rustix::io::read(&self.wake, &mut [0; 8]);
            loop {
                match self.inbox.try_recv() {
                    Ok(known) => self.take_table(known),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Ok(()),
                }
            }
            for _ in 0..BATCH {
                match self.device.read(&mut buffer) {
                    Ok(length) => self.receive(buffer.get(..length).unwrap_or_default()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            for packet in self.park.expire(Instant::now()) {
                self.give_up(&packet);
            }
        }
    }

    /// Waits for a packet, a table, the end, or until a packet has waited long enough.
    fn wait(&self) -> io::Result<()> {
        let left = self.park.next_expiry().map(|at| at.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut watched = [PollFd::new(&self.device, PollFlags::IN), PollFd::new(&self.wake, PollFlags::IN)];
        match poll(&mut watched, left.as_ref()) {
            Err(Errno::INTR) => Ok(()),
            outcome => Ok(outcome.map(|_| ())?),
        }
    }

    fn take_table(&mut self, known: Known) {
        self.known = known;
        let mut released = self.park.release(&self.known.all);
        released.extend(self.park.release(&self.known.partly));
        if !released.is_empty() {
            debug!(count = released.len(), "sending packets that waited for their address");
        }
        for packet in released {
            self.send_again(packet);
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        let now = Instant::now();
        let Some(packet) = Packet::parse(bytes, now) else {
            return;
        };
        let pair = packet.pair;
        if self.known.all.contains(&packet.destination) {
            return self.receive_late(packet, now);
        }
        if self.park.is_news(pair, now) && self.told.try_send(pair).is_ok() {
            self.park.told(pair, now);
        }
        self.park.add(packet);
    }

    /// A packet that was on its way while its address became known, and may have left an untranslated
    /// flow. Not too often: if somebody flushed the rules, every packet comes here.
    fn receive_late(&mut self, packet: Packet, now: Instant) {
        if self.forgot.is_some_and(|at| now.saturating_duration_since(at) < FORGET_AGAIN) {
            return;
        }
        self.forgot = Some(now);
        let destination = packet.pair.destination;
        let is_stale = |flow: &_| is_untranslated(flow, destination);
        match conntrack::forget(&mut self.netfilter, is_stale) {
            Ok(_) => self.send_again(packet),
            Err(error) => debug!(%error, "cannot forget an untranslated flow"),
        }
    }

    /// Each time costs a hop, so that a packet which comes back again and again ends.
    fn send_again(&self, mut packet: Packet) {
        if packet.take_hop() {
            self.send(&packet.bytes, packet.destination);
        }
    }

    fn give_up(&self, packet: &Packet) {
        let answer = match packet.source {
            IpAddr::V4(source) => unreachable(packet, self.gateway, source),
            IpAddr::V6(source) => unreachable6(packet, self.gateway6, source),
        };
        if let Some(answer) = answer {
            self.send(&answer, packet.source);
        }
    }

    /// The kernel fills in the checksum of the IP header. It fails if the packet is refused, and then
    /// the sender has been answered.
    fn send(&self, bytes: &[u8], destination: IpAddr) {
        let flags = SendFlags::DONTWAIT;
        let sent = match (destination, &self.raw6) {
            (IpAddr::V4(to), _) => sendto(&self.raw, bytes, flags, &SocketAddrV4::new(to, 0)),
            (IpAddr::V6(to), Some(raw)) => sendto(raw, bytes, flags, &SocketAddrV6::new(to, 0, 0, 0)),
            (IpAddr::V6(_), None) => return,
        };
        if let Err(error) = sent {
            debug!(%error, %destination, "a packet that waited was not sent");
        }
    }
}

/// ICMP "host unreachable" (RFC 792) for a packet; none for packets that must not be answered.
pub(crate) fn unreachable(packet: &Packet, gateway: Ipv4Addr, source: Ipv4Addr) -> Option<Vec<u8>> {
    let bytes = &packet.bytes;
    let header = usize::from(bytes.first()? & 15) * 4;
    let is_later_fragment = (bytes.get(6)? & 0x1f, bytes.get(7)?) != (0, &0);
    let is_icmp = *bytes.get(9)? == 1;
    if is_later_fragment || is_icmp && *bytes.get(header)? != 8 {
        return None;
    }
    let quoted = bytes.get(..bytes.len().min(header + 8))?;
    let mut icmp = vec![3, 1, 0, 0, 0, 0, 0, 0];
    icmp.extend_from_slice(quoted);
    let sum = checksum(&icmp).to_be_bytes();
    icmp.get_mut(2..4)?.copy_from_slice(&sum);
    let length = u16::try_from(20 + icmp.len()).ok()?.to_be_bytes();
    let mut answer = vec![0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, 1, 0, 0];
    answer.extend_from_slice(&gateway.octets());
    answer.extend_from_slice(&source.octets());
    answer.extend_from_slice(&icmp);
    Some(answer)
}

/// ICMPv6 "address unreachable" (RFC 4443) for a packet; none for packets that must not be answered.
pub(crate) fn unreachable6(packet: &Packet, gateway: Ipv6Addr, source: Ipv6Addr) -> Option<Vec<u8>> {
    const ICMP6: u8 = 58;
    const ECHO_REQUEST: u8 = 128;
    let bytes = &packet.bytes;
    if *bytes.get(6)? == ICMP6 && *bytes.get(40)? != ECHO_REQUEST {
        return None;
    }
    let mut icmp = vec![1, 3, 0, 0, 0, 0, 0, 0];
    // As much as leaves the answer within the smallest MTU.
    icmp.extend_from_slice(bytes.get(..bytes.len().min(1280 - 48))?);
    let length = u16::try_from(icmp.len()).ok()?.to_be_bytes();
    let addresses = [gateway.octets(), source.octets()].concat();
    let pseudo = [&addresses[..], &[0, 0, length[0], length[1], 0, 0, 0, ICMP6], &icmp].concat();
    let sum = checksum(&pseudo).to_be_bytes();
    icmp.get_mut(2..4)?.copy_from_slice(&sum);
    let mut answer = vec![0x60, 0, 0, 0, length[0], length[1], ICMP6, 64];
    answer.extend_from_slice(&addresses);
    answer.extend_from_slice(&icmp);
    Some(answer)
}

/// Internet checksum (RFC 1071).
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_quotes_the_packet_and_has_the_right_checksum() {
        let mut bytes = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 18, 0, 2, 10, 30, 0, 1];
        bytes.extend_from_slice(&[7; 21]);
        let mut packet = Packet::parse(&bytes, Instant::now()).unwrap();
        let answer = unreachable(&packet, Ipv4Addr::new(10, 18, 0, 1), Ipv4Addr::new(10, 18, 0, 2)).unwrap();
        assert_eq!(answer.len(), 20 + 8 + 28);
        assert_eq!(answer[16..20], [10, 18, 0, 2]);
        assert_eq!(checksum(&answer[20..]), 0);
        // A packet is answered once, and an error not with another.
        packet.bytes[7] = 1;
        assert!(unreachable(&packet, Ipv4Addr::new(10, 18, 0, 1), Ipv4Addr::new(10, 18, 0, 2)).is_none());
        packet.bytes[7] = 0;
        packet.bytes[9] = 1;
        packet.bytes[20] = 3;
        assert!(unreachable(&packet, Ipv4Addr::new(10, 18, 0, 1), Ipv4Addr::new(10, 18, 0, 2)).is_none());
    }
}
