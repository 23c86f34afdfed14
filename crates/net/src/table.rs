//! The service table: which addresses lead to which instances, and which ports of the host.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};

use crate::error::NetworkError;

/// Most entries (addresses, backends, instances, ports together) a node accepts.
const MAX_ENTRIES: usize = 200_000;

/// How a service's new flows are spread over its backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Balancing {
    /// Strictly in turn, per flow.
    #[default]
    RoundRobin,
    /// Independently at random, per flow.
    Random,
    /// In turn, but who has more weight more often ([`ServiceTable::weights`]).
    Weighted,
    /// By the address of the caller: it comes to the same backend as long as that is one.
    Sticky,
}

/// A service: any of its addresses leads to one of its backends, for every protocol and port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Service addresses; all share one rotation.
    pub addresses: Vec<Ipv4Addr>,
    /// The IPv6 addresses that lead to the same backends.
    pub ipv6: Vec<Ipv6Addr>,
    /// How flows are spread.
    pub policy: Balancing,
    /// Namespace addresses of the instances that are ready. None: clients are refused at once, while
    /// calls to an address that is not in the table at all wait a moment for it.
    pub backends: Vec<Ipv4Addr>,
}

/// One instance's own address, leading to it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceAddress {
    /// Stable address in the service range; others see it as the instance's source address.
    pub instance: Ipv4Addr,
    /// Address inside the namespace.
    pub namespace: Ipv4Addr,
}

/// Instances of this node that may call the same. An instance that is in none calls nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenant {
    /// Namespace addresses of the instances.
    pub members: Vec<Ipv4Addr>,
    /// Service and instance addresses they may call.
    pub reaches: Vec<Ipv4Addr>,
    /// Addresses in the service range that are refused to them at once although nobody else may know them.
    pub refused: Vec<Ipv4Addr>,
}

/// Transport protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl PortProtocol {
    /// Number in the IP header.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for PortProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of the host that leads to instances, in turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// Protocol of the port.
    pub protocol: PortProtocol,
    /// Port on every local address of the host, not 0.
    pub host_port: u16,
    /// Namespace addresses and ports. None: the host itself answers, usually with a refusal.
    pub backends: Vec<SocketAddrV4>,
}

/// Everything a node should know, as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTable {
    /// Services this node's instances or the host may call.
    pub services: Vec<Service>,
    /// Instances this node's instances or the host may call, and the local ones.
    pub instances: Vec<InstanceAddress>,
    /// Namespace addresses on other nodes whose flows go on although they may be in no service any more.
    pub elsewhere: Vec<Ipv4Addr>,
    /// Service addresses of whose calls somebody is told as if they were unknown, as long as somebody is there to be
    /// told; otherwise they lead to the backends.
    pub untold: Vec<Ipv4Addr>,
    /// Who may call what; the host may call everything.
    pub tenants: Vec<Tenant>,
    /// Service and instance addresses that are somebody's: tenants that do not reach them are refused at once. Calls of
    /// all others wait like those of unknown addresses.
    pub owned: Vec<Ipv4Addr>,
    /// Ports of this host.
    pub ports: Vec<PortMapping>,
    /// How many flows in a row a backend gets with [`Balancing::Weighted`], compared with others; 1 if it is not here.
    pub weights: BTreeMap<Ipv4Addr, u16>,
}

/// An entry that was left out, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableProblem {
    /// Service and instance addresses must come from the service range.
    #[error("{address} is not a service address")]
    NotServiceAddress {
        /// The address.
        address: IpAddr,
    },
    /// Backends must be namespace addresses.
    #[error("{address} is not a namespace address")]
    NotNamespaceAddress {
        /// The address.
        address: Ipv4Addr,
    },
    /// The address was given twice; the first meaning counts.
    #[error("address {address} is given to two services or instances")]
    DuplicateAddress {
        /// The address.
        address: IpAddr,
    },
    /// The port was given twice; the first mapping counts.
    #[error("host port {host_port}/{protocol} is mapped twice")]
    DuplicatePort {
        /// Protocol of the port.
        protocol: PortProtocol,
        /// The port.
        host_port: u16,
    },
    /// An instance can be of one tenant only; the first one counts.
    #[error("instance {address} is given to two tenants")]
    TwoTenants {
        /// Its namespace address.
        address: Ipv4Addr,
    },
    /// Port 0 is no port.
    #[error("a {protocol} mapping has port 0")]
    PortZero {
        /// Protocol of the port.
        protocol: PortProtocol,
    },
    /// The port is where other nodes send packets to.
    #[error("host port {host_port}/udp connects this node with others; map another one")]
    TunnelPort {
        /// The port.
        host_port: u16,
    },
}

impl ServiceTable {
    /// Refuses a table that is too large to be looked at.
    pub(crate) fn check_size(&self) -> Result<(), NetworkError> {
        let in_services: usize = self.services.iter().map(Service::entries).sum();
        let in_ports: usize = self.ports.iter().map(|port| 1 + port.backends.len()).sum();
        let in_tenant = |tenant: &Tenant| tenant.members.len() + tenant.reaches.len() + tenant.refused.len();
        let in_tenants: usize = self.tenants.iter().map(in_tenant).sum();
        let entries = in_services
            + self.instances.len()
            + self.elsewhere.len()
            + self.untold.len()
            + self.owned.len()
            + in_tenants
            + in_ports;
        if entries > MAX_ENTRIES {
            return Err(NetworkError::TableTooLarge { entries, limit: MAX_ENTRIES });
        }
        Ok(())
    }
}

impl Service {
    fn entries(&self) -> usize {
        self.addresses.len() + self.ipv6.len() + self.backends.len()
    }
}
