//! How other workers are reached: encrypted, plain or not at all. Nothing here touches anything.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};
use oak_model::ipv6;
use oak_model::overlay::{MOST_SEEN, Peer, RelayEnd, TunnelEnd};
use oak_net::{Way, is_host};
use oak_tunnel::{MAX_RELAYS, Path, PrivateKey, PublicKey, Relay, pair_tag};

use crate::facts::OwnAddresses;
use crate::keys::Keys;

/// Seconds between packets that keep the way through a NAT open.
const KEEPALIVE_S: u16 = 25;

/// Whether packets between instances of different workers are encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// Always; workers that do not encrypt are not reached.
    Required,
    /// With every worker that can; others are reached as they are.
    #[default]
    Preferred,
    /// Never: the network is trusted.
    Off,
}

impl Encryption {
    /// Whether plain packets are sent and taken.
    pub(crate) const fn allows_plain(self) -> bool {
        !matches!(self, Self::Required)
    }
}

/// This worker's end of all ways, as it is set up.
#[derive(Clone, Debug)]
pub(crate) struct OwnEnd {
    pub(crate) encryption: Encryption,
    pub(crate) keys: Keys,
    /// None if this worker does not encrypt.
    pub(crate) tunnel: Option<TunnelEnd>,
    /// Where others reach it, as they are told; none while that is being found out.
    pub(crate) addresses: Option<OwnAddresses>,
    /// Whether its operator says that others see it at an address it does not have.
    pub(crate) is_behind_nat: bool,
}

impl OwnEnd {
    /// Where plain packets for another worker are sent to: over IPv4 if both have that, so that both sides choose the same.
    pub(crate) fn plain_underlay(&self, peer: &Peer) -> Option<IpAddr> {
        let four = peer.underlay.filter(|_| self.addresses.is_none_or(OwnAddresses::has_ipv4));
        let six = peer.underlay6.filter(|_| self.addresses.is_none_or(OwnAddresses::has_ipv6));
        four.map(IpAddr::V4).or(six.map(IpAddr::V6))
    }
}

/// Where this worker is, as others see it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Whereabouts {
    /// As its cluster sees it, if there is a NAT in between.
    pub(crate) outside: Option<IpAddr>,
    /// Whether anybody sees it at an address it does not have.
    pub(crate) is_behind_nat: bool,
    /// The relay of its cluster.
    pub(crate) relay: Option<RelayEnd>,
}

/// The ways to all other workers.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    /// What the kernel is told.
    pub(crate) routes: Vec<oak_net::Peer>,
    /// What the tunnel engine is told.
    pub(crate) tunnels: Vec<oak_tunnel::Peer>,
    /// Where the tunnel engine registers.
    pub(crate) relays: Vec<Relay>,
    /// Who is not reached, and why; for people.
    pub(crate) problems: Vec<String>,
}

impl Ways {
    /// Chooses a way to each of `peers`. No packet may be sent to a worker at one of the `inner` addresses.
    pub(crate) fn choose<'a>(
        own: &OwnEnd,
        place: &Whereabouts,
        inner: &[Ipv4Net],
        peers: impl Iterator<Item = &'a Peer> + Clone,
    ) -> Self {
        let inner: Vec<_> = inner.iter().copied().chain(peers.clone().flat_map(Peer::subnets)).collect();
        let mut keys = BTreeSet::from([own.keys.present.public()]);
        let mut relays = Relays::new(own, place);
        let mut ways = Self::default();
        for peer in peers {
            let way = match (&own.tunnel, &peer.tunnel) {
                (Some(_), Some(end)) => encrypted(end, peer, &inner, &mut keys).map(|mut tunnel| {
                    relays.add_to(&mut tunnel, peer);
                    let is_kept_alive = place.is_behind_nat || is_behind_nat(peer, end);
                    tunnel.persistent_keepalive_s = is_kept_alive.then_some(KEEPALIVE_S);
                    ways.tunnels.push(tunnel);
                    Way::Encrypted
                }),
                // Nobody translates the ports of plain packets back.
                _ if own.encryption.allows_plain() && peer.plain && peer.outside != place.outside => {
                    Err("there is a NAT in between, which plain packets do not pass".to_owned())
                }
                _ if own.encryption.allows_plain() && peer.plain => {
                    own.plain_underlay(peer).map(|underlay| Way::Plain { underlay }).ok_or_else(|| {
                        "one of the two has only IPv4 and the other one only IPv6, and plain packets pass no relay"
                            .to_owned()
                    })
                }
                _ => Err(no_way(own, peer)),
            };
            match way {
                Ok(way) => {
                    let gateway = peer.gateway();
                    let route = |subnet| oak_net::Peer { subnet, gateway, way };
                    ways.routes.extend(peer.subnets().map(route));
                }
                Err(why) => {
                    ways.problems.push(format!("{} is not reached: {why}", name(peer)));
                }
            }
        }
        ways.relays = relays.all();
        ways
    }
}

/// A worker, for people.
fn name(peer: &Peer) -> String {
    let addresses: Vec<String> = peer.own_addresses().map(|address| address.to_string()).collect();
    format!("worker {} at {}", peer.worker, addresses.join(" and "))
}

/// Whether others see it at an address it does not have.
fn is_behind_nat(peer: &Peer, end: &TunnelEnd) -> bool {
    let is_own = |address| end.seen_as.contains(&SocketAddr::new(address, end.port));
    peer.outside.is_some() || (!end.seen_as.is_empty() && !peer.own_addresses().any(is_own))
}

/// The relays this worker needs.
struct Relays<'a> {
    own: &'a OwnEnd,
    /// That of its cluster.
    nearest: Option<&'a RelayEnd>,
    known: BTreeMap<SocketAddr, Relay>,
    /// The same under the former key of this worker: others send to that until they were told of the present one.
    former: Vec<Relay>,
}

impl<'a> Relays<'a> {
    fn new(own: &'a OwnEnd, place: &'a Whereabouts) -> Self {
        Self { own, nearest: place.relay.as_ref(), known: BTreeMap::new(), former: Vec::new() }
    }

    /// All of them, those under the present key first.
    fn all(self) -> Vec<Relay> {
        self.known.into_values().chain(self.former).take(MAX_RELAYS).collect()
    }

    /// Adds the relays of both clusters as the last paths. Both sides prefer the same one.
    fn add_to(&mut self, tunnel: &mut oak_tunnel::Peer, peer: &Peer) {
        let mut ends: Vec<&RelayEnd> = self.nearest.into_iter().chain(&peer.relay).collect();
        ends.sort_by(|left, right| left.public_key.cmp(&right.public_key));
        ends.dedup_by(|left, right| left.public_key == right.public_key);
        let tag = pair_tag(&self.own.keys.present.public(), &tunnel.public_key);
        for end in ends {
            if let Some(relay) = self.register(end) {
                tunnel.paths.push(Path::Relayed { relay, tag });
            }
        }
    }

    /// Where a relay is, if this worker can use it.
    fn register(&mut self, end: &RelayEnd) -> Option<SocketAddr> {
        let address = SocketAddr::new(end.address?, end.port);
        if !self.known.contains_key(&address) {
            if self.known.len() >= MAX_RELAYS {
                return None;
            }
            let public_key = end.public_key.parse().ok()?;
            let relay = |own: &PrivateKey| Relay::with_keys(address, &public_key, own);
            self.known.insert(address, relay(&self.own.keys.present)?);
            self.former.extend(self.own.keys.former.as_ref().and_then(relay));
        }
        Some(address)
    }
}

fn key(end: &TunnelEnd) -> Option<PublicKey> {
    end.public_key.parse().ok()
}

fn encrypted(
    end: &TunnelEnd,
    peer: &Peer,
    inner: &[Ipv4Net],
    keys: &mut BTreeSet<PublicKey>,
) -> Result<oak_tunnel::Peer, String> {
    if !peer.own_addresses().any(|address| is_usable(address, inner)) {
        return Err("nothing can be sent to that address".to_owned());
    }
    let public_key = key(end).ok_or_else(|| "its key for encryption is damaged".to_owned())?;
    if end.port == 0 {
        return Err("its port for encrypted packets is 0".to_owned());
    }
    // Whoever has the key of another worker would be taken for it.
    if !keys.insert(public_key) {
        return Err(
            "its key for encryption is that of another worker; remove worker/network-key in its data \
                    directory and restart it"
                .to_owned(),
        );
    }
    Ok(oak_tunnel::Peer {
        name: peer.worker.to_string(),
        public_key,
        paths: direct_paths(end, peer, inner),
        networks: peer.subnets().flat_map(networks).collect(),
        ..oak_tunnel::Peer::default()
    })
}

/// Its own addresses, then those it is seen at from outside.
fn direct_paths(end: &TunnelEnd, peer: &Peer, inner: &[Ipv4Net]) -> Vec<Path> {
    let own = peer.own_addresses().map(|address| SocketAddr::new(address, end.port));
    let usable = |address: &SocketAddr| is_usable(address.ip(), inner) && address.port() != 0;
    let mut addresses = Vec::new();
    for address in own.chain(end.seen_as.iter().take(MOST_SEEN).copied()).filter(usable) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses.into_iter().map(Path::Direct).collect()
}

/// Whether packets can be sent to another worker there, and not only through the tunnel itself.
fn is_usable(address: IpAddr, inner: &[Ipv4Net]) -> bool {
    match address {
        IpAddr::V4(address) => is_host(address) && !inner.iter().any(|network| network.contains(&address)),
        IpAddr::V6(address) => ipv6::is_underlay(address),
    }
}

/// What is behind a worker, of both families.
fn networks(subnet: Ipv4Net) -> Vec<IpNet> {
    [Some(subnet.into()), ipv6::node_network(subnet).map(IpNet::V6)].into_iter().flatten().collect()
}

fn no_way(own: &OwnEnd, peer: &Peer) -> String {
    let ours = match (own.encryption, &own.tunnel) {
        (Encryption::Off, _) => "this worker does not encrypt (network.encryption is off)",
        (Encryption::Required, Some(_)) => "this worker only encrypts (network.encryption is required)",
        (Encryption::Required, None) => "this worker shall only encrypt and cannot (no /dev/net/tun)",
        (Encryption::Preferred, Some(_)) => "this worker encrypts",
        (Encryption::Preferred, None) => "this worker cannot encrypt (no /dev/net/tun)",
    };
    let theirs = match (&peer.tunnel, peer.plain) {
        (None, _) => "the other one does not encrypt",
        (Some(_), true) => "the other one does",
        (Some(_), false) => "the other one takes encrypted packets only",
    };
    format!("{ours}, and {theirs}")
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use oak_model::WorkerId;

    fn end(number: u8) -> TunnelEnd {
        let key = PrivateKey::from_bytes([number; 32]).public();
        TunnelEnd { public_key: key.to_string(), former_key: None, port: 50103, seen_as: Vec::new() }
    }

    fn keys(number: u8) -> Keys {
        Keys { present: PrivateKey::from_bytes([number; 32]), former: None }
    }

    fn own(encryption: Encryption) -> OwnEnd {
        let tunnel = (encryption != Encryption::Off).then(|| end(1));
        let addresses = Some(OwnAddresses::of([192, 0, 2, 1].into()));
        OwnEnd { encryption, keys: keys(1), tunnel, addresses, is_behind_nat: false }
    }

    fn peer(number: u8, encryption: Encryption) -> Peer {
        Peer {
            worker: WorkerId::from_parts(1, u64::from(number)),
            subnet: Ipv4Net::new(Ipv4Addr::new(10, 18, number, 0), 25).unwrap(),
            more_subnets: Vec::new(),
            underlay: Some(Ipv4Addr::new(192, 0, 2, number)),
            underlay6: None,
            tunnel: (encryption != Encryption::Off).then(|| end(number)),
            plain: encryption.allows_plain(),
            outside: None,
            relay: None,
        }
    }

    fn choose(own: &OwnEnd, peers: &[Peer]) -> Ways {
        choose_at(own, &Whereabouts::default(), peers)
    }

    fn choose_at(own: &OwnEnd, place: &Whereabouts, peers: &[Peer]) -> Ways {
        let inner = ["10.18.0.0/25".parse().unwrap(), "10.30.0.0/16".parse().unwrap()];
        Ways::choose(own, place, &inner, peers.iter())
    }

    fn relay(number: u8, host: u8) -> RelayEnd {
        let public_key = PrivateKey::from_bytes([number; 32]).public().to_string();
        RelayEnd { public_key, port: 50105, address: Some([203, 0, 113, host].into()) }
    }

    #[test]
    fn both_sides_choose_the_same_way() {
        use Encryption::{Off, Preferred, Required};
        for (one, other, expected) in [
            (Required, Required, Some(true)),
            (Required, Preferred, Some(true)),
            (Preferred, Preferred, Some(true)),
            (Preferred, Off, Some(false)),
            (Off, Off, Some(false)),
            (Required, Off, None),
        ] {
            for (here, there) in [(one, other), (other, one)] {
                let ways = choose(&own(here), &[peer(2, there)]);
                let way = ways.routes.first().map(|route| route.way == Way::Encrypted);
                assert_eq!(way, expected, "{here:?} with {there:?}");
                assert_eq!(ways.tunnels.len(), usize::from(expected == Some(true)));
                assert_eq!(ways.problems.len(), usize::from(expected.is_none()), "{:?}", ways.problems);
            }
        }
    }

    #[test]
    fn who_is_not_reached_is_named_with_the_reason() {
        let ways = choose(&own(Encryption::Required), &[peer(2, Encryption::Off)]);
        assert!(ways.problems[0].contains("192.0.2.2") && ways.problems[0].contains("required"), "{ways:?}");
    }

    #[test]
    fn one_bad_peer_does_not_spoil_the_others() {
        let good = peer(2, Encryption::Preferred);
        let with = |change: fn(&mut Peer)| {
            let mut bad = peer(3, Encryption::Preferred);
            change(&mut bad);
            bad
        };
        for bad in [
            with(|peer| peer.tunnel = Some(end(1))),
            with(|peer| peer.tunnel = Some(end(2))),
            with(|peer| peer.tunnel = Some(TunnelEnd { public_key: "?".to_owned(), ..end(3) })),
            with(|peer| peer.tunnel = Some(TunnelEnd { port: 0, ..end(3) })),
            with(|peer| peer.underlay = Some(Ipv4Addr::LOCALHOST)),
            with(|peer| peer.underlay = Some(Ipv4Addr::new(10, 18, 2, 7))),
            with(|peer| peer.underlay = Some(Ipv4Addr::new(10, 30, 0, 1))),
            with(|peer| peer.underlay = None),
            with(|peer| (peer.underlay, peer.underlay6) = (None, Some("fe80::3".parse().unwrap()))),
            with(|peer| (peer.underlay, peer.underlay6) = (None, Some("fc00::201".parse().unwrap()))),
        ] {
            let ways = choose(&own(Encryption::Preferred), &[good.clone(), bad.clone()]);
            assert_eq!((ways.routes.len(), ways.tunnels.len(), ways.problems.len()), (1, 1, 1), "{bad:?}");
            assert_eq!(ways.tunnels[0].name, good.worker.to_string());
        }
    }

    #[test]
    fn the_engine_is_told_where_the_other_one_is() {
        let place = Whereabouts { is_behind_nat: true, ..Whereabouts::default() };
        let ways = choose_at(&own(Encryption::Preferred), &place, &[peer(2, Encryption::Required)]);
        let tunnel = &ways.tunnels[0];
        assert_eq!(tunnel.paths, [Path::Direct("192.0.2.2:50103".parse().unwrap())]);
        assert_eq!(
            tunnel.networks,
            ["10.18.2.0/25", "fc00::400/120"].map(|text| text.parse::<IpNet>().unwrap())
        );
        assert_eq!(tunnel.persistent_keepalive_s, Some(KEEPALIVE_S));
        assert!(ways.relays.is_empty());
    }

    #[test]
    fn candidates_are_the_own_address_those_from_outside_and_the_relays_of_both() {
        let mut other = peer(2, Encryption::Preferred);
        let seen =
            ["192.0.2.2:50103", "198.51.100.2:61000", "10.30.0.9:1", "127.0.0.1:50103", "198.51.100.2:0"];
        let seen = seen.map(|address| address.parse().unwrap()).to_vec();
        other.tunnel = Some(TunnelEnd { seen_as: seen, ..end(2) });
        other.relay = Some(relay(8, 8));
        let place = Whereabouts { relay: Some(relay(9, 9)), ..Whereabouts::default() };
        let ways = choose_at(&own(Encryption::Preferred), &place, &[other.clone()]);
        let paths = &ways.tunnels[0].paths;
        let direct =
            ["192.0.2.2:50103", "198.51.100.2:61000"].map(|text| Path::Direct(text.parse().unwrap()));
        assert_eq!(paths[..2], direct);
        assert_eq!((paths.len(), ways.relays.len()), (4, 2));
        // The other side finds the same order and the same tag.
        let there = OwnEnd { keys: keys(2), tunnel: Some(end(2)), ..own(Encryption::Preferred) };
        let place = Whereabouts { relay: Some(relay(8, 8)), ..Whereabouts::default() };
        let here = Peer { tunnel: Some(end(1)), relay: Some(relay(9, 9)), ..peer(1, Encryption::Preferred) };
        assert_eq!(choose_at(&there, &place, &[here]).tunnels[0].paths[1..], paths[2..]);
        assert_eq!(
            ways.tunnels[0].persistent_keepalive_s, None,
            "its own address is among those it is seen at"
        );
    }

    #[test]
    fn addresses_of_both_families_are_tried_and_plain_packets_take_ipv4() {
        let mut both = peer(2, Encryption::Preferred);
        both.underlay6 = Some("2001:db8::2".parse().unwrap());
        let seen = ["198.51.100.2:61000", "[2001:db8::2]:50103", "[fe80::2]:50103"];
        both.tunnel =
            Some(TunnelEnd { seen_as: seen.map(|address| address.parse().unwrap()).to_vec(), ..end(2) });
        let paths = |peer: &Peer| {
            let mut ways = choose(&own(Encryption::Preferred), std::slice::from_ref(peer));
            ways.tunnels.remove(0).paths
        };
        let direct = ["192.0.2.2:50103", "[2001:db8::2]:50103", "198.51.100.2:61000"];
        assert_eq!(paths(&both), direct.map(|text| Path::Direct(text.parse().unwrap())));
        let ways = choose(&own(Encryption::Preferred), std::slice::from_ref(&both));
        assert_eq!(
            ways.tunnels[0].persistent_keepalive_s, None,
            "one of its own is among those it is seen at"
        );

        let only = Peer { underlay: None, ..both };
        assert_eq!(paths(&only)[0], Path::Direct("[2001:db8::2]:50103".parse().unwrap()));
    }

    #[test]
    fn plain_packets_travel_over_a_family_that_both_have() {
        let (four, six) = ("192.0.2.2".parse().unwrap(), "2001:db8::2".parse().unwrap());
        let peer = |underlay, underlay6| Peer { underlay, underlay6, ..peer(2, Encryption::Off) };
        let peers = [peer(Some(four), None), peer(None, Some(six)), peer(Some(four), Some(six))];
        let way = |here: &[&str], peer: &Peer| {
            let known = |text: &&str| OwnAddresses::of(text.parse().unwrap());
            let addresses = here.iter().map(known).fold(OwnAddresses::default(), OwnAddresses::or);
            let mut ways = choose(
                &OwnEnd { addresses: Some(addresses), ..own(Encryption::Preferred) },
                std::slice::from_ref(peer),
            );
            ways.routes.pop().map(|route| route.way).ok_or_else(|| ways.problems.remove(0))
        };
        let plain = |underlay: IpAddr| Ok(Way::Plain { underlay });
        let [here4, here6] = ["192.0.2.1", "2001:db8::1"];
        for both in [&[here4][..], &[here4, here6]] {
            assert_eq!(way(both, &peers[0]), plain(four.into()));
            assert_eq!(way(both, &peers[2]), plain(four.into()));
        }
        for both in [&[here6][..], &[here4, here6]] {
            assert_eq!(way(both, &peers[1]), plain(six.into()));
        }
        assert_eq!(way(&[here6], &peers[2]), plain(six.into()));
        let problem = way(&[here4], &peers[1]).unwrap_err();
        assert!(problem.contains("at 2001:db8::2 is not reached: one of the two has only IPv4"), "{problem}");
    }

    #[test]
    fn relays_know_a_worker_by_its_former_key_as_well() {
        let other = Peer { relay: Some(relay(8, 8)), ..peer(2, Encryption::Preferred) };
        let place = Whereabouts { relay: Some(relay(9, 9)), ..Whereabouts::default() };
        let former = Some(PrivateKey::from_bytes([7; 32]));
        let rotated = OwnEnd { keys: Keys { former, ..keys(1) }, ..own(Encryption::Preferred) };
        let ways = choose_at(&rotated, &place, std::slice::from_ref(&other));
        let before = choose_at(&OwnEnd { keys: keys(7), ..own(Encryption::Preferred) }, &place, &[other]);
        assert_eq!(ways.relays.len(), 4);
        assert!(before.relays.iter().all(|relay| ways.relays[2..].contains(relay)));
        assert_eq!(ways.tunnels[0].paths.len(), 3, "one path through each of them");
    }

    #[test]
    fn a_way_through_a_nat_is_kept_open_from_both_sides() {
        let mut other = peer(2, Encryption::Preferred);
        other.outside = Some([198, 51, 100, 2].into());
        let ways = choose(&own(Encryption::Preferred), &[other]);
        assert_eq!(ways.tunnels[0].persistent_keepalive_s, Some(KEEPALIVE_S));
    }

    #[test]
    fn plain_packets_are_not_sent_through_a_nat() {
        let outside = |host: u8| Some(IpAddr::from([198, 51, 100, host]));
        for (here, there, expected) in
            [(None, outside(2), false), (outside(2), outside(2), true), (outside(3), outside(2), false)]
        {
            let place = Whereabouts { outside: here, ..Whereabouts::default() };
            let ways = choose_at(
                &own(Encryption::Off),
                &place,
                &[Peer { outside: there, ..peer(2, Encryption::Off) }],
            );
            assert_eq!(
                (ways.routes.len(), ways.problems.len()),
                (usize::from(expected), usize::from(!expected))
            );
        }
    }

    #[test]
    fn relays_beyond_the_limit_and_without_an_address_are_left_out() {
        let peers: Vec<Peer> = (2..40)
            .map(|number| Peer {
                relay: Some(relay(number + 100, number)),
                ..peer(number, Encryption::Preferred)
            })
            .collect();
        let place =
            Whereabouts { relay: Some(RelayEnd { address: None, ..relay(9, 9) }), ..Whereabouts::default() };
        let ways = choose_at(&own(Encryption::Preferred), &place, &peers);
        assert_eq!((ways.tunnels.len(), ways.relays.len()), (38, MAX_RELAYS));
        assert_eq!(ways.tunnels.iter().filter(|tunnel| tunnel.paths.len() == 2).count(), MAX_RELAYS);
    }
}
