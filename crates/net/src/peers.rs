//! The ways to other nodes. To those that encrypt: a route to a device that somebody else made. To others: a VXLAN
//! device for each family packets travel over, without a learning or asking layer 2. Every node has an address there, its gateway's, and a MAC address that
//! follows from it; so a subnet and the address of its node are all there is to know:
//!
//! ```text
//! route      10.18.0.128/25 dev oak0e scope link src 10.18.0.1 metric 1000    a node that encrypts
//!
//! route      10.18.1.0/25 via 10.18.1.1 dev oak0t onlink src 10.18.0.1
//! neighbour  10.18.1.1 is at 02:6f:0a:12:01:01
//! forwarding 02:6f:0a:12:01:01 is behind 192.0.2.12
//! ```
//!
//! Whoever encrypts may have the kernel do it, with a route to `oak0w` and a smaller metric.
//!
//! The same for the IPv6 addresses that go with these, at the same MAC addresses. Nothing of it is remembered: what is wanted is compared with what the kernel has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};
use oak_model::ipv6;
use tracing::debug;

use crate::config::{NetworkConfig, overlap};
use crate::error::{NetworkError, Tried};
use crate::names::{encrypted_name, kernel_name, mac, plain_name, plain6_name};
use crate::netlink::Socket;
use crate::netlink::link::{self, Link, OAK_GROUP};
use crate::netlink::route::{self, Neighbour, Route};
use crate::netlink::vxlan::{self, Family, Forwarding, Vxlan};
use crate::netlink::wireguard;
use crate::sysctl;

/// VXLAN network identifier of all nodes ("oak" in ASCII).
const NETWORK_ID: u32 = 0x006f_616b;
/// Metric of routes to who encrypts: there is room for better ones. Not 1024, which IPv6 takes for none.
const ENCRYPTED_METRIC: u32 = 1000;

/// How much longer headers of IPv6 are than those of IPv4, bytes.
const LONGER6: u32 = 20;

/// Another node, or one of its networks if it has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Addresses of its namespaces.
    pub subnet: Ipv4Net,
    /// Address of its gateway device: the first host address of its first network.
    pub gateway: Ipv4Addr,
    /// How it is reached.
    pub way: Way,
}

/// How packets get to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Not encrypted, in VXLAN.
    Plain {
        /// Where packets for it are sent to, on the UDP port of VXLAN.
        underlay: IpAddr,
    },
    /// Through the device of [`encrypted_name`], whose owner knows where the node is.
    Encrypted,
}

impl Way {
    /// What plain packets travel over.
    fn plain(self) -> Option<Family> {
        match self {
            Self::Plain { underlay } => Some(Family::of(underlay)),
            Self::Encrypted => None,
        }
    }
}

/// A peer that was left out, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerProblem {
    /// A subnet must be a network of at most /30 in the range of all nodes.
    #[error("{subnet} is not a network of a node in {node_range}")]
    NotNodeSubnet {
        /// The peer's subnet.
        subnet: Ipv4Net,
        /// Where it should lie.
        node_range: Ipv4Net,
    },
    /// The addresses have another use. Of two peers the first counts.
    #[error("subnet {subnet} of another node overlaps {taken}")]
    Overlap {
        /// The peer's subnet.
        subnet: Ipv4Net,
        /// This node's or another peer's subnet, or the service addresses.
        taken: Ipv4Net,
    },
    /// No packet can be sent to that address, or only through the tunnel itself.
    #[error("the node with subnet {subnet} cannot be reached at {underlay}")]
    Underlay {
        /// The peer's subnet.
        subnet: Ipv4Net,
        /// The useless address.
        underlay: IpAddr,
    },
    /// Nobody has made the device yet, or something else has its name.
    #[error("the node with subnet {subnet} is reached encrypted, and there is no device {device} for that")]
    NotEncrypting {
        /// The peer's subnet.
        subnet: Ipv4Net,
        /// The device.
        device: String,
    },
    /// This host has no device for plain packets: no VXLAN in its kernel, or something else has the name.
    #[error("the node with subnet {subnet} takes plain packets, and this one cannot send them: {reason}")]
    NotPlain {
        /// The peer's subnet.
        subnet: Ipv4Net,
        /// Why not.
        reason: String,
    },
    /// This host has a route of its own to exactly this network; it stays.
    #[error(
        "this host has a route to {subnet} that leads elsewhere; remove it or give the node another subnet"
    )]
    ForeignRoute {
        /// The peer's subnet.
        subnet: Ipv4Net,
    },
}

/// Brings the kernel to `peers`, in steps that leave flows to peers that stay alone.
pub(crate) fn set(
    socket: &mut Socket,
    config: &NetworkConfig,
    peers: &[Peer],
) -> Result<Vec<PeerProblem>, NetworkError> {
    let encrypted = encrypted_name(&config.bridge);
    let (mut peers, mut problems) = check(config, peers);
    let mut find = |name: &str| link::find(socket, name).tried(|| format!("look for device {name}"));
    let mut own_plain = |family| {
        let link = find(&plain_device(config, family))?;
        Ok(link.filter(|link| link.is_ours(vxlan::KIND)).map(|link| link.index))
    };
    let (plain4, plain6) = (own_plain(Family::V4)?, own_plain(Family::V6)?);
    let own_encrypted = find(&encrypted)?.filter(|link| link.kind == "tun");
    let kernel = find(&kernel_name(&config.bridge))?.filter(|link| link.is_ours(wireguard::KIND));
    let index = |link: Option<&Link>| link.map(|link| link.index);
    let own = [plain4, plain6, index(own_encrypted.as_ref()), index(kernel.as_ref())];
    let routes = route::routes(socket).tried(|| "list routes".to_owned())?;
    peers.retain(|peer| {
        let subnet = peer.subnet;
        let networks = networks(config, subnet);
        let mut same = routes.iter().filter(|route| networks.contains(&route.destination));
        let is_foreign = same.any(|route| !own.contains(&Some(route.device)));
        let lacks_device = peer.way == Way::Encrypted && own_encrypted.is_none();
        if is_foreign {
            problems.push(PeerProblem::ForeignRoute { subnet });
        } else if lacks_device {
            problems.push(PeerProblem::NotEncrypting { subnet, device: encrypted.clone() });
        }
        !is_foreign && !lacks_device
    });
    // A peer that changes its way is never without a route: the new one takes the place of the old one, which therefore
    // goes last.
    let ways = Encrypted::new(config, own_encrypted.as_ref(), &peers);
    ways.add(socket, &encrypted).tried(|| format!("configure device {encrypted}"))?;
    for (family, own) in [(Family::V4, plain4), (Family::V6, plain6)] {
        let there: Vec<Peer> =
            peers.iter().filter(|peer| peer.way.plain() == Some(family)).copied().collect();
        let name = plain_device(config, family);
        if there.is_empty() {
            if let Some(device) = own {
                link::delete(socket, device).tried(|| format!("remove device {name}"))?;
            }
            continue;
        }
        match ensure_device(socket, config, &name, family) {
            Ok(device) => {
                let wanted = Wanted::new(config, device, &there);
                wanted.bring(socket, device).tried(|| format!("configure device {name}"))?;
            }
            // Everybody else is reached all the same.
            Err(error) => {
                let reason = std::error::Error::source(&error)
                    .map_or(error.to_string(), |why| format!("{error} ({why})"));
                let problem =
                    |peer: &Peer| PeerProblem::NotPlain { subnet: peer.subnet, reason: reason.clone() };
                problems.extend(there.iter().map(problem));
            }
        }
    }
    ways.remove_others(socket).tried(|| format!("configure device {encrypted}"))?;
    Ok(problems)
}

/// Separates the peers that can be connected from those that cannot.
fn check(config: &NetworkConfig, peers: &[Peer]) -> (Vec<Peer>, Vec<PeerProblem>) {
    let (mut accepted, mut problems) = (Vec::new(), Vec::new());
    let mut taken: Vec<_> = config.subnets().chain([config.service_range]).collect();
    for peer in peers {
        match check_subnet(config, peer.subnet, &taken) {
            Err(problem) => problems.push(problem),
            Ok(()) => {
                taken.push(peer.subnet);
                accepted.push(*peer);
            }
        }
    }
    accepted.retain(|Peer { subnet, way, .. }| {
        let Way::Plain { underlay } = way else { return true };
        let is_reached = match underlay {
            IpAddr::V4(address) => {
                is_host(*address) && !taken.iter().any(|network| network.contains(address))
            }
            IpAddr::V6(address) => ipv6::is_underlay(*address),
        };
        if !is_reached {
            problems.push(PeerProblem::Underlay { subnet: *subnet, underlay: *underlay });
        }
        is_reached
    });
    (accepted, problems)
}

/// Whether an address can be that of one machine that others send to.
#[must_use]
pub fn is_host(address: Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_broadcast())
}

/// The device for plain packets that travel over this family.
fn plain_device(config: &NetworkConfig, family: Family) -> String {
    match family {
        Family::V4 => plain_name(&config.bridge),
        Family::V6 => plain6_name(&config.bridge),
    }
}

/// Everything behind a node.
fn networks(config: &NetworkConfig, subnet: Ipv4Net) -> Vec<IpNet> {
    let six = ipv6::node_network(subnet).filter(|_| config.ipv6);
    [Some(subnet.into()), six.map(IpNet::V6)].into_iter().flatten().collect()
}

fn is_link_local(network: IpNet) -> bool {
    matches!(network, IpNet::V6(network) if network.addr().is_unicast_link_local())
}

/// An address of a node that means nothing outside one device.
fn link_local(gateway: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).to_bits() | u128::from(gateway.to_bits()))
}

/// As which address this host sends there.
fn own_source(config: &NetworkConfig, destination: IpNet) -> IpAddr {
    match destination {
        IpNet::V4(_) => config.gateway().into(),
        IpNet::V6(_) => config.gateway6().into(),
    }
}

fn check_subnet(config: &NetworkConfig, subnet: Ipv4Net, taken: &[Ipv4Net]) -> Result<(), PeerProblem> {
    let node_range = config.node_range;
    if subnet != subnet.trunc() || subnet.prefix_len() > 30 || !node_range.contains(&subnet) {
        return Err(PeerProblem::NotNodeSubnet { subnet, node_range });
    }
    match taken.iter().find(|network| overlap(**network, subnet)) {
        Some(taken) => Err(PeerProblem::Overlap { subnet, taken: *taken }),
        None => Ok(()),
    }
}

/// The index of a VXLAN device, which is made anew if it is not as it should be.
fn ensure_device(
    socket: &mut Socket,
    config: &NetworkConfig,
    name: &str,
    family: Family,
) -> Result<u32, NetworkError> {
    let mtu = match family {
        Family::V4 => config.mtu,
        Family::V6 => config.mtu.saturating_sub(LONGER6),
    };
    let what = || format!("make device {name}");
    let vxlan = Vxlan { id: NETWORK_ID, port: config.tunnel_port };
    let mac = mac(config.gateway());
    let foreign = || NetworkError::ForeignDevice { device: name.to_owned() };
    if let Some(link) = link::find(socket, name).tried(what)? {
        if !link.is_ours(vxlan::KIND) {
            return Err(foreign());
        }
        if link.vxlan != Some(vxlan) || link.mac != mac {
            link::delete(socket, link.index).tried(|| format!("remove device {name}"))?;
        }
    }
    if link::find(socket, name).tried(what)?.is_none() {
        vxlan::create(socket, name, mac, mtu, vxlan, family).tried(what)?;
    }
    let tunnel = link::find(socket, name).tried(what)?.filter(|link| link.is_ours(vxlan::KIND));
    let tunnel = tunnel.ok_or_else(foreign)?;
    if tunnel.mtu != mtu {
        link::set_mtu(socket, tunnel.index, mtu).tried(what)?;
    }
    if !tunnel.is_up {
        let _ = link::forbid_link_local(socket, tunnel.index);
        sysctl::write(&format!("ipv4/conf/{name}/forwarding"), "1")?;
        link::set_up_without_arp(socket, tunnel.index).tried(what)?;
    }
    Ok(tunnel.index)
}

/// Routes to the device of who encrypts.
#[derive(Debug, Default)]
struct Encrypted {
    device: Option<u32>,
    /// Whether `teardown` knows the device as one of this node.
    is_marked: bool,
    routes: Vec<Route>,
}

impl Encrypted {
    fn new(config: &NetworkConfig, link: Option<&Link>, peers: &[Peer]) -> Self {
        let Some(link) = link else { return Self::default() };
        let route = |destination: IpNet| {
            let source = Some(own_source(config, destination));
            Route { destination, device: link.index, gateway: None, source, metric: ENCRYPTED_METRIC }
        };
        let peers = peers.iter().filter(|peer| peer.way == Way::Encrypted);
        let routes = peers.flat_map(|peer| networks(config, peer.subnet)).map(route).collect();
        Self { device: Some(link.index), is_marked: link.group == OAK_GROUP, routes }
    }

    fn add(&self, socket: &mut Socket, name: &str) -> std::io::Result<()> {
        let Some(device) = self.device.filter(|_| !self.routes.is_empty()) else { return Ok(()) };
        if !self.is_marked {
            link::take_into_group(socket, device)?;
            sysctl::write(&format!("ipv4/conf/{name}/forwarding"), "1").map_err(std::io::Error::other)?;
        }
        let there = route::routes(socket)?;
        for route in self.routes.iter().filter(|route| !there.contains(route)) {
            debug!(subnet = %route.destination, "connecting to another node, encrypted");
            route::replace_route(socket, route)?;
        }
        Ok(())
    }

    fn remove_others(&self, socket: &mut Socket) -> std::io::Result<()> {
        let Some(device) = self.device else { return Ok(()) };
        for route in route::routes(socket)?.iter().filter(|route| route.device == device) {
            // The kernel has one for link-local addresses.
            if !self.routes.contains(route) && !is_link_local(route.destination) {
                debug!(subnet = %route.destination, "disconnecting from another node");
                route::delete_route(socket, route)?;
            }
        }
        Ok(())
    }
}

/// All entries of a VXLAN device.
#[derive(Debug, Default)]
struct Wanted {
    forwardings: Vec<Forwarding>,
    neighbours: Vec<Neighbour>,
    routes: Vec<Route>,
}

impl Wanted {
    fn new(config: &NetworkConfig, device: u32, peers: &[Peer]) -> Self {
        let mut wanted = Self::default();
        for Peer { subnet, gateway, way } in peers {
            let Way::Plain { underlay } = way else { continue };
            let (gateway, mac) = (*gateway, mac(*gateway));
            wanted.forwardings.push(Forwarding { mac, underlay: *underlay });
            for destination in networks(config, *subnet) {
                let address = match destination {
                    IpNet::V4(_) => gateway.into(),
                    // An address of a node may be reached by another device still, and could not be a gateway here.
                    IpNet::V6(_) => link_local(gateway).into(),
                };
                wanted.neighbours.push(Neighbour { address, mac });
                let (gateway, source) = (Some(address), Some(own_source(config, destination)));
                wanted.routes.push(Route { destination, device, gateway, source, metric: 0 });
            }
        }
        wanted
    }

    /// Routes go first and come last, so that no packet is routed to a neighbour that is not known.
    fn bring(&self, socket: &mut Socket, device: u32) -> std::io::Result<()> {
        let mut routes = route::routes(socket)?;
        routes.retain(|route| route.device == device);
        let neighbours = route::neighbours(socket, device)?;
        let forwardings = vxlan::forwardings(socket, device)?;
        let is_wanted = |destination| self.routes.iter().any(|route| route.destination == destination);
        for route in
            routes.iter().filter(|route| !is_wanted(route.destination) && !is_link_local(route.destination))
        {
            debug!(subnet = %route.destination, "disconnecting from another node");
            route::delete_route(socket, route)?;
        }
        for neighbour in neighbours.iter().filter(|entry| !self.neighbours.contains(entry)) {
            route::delete_neighbour(socket, device, neighbour.address)?;
        }
        let macs: Vec<_> = self.forwardings.iter().map(|entry| entry.mac).collect();
        for entry in forwardings.iter().filter(|entry| !macs.contains(&entry.mac)) {
            vxlan::delete_forwarding(socket, device, *entry)?;
        }
        for entry in self.forwardings.iter().filter(|entry| !forwardings.contains(entry)) {
            vxlan::replace_forwarding(socket, device, *entry)?;
        }
        for neighbour in self.neighbours.iter().filter(|entry| !neighbours.contains(entry)) {
            route::replace_neighbour(socket, device, neighbour.address, neighbour.mac)?;
        }
        for route in self.routes.iter().filter(|route| !routes.contains(route)) {
            debug!(subnet = %route.destination, "connecting to another node");
            route::replace_route(socket, route)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(subnet: &str, underlay: &str) -> Peer {
        let (subnet, way) = (subnet.parse().unwrap(), Way::Plain { underlay: underlay.parse().unwrap() });
        Peer { subnet, gateway: crate::config::first_host(subnet), way }
    }

    #[test]
    fn one_bad_peer_does_not_spoil_the_others() {
        let config = NetworkConfig::new("/var/lib/oak/net", "10.18.0.0/25".parse().unwrap());
        let good = [peer("10.18.0.128/25", "192.0.2.2"), peer("10.18.1.0/24", "2001:db8::3")];
        let bad = [
            peer("10.18.0.0/24", "192.0.2.9"),
            peer("10.18.1.128/25", "192.0.2.9"),
            peer("10.18.1.0/24", "192.0.2.9"),
            peer("10.30.7.0/24", "192.0.2.9"),
            peer("10.40.0.0/24", "192.0.2.9"),
            peer("10.18.3.1/24", "192.0.2.9"),
            peer("10.18.3.0/31", "192.0.2.9"),
            peer("10.19.0.0/24", "10.18.1.7"),
            peer("10.19.1.0/24", "0.0.0.0"),
            peer("10.19.2.0/24", "10.30.0.1"),
            peer("10.19.3.0/24", "fe80::1"),
            peer("10.19.4.0/24", "fdff:2000::1"),
        ];
        let all: Vec<Peer> = good.into_iter().chain(bad).collect();
        let (accepted, problems) = check(&config, &all);
        assert_eq!(accepted, good);
        assert_eq!(problems.len(), bad.len(), "{problems:?}");
    }
}
