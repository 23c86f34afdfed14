//! How other workers are reached: encrypted, plain or not at all. Nothing here touches anything.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};
use oak_model::overlay::{Peer, TunnelEnd};
use oak_net::Way;
use oak_tunnel::{Path, PublicKey};

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

/// This worker's end of all ways.
#[derive(Clone, Debug)]
pub(crate) struct OwnEnd {
    pub(crate) encryption: Encryption,
    /// None if this worker does not encrypt.
    pub(crate) tunnel: Option<TunnelEnd>,
    /// Whether others see this worker at an address it does not have.
    pub(crate) is_behind_nat: bool,
}

/// The ways to all other workers.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    /// What the kernel is told.
    pub(crate) routes: Vec<oak_net::Peer>,
    /// What the tunnel engine is told.
    pub(crate) tunnels: Vec<oak_tunnel::Peer>,
    /// Who is not reached, and why; for people.
    pub(crate) problems: Vec<String>,
}

impl Ways {
    /// Chooses a way to each of `peers`. No packet may be sent to a worker at one of the `inner` addresses.
    pub(crate) fn choose<'a>(
        own: &OwnEnd,
        inner: &[Ipv4Net],
        peers: impl Iterator<Item = &'a Peer> + Clone,
    ) -> Self {
        let inner: Vec<_> = inner.iter().copied().chain(peers.clone().map(|peer| peer.subnet)).collect();
        let mut keys: BTreeSet<PublicKey> = own.tunnel.iter().filter_map(key).collect();
        let mut ways = Self::default();
        for peer in peers {
            let way = match (&own.tunnel, &peer.tunnel) {
                (Some(_), Some(end)) => encrypted(own, end, peer, &inner, &mut keys).map(|tunnel| {
                    ways.tunnels.push(tunnel);
                    Way::Encrypted
                }),
                _ if own.encryption.allows_plain() && peer.plain => {
                    Ok(Way::Plain { underlay: peer.underlay })
                }
                _ => Err(no_way(own, peer)),
            };
            match way {
                Ok(way) => ways.routes.push(oak_net::Peer { subnet: peer.subnet, way }),
                Err(why) => {
                    let (id, address) = (peer.worker, peer.underlay);
                    ways.problems.push(format!("worker {id} at {address} is not reached: {why}"));
                }
            }
        }
        ways
    }
}

fn key(end: &TunnelEnd) -> Option<PublicKey> {
    end.public_key.parse().ok()
}

fn encrypted(
    own: &OwnEnd,
    end: &TunnelEnd,
    peer: &Peer,
    inner: &[Ipv4Net],
    keys: &mut BTreeSet<PublicKey>,
) -> Result<oak_tunnel::Peer, String> {
    if !is_host(peer.underlay) || inner.iter().any(|network| network.contains(&peer.underlay)) {
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
        paths: vec![Path::Direct(SocketAddr::new(IpAddr::V4(peer.underlay), end.port))],
        networks: vec![IpNet::V4(peer.subnet)],
        persistent_keepalive_s: own.is_behind_nat.then_some(KEEPALIVE_S),
        ..oak_tunnel::Peer::default()
    })
}

fn is_host(address: Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_broadcast())
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
    use oak_model::WorkerId;
    use oak_tunnel::PrivateKey;

    use super::*;

    fn end(number: u8) -> TunnelEnd {
        let key = PrivateKey::from_bytes([number; 32]).public();
        TunnelEnd { public_key: key.to_string(), port: 50103 }
    }

    fn own(encryption: Encryption) -> OwnEnd {
        let tunnel = (encryption != Encryption::Off).then(|| end(1));
        OwnEnd { encryption, tunnel, is_behind_nat: false }
    }

    fn peer(number: u8, encryption: Encryption) -> Peer {
        Peer {
            worker: WorkerId::from_parts(1, u64::from(number)),
            subnet: Ipv4Net::new(Ipv4Addr::new(10, 18, number, 0), 25).unwrap(),
            underlay: Ipv4Addr::new(192, 0, 2, number),
            tunnel: (encryption != Encryption::Off).then(|| end(number)),
            plain: encryption.allows_plain(),
        }
    }

    fn choose(own: &OwnEnd, peers: &[Peer]) -> Ways {
        Ways::choose(own, &["10.18.0.0/25".parse().unwrap(), "10.30.0.0/16".parse().unwrap()], peers.iter())
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
            with(|peer| peer.tunnel = Some(TunnelEnd { public_key: "?".to_owned(), port: 1 })),
            with(|peer| peer.tunnel = Some(TunnelEnd { port: 0, ..end(3) })),
            with(|peer| peer.underlay = Ipv4Addr::LOCALHOST),
            with(|peer| peer.underlay = Ipv4Addr::new(10, 18, 2, 7)),
            with(|peer| peer.underlay = Ipv4Addr::new(10, 30, 0, 1)),
        ] {
            let ways = choose(&own(Encryption::Preferred), &[good.clone(), bad.clone()]);
            assert_eq!((ways.routes.len(), ways.tunnels.len(), ways.problems.len()), (1, 1, 1), "{bad:?}");
            assert_eq!(ways.tunnels[0].name, good.worker.to_string());
        }
    }

    #[test]
    fn the_engine_is_told_where_the_other_one_is() {
        let behind = OwnEnd { is_behind_nat: true, ..own(Encryption::Preferred) };
        let ways = choose(&behind, &[peer(2, Encryption::Required)]);
        let tunnel = &ways.tunnels[0];
        assert_eq!(tunnel.paths, [Path::Direct("192.0.2.2:50103".parse().unwrap())]);
        assert_eq!(tunnel.networks, ["10.18.2.0/25".parse::<IpNet>().unwrap()]);
        assert_eq!(tunnel.persistent_keepalive_s, Some(KEEPALIVE_S));
    }
}
