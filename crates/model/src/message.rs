//! Messages between tiers, carried as JSON inside the frames of the link.
//!
//! Additions must be optional (`serde(default)`), so that one release more or less on either side works.
//! A child opens a session with a hello that tells its actual state; the parent answers with the full desired
//! state; after that both send deltas. Frames of one session arrive in order or the session ends, therefore no
//! message needs a number of its own.

mod worker;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::exec::TerminalSize;
use crate::overlay::{Call, Caller, OverlayChange, RelayEnd, Target};
use crate::{
    Application, ApplicationId, Availability, Balancing, ClusterId, Generation, Incarnation, InstanceKey,
    JobName, Material, OrganizationId, Purpose, Removal, Resources, Service, ServiceSpec, Status,
    Surroundings, WorkerFacts, WorkerId,
};

pub use worker::{ClusterToWorker, LocalCall, WorkerHello, WorkerToCluster, WorkerWelcome, WorkloadReport};

/// An instance as its root wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredInstance {
    /// Which instance.
    pub key: InstanceKey,
    /// Version of this wish.
    pub generation: Generation,
    /// Application it belongs to.
    pub application: ApplicationId,
    /// Name of the service.
    pub job_name: JobName,
    /// What to run.
    pub spec: Arc<ServiceSpec>,
    /// Addresses of the service, balanced over its instances.
    pub service_addresses: Vec<Ipv4Addr>,
    /// Further ones, which choose otherwise than in turn.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub policies: BTreeMap<Balancing, Ipv4Addr>,
    /// Address of this one instance.
    pub instance_address: Ipv4Addr,
    /// What its place is measured against, as the root knew it when it made this wish.
    #[serde(default, skip_serializing_if = "Surroundings::is_empty")]
    pub surroundings: Surroundings,
    /// Secrets and registry credentials it needs, as far as the sender has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub material: Vec<Material>,
}

impl DesiredInstance {
    /// Addresses of the service and what chooses at each.
    pub fn addresses(&self) -> impl Iterator<Item = (Balancing, Ipv4Addr)> {
        with_policies(&self.service_addresses, &self.policies)
    }

    /// Takes over values of an earlier wish that this one needs but its sender did not have: a root that was rebuilt does
    /// not know them any more.
    pub fn keep_material_of(&mut self, former: &[Material]) {
        for known in former {
            let is_needed = match &known.purpose {
                Purpose::Secret(name) => self.spec.secrets.iter().any(|secret| secret.name == *name),
                Purpose::Registry(_) => true,
            };
            if is_needed && !self.material.iter().any(|other| other.purpose == known.purpose) {
                self.material.push(known.clone());
            }
        }
    }
}

/// Addresses of a service and what chooses at each.
pub(crate) fn with_policies<'a>(
    in_turn: &'a [Ipv4Addr],
    others: &'a BTreeMap<Balancing, Ipv4Addr>,
) -> impl Iterator<Item = (Balancing, Ipv4Addr)> + use<'a> {
    let in_turn = in_turn.iter().map(|address| (Balancing::RoundRobin, *address));
    in_turn.chain(others.iter().map(|(policy, address)| (*policy, *address)))
}

/// An instance given to one worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The attempt; a worker refuses an older one than it has seen.
    pub incarnation: Incarnation,
    /// What to run.
    pub desired: DesiredInstance,
    /// Organisation of its application, if the cluster knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<OrganizationId>,
}

/// A join token for workers, handed to the cluster that will check it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerToken {
    /// Public part of the token.
    pub id: String,
    /// SHA-256 of the secret part, hexadecimal.
    pub secret_hash: String,
    /// Remaining life in milliseconds when this message was made: no clock of another machine is trusted.
    pub valid_for_ms: u64,
}

/// Which life of which root: a root that starts with an empty disk is another one, and one that was restored from a
/// backup has another life. What a cluster was told in another life is not gone just because this one does not
/// know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// Random number of the root.
    pub root: u64,
    /// How often it was put back to an older state.
    pub restored: u32,
}

/// Things a cluster holds, complete enough for a root that does not know them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Holdings {
    /// Applications.
    pub applications: Vec<Application>,
    /// Services.
    pub services: Vec<Service>,
    /// Instances.
    pub instances: Vec<HeldInstance>,
}

/// An instance and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldInstance {
    /// What is wanted.
    pub desired: DesiredInstance,
    /// What is.
    pub report: InstanceReport,
}

/// First message of a cluster: who it is and what it has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterHello {
    /// Name.
    pub name: String,
    /// Place, conventionally `latitude,longitude,radius`.
    pub location: String,
    /// Port of its own API.
    pub port: u16,
    /// Highest generation it ever accepted; a root restored from an old copy continues above it.
    pub generation: Generation,
    /// Its workers.
    pub workers: Vec<WorkerSummary>,
    /// State of every instance it holds.
    pub instances: Vec<InstanceReport>,
    /// The root it last followed.
    #[serde(default)]
    pub lineage: Option<Lineage>,
    /// Applications that were deployed here while no root was there, and that no root has taken over yet.
    #[serde(default)]
    pub local: Vec<ApplicationId>,
    /// Address blocks its workers have their subnets from.
    #[serde(default)]
    pub node_blocks: Vec<Ipv4Net>,
    /// Addresses it gives out by itself.
    #[serde(default)]
    pub local_block: Option<Ipv4Net>,
    /// Fingerprint of the root authority its workers know.
    #[serde(default)]
    pub authority: Option<String>,
    /// Who here calls what.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<Call>,
    /// Its relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelayEnd>,
}

/// Answer of the root: everything it wants. What is not listed must go, unless `take_over` is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterWelcome {
    /// Version of this whole state.
    pub generation: Generation,
    /// Address blocks from which the cluster gives subnets to its workers.
    pub node_blocks: Vec<Ipv4Net>,
    /// All instances.
    pub instances: Vec<DesiredInstance>,
    /// All worker tokens that are still open.
    pub tokens: Vec<WorkerToken>,
    /// Who speaks.
    #[serde(default)]
    pub lineage: Option<Lineage>,
    /// This root does not know what another one has told: the cluster keeps everything and sends its
    /// [`ClusterToRoot::Holdings`]; a complete [`RootToCluster::Welcome`] follows.
    #[serde(default)]
    pub take_over: bool,
    /// Applications of the instances.
    #[serde(default)]
    pub applications: Vec<Application>,
    /// Services of the instances.
    #[serde(default)]
    pub services: Vec<Service>,
    /// Service and instance addresses the cluster may give out by itself while the root is away.
    #[serde(default)]
    pub local_block: Option<Ipv4Net>,
    /// Those of them that are in use.
    #[serde(default)]
    pub local_addresses: Vec<Ipv4Addr>,
    /// What it has to know of other clusters.
    #[serde(default, skip_serializing_if = "OverlayChange::is_empty")]
    pub overlay: OverlayChange,
}

/// Root to cluster, after the welcome.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootToCluster {
    /// Run this instance, or change it.
    Set(DesiredInstance),
    /// Stop and forget this instance.
    Remove {
        /// Which instance.
        key: InstanceKey,
        /// Version of this wish.
        generation: Generation,
    },
    /// A worker token was created.
    Token(WorkerToken),
    /// The address blocks changed.
    NodeBlocks(Vec<Ipv4Net>),
    /// Open or close a worker for instances.
    SetAvailability {
        /// Which worker.
        worker: WorkerId,
        /// What it shall be.
        availability: Availability,
    },
    /// Remove a worker that is gone for good. Answered with [`ClusterToRoot::WorkerRemoved`] or
    /// [`ClusterToRoot::WorkerKept`].
    RemoveWorker {
        /// Which worker.
        worker: WorkerId,
        /// How much it is insisted on.
        removal: Removal,
    },
    /// What the following instances belong to.
    Records {
        /// New or changed applications.
        applications: Vec<Application>,
        /// New or changed services.
        services: Vec<Service>,
    },
    /// Everything that is wanted, again.
    Welcome(Box<ClusterWelcome>),
    /// These applications are the root's from now on.
    Adopted(Vec<ApplicationId>),
    /// News of other clusters.
    Overlay(OverlayChange),
    /// Answers [`ClusterToRoot::Ask`]: there is no such service, or the caller may not call it.
    NotFound(Target),
}

impl RootToCluster {
    /// The instances it speaks of.
    pub fn wishes_mut(&mut self) -> &mut [DesiredInstance] {
        match self {
            Self::Set(desired) => std::slice::from_mut(desired),
            Self::Welcome(welcome) => &mut welcome.instances,
            _ => &mut [],
        }
    }
}

/// Cluster to root, after the hello.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterToRoot {
    /// These instances changed.
    Instances(Vec<InstanceReport>),
    /// These instances are gone, nothing of them is left.
    Removed(Vec<InstanceKey>),
    /// These workers are new or changed.
    Workers(Vec<WorkerSummary>),
    /// This worker was removed from the cluster.
    WorkerRemoved(WorkerId),
    /// This worker was not removed.
    WorkerKept {
        /// Which worker.
        worker: WorkerId,
        /// Why, and what to do, for people.
        reason: String,
    },
    /// Fresh measurements; never stored.
    Usage(UsageReport),
    /// The token is stored and may be used.
    TokenStored {
        /// Public part of the token.
        id: String,
    },
    /// All address blocks are in use.
    NeedsNodeBlock,
    /// What the root does not know: everything if it asked for it, otherwise what was deployed locally.
    Holdings(Holdings),
    /// Somebody in this cluster calls services that are here, too.
    Calls(Vec<Call>),
    /// Somebody in this cluster calls what is not here. Answered with [`RootToCluster::Overlay`] or
    /// [`RootToCluster::NotFound`].
    Ask {
        /// Who.
        caller: Caller,
        /// What.
        target: Target,
    },
}

/// A worker as the root sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerSummary {
    /// Identity.
    pub id: WorkerId,
    /// What it said about itself.
    pub facts: WorkerFacts,
    /// Reserved by placements of its cluster.
    pub reserved: Resources,
    /// Instances placed on it.
    pub instances: u32,
    /// Whether its link is up.
    pub connected: bool,
    /// Host ports in use, `80/tcp`.
    #[serde(default)]
    pub host_ports: Vec<String>,
    /// Whether it takes instances.
    #[serde(default)]
    pub availability: Availability,
    /// Round trip between it and its cluster, smoothed, microseconds; measured anew in every session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_us: Option<u32>,
    /// Addresses of its instances, once it has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Ipv4Net>,
    /// Further addresses of its instances.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_subnets: Vec<Ipv4Net>,
    /// The address its cluster sees it at, if that is another one than it has: there is a NAT in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<IpAddr>,
}

/// State of one instance as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceReport {
    /// Which instance.
    pub key: InstanceKey,
    /// Version of the wish it follows.
    pub generation: Generation,
    /// Status word.
    pub status: Status,
    /// One line for people.
    pub detail: String,
    /// Worker that has it.
    pub worker: Option<WorkerId>,
    /// Address of that worker.
    #[serde(default)]
    pub host_address: String,
    /// Its address in the subnet of that worker, once it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// It has ended for good.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
}

/// Measurements of a worker or of a whole cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UsageReport {
    /// Machines.
    pub nodes: Vec<NodeUsage>,
    /// Instances.
    pub instances: Vec<InstanceUsage>,
}

/// Load of one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeUsage {
    /// Which worker; absent when the worker speaks about itself.
    pub worker: Option<WorkerId>,
    /// Share of all cores in use, 0–100.
    pub cpu_percent: f32,
    /// Share of memory in use, 0–100.
    pub memory_percent: f32,
}

/// Load of one instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceUsage {
    /// Which instance.
    pub key: InstanceKey,
    /// Share of one core in use, 0–100 per core.
    pub cpu_percent: f32,
    /// Memory in bytes, without page cache that can be dropped.
    pub memory_bytes: u64,
    /// Bytes written to the root file system of the instance.
    pub disk_bytes: u64,
    /// End of its output, at most [`LOG_TAIL_BYTES`]. Absent when unchanged.
    pub log_tail: Option<String>,
}

/// How much of an instance's output travels in reports, bytes. More is fetched on demand.
pub const LOG_TAIL_BYTES: usize = 4096;

/// Request of a parent for a bulk stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BulkRequest {
    /// Output of an instance.
    Logs {
        /// Which instance.
        key: InstanceKey,
        /// Only the last lines.
        tail: Option<u32>,
        /// Stay and send what comes.
        follow: bool,
    },
    /// Output of an instance with regard to the times of its lines. A kind of its own: a worker that does not know it
    /// must refuse it, not leave out half.
    TimedLogs {
        /// Which instance.
        key: InstanceKey,
        /// Only the last lines.
        #[serde(default)]
        tail: Option<u32>,
        /// Stay and send what comes.
        #[serde(default)]
        follow: bool,
        /// Only what was written from then on.
        #[serde(default)]
        since: Option<LogSince>,
        /// Each line begins with its time, RFC 3339 in UTC with microseconds, and a blank.
        #[serde(default)]
        timestamps: bool,
    },
    /// Runs a program inside an instance. Frames of [`crate::exec`] in both directions.
    Exec {
        /// Which instance.
        key: InstanceKey,
        /// Program and arguments.
        command: Vec<String>,
        /// With a terminal of this size.
        #[serde(default)]
        terminal: Option<TerminalSize>,
    },
}

impl BulkRequest {
    /// The instance it is about.
    #[must_use]
    pub const fn key(&self) -> InstanceKey {
        match self {
            Self::Logs { key, .. } | Self::TimedLogs { key, .. } | Self::Exec { key, .. } => *key,
        }
    }
}

/// A moment by the clock of the worker that wrote the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogSince {
    /// So many milliseconds before now.
    AgoMs(u64),
    /// Microseconds since 1970.
    AtMicros(u64),
}

/// What a cluster says about itself when it enrols.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EnrolAttributes {
    /// Place of a cluster; empty for a worker.
    pub location: String,
    /// Identity a cluster had under a root that is lost. Its workers know it by that, so it keeps it.
    pub former: Option<ClusterId>,
}

/// Cluster identity and name as the parent knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterIdentity {
    /// Identity.
    pub id: ClusterId,
    /// Unique name.
    pub name: String,
}
