//! Why a worker cannot take an instance, in numbers.

use std::fmt;

use oak_model::resources::Cores;
use oak_model::{Architecture, Protocol, Status};

/// Why one worker was passed over. The first failing rule counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its link is down.
    NotConnected,
    /// An operator closed it for new instances.
    Cordoned,
    /// The descriptor asks for other workers by name.
    NotNamed,
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
    /// All addresses of its subnet are in use.
    Addresses {
        /// Size of the subnet.
        total: u32,
    },
    /// Another service holds a host port.
    HostPort {
        /// The port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
        /// Name of the service that holds it.
        holder: String,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConnected => f.write_str("not connected"),
            Self::Cordoned => f.write_str("cordoned"),
            Self::NotNamed => f.write_str("not among the workers the descriptor names"),
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
            Self::Addresses { total } => write!(f, "all {total} addresses of its subnet in use"),
            Self::HostPort { port, protocol, holder } => {
                write!(f, "host port {port}/{protocol} is held by {holder}")
            }
        }
    }
}

impl Reason {
    /// How far the worker got: the further, the more specific the status word of the whole refusal.
    const fn status(&self) -> Status {
        match self {
            Self::NotNamed => Status::NoNodeFound,
            Self::NotConnected
            | Self::Cordoned
            | Self::Architecture { .. }
            | Self::Virtualization
            | Self::VolumeDriver { .. } => Status::NoQualifiedWorkerFound,
            Self::TooFewCores { .. }
            | Self::Cpu { .. }
            | Self::Memory { .. }
            | Self::Storage { .. }
            | Self::Addresses { .. }
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
