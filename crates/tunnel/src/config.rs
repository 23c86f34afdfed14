//! What the engine is told.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::key::{PresharedKey, PublicKey};
use crate::path::Path;

/// Smallest inner packet, bytes: IPv6 has no smaller ones than 1280 (RFC 8200), and smaller ones of IPv4 are the sender's
/// business.
pub(crate) const SMALLEST_MTU: u32 = 576;
/// Largest inner packet, bytes.
pub(crate) const LARGEST_MTU: u32 = 9000;

/// Peers of one node at most; the control socket refuses more.
pub const MAX_PEERS: usize = 4096;
/// Candidates of one peer at most.
pub const MAX_PATHS: usize = 8;
/// Relays of one node at most.
pub const MAX_RELAYS: usize = 16;
/// Networks of one peer at most.
pub const MAX_NETWORKS: usize = 256;
/// Default of [`TunnelConfig::mtu`]: what fits into 1500 bytes over IPv6.
pub const DEFAULT_MTU: u32 = 1420;

/// Settings of an engine's process; they do not change while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelConfig {
    /// Name of the TUN device, up to 15 characters. It is made if it does not exist, and outlives the process until
    /// the engine is told to stop: addresses and routes stay over a restart.
    pub device: String,
    /// UDP port, the same for IPv4 and IPv6.
    pub port: u16,
    /// Largest inner packet in bytes, 576 to 9000; from 1280 for IPv6.
    #[serde(default = "default_mtu")]
    pub mtu: u32,
    /// Directory of this engine, made with mode 0700: state file and control socket.
    pub directory: PathBuf,
    /// Threads for each direction, 1 to 8; as many as there are processors (at most 4) if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// The lane in the kernel; the engine knows of none if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelConfig>,
}

/// A WireGuard device of the kernel, which carries the packets of peers that are reached straight and have one, too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelConfig {
    /// Its name, as that of the TUN device. The engine makes it, and gives it key, peers and routes.
    pub device: String,
    /// Its UDP port.
    pub port: u16,
    /// If not, the device of an earlier engine is removed.
    pub is_used: bool,
}

fn default_mtu() -> u32 {
    DEFAULT_MTU
}

/// A setting or a list of peers that cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidConfig {
    /// Names of devices have 1 to 15 characters, none of them `/` or white space.
    #[error("{0:?} cannot be the name of a device")]
    Device(String),
    /// Both devices and both ports are two.
    #[error("the device or the port of the kernel's WireGuard is that of the tunnel")]
    Kernel,
    /// See [`TunnelConfig::mtu`].
    #[error("mtu {0} is not between {SMALLEST_MTU} and {LARGEST_MTU}")]
    Mtu(u32),
    /// See [`TunnelConfig::threads`].
    #[error("{0} threads are not between 1 and 8")]
    Threads(usize),
    /// See [`MAX_PEERS`].
    #[error("{0} peers are more than {MAX_PEERS}")]
    TooManyPeers(usize),
    /// See [`MAX_PATHS`] and [`MAX_NETWORKS`].
    #[error("peer {0} has more than {MAX_PATHS} paths or {MAX_NETWORKS} networks")]
    TooLong(String),
    /// See [`MAX_RELAYS`]; each node is there once at each address.
    #[error("more than {MAX_RELAYS} relays, or one of them twice")]
    Relays,
    /// Names and keys of peers are unique.
    #[error("peer {0} is there twice, by its name or by its key")]
    Twice(String),
    /// A network belongs to one peer.
    #[error("network {network} belongs to {first} and to {second}")]
    Shared {
        /// The network.
        network: IpNet,
        /// Its first owner.
        first: String,
        /// Its second owner.
        second: String,
    },
}

impl TunnelConfig {
    /// Settings with the usual values.
    pub fn new(device: &str, port: u16, directory: PathBuf) -> Self {
        Self { device: device.to_owned(), port, mtu: DEFAULT_MTU, directory, threads: None, kernel: None }
    }

    /// Checks the ranges.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        for device in std::iter::once(&self.device).chain(self.kernel.iter().map(|kernel| &kernel.device)) {
            let name = device.as_bytes();
            let is_name = (1..=15).contains(&name.len())
                && name.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'/' && *byte != b'%');
            if !is_name || device == "." || device == ".." {
                return Err(InvalidConfig::Device(device.clone()));
            }
        }
        if self.kernel.as_ref().is_some_and(|kernel| kernel.device == self.device || kernel.port == self.port)
        {
            return Err(InvalidConfig::Kernel);
        }
        if !(SMALLEST_MTU..=LARGEST_MTU).contains(&self.mtu) {
            return Err(InvalidConfig::Mtu(self.mtu));
        }
        match self.threads {
            Some(threads) if !(1..=8).contains(&threads) => Err(InvalidConfig::Threads(threads)),
            _ => Ok(()),
        }
    }

    /// The control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    pub(crate) fn state_file(&self) -> PathBuf {
        self.directory.join("state.json")
    }
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// What the agent calls the node, for instance its id. A peer that keeps its name keeps its sessions, also when
    /// its key changes.
    pub name: String,
    /// Its key.
    pub public_key: PublicKey,
    /// Mixed into handshakes if both sides have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preshared_key: Option<PresharedKey>,
    /// Where it may be, best first: in the own network, from outside, through a relay. The best one that answers is
    /// used, and better ones are tried now and then. Without any the peer has to come to us.
    #[serde(default)]
    pub paths: Vec<Path>,
    /// Inner networks behind it: what goes there, and what may come from it.
    #[serde(default)]
    pub networks: Vec<IpNet>,
    /// Seconds between packets that keep the way through a NAT open; none if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_keepalive_s: Option<u16>,
}

impl Default for Peer {
    /// A peer with a key that nobody has, to fill in.
    fn default() -> Self {
        Self {
            name: String::new(),
            public_key: PublicKey([0; 32]),
            preshared_key: None,
            paths: Vec::new(),
            networks: Vec::new(),
            persistent_keepalive_s: None,
        }
    }
}

/// A relay for this node ([`crate::RelayServer`]), which also tells how this node is seen from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relay {
    /// Where it is.
    pub address: SocketAddr,
    /// Number of this node there.
    pub node: u64,
    /// Key of this node there.
    pub key: PresharedKey,
}

/// Checks a complete list of relays.
pub(crate) fn check_relays(relays: &[Relay]) -> Result<(), InvalidConfig> {
    let different: std::collections::HashSet<(SocketAddr, u64)> =
        relays.iter().map(|relay| (relay.address, relay.node)).collect();
    if relays.len() > MAX_RELAYS || different.len() < relays.len() {
        return Err(InvalidConfig::Relays);
    }
    Ok(())
}

/// Checks a complete list of peers.
pub(crate) fn check_peers(peers: &[Peer]) -> Result<(), InvalidConfig> {
    use std::collections::{HashMap, HashSet};
    if peers.len() > MAX_PEERS {
        return Err(InvalidConfig::TooManyPeers(peers.len()));
    }
    let (mut names, mut keys, mut owners) = (HashSet::new(), HashSet::new(), HashMap::new());
    for peer in peers {
        let name = || peer.name.clone();
        if peer.paths.len() > MAX_PATHS || peer.networks.len() > MAX_NETWORKS {
            return Err(InvalidConfig::TooLong(name()));
        }
        if !names.insert(&peer.name) || !keys.insert(peer.public_key) {
            return Err(InvalidConfig::Twice(name()));
        }
        for network in &peer.networks {
            if let Some(first) = owners.insert(network.trunc(), &peer.name)
                && *first != peer.name
            {
                return Err(InvalidConfig::Shared {
                    network: *network,
                    first: first.clone(),
                    second: name(),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_outside_their_ranges_are_named() {
        let good = TunnelConfig::new("oak-tun", 51820, PathBuf::from("/nowhere"));
        assert_eq!(good.check(), Ok(()));
        for device in ["", "a/b", "sixteen-is-a-lot", "a b", "..", "tun%d"] {
            assert!(TunnelConfig { device: device.to_owned(), ..good.clone() }.check().is_err(), "{device}");
        }
        assert!(TunnelConfig { mtu: 575, ..good.clone() }.check().is_err());
        for (device, port, is_good) in
            [("oak-w", 7, true), ("oak-tun", 7, false), ("oak-w", 51820, false), ("", 7, false)]
        {
            let kernel = Some(KernelConfig { device: device.to_owned(), port, is_used: true });
            assert_eq!(TunnelConfig { kernel, ..good.clone() }.check().is_ok(), is_good, "{device} {port}");
        }
        assert!(TunnelConfig { threads: Some(0), ..good }.check().is_err());
    }

    #[test]
    fn a_network_has_one_owner() {
        let peer = |name: &str, byte| Peer {
            name: name.to_owned(),
            public_key: PublicKey([byte; 32]),
            networks: vec!["10.18.0.0/26".parse().unwrap()],
            ..Peer::default()
        };
        assert!(matches!(check_peers(&[peer("a", 1), peer("b", 2)]), Err(InvalidConfig::Shared { .. })));
        assert!(matches!(check_peers(&[peer("a", 1), peer("a", 2)]), Err(InvalidConfig::Twice(_))));
        assert!(matches!(check_peers(&[peer("a", 1), peer("b", 1)]), Err(InvalidConfig::Twice(_))));
        assert_eq!(check_peers(&[peer("a", 1)]), Ok(()));
    }

    #[test]
    fn a_peer_is_written_as_people_would() {
        let text = r#"{"name":"b","public_key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "paths":["192.0.2.1:51820",{"relay":"[2001:db8::1]:7","tag":5}],"networks":["10.18.0.0/26","fc00::/120"]}"#;
        let peer: Peer = serde_json::from_str(text).unwrap();
        assert_eq!(peer.paths.len(), 2);
        assert_eq!(serde_json::from_str::<Peer>(&serde_json::to_string(&peer).unwrap()).unwrap(), peer);
    }
}
