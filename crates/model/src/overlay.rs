//! What nodes have to know of each other so that instances find services wherever they run.
//!
//! A node knows a service from the first call on: an instance *calls* an address or a name, its node asks its parent, and
//! from then on the node is told of every change of that service. The nodes of the called service are told of the
//! caller's instances, so that they know whose packets these are and where the answers go.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::message::with_policies;
use crate::{
    ApplicationId, Balancing, InstanceKey, JobName, Load, OrganizationId, PortMapping, ServiceId, WorkerId,
};

/// UDP port of the encrypted tunnel between nodes; the number is that of the original's tunnel.
pub const TUNNEL_PORT: u16 = 50103;
/// UDP port of the encrypted tunnel between nodes whose kernels encrypt.
pub const KERNEL_PORT: u16 = 50106;
/// UDP port of plain packets between nodes that trust their network.
pub const PLAIN_PORT: u16 = 50104;
/// UDP port of the relay of a cluster.
pub const RELAY_PORT: u16 = 50105;

/// Addresses of one node that others try, at most.
pub const MOST_SEEN: usize = 4;

/// Where a node takes encrypted packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelEnd {
    /// Its public key (Curve25519), base64.
    pub public_key: String,
    /// The public key it had before, while that is still answered: who was told of no other goes on, and so do relays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former_key: Option<String>,
    /// Its UDP port.
    pub port: u16,
    /// As which relays see it, if they do: behind a NAT another address or port than its own. At most [`MOST_SEEN`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seen_as: Vec<SocketAddr>,
}

/// The public keys a node is known by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeKeys {
    /// As [`TunnelEnd::public_key`].
    pub public_key: String,
    /// As [`TunnelEnd::former_key`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former_key: Option<String>,
}

impl TunnelEnd {
    /// Every key the node is known by, the present one first.
    pub fn keys(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.public_key).chain(&self.former_key)
    }

    /// Gives it these keys; true if they are others than before.
    pub fn set_keys(&mut self, NodeKeys { public_key, former_key }: NodeKeys) -> bool {
        let is_new = (&self.public_key, &self.former_key) != (&public_key, &former_key);
        (self.public_key, self.former_key) = (public_key, former_key);
        is_new
    }
}

/// The relay of a cluster: it passes on encrypted packets between two nodes that cannot reach each other, and tells
/// nodes as what they are seen from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayEnd {
    /// Its public key (Curve25519), base64. With its own private key a node makes from it what it shows to the relay.
    pub public_key: String,
    /// Its UDP port.
    pub port: u16,
    /// Where it is; absent: where its cluster is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

/// A node as its cluster sees it, told to the node itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Vantage {
    /// As [`Peer::outside`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outside: Option<IpAddr>,
    /// The relay of the cluster; its address is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelayEnd>,
}

impl Vantage {
    /// Whether it says nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.outside.is_none() && self.relay.is_none()
    }
}

/// What is not said otherwise: releases that could not say it took plain packets.
pub(crate) const fn takes_plain() -> bool {
    true
}

/// A node as others reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Which worker.
    pub worker: WorkerId,
    /// Addresses of its instances; the first one is its own.
    pub subnet: Ipv4Net,
    /// Further addresses of its instances.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_subnets: Vec<Ipv4Net>,
    /// Where the packets for them are sent to over IPv4; none if it has no such address. Then it is written as `0.0.0.0`,
    /// to which nothing can be sent: releases that know of nothing else leave that node out and read the rest.
    #[serde(with = "or_unspecified")]
    pub underlay: Option<Ipv4Addr>,
    /// The same over IPv6, encrypted only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub underlay6: Option<Ipv6Addr>,
    /// Where it takes encrypted packets; none if it cannot or shall not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<TunnelEnd>,
    /// Whether it takes plain packets.
    #[serde(default = "takes_plain")]
    pub plain: bool,
    /// The address its cluster sees it at, if that is not `underlay`: there is a NAT in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<IpAddr>,
    /// The relay of its cluster, if that is another one than the reader's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelayEnd>,
}

impl Peer {
    /// All addresses of its instances.
    pub fn subnets(&self) -> impl Iterator<Item = Ipv4Net> {
        std::iter::once(self.subnet).chain(self.more_subnets.iter().copied())
    }

    /// Its own address among them.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        self.subnet.hosts().next().unwrap_or(self.subnet.addr())
    }

    /// Its own addresses, IPv4 first: its packets are the shorter ones.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.underlay.map(IpAddr::V4);
        v4.into_iter().chain(self.underlay6.map(IpAddr::V6))
    }
}

mod or_unspecified {
    use std::net::Ipv4Addr;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
    pub(super) fn serialize<S: Serializer>(
        address: &Option<Ipv4Addr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        address.unwrap_or(Ipv4Addr::UNSPECIFIED).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Ipv4Addr>, D::Error> {
        Ipv4Addr::deserialize(deserializer).map(|address| Some(address).filter(|ip| !ip.is_unspecified()))
    }
}

/// A service as those who call it know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownService {
    /// Which service.
    pub id: ServiceId,
    /// Application it belongs to.
    pub application: ApplicationId,
    /// Its name.
    pub job_name: JobName,
    /// Addresses that are balanced over its instances.
    pub addresses: Vec<Ipv4Addr>,
    /// Further ones, which choose otherwise than in turn.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub policies: BTreeMap<Balancing, Ipv4Addr>,
    /// Its ports, for names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMapping>,
    /// Organisation it belongs to: its own services may call it. None is one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<OrganizationId>,
    /// All others may call it as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exported: bool,
}

impl KnownService {
    /// Its addresses and what chooses at each.
    pub fn all_addresses(&self) -> impl Iterator<Item = (Balancing, Ipv4Addr)> {
        with_policies(&self.addresses, &self.policies)
    }

    /// Whether an address is one of its addresses.
    #[must_use]
    pub fn has_address(&self, address: Ipv4Addr) -> bool {
        self.all_addresses().any(|(_, own)| own == address)
    }
}

/// Whether an instance gets new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// It takes none; those it has go on.
    Closed,
    /// Its node does not answer its cluster: only if no other instance is ready.
    Suspect,
    /// It takes them.
    Ready,
}

/// An instance, or one of its places while it moves, as others reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Which instance.
    pub key: InstanceKey,
    /// The worker that has it.
    pub worker: WorkerId,
    /// Its stable address.
    pub instance_address: Ipv4Addr,
    /// Its address in the subnet of that worker.
    pub node_address: Ipv4Addr,
    /// Whether it gets new connections.
    pub readiness: Readiness,
    /// How much of its processor share it uses, see [`Load`].
    #[serde(default, skip_serializing_if = "Load::is_idle")]
    pub load: Load,
}

/// Which place of which instance.
pub type BackendKey = (InstanceKey, WorkerId);

impl Backend {
    /// What tells it from others.
    #[must_use]
    pub const fn id(&self) -> BackendKey {
        (self.key, self.worker)
    }
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Caller {
    /// Instances of this service.
    Service(ServiceId),
    /// The machine of this worker itself.
    Node(WorkerId),
}

/// Who calls whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Call {
    /// Who.
    pub caller: Caller,
    /// Whom.
    pub callee: ServiceId,
}

/// What somebody calls without knowing what it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Address of a service or of an instance.
    Address(Ipv4Addr),
    /// `service.ns.application.ns` in lower case.
    Name(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// News of services, instances and nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OverlayChange {
    /// This is everything: what is not listed is gone. Otherwise it is added to what was told before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub complete: bool,
    /// New or changed services.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<KnownService>,
    /// New or changed backends.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Backend>,
    /// New or changed nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<Peer>,
    /// Who calls what is here; for clusters only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<Call>,
    /// Services that are nobody's business here any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gone_services: Vec<ServiceId>,
    /// Backends that are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gone_backends: Vec<BackendKey>,
    /// Nodes that are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gone_peers: Vec<WorkerId>,
    /// Who does not call any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gone_calls: Vec<Call>,
}

impl OverlayChange {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_with_an_address_of_ipv4_is_written_as_ever_and_one_without_can_be_read_by_everybody() {
        let text = json!({ "worker": "6abff0e0c0ffee0000000004", "subnet": "10.18.0.128/25", "underlay": "192.0.2.12",
            "plain": true });
        let mut peer: Peer = serde_json::from_value(text.clone()).unwrap();
        assert_eq!(peer.underlay, Some(Ipv4Addr::new(192, 0, 2, 12)));
        assert_eq!(serde_json::to_value(&peer).unwrap(), text);
        (peer.underlay, peer.underlay6) = (None, "2001:db8::2".parse().ok());
        let text = serde_json::to_value(&peer).unwrap();
        assert_eq!(text["underlay"], "0.0.0.0", "what a release without IPv6 takes for an address");
        assert_eq!(serde_json::from_value::<Peer>(text).unwrap(), peer);
    }
}
