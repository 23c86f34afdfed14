//! Changes that let a refused instance be placed.

use std::fmt;

use oak_model::resources::Cores;
use oak_model::{Architecture, Limit, Position, Protocol, Resources, ServiceId, WorkerId};
use serde::Serialize;

/// Which bound is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "list", rename_all = "snake_case")]
pub enum BoundRef {
    /// One to an area, in the order of the geo and latency constraints.
    Area {
        /// Counted from 0.
        index: usize,
    },
    /// One to another service, in the order of all `con_constraints`.
    Service {
        /// The service whose descriptor has it.
        declared_by: String,
        /// Counted from 0.
        index: usize,
    },
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the line above a change says what its fields are")]
pub enum Change {
    /// Ask for less memory, MiB.
    LowerMemory { from: u32, to: u32 },
    /// Ask for fewer cores, thousandths.
    LowerCpu { from: u32, to: u32 },
    /// Ask for less storage, MiB.
    LowerStorage { from: u32, to: u32 },
    /// Ask for fewer GPUs.
    LowerGpus { from: u32, to: u32 },
    /// Allow more instances on one worker.
    RaiseMaxPerNode { from: u32, to: u32 },
    /// Name one more worker.
    AllowWorker { worker: String },
    /// Name one more cluster.
    AllowCluster { cluster: String },
    /// Do not ask for a label or an addon.
    RemoveNeed { label: String },
    /// Do without the volumes of a driver.
    RemoveVolume { driver: String },
    /// Allow one more architecture, for which the image must exist.
    AllowArchitecture { architecture: Architecture },
    /// Allow a greater distance or a longer round trip.
    WidenBound { bound: BoundRef, to: String, from: Limit, limit: Limit },
    /// Do without a bound that cannot be evaluated.
    RemoveBound { bound: BoundRef, to: String },
    /// Open a worker.
    Uncordon { worker: WorkerId, name: String },
    /// Start a worker, or repair its link.
    ConnectWorker { worker: WorkerId, name: String },
    /// Start a cluster, or repair its link.
    ConnectCluster { cluster: String },
    /// Take another service off a worker, or let it do without the port.
    FreePort {
        worker: WorkerId,
        name: String,
        port: u16,
        protocol: Protocol,
        holder: ServiceId,
        holder_name: String,
    },
    /// Have one more cluster, of that name if the descriptor names clusters.
    AddCluster { name: Option<String> },
    /// Have one more worker.
    AddWorker {
        /// In which cluster.
        cluster: String,
        /// Its name, if the descriptor names workers.
        name: Option<String>,
        /// What it must have unreserved.
        resources: Resources,
        /// What it must be.
        architecture: Option<Architecture>,
        /// What it must be marked with.
        labels: Vec<String>,
        /// Volume drivers it must offer.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        volume_drivers: Vec<String>,
        /// Where it must be.
        position: Option<Position>,
    },
}

impl Change {
    /// To compare sets of changes: fewer are smaller, then those that ask less of people.
    #[must_use]
    pub fn weigh(changes: &[Self]) -> (usize, u32) {
        (changes.len(), changes.iter().map(Self::cost).sum())
    }

    /// How much it asks of people, to compare changes: widening a number is less than doing without a rule, and that
    /// is less than going to a machine.
    fn cost(&self) -> u32 {
        let by = |from: u32, to: u32| 10 + from.abs_diff(to).saturating_mul(20) / from.max(to).max(1);
        match self {
            Self::LowerMemory { from, to }
            | Self::LowerCpu { from, to }
            | Self::LowerStorage { from, to }
            | Self::LowerGpus { from, to }
            | Self::RaiseMaxPerNode { from, to } => by(*from, *to),
            Self::WidenBound { from, limit, .. } => by(from.amount(), limit.amount()),
            Self::Uncordon { .. } => 25,
            Self::AllowWorker { .. } | Self::AllowCluster { .. } => 30,
            Self::RemoveNeed { .. }
            | Self::RemoveBound { .. }
            | Self::RemoveVolume { .. }
            | Self::FreePort { .. } => 40,
            Self::ConnectWorker { .. } | Self::ConnectCluster { .. } => 50,
            Self::AllowArchitecture { .. } => 60,
            Self::AddWorker { .. } | Self::AddCluster { .. } => 100,
        }
    }

    /// Takes in a change of the same thing; false if `other` is about something else.
    pub(crate) fn absorb(&mut self, other: &Self) -> bool {
        match (self, other) {
            (Self::LowerMemory { to, .. }, Self::LowerMemory { to: other, .. })
            | (Self::LowerCpu { to, .. }, Self::LowerCpu { to: other, .. })
            | (Self::LowerStorage { to, .. }, Self::LowerStorage { to: other, .. })
            | (Self::LowerGpus { to, .. }, Self::LowerGpus { to: other, .. }) => {
                *to = (*to).min(*other);
                true
            }
            _ => false,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LowerMemory { from, to } => write!(f, "lower memory from {from} to {to}"),
            Self::LowerCpu { from, to } => write!(f, "lower vcpus from {} to {}", Cores(*from), Cores(*to)),
            Self::LowerStorage { from, to } => write!(f, "lower storage from {from} to {to}"),
            Self::LowerGpus { from, to } => write!(f, "lower vgpus from {from} to {to}"),
            Self::RaiseMaxPerNode { from, to } => {
                write!(f, "raise max_instances_per_node from {from} to {to}")
            }
            Self::AllowWorker { worker } => {
                write!(f, "add worker {worker} to the node list of the direct constraint")
            }
            Self::AllowCluster { cluster } => {
                write!(f, "add cluster {cluster} to the clusters of the direct or clusters constraint")
            }
            Self::RemoveNeed { label } => {
                write!(
                    f,
                    "remove `{label}` from the needs of the addons constraint, or give a worker this label"
                )
            }
            Self::RemoveVolume { driver } => {
                write!(f, "use another csi_driver than {driver}, or remove the volumes that name it")
            }
            Self::AllowArchitecture { architecture } => {
                write!(f, "add {architecture} to arch, if the image exists for it")
            }
            Self::WidenBound { bound, to, limit, .. } => {
                write!(f, "raise the threshold to {to}{} to {limit}", At(bound))
            }
            Self::RemoveBound { bound, to } => write!(f, "remove the bound to {to}{}", At(bound)),
            Self::Uncordon { name, .. } => write!(f, "open worker {name}: oak uncordon {name}"),
            Self::ConnectWorker { name, .. } => write!(f, "start worker {name}, or repair its link"),
            Self::ConnectCluster { cluster } => write!(f, "start cluster {cluster}, or repair its link"),
            Self::FreePort { name, port, protocol, holder_name, .. } => {
                write!(f, "free port {port}/{protocol} of worker {name}, which {holder_name} holds")
            }
            Self::AddCluster { name: None } => f.write_str("have a cluster join: oak token create cluster"),
            Self::AddCluster { name: Some(name) } => {
                write!(f, "have a cluster named {name} join: oak token create cluster")
            }
            Self::AddWorker { .. } => self.fmt_worker(f),
        }
    }
}

/// Where a bound stands, if not in the descriptor itself.
struct At<'a>(&'a BoundRef);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            BoundRef::Area { .. } => Ok(()),
            BoundRef::Service { declared_by, .. } => write!(f, " in the connectivity of {declared_by}"),
        }
    }
}

impl Change {
    fn fmt_worker(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::AddWorker { cluster, name, resources, architecture, labels, volume_drivers, position } =
            self
        else {
            return Ok(());
        };
        write!(f, "add a worker")?;
        if let Some(name) = name {
            write!(f, " named {name}")?;
        }
        write!(f, " to cluster {cluster} with {resources} free")?;
        if let Some(architecture) = architecture {
            write!(f, ", {architecture}")?;
        }
        if !labels.is_empty() {
            write!(f, ", labelled {}", labels.join(", "))?;
        }
        if !volume_drivers.is_empty() {
            write!(f, ", offering {}", volume_drivers.join(", "))?;
        }
        if let Some(position) = position {
            write!(f, ", at {position}")?;
        }
        Ok(())
    }
}
