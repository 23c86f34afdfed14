//! The worker: one small state machine per workload that pulls, starts, restarts and stops.
//!
//! ```text
//!            ┌────────── back-off ───────────┐
//!            ▼                               │
//!  assign → Preparing → Starting → Running → Waiting
//!               (pull)   (network,    │
//!                         container)  ├─ end for good → Completed
//!  remove → Stopping → gone           ├─ newer incarnation → Stopping → Preparing
//!                                     └─ unhealthy, too large → Stopping → Waiting
//! ```
//!
//! A running instance with a health check gets connections after its first success (`health`). Whether an end is the
//! end for good is for the restart policy of the descriptor (`ends`). Who is stopped gets no new connections first.
//!
//! A service of which at most one may run needs its cluster's permission, which ends by itself: between Preparing and
//! Starting it waits for that (AwaitingLease), and the runtime ends the process when it was not renewed.
//!
//! At most one operation per workload is under way; its result carries the number of the attempt, so that the
//! result of an operation that was overtaken is recognised and ignored. Every phase but Running and Completed has
//! a deadline.

mod ask;
mod balance;
mod ends;
mod events;
mod health;
mod leases;
mod load;
mod overlay;
mod phase;
mod report;
mod tenants;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::Ipv4Net;
use oak_model::message::{Assignment, WorkerToCluster, WorkloadReport};
use oak_model::overlay::{NodeKeys, Peer, Vantage};
use oak_model::{
    Balancing, Incarnation, InstanceKey, Load, Moment, OrganizationId, PortMapping, Probe, WallTime, WorkerId,
};
use serde::{Deserialize, Serialize};

use crate::address::NodePool;
use crate::backoff::Backoff;
use crate::{Outbox, Table};
use ends::AfterStop;
use health::Health;

pub use ask::Answer;
pub use ends::Exit;
pub use leases::SHORTEST_RUN;
pub use load::Found;
pub use overlay::Known;
pub use phase::Phase;
pub use tenants::{Tenant, TenantTable};

/// Settings of the worker's decisions.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Delays between attempts to start a workload that failed.
    pub restart: Backoff,
    /// A workload that ran this long starts again with the shortest delay.
    pub healthy_after: Duration,
    /// Longest time an image pull may make no progress.
    pub prepare_timeout: Duration,
    /// Longest time for network and container creation.
    pub start_timeout: Duration,
    /// Time between the stop signal and the kill, if the descriptor says nothing else.
    pub stop_grace: Duration,
    /// Between the last new connection and the stop signal: short requests that are under way come to their end even
    /// with programs that end at once.
    pub linger: Duration,
    /// After this a stop is tried again.
    pub stop_timeout: Duration,
    /// How long a worker that starts waits for its cluster before it starts what it had: some of it may be elsewhere.
    pub boot_grace: Duration,
    /// Calls of unknown addresses are noticed, and told by [`Worker::ask`].
    pub asks: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            restart: Backoff { min: Duration::from_secs(1), max: Duration::from_secs(300) },
            healthy_after: Duration::from_secs(600),
            prepare_timeout: Duration::from_secs(300),
            start_timeout: Duration::from_secs(60),
            stop_grace: Duration::from_secs(10),
            linger: Duration::from_millis(500),
            stop_timeout: Duration::from_secs(60),
            boot_grace: Duration::from_secs(2),
            asks: false,
        }
    }
}

/// Number of an operation of this worker, unique while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub u64);

/// What the shell does after the rows of the step are committed.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Fetch the image. Answer with `prepared`, `progress` or `failed`.
    Prepare {
        /// Which workload.
        key: InstanceKey,
        /// The operation.
        attempt: Attempt,
        /// Image reference.
        image: String,
    },
    /// Attach the network, then create and start the container. Leftovers of an earlier attempt are removed first.
    /// Answer with `started` or `failed`.
    Start {
        /// Which workload.
        key: InstanceKey,
        /// The operation.
        attempt: Attempt,
        /// What to run.
        assignment: Box<Assignment>,
        /// Its address in the node's subnet.
        address: Ipv4Addr,
        /// Until when it may run, if at most one may; see [`Effect::Lease`].
        lease: Option<Moment>,
    },
    /// The process may run until then, not longer, whatever becomes of this program. A process that exists or is
    /// being started has had an earlier limit.
    Lease {
        /// Which workload.
        key: InstanceKey,
        /// The end.
        until: Moment,
    },
    /// Try a health check once. Answer with `probed`.
    Probe {
        /// Which workload.
        key: InstanceKey,
        /// The start of the process it is about.
        attempt: Attempt,
        /// What to try.
        probe: Probe,
        /// Address of the instance in the node's subnet.
        address: Ipv4Addr,
        /// Longest time.
        timeout: Duration,
    },
    /// Stop the container and remove everything of it. Answer with `stopped`.
    Stop {
        /// Which workload.
        key: InstanceKey,
        /// The operation.
        attempt: Attempt,
        /// The stop signal is sent when the kernel has this table, or cannot be given it within seconds: no new
        /// connection shall arrive at a process that ends.
        after: TableVersion,
        /// Time after that and before the stop signal.
        linger: Duration,
        /// Time between the stop signal and the kill.
        grace: Duration,
        /// The output is deleted as well.
        forget: bool,
    },
    /// The addresses and ports that shall lead to instances of this node. Answer with `network_applied`; when several
    /// wait, only the newest needs to be applied and answered.
    Network {
        /// Number of this table; grows.
        version: TableVersion,
        /// What shall be reachable.
        table: Box<NetworkTable>,
    },
    /// Sends a message to the cluster, if it is connected; otherwise the next hello tells everything.
    ToCluster(WorkerToCluster),
    /// Measures everything and reports it, changed or not.
    ReportUsage,
    /// Something asked for may be known now; see [`Worker::answer`].
    Answered,
}

/// Number of a network table of this worker, growing while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableVersion(pub u64);

/// Which addresses lead where on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkTable {
    /// Service addresses with the node addresses of the running instances.
    pub services: BTreeMap<Ipv4Addr, Vec<Ipv4Addr>>,
    /// Those of them that choose otherwise than in turn. What they lead to is chosen already as far as it depends on
    /// where instances are.
    pub policies: BTreeMap<Ipv4Addr, Balancing>,
    /// How many connections in a row an instance gets, compared with others, by node address; for those policies to
    /// which it matters.
    pub weights: BTreeMap<Ipv4Addr, u16>,
    /// Nodes between which the round trips decide, and where to measure them; see [`Worker::round_trips`].
    pub measured: BTreeMap<WorkerId, Ipv4Addr>,
    /// Instance address to node address.
    pub instances: BTreeMap<Ipv4Addr, Ipv4Addr>,
    /// Host ports with the node addresses of the running instances.
    pub ports: BTreeMap<PortMapping, Vec<Ipv4Addr>>,
    /// Service addresses that lead to instances of this node only because nobody has called them yet: see
    /// [`Worker::ask`].
    pub untold: BTreeSet<Ipv4Addr>,
    /// Who on this node may call what; the machine itself may call everything.
    pub tenants: BTreeMap<Option<OrganizationId>, TenantTable>,
    /// Service and instance addresses of which it is known whose they are.
    pub owned: BTreeSet<Ipv4Addr>,
    /// Addresses of instances on other nodes; connections to others are cut.
    pub elsewhere: BTreeSet<Ipv4Addr>,
    /// Other nodes by their subnets, and how they are reached.
    pub peers: BTreeMap<Ipv4Net, Peer>,
    /// How others see this node.
    pub own: OwnPlace,
}

/// How others see this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnPlace {
    /// As its cluster sees it, and the relay of that.
    pub vantage: Vantage,
    /// As relays see it.
    pub seen_as: Vec<SocketAddr>,
    /// By which keys it is known, if these are others than at the start.
    pub keys: Option<NodeKeys>,
}

/// A workload as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Stored {
    assignment: Assignment,
    address: Option<Ipv4Addr>,
    #[serde(default)]
    removing: bool,
    #[serde(default)]
    completed: bool,
    #[serde(default)]
    restarts: u32,
    /// Together with `completed`: it failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    failed: bool,
    /// Together with `completed`: how it ended.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    ending: String,
    /// Its process may have run; kept for those that must not run again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    begun: bool,
}

impl Stored {
    const fn new(assignment: Assignment, address: Option<Ipv4Addr>) -> Self {
        Self {
            assignment,
            address,
            removing: false,
            completed: false,
            restarts: 0,
            failed: false,
            ending: String::new(),
            begun: false,
        }
    }
}

/// A workload.
#[derive(Clone, Debug)]
pub struct Workload {
    stored: Stored,
    phase: Phase,
    attempt: Attempt,
    /// Failures in a row, for the back-off.
    failures: u32,
    /// What to run after the current stop; replaces an older wish.
    next: Option<Assignment>,
    /// It runs, but its addresses answer only once this table is applied.
    opening: Option<TableVersion>,
    /// Of a running process with a health check.
    health: Option<Health>,
    /// What follows its stop, if neither removal nor another attempt at once.
    after_stop: Option<AfterStop>,
    /// Until when it may run, if at most one may.
    leased_until: Option<Moment>,
    status: oak_model::Status,
    detail: String,
}

impl Workload {
    /// Which instance.
    #[must_use]
    pub const fn key(&self) -> InstanceKey {
        self.stored.assignment.desired.key
    }

    /// The attempt the cluster knows it by.
    #[must_use]
    pub const fn incarnation(&self) -> Incarnation {
        self.stored.assignment.incarnation
    }

    /// The newest attempt it was told of; waits for the stop of the present one if they differ.
    fn newest_incarnation(&self) -> Incarnation {
        self.next.as_ref().map_or(self.incarnation(), |next| next.incarnation.max(self.incarnation()))
    }

    /// Where it is in its life.
    #[must_use]
    pub const fn phase(&self) -> &Phase {
        &self.phase
    }

    /// What it runs.
    #[must_use]
    pub const fn assignment(&self) -> &Assignment {
        &self.stored.assignment
    }

    /// Its address in the node's subnet.
    #[must_use]
    pub const fn address(&self) -> Option<Ipv4Addr> {
        self.stored.address
    }

    fn report(&self) -> WorkloadReport {
        WorkloadReport {
            key: self.key(),
            incarnation: self.incarnation(),
            status: self.status,
            detail: self.detail.clone(),
            address: self.stored.address,
            ended: self.stored.completed,
        }
    }

    /// The start of its present process; results and measurements are told under it.
    #[must_use]
    pub const fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// Whether others come to it by a service address or a host port.
    fn is_reachable(&self) -> bool {
        let desired = &self.stored.assignment.desired;
        !desired.service_addresses.is_empty() || !desired.spec.ports.is_empty()
    }
}

/// Stored once per worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Meta {
    subnet: Option<Ipv4Net>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    more_subnets: Vec<Ipv4Net>,
    #[serde(default, skip_serializing_if = "Vantage::is_empty")]
    vantage: Vantage,
}

impl Meta {
    fn subnets(&self) -> Vec<Ipv4Net> {
        self.subnet.iter().chain(&self.more_subnets).copied().collect()
    }
}

/// The state of a worker.
#[derive(Debug)]
pub struct Worker {
    settings: Settings,
    meta: Meta,
    workloads: BTreeMap<InstanceKey, Workload>,
    addresses: NodePool,
    attempts: u64,
    leases: leases::Questions,
    network: NetworkTable,
    /// Number of `network`.
    network_version: TableVersion,
    /// The newest table the kernel has.
    network_applied: TableVersion,
    overlay: overlay::Overlay,
    distances: balance::Distances,
    /// Of the instances here that are not idle.
    loads: BTreeMap<InstanceKey, Load>,
    /// As which relays see this node.
    keys: Option<NodeKeys>,
    seen_as: Vec<SocketAddr>,
    /// The cluster has welcomed it and is still there.
    connected: bool,
    outbox: Outbox<Effect>,
}

impl Worker {
    /// A worker that knows nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            meta: Meta::default(),
            workloads: BTreeMap::new(),
            addresses: NodePool::default(),
            attempts: 0,
            leases: leases::Questions::default(),
            network: NetworkTable::default(),
            network_version: TableVersion::default(),
            network_applied: TableVersion::default(),
            overlay: overlay::Overlay::default(),
            distances: balance::Distances::default(),
            loads: BTreeMap::new(),
            seen_as: Vec::new(),
            keys: None,
            connected: false,
            outbox: Outbox::default(),
        }
    }

    /// Takes what the last calls asked for.
    #[must_use]
    pub fn take_outbox(&mut self) -> Outbox<Effect> {
        self.outbox.take()
    }

    /// First subnet of this node, once its cluster gave it one.
    #[must_use]
    pub const fn subnet(&self) -> Option<Ipv4Net> {
        self.meta.subnet
    }

    /// All subnets of this node, the first one first.
    #[must_use]
    pub fn subnets(&self) -> Vec<Ipv4Net> {
        self.meta.subnets()
    }

    /// All workloads.
    pub fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.workloads.values()
    }

    /// One workload.
    #[must_use]
    pub fn workload(&self, key: InstanceKey) -> Option<&Workload> {
        self.workloads.get(&key)
    }

    /// State of every workload, for the hello.
    #[must_use]
    pub fn reports(&self) -> Vec<WorkloadReport> {
        self.workloads.values().map(Workload::report).collect()
    }

    /// When [`Worker::tick`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Moment> {
        let phases = self.workloads.values().filter_map(|workload| workload.phase.deadline());
        let checks = self.workloads.values().filter_map(Workload::health_due);
        phases.chain(checks).chain(self.leases.ask_at()).chain(self.overlay_deadline()).min()
    }

    fn save(&mut self, key: InstanceKey) {
        if let Some(workload) = self.workloads.get(&key) {
            self.outbox.put(Table::Workload, key, &workload.stored);
        }
    }

    fn next_attempt(&mut self) -> Attempt {
        self.attempts += 1;
        Attempt(self.attempts)
    }
}

/// When something happened by the wall clock, for texts.
pub(crate) fn clock_text(at: WallTime) -> String {
    let seconds = at.0 / 1000 % 86_400;
    format!("{:02}:{:02}:{:02} UTC", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
