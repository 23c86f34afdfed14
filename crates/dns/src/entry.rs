//! What a zone is made of: services with their addresses, instances and ports, from wherever.

use std::collections::BTreeSet;
use std::net::IpAddr;

use oak_model::{ApplicationId, Balancing, JobName, Protocol};

/// A service as others find it by name. Entries of one service from several sources are put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Application it belongs to. Two owners may use the same names; who asks gets their own application first.
    pub application: ApplicationId,
    /// Its name.
    pub name: JobName,
    /// Its addresses with the policy each one stands for. The first policy is the one of the plain name.
    pub addresses: Vec<PolicyAddress>,
    /// The instances known here.
    pub instances: Vec<InstanceEntry>,
    /// Ports inside its instances, as far as the descriptor names them.
    pub ports: Vec<ServicePort>,
    /// Applications for which it does not exist.
    pub hidden_from: BTreeSet<ApplicationId>,
}

/// An address of a service and what decides there which instance answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyAddress {
    /// The policy.
    pub policy: Balancing,
    /// The address.
    pub address: IpAddr,
}

/// One instance of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceEntry {
    /// Its number.
    pub number: u32,
    /// Its own addresses, at most one per family.
    pub addresses: Vec<IpAddr>,
    /// Whether it takes new connections.
    pub serves: bool,
}

/// A port inside the instances of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePort {
    /// Transport protocol.
    pub protocol: Protocol,
    /// 1–65535.
    pub port: u16,
}
