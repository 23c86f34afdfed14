//! The device itself: what the system is told and asked.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;

use ipnet::IpNet;
use oak_netlink::Socket;
use oak_netlink::link;
use oak_netlink::route::{self, Route};
use oak_netlink::wireguard::{self, PeerState};
use tracing::warn;

use crate::config::{KernelConfig, Peer, TunnelConfig};
use crate::key::{PrivateKey, PublicKey};
use crate::tried::{SystemError, Tried};

/// Metric of the routes to the device. Those of the agent have a larger one.
const METRIC: u32 = 500;

/// A WireGuard device beside the TUN device.
pub(super) struct Device {
    pub(super) config: KernelConfig,
    netlink: Socket,
    wireguard: wireguard::Control,
    /// Indices of both devices.
    index: u32,
    tun: u32,
    key: PublicKey,
}

/// Removes the device, with its routes; succeeds if there is none.
pub(in crate::engine) fn remove(config: &KernelConfig) -> Result<(), SystemError> {
    let what = || format!("remove device {}", config.device);
    let mut netlink = Socket::route().tried(what)?;
    match link::find(&mut netlink, &config.device).tried(what)? {
        Some(link) if link.is_ours(wireguard::KIND) => link::delete(&mut netlink, link.index).tried(what),
        _ => Ok(()),
    }
}

impl Device {
    /// Makes it or finds that of an earlier engine, which keeps its key, its peers and its routes.
    pub(super) fn open(
        config: &KernelConfig,
        tunnel: &TunnelConfig,
        key: &PrivateKey,
    ) -> Result<Self, SystemError> {
        let KernelConfig { device: name, port, .. } = config;
        let what = || format!("make device {name} of WireGuard");
        let mut netlink = Socket::route().tried(what)?;
        if link::find(&mut netlink, name).tried(what)?.is_none() {
            wireguard::create(&mut netlink, name, tunnel.mtu).tried(what)?;
        }
        let link = link::find(&mut netlink, name).tried(what)?;
        let is_foreign = || io::Error::other("something else has that name");
        let link = link.filter(|link| link.is_ours(wireguard::KIND)).ok_or_else(is_foreign).tried(what)?;
        let tun = link::find(&mut netlink, &tunnel.device).tried(what)?.ok_or(io::ErrorKind::NotFound);
        let tun = tun.map_err(io::Error::from).tried(what)?.index;
        let mut wireguard = Socket::generic().and_then(wireguard::Control::new).tried(what)?;
        let found = wireguard.device(link.index).tried(what)?;
        let found_key = found.public_key.filter(|_| found.port == *port).map(PublicKey);
        if found_key.is_none() {
            wireguard.set_device(link.index, &key.secret().to_bytes(), *port).tried(what)?;
        }
        if link.mtu != tunnel.mtu {
            link::set_mtu(&mut netlink, link.index, tunnel.mtu).tried(what)?;
        }
        if !link.is_up {
            link::set_up(&mut netlink, link.index)
                .tried(|| format!("open UDP port {port} for device {name}"))?;
        }
        // A peer that begins to use the lane before this node does, or ends later, is heard by the other device. From whom
        // packets may come is checked by WireGuard. Not 2 (loose): that drops what comes to devices without an address.
        for (device, setting, value) in
            [(name, "rp_filter", "0"), (&tunnel.device, "rp_filter", "0"), (name, "forwarding", "1")]
        {
            let file = format!("/proc/sys/net/ipv4/conf/{device}/{setting}");
            std::fs::write(&file, value).tried(|| format!("set {file}"))?;
        }
        let key = found_key.unwrap_or_else(|| key.public());
        Ok(Self { config: config.clone(), netlink, wireguard, index: link.index, tun, key })
    }

    /// The public half of the key it has.
    pub(super) const fn key(&self) -> PublicKey {
        self.key
    }

    /// Another key ends all sessions.
    pub(super) fn set_key(&mut self, key: &PrivateKey) -> io::Result<()> {
        self.wireguard.set_device(self.index, &key.secret().to_bytes(), self.config.port)?;
        self.key = key.public();
        Ok(())
    }

    pub(super) fn peers(&mut self) -> io::Result<Vec<PeerState>> {
        Ok(self.wireguard.device(self.index)?.peers)
    }

    /// Tells it of a peer, to which something shall be sent every second.
    pub(super) fn tell(&mut self, peer: &Peer, endpoint: SocketAddr) -> io::Result<()> {
        let told = wireguard::Peer {
            public_key: peer.public_key.0,
            preshared_key: peer.preshared_key.as_ref().map_or([0; 32], |key| key.0),
            endpoint,
            keepalive_s: 1,
            networks: peer.networks.clone(),
        };
        self.wireguard.set_peer(self.index, &told)
    }

    /// Nothing is sent to a peer any more without traffic.
    pub(super) fn rest(&mut self, peer: &PublicKey) -> io::Result<()> {
        self.wireguard.set_keepalive(self.index, &peer.0, 0)
    }

    /// Forgets who has none of these keys.
    pub(super) fn keep(&mut self, keys: &HashSet<[u8; 32]>) -> io::Result<()> {
        for peer in self.peers()?.iter().filter(|peer| !keys.contains(&peer.public_key)) {
            self.wireguard.remove_peer(self.index, &peer.public_key)?;
        }
        Ok(())
    }

    /// Where its routes lead.
    pub(super) fn led(&mut self) -> io::Result<HashSet<IpNet>> {
        let routes = route::routes(&mut self.netlink)?.into_iter();
        Ok(routes.filter(|route| route.device == self.index).map(|route| route.destination).collect())
    }

    /// Leads packets to these networks to it, as far as the agent leads them to the TUN device, and no others.
    pub(super) fn lead(&mut self, networks: &HashSet<IpNet>) -> io::Result<()> {
        let routes = route::routes(&mut self.netlink)?;
        let of_agent = |route: &&Route| route.device == self.tun && networks.contains(&route.destination);
        let own = |route: &Route| Route { device: self.index, metric: METRIC, ..*route };
        let wanted: Vec<Route> = routes.iter().filter(of_agent).map(own).collect();
        let is_own = |route: &&Route| route.device == self.index && route.metric == METRIC;
        for route in routes.iter().filter(is_own).filter(|route| !wanted.contains(route)) {
            route::delete_route(&mut self.netlink, route)?;
        }
        for route in wanted.iter().filter(|route| !routes.contains(route)) {
            // The agent may be changing the address that packets get; the TUN device carries them, and this is repeated.
            if let Err(error) = route::replace_route(&mut self.netlink, route) {
                warn!(%error, network = %route.destination, "cannot lead packets to the kernel's WireGuard");
            }
        }
        Ok(())
    }
}
