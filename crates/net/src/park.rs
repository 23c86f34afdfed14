//! Packets to addresses nobody has told this node about: how many wait, how long, and who is told of them.
//! Pure; the device they come from is in `parking`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use oak_model::ipv6;

/// How long a packet waits.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the same caller of the same address is told.
const TELL_AGAIN: Duration = Duration::from_secs(1);
/// Packets that wait for one address.
const MAX_PER_DESTINATION: usize = 64;
/// Packets of one caller: one that tries all addresses leaves room for others.
const MAX_PER_SOURCE: usize = 256;
/// Packets in all.
const MAX_PACKETS: usize = 1024;
/// Bytes in all; a packet may have 64 KiB.
const MAX_BYTES: usize = 4 << 20;
/// Pairs that are remembered as told.
const MAX_TOLD: usize = 1024;

/// Somebody here calls an address nobody has told this node about. IPv6 addresses are told as the IPv4 addresses they go
/// with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unknown {
    /// Namespace address of the instance, or an address of the host.
    pub source: Ipv4Addr,
    /// The address in the service range.
    pub destination: Ipv4Addr,
}

/// A packet that waits.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) pair: Unknown,
    /// Where it is from and where it goes, as the packet says.
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// From the IP header on.
    pub(crate) bytes: Vec<u8>,
    until: Instant,
}

impl Packet {
    /// None if it is no whole IP header, or to an IPv6 address that no service or instance can have.
    pub(crate) fn parse(bytes: &[u8], now: Instant) -> Option<Self> {
        let (source, destination) = match bytes.first()? >> 4 {
            4 => (four(bytes, 12)?, four(bytes, 16)?),
            6 if bytes.len() >= 40 => (six(bytes, 8)?, six(bytes, 24)?),
            _ => return None,
        };
        let pair = Unknown { source: as_node(source), destination: as_service(destination)? };
        Some(Self { pair, source, destination, bytes: bytes.to_vec(), until: now + PATIENCE })
    }

    /// Takes one from the hops that are left; false if none is.
    pub(crate) fn take_hop(&mut self) -> bool {
        let at = if self.destination.is_ipv4() { 8 } else { 7 };
        let left = self.bytes.get_mut(at).filter(|hops| **hops > 1);
        left.map(|hops| *hops -= 1).is_some()
    }
}

fn four(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets).into())
}

fn six(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(Ipv6Addr::from(octets).into())
}

/// The host may use an address of its own, which nobody has to know.
fn as_node(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => ipv6::node_layer(address).unwrap_or(Ipv4Addr::UNSPECIFIED),
    }
}

fn as_service(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => ipv6::service_layer(address),
    }
}

/// All that wait, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Park {
    packets: VecDeque<Packet>,
    bytes: usize,
    told: BTreeMap<Unknown, Instant>,
}

impl Park {
    /// Lets a packet wait; it is dropped if there is no room.
    pub(crate) fn add(&mut self, packet: Packet) {
        let bytes = self.bytes + packet.bytes.len();
        if self.packets.len() >= MAX_PACKETS || bytes > MAX_BYTES {
            return;
        }
        let count = |same: fn(&Unknown, &Unknown) -> bool| {
            self.packets.iter().filter(|other| same(&other.pair, &packet.pair)).count()
        };
        if count(|one, other| one.destination == other.destination) >= MAX_PER_DESTINATION
            || count(|one, other| one.source == other.source) >= MAX_PER_SOURCE
        {
            return;
        }
        self.bytes = bytes;
        self.packets.push_back(packet);
    }

    /// Whether somebody should be told of the pair now.
    pub(crate) fn is_news(&mut self, pair: Unknown, now: Instant) -> bool {
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < TELL_AGAIN;
        if self.told.get(&pair).is_some_and(is_recent) {
            return false;
        }
        if self.told.len() >= MAX_TOLD {
            self.told.retain(|_, at| is_recent(at));
        }
        self.told.len() < MAX_TOLD
    }

    /// Notes that somebody was told.
    pub(crate) fn told(&mut self, pair: Unknown, now: Instant) {
        self.told.insert(pair, now);
    }

    /// Takes out the packets to these addresses.
    pub(crate) fn release(&mut self, known: &BTreeSet<IpAddr>) -> Vec<Packet> {
        self.told.retain(|pair, _| !known.contains(&pair.destination.into()));
        self.take(|packet| known.contains(&packet.destination))
    }

    /// Takes out the packets that have waited long enough.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Packet> {
        self.take(|packet| packet.until <= now)
    }

    /// When the next packet has waited long enough.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.packets.front().map(|packet| packet.until)
    }

    /// Bytes that wait.
    #[cfg(any(test, fuzzing))]
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    fn take(&mut self, is_taken: impl Fn(&Packet) -> bool) -> Vec<Packet> {
        let (taken, left): (Vec<_>, Vec<_>) = self.packets.drain(..).partition(|packet| is_taken(packet));
        self.packets = left.into();
        self.bytes = self.packets.iter().map(|packet| packet.bytes.len()).sum();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(source: [u8; 4], destination: [u8; 4], size: usize, now: Instant) -> Packet {
        let mut bytes = vec![0; size.max(20)];
        bytes[0] = 0x45;
        bytes[12..16].copy_from_slice(&source);
        bytes[16..20].copy_from_slice(&destination);
        Packet::parse(&bytes, now).unwrap()
    }

    #[test]
    fn a_flood_is_bounded_and_leaves_room_for_others() {
        let (mut park, now) = (Park::default(), Instant::now());
        for n in 0..2000_u16 {
            let [high, low] = n.to_be_bytes();
            park.add(packet([10, 18, 0, 2], [10, 30, high, low], 40, now));
        }
        assert_eq!(park.packets.len(), MAX_PER_SOURCE);
        for _ in 0..2000 {
            park.add(packet([10, 18, 0, 3], [10, 30, 9, 9], 40, now));
        }
        assert_eq!(park.packets.len(), MAX_PER_SOURCE + MAX_PER_DESTINATION);
        for source in 10..200 {
            for n in 0..200 {
                park.add(packet([10, 18, 0, source], [10, 30, source, n], 40, now));
            }
        }
        assert_eq!(park.packets.len(), MAX_PACKETS);
        assert_eq!(park.expire(now + PATIENCE).len(), MAX_PACKETS);
        for n in 0..200 {
            park.add(packet([10, 18, 0, 2], [10, 30, 0, n], 65_000, now));
        }
        assert!(park.bytes <= MAX_BYTES && park.packets.len() < 200);
    }

    #[test]
    fn a_pair_is_told_once_a_second() {
        let (mut park, now) = (Park::default(), Instant::now());
        let pair = packet([10, 18, 0, 2], [10, 30, 0, 1], 40, now).pair;
        assert!(park.is_news(pair, now));
        // Not told after all: still news.
        assert!(park.is_news(pair, now));
        park.told(pair, now);
        assert!(!park.is_news(pair, now + TELL_AGAIN / 2));
        assert!(park.is_news(pair, now + TELL_AGAIN));
        for n in 0..5000_u32 {
            let pair = Unknown { destination: Ipv4Addr::from_bits(n), ..pair };
            if park.is_news(pair, now) {
                park.told(pair, now);
            }
        }
        assert_eq!(park.told.len(), MAX_TOLD);
        assert!(park.is_news(pair, now + TELL_AGAIN));
    }

    #[test]
    fn only_known_addresses_are_released() {
        let (mut park, now) = (Park::default(), Instant::now());
        for n in [1, 2, 1] {
            park.add(packet([10, 18, 0, 2], [10, 30, 0, n], 40, now));
        }
        assert_eq!(park.release(&BTreeSet::from([Ipv4Addr::new(10, 30, 0, 1).into()])).len(), 2);
        assert!(park.expire(now).is_empty());
        assert_eq!(park.next_expiry(), Some(now + PATIENCE));
        assert_eq!(park.expire(now + PATIENCE).len(), 1);
        assert_eq!((park.bytes, park.next_expiry()), (0, None));
    }

    #[test]
    fn ipv6_is_told_as_the_ipv4_that_goes_with_it() {
        let mut bytes = vec![0x60, 0, 0, 0, 0, 0, 17, 64];
        bytes.extend(Ipv6Addr::from(0xfc00 << 112 | 2_u128).octets());
        bytes.extend("fdff:2000::55:56".parse::<Ipv6Addr>().unwrap().octets());
        let mut packet = Packet::parse(&bytes, Instant::now()).unwrap();
        let pair =
            Unknown { source: Ipv4Addr::new(10, 18, 0, 2), destination: Ipv4Addr::new(10, 30, 55, 56) };
        assert_eq!(packet.pair, pair);
        assert!(packet.take_hop() && packet.bytes[7] == 63);
    }

    #[test]
    fn what_is_to_no_service_is_not_parked() {
        let now = Instant::now();
        for bytes in [&[][..], &[0x45; 19], &[0x60; 39], &[0x60; 40]] {
            assert!(Packet::parse(bytes, now).is_none());
        }
    }
}
