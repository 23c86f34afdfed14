//! What the network of one node is made of, checked before anything touches the kernel.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::{Ipv4Net, Ipv6Net};
use oak_model::ipv6;
use serde::{Deserialize, Serialize};

use crate::error::NetworkError;
use crate::names::MAX_BRIDGE_NAME;

/// Settings of the node network. Written to the state directory, so that the next start and
/// `teardown` know what was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// Absolute directory that belongs to this crate alone.
    pub state_directory: PathBuf,
    /// Name of the gateway device, 1–6 lower-case letters and digits, starting with a letter.
    pub bridge: String,
    /// Addresses of the namespaces on this node; the first host address is the gateway.
    pub subnet: Ipv4Net,
    /// Further addresses of namespaces on this node, behind the same gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_subnets: Vec<Ipv4Net>,
    /// All namespace addresses of all nodes (design, section 7).
    pub node_range: Ipv4Net,
    /// All service and instance addresses.
    pub service_range: Ipv4Net,
    /// MTU of every device, bytes; 1450 leaves room for the tunnel between nodes.
    pub mtu: u32,
    /// Name of the only nftables table this crate writes.
    pub table: String,
    /// UDP port on which nodes send each other plain packets of instances; the same on all nodes.
    #[serde(default = "usual_tunnel_port")]
    pub tunnel_port: u16,
    /// UDP port on which this node takes encrypted packets of instances, from whoever encrypts.
    #[serde(default = "usual_encrypted_port")]
    pub encrypted_port: u16,
    /// The same for packets that the kernel itself decrypts.
    #[serde(default = "usual_kernel_port")]
    pub kernel_port: u16,
    /// Whether everything has the IPv6 address that goes with its IPv4 address, too. Left out if this host has no IPv6.
    #[serde(default)]
    pub ipv6: bool,
}

/// Smallest MTU of IPv6 (RFC 8200).
const LEAST_MTU6: u32 = 1280;

/// Also for records of versions that did not connect nodes.
fn usual_tunnel_port() -> u16 {
    50_104
}

/// The same.
fn usual_encrypted_port() -> u16 {
    50_103
}

/// Also for records of versions that did not use the kernel's WireGuard.
fn usual_kernel_port() -> u16 {
    50_106
}

impl NetworkConfig {
    /// The usual settings for a node that was given `subnet`.
    #[must_use]
    pub fn new(state_directory: impl Into<PathBuf>, subnet: Ipv4Net) -> Self {
        Self {
            state_directory: state_directory.into(),
            bridge: "oak0".to_owned(),
            subnet,
            more_subnets: Vec::new(),
            node_range: Ipv4Net::new_assert(Ipv4Addr::new(10, 16, 0, 0), 12),
            service_range: Ipv4Net::new_assert(Ipv4Addr::new(10, 30, 0, 0), 16),
            mtu: 1450,
            table: "oakestra".to_owned(),
            tunnel_port: usual_tunnel_port(),
            encrypted_port: usual_encrypted_port(),
            kernel_port: usual_kernel_port(),
            ipv6: true,
        }
    }

    /// The address of the gateway device: the first host address of the subnet.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        first_host(self.subnet)
    }

    /// Its IPv6 address.
    pub(crate) fn gateway6(&self) -> Ipv6Addr {
        ipv6::node(first_host(self.subnet))
    }

    /// All networks of namespaces on this node, that of the gateway first.
    pub fn subnets(&self) -> impl Iterator<Item = Ipv4Net> + Clone {
        std::iter::once(self.subnet).chain(self.more_subnets.iter().copied())
    }

    /// The one of them that an address is in.
    #[must_use]
    pub fn subnet_of(&self, address: Ipv4Addr) -> Option<Ipv4Net> {
        self.subnets().find(|subnet| subnet.contains(&address))
    }

    /// The networks that go with them; none without IPv6.
    pub(crate) fn subnets6(&self) -> impl Iterator<Item = Ipv6Net> + Clone {
        self.subnets().filter(|_| self.ipv6).filter_map(ipv6::node_network)
    }

    /// The same settings, without IPv6 if it cannot be.
    pub(crate) fn limited_by(mut self, host_has_ipv6: bool) -> Self {
        // IPv6 addresses go with those of the usual ranges.
        let usual = Self::new("/", self.subnet);
        let has_plan = self.service_range == usual.service_range && self.node_range == usual.node_range;
        self.ipv6 &= host_has_ipv6 && has_plan && self.mtu >= LEAST_MTU6;
        self
    }

    /// Whether these are the settings of `former`, with or without further subnets.
    pub(crate) fn extends(&self, former: &Self) -> bool {
        let more_subnets = self.more_subnets.clone();
        self.more_subnets.starts_with(&former.more_subnets)
            && *self == Self { more_subnets, ..former.clone() }
    }

    /// Whether `address` may be given to a namespace on this node.
    #[must_use]
    pub fn is_assignable(&self, address: Ipv4Addr) -> bool {
        self.subnet_of(address).is_some_and(|subnet| {
            // Other nodes send plain packets to the first host address of each.
            ![subnet.network(), first_host(subnet), subnet.broadcast()].contains(&address)
        })
    }

    /// Whether `address` may be a backend: a namespace address of any node.
    pub(crate) fn is_namespace_address(&self, address: Ipv4Addr) -> bool {
        (self.node_range.contains(&address) || self.subnet_of(address).is_some())
            && !self.service_range.contains(&address)
    }

    /// Checks everything that ends up in device names, rules and paths.
    pub(crate) fn check(&self) -> Result<(), NetworkError> {
        let refuse = |reason: String| Err(NetworkError::Config { reason });
        if !self.state_directory.is_absolute() {
            return refuse(format!("state directory {} is not absolute", self.state_directory.display()));
        }
        check_bridge(&self.bridge)?;
        check_table(&self.table)?;
        let mut taken = vec![self.service_range];
        for subnet in self.subnets() {
            if !(8..=30).contains(&subnet.prefix_len()) || subnet != subnet.trunc() {
                return refuse(format!("subnet {subnet} is not a network of /8 to /30"));
            }
            if let Some(other) = taken.iter().find(|other| overlap(subnet, **other)) {
                return refuse(format!("subnet {subnet} overlaps {other}"));
            }
            taken.push(subnet);
        }
        let (plain, encrypted, kernel) = (self.tunnel_port, self.encrypted_port, self.kernel_port);
        let is_one = |port, others: [u16; 2]| port != 0 && !others.contains(&port);
        if !is_one(plain, [encrypted, kernel]) || !is_one(encrypted, [kernel, plain]) || kernel == 0 {
            return refuse(format!("tunnel ports {plain}, {encrypted} and {kernel} are not three ports"));
        }
        if !(576..=65_535).contains(&self.mtu) {
            return refuse(format!("mtu {} is not between 576 and 65535", self.mtu));
        }
        Ok(())
    }
}

/// The gateway of any node's subnet.
pub(crate) fn first_host(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from_bits(subnet.network().to_bits().saturating_add(1))
}

/// Whether two networks share an address.
pub(crate) fn overlap(one: Ipv4Net, other: Ipv4Net) -> bool {
    one.contains(&other) || other.contains(&one)
}

/// Checks a gateway device name: it is the start of every device name and appears in rules.
pub(crate) fn check_bridge(name: &str) -> Result<(), NetworkError> {
    if name.len() <= MAX_BRIDGE_NAME && is_word(name, |c| matches!(c, 'a'..='z' | '0'..='9')) {
        return Ok(());
    }
    Err(NetworkError::Config {
        reason: format!("bridge name {name:?} is not 1 to {MAX_BRIDGE_NAME} lower-case letters and digits"),
    })
}

/// Checks a table name: it is pasted into the rule text.
pub(crate) fn check_table(name: &str) -> Result<(), NetworkError> {
    if name.len() <= 31 && is_word(name, |c| matches!(c, 'a'..='z' | '0'..='9' | '_')) {
        return Ok(());
    }
    Err(NetworkError::Config {
        reason: format!("table name {name:?} is not 1 to 31 lower-case letters, digits and underscores"),
    })
}

fn is_word(text: &str, allowed: impl Fn(char) -> bool) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NetworkConfig {
        NetworkConfig::new("/var/lib/oak/net", "10.18.0.0/25".parse().unwrap())
    }

    #[test]
    fn the_gateway_is_the_first_host_and_nobody_else_may_have_it() {
        let config = config();
        assert_eq!(config.gateway(), Ipv4Addr::new(10, 18, 0, 1));
        assert!(config.is_assignable(Ipv4Addr::new(10, 18, 0, 2)));
        for taken in [0, 1, 127, 128] {
            assert!(!config.is_assignable(Ipv4Addr::new(10, 18, 0, taken)));
        }
    }

    #[test]
    fn further_subnets_have_addresses_and_no_place_twice() {
        let more = |subnet: &str| NetworkConfig { more_subnets: vec![subnet.parse().unwrap()], ..config() };
        let wide = more("10.18.0.128/25");
        wide.check().unwrap();
        assert!(wide.extends(&config()) && wide.extends(&wide) && !config().extends(&wide));
        assert!(wide.is_assignable(Ipv4Addr::new(10, 18, 0, 130)));
        assert!(!wide.is_assignable(Ipv4Addr::new(10, 18, 0, 129)));
        assert!(!wide.is_assignable(Ipv4Addr::new(10, 18, 1, 2)));
        for wrong in ["10.18.0.0/25", "10.18.0.0/24", "10.30.1.0/25"] {
            assert!(more(wrong).check().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_usual_configuration_is_accepted() {
        config().check().unwrap();
    }

    #[test]
    fn names_that_could_leave_a_rule_or_a_path_are_refused() {
        for bridge in ["", "Oak0", "oak0;", "oak0000", "0oak", "oak/"] {
            let wrong = NetworkConfig { bridge: bridge.to_owned(), ..config() };
            assert!(wrong.check().is_err(), "{bridge:?}");
        }
        for table in ["", "a b", "a}", "a-b"] {
            let wrong = NetworkConfig { table: table.to_owned(), ..config() };
            assert!(wrong.check().is_err(), "{table:?}");
        }
    }

    #[test]
    fn records_of_earlier_versions_can_be_read() {
        let mut record = serde_json::to_value(config()).unwrap();
        for field in ["tunnel_port", "encrypted_port", "kernel_port"] {
            record.as_object_mut().unwrap().remove(field);
        }
        assert_eq!(serde_json::from_value::<NetworkConfig>(record).unwrap(), config());
    }

    #[test]
    fn a_subnet_inside_the_service_range_is_refused() {
        let wrong = NetworkConfig { subnet: "10.30.1.0/24".parse().unwrap(), ..config() };
        assert!(wrong.check().is_err());
    }
}
