//! What a service is asked to be: the typed part of a descriptor that the tiers act on.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::container::{AddedFile, HealthCheck, RestartPolicy, Volume};
use crate::{Architecture, AreaBound, Balancing, RegistryHost, Resources, SecretUse, ServiceBound};

/// Everything placement and workers need to know about a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceSpec {
    /// Image reference as written in `code`, for example `docker.io/library/nginx:latest`.
    pub image: String,
    /// Command line; when not empty it replaces entrypoint and command of the image.
    pub command: Vec<String>,
    /// Additional environment entries `KEY=value`.
    pub environment: Vec<String>,
    /// Reserved by placement, enforced as limits on the worker.
    pub resources: Resources,
    /// Host ports that lead to this service.
    pub ports: Vec<PortMapping>,
    /// Service address asked for (`addresses.rr_ip`), inside `10.30.0.0/16`.
    pub service_address: Option<Ipv4Addr>,
    /// Addresses asked for that choose otherwise than in turn (`addresses.closest_ip` and so on); none: any address.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub policies: BTreeMap<Balancing, Option<Ipv4Addr>>,
    /// An exit with code 0 completes the instance instead of restarting it.
    pub one_shot: bool,
    /// Never two processes of one instance, not even while its worker cannot be reached: the worker runs it only as
    /// long as its cluster keeps permitting it.
    pub at_most_one: bool,
    /// Run with all capabilities, without seccomp filter, with all devices.
    pub privileged: bool,
    /// Architectures the service runs on; empty means any.
    pub architectures: Vec<Architecture>,
    /// Where it may run.
    pub target: TargetConstraints,
    /// How far it may be from other services.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub connectivity: Vec<ServiceBound>,
    /// Values of its organisation that its programs get.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretUse>,
    /// Registry whose stored credentials pull the image; otherwise those of the image's own registry, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry_credentials: Option<RegistryHost>,
    /// Places that outlive its containers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// Files shown inside, read-only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub added_files: Vec<AddedFile>,
    /// How the worker finds out whether an instance can serve; without it, it can as soon as its process runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthCheck>,
    /// When a process that ended is started again.
    #[serde(skip_serializing_if = "RestartPolicy::is_default")]
    pub restart: RestartPolicy,
    /// Seconds between stop signal and kill; `None`: the worker's usual time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_grace_s: Option<u32>,
    /// Services of other organisations may call it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub exported: bool,
}

impl ServiceSpec {
    /// The addresses that are asked for by number.
    pub fn chosen_addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.service_address.into_iter().chain(self.policies.values().copied().flatten())
    }

    /// Whether its process has an end that is meant: it is not moved to another worker, where it would begin again.
    #[must_use]
    pub fn finishes_by_itself(&self) -> bool {
        self.one_shot || self.restart != RestartPolicy::Always
    }
}

/// Restrictions of places. An empty list allows every place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TargetConstraints {
    /// Names of the clusters that may take the service.
    pub clusters: Vec<String>,
    /// Names of the workers that may take the service.
    pub workers: Vec<String>,
    /// Labels and addons a worker must have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// Bounds to areas.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub near: Vec<AreaBound>,
    /// Most instances of the service on one worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_per_worker: Option<u32>,
}

impl TargetConstraints {
    /// Every place is allowed.
    #[must_use]
    pub const fn anywhere() -> &'static Self {
        static ANYWHERE: TargetConstraints = TargetConstraints {
            clusters: Vec::new(),
            workers: Vec::new(),
            needs: Vec::new(),
            near: Vec::new(),
            max_per_worker: None,
        };
        &ANYWHERE
    }
}

/// Transport protocol of a port mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, the default.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of the worker machine that is forwarded to a port of the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortMapping {
    /// Port on the worker, 1–65535.
    pub host: u16,
    /// Port inside the instance, 1–65535.
    pub container: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}
