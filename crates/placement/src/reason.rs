//! Why a worker cannot take an instance, in numbers.

use std::fmt;

use oak_model::resources::Cores;
use oak_model::{Architecture, Limit, Protocol, ServiceId, Status};
use serde::Serialize;

use crate::BoundRef;

/// Why one worker was passed over. The first failing rule counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "rule", rename_all = "snake_case")]
pub enum Reason {
    /// Its link is down.
    NotConnected,
    /// An operator closed it for new instances.
    Cordoned,
    /// The descriptor asks for other workers by name.
    NotNamed,
    /// It lacks a label or an addon.
    Label {
        /// What it lacks.
        missing: String,
    },
    /// Wrong processor.
    Architecture {
        /// What the worker is.
        has: Architecture,
    },
    /// It cannot run this kind of workload.
    Virtualization,
    /// It does not offer a volume driver that is needed.
    VolumeDriver {
        /// The driver.
        missing: String,
    },
    /// It has fewer cores than one instance needs.
    TooFewCores {
        /// Thousandths of a core it has.
        has: u32,
        /// Thousandths of a core needed.
        needed: u32,
    },
    /// Not enough unreserved CPU.
    Cpu {
        /// Unreserved, thousandths of a core, overcommitment included.
        free: u32,
        /// Needed, thousandths of a core.
        needed: u32,
    },
    /// Not enough unreserved memory.
    Memory {
        /// Unreserved, MiB.
        free: u32,
        /// All it has, MiB.
        total: u32,
        /// Needed, MiB.
        needed: u32,
    },
    /// Not enough unreserved storage.
    Storage {
        /// Unreserved, MiB.
        free: u32,
        /// Needed, MiB.
        needed: u32,
    },
    /// Not enough unreserved GPUs.
    Gpus {
        /// Unreserved.
        free: u32,
        /// All it has.
        total: u32,
        /// Needed.
        needed: u32,
    },
    /// All addresses of its subnet are in use.
    Addresses {
        /// Size of the subnet.
        total: u32,
    },
    /// It has as many instances of the service as the descriptor allows.
    TooMany {
        /// How many it has.
        has: u32,
        /// How many are allowed.
        most: u32,
    },
    /// Another service holds a host port.
    HostPort {
        /// The port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
        /// Name of the service that holds it.
        holder: String,
        /// That service.
        holder_id: ServiceId,
    },
    /// It is beyond a bound that must hold.
    TooFar {
        /// The bound.
        bound: BoundRef,
        /// What it is measured to.
        to: String,
        /// How far it is.
        is: Limit,
        /// How far it may be.
        limit: Limit,
    },
    /// Whether a bound holds there cannot be told; nothing is guessed.
    NotMeasured {
        /// The bound.
        bound: BoundRef,
        /// What it is measured to.
        to: String,
        /// What is missing.
        missing: Missing,
    },
}

/// What must be known to evaluate a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// Neither the worker nor its cluster says where it is.
    Position,
    /// The round trip between the worker and its cluster.
    RoundTrip,
    /// The round trip, or the position, at the other end.
    OtherEnd,
    /// There is neither a cluster nor a label of that name.
    Area,
    /// There is no such service.
    Service,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Position => "it has no position: set worker.location, or cluster.location",
            Self::RoundTrip => "its round trip to its cluster is not measured yet",
            Self::OtherEnd => "the other end is not measured, or has no position",
            Self::Area => "neither a cluster nor a label area=… has this name",
            Self::Service => "there is no such service",
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConnected => f.write_str("not connected"),
            Self::Cordoned => f.write_str("cordoned"),
            Self::NotNamed => f.write_str("not among the workers the descriptor names"),
            Self::Label { missing } => write!(f, "lacks `{missing}`"),
            Self::Architecture { has } => write!(f, "is {has}"),
            Self::Virtualization => f.write_str("cannot run this kind of workload"),
            Self::VolumeDriver { missing } => write!(f, "does not offer volume driver {missing}"),
            Self::TooFewCores { has, needed } => {
                write!(f, "has {} cores, {} needed", Cores(*has), Cores(*needed))
            }
            Self::Cpu { free, needed } => {
                write!(f, "{} CPU free, {} needed", Cores(*free), Cores(*needed))
            }
            Self::Memory { free, total, needed } => {
                write!(f, "{free} of {total} MiB memory free, {needed} needed")
            }
            Self::Storage { free, needed } => write!(f, "{free} MiB storage free, {needed} needed"),
            Self::Gpus { free, total, needed } => write!(f, "{free} of {total} GPUs free, {needed} needed"),
            Self::Addresses { total } => write!(f, "all {total} addresses of its subnet in use"),
            Self::TooMany { has, most } => {
                write!(f, "has {has} instances of the service, max_instances_per_node is {most}")
            }
            Self::HostPort { port, protocol, holder, .. } => {
                write!(f, "host port {port}/{protocol} is held by {holder}")
            }
            Self::TooFar { to, is, limit, .. } => write!(f, "{is} from {to}, at most {limit} allowed"),
            Self::NotMeasured { to, missing, .. } => write!(f, "distance to {to} unknown: {missing}"),
        }
    }
}

impl Reason {
    /// One word for the rule, as in the API.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::NotConnected => "not_connected",
            Self::Cordoned => "cordoned",
            Self::NotNamed => "not_named",
            Self::Label { .. } => "label",
            Self::Architecture { .. } => "architecture",
            Self::Virtualization => "virtualization",
            Self::VolumeDriver { .. } => "volume_driver",
            Self::TooFewCores { .. } => "too_few_cores",
            Self::Cpu { .. } => "cpu",
            Self::Memory { .. } => "memory",
            Self::Storage { .. } => "storage",
            Self::Gpus { .. } => "gpus",
            Self::Addresses { .. } => "addresses",
            Self::TooMany { .. } => "too_many",
            Self::HostPort { .. } => "host_port",
            Self::TooFar { .. } => "too_far",
            Self::NotMeasured { .. } => "not_measured",
        }
    }

    /// How far the worker got: the further, the more specific the status word of the whole refusal.
    const fn status(&self) -> Status {
        match self {
            Self::NotNamed => Status::NoNodeFound,
            Self::NotConnected
            | Self::Cordoned
            | Self::Label { .. }
            | Self::Architecture { .. }
            | Self::Virtualization
            | Self::VolumeDriver { .. }
            | Self::TooFar { .. }
            | Self::NotMeasured { .. } => Status::NoQualifiedWorkerFound,
            Self::TooFewCores { .. }
            | Self::Cpu { .. }
            | Self::Memory { .. }
            | Self::Storage { .. }
            | Self::Gpus { .. }
            | Self::Addresses { .. }
            | Self::TooMany { .. }
            | Self::HostPort { .. } => Status::NoWorkerCapacity,
        }
    }
}

/// No worker can take the instance: every worker by name, with its reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// In the order of the fleet.
    pub workers: Vec<(String, Reason)>,
}

/// How many workers a one-line explanation names.
const NAMED: usize = 8;

impl Refusal {
    /// The status word of the API: the one of the worker that came closest.
    #[must_use]
    pub fn status(&self) -> Status {
        let rank = |status: &Status| match status {
            Status::NoWorkerCapacity => 2,
            Status::NoNodeFound => 0,
            _ => 1,
        };
        self.workers
            .iter()
            .map(|(_, reason)| reason.status())
            .max_by_key(rank)
            .unwrap_or(Status::NoQualifiedWorkerFound)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.workers.is_empty() {
            return f.write_str("no workers");
        }
        for (index, (worker, reason)) in self.workers.iter().take(NAMED).enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{worker}: {reason}")?;
        }
        if self.workers.len() > NAMED {
            write!(f, "; and {} more", self.workers.len() - NAMED)?;
        }
        Ok(())
    }
}
