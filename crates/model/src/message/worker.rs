//! Between a cluster and its workers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::{Assignment, DesiredInstance, UsageReport};
use crate::overlay::{NodeKeys, OverlayChange, Target, Vantage};
use crate::{Incarnation, InstanceKey, ServiceId, Status, WorkerFacts};

/// First message of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerHello {
    /// The machine.
    pub facts: WorkerFacts,
    /// State of every workload it holds.
    pub workloads: Vec<WorkloadReport>,
    /// Whom its instances and the machine itself call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<LocalCall>,
    /// The address it speaks from, as it knows it: behind a NAT the cluster sees another one. Absent if its operator has
    /// said where it is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_address: Option<IpAddr>,
}

/// Who on a worker calls whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalCall {
    /// Instances of this service; absent: the machine itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<ServiceId>,
    /// The service they call.
    pub callee: ServiceId,
}

/// Answer of the cluster: everything this worker shall run. What is not listed must go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerWelcome {
    /// Addresses for the instances of this worker; it keeps them for life.
    pub subnet: Ipv4Net,
    /// Further ones, if those are not enough; it keeps them, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_subnets: Vec<Ipv4Net>,
    /// All assignments.
    pub assignments: Vec<Assignment>,
    /// What it has to know of other nodes.
    #[serde(default, skip_serializing_if = "OverlayChange::is_empty")]
    pub overlay: OverlayChange,
    /// How this cluster sees it.
    #[serde(default, skip_serializing_if = "Vantage::is_empty")]
    pub vantage: Vantage,
}

/// Cluster to worker, after the welcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterToWorker {
    /// Run this.
    Assign(Assignment),
    /// Stop and forget this incarnation or any older one.
    Remove {
        /// Which instance.
        key: InstanceKey,
        /// The attempt.
        incarnation: Incarnation,
    },
    /// Send all measurements again: whoever shows them has just started and knows none.
    ReportUsage,
    /// Answers [`WorkerToCluster::RenewLeases`]: these incarnations of *at most one* services may run for so long,
    /// counted from the moment the worker asked. Nobody's clock is compared with anybody else's.
    Leases {
        /// Number of the question.
        question: u64,
        /// How long, milliseconds.
        valid_for_ms: u64,
        /// What may run.
        instances: Vec<(InstanceKey, Incarnation)>,
    },
    /// News of other nodes.
    Overlay(OverlayChange),
    /// Answers [`WorkerToCluster::Ask`]: there is no such service, or the caller may not call it.
    NotFound(Target),
    /// All further addresses for its instances, as in [`WorkerWelcome::more_subnets`].
    MoreSubnets(Vec<Ipv4Net>),
}

impl ClusterToWorker {
    /// The instances it speaks of.
    pub fn wishes_mut(&mut self) -> Option<&mut DesiredInstance> {
        match self {
            Self::Assign(assignment) => Some(&mut assignment.desired),
            Self::Remove { .. }
            | Self::ReportUsage
            | Self::Leases { .. }
            | Self::Overlay(_)
            | Self::NotFound(_)
            | Self::MoreSubnets(_) => None,
        }
    }
}

/// Worker to cluster, after the hello.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerToCluster {
    /// A workload changed.
    Workload(WorkloadReport),
    /// Nothing of this workload is left on the worker.
    Removed {
        /// Which instance.
        key: InstanceKey,
        /// The attempt.
        incarnation: Incarnation,
    },
    /// Fresh measurements; never stored.
    Usage(UsageReport),
    /// It has services of which at most one may run, and asks for permission to go on.
    RenewLeases {
        /// Number of the question; the answer repeats it.
        question: u64,
    },
    /// Somebody here calls what this worker does not know. Answered with [`ClusterToWorker::Overlay`] or
    /// [`ClusterToWorker::NotFound`].
    Ask {
        /// Instances of this service; absent: the machine itself.
        caller: Option<ServiceId>,
        /// What.
        target: Target,
    },
    /// As which relays see this worker now, see [`TunnelEnd::seen_as`](crate::overlay::TunnelEnd::seen_as).
    Seen(Vec<SocketAddr>),
    /// This worker has another key for packets of other workers.
    Keys(NodeKeys),
}

/// State of one workload on its worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadReport {
    /// Which instance.
    pub key: InstanceKey,
    /// The attempt.
    pub incarnation: Incarnation,
    /// Status word.
    pub status: Status,
    /// One line for people.
    pub detail: String,
    /// Address inside the node's subnet, once it has one.
    pub address: Option<Ipv4Addr>,
    /// It has ended for good.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
}
