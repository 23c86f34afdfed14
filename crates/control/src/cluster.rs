//! The cluster: which worker runs which instance, and what happens when a worker goes silent.
//!
//! Every attempt to run an instance somewhere is an *incarnation* with a number that only grows. A worker acts on
//! and reports incarnations; anything about an older one is history.

mod abroad;
mod bounds;
mod drain;
mod holdings;
mod leases;
mod load;
mod local;
mod overlay;
mod place;
mod records;
mod relay;
mod removal;
mod root_link;
mod state;
mod tokens;
mod workers;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use oak_model::message::{
    ClusterToRoot, ClusterToWorker, InstanceReport, Lineage, WorkerSummary, WorkerWelcome,
};
use oak_model::overlay::RelayEnd;
use oak_model::{ApplicationId, Generation, Incarnation, InstanceKey, Moment, Service, ServiceId, WorkerId};
use oak_placement::Fleet;
use serde::{Deserialize, Serialize};

use crate::address::{AddressPool, next_free, plan};
use crate::root::DEFAULT_CPU_OVERCOMMIT;
use crate::token::Token;
use crate::waiting::Waiting;
use crate::{Outbox, Table};

pub use local::{LOCAL_OWNER, LocalRefusal};
pub use records::KnownApplication;
pub use removal::WorkerKept;
pub use state::{Parting, Placed, Placement, Worker};
pub use tokens::Candidate;

/// Settings of the cluster's decisions.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long the link of a worker may be down before its instances are placed elsewhere.
    pub lost_after: Duration,
    /// The same for a worker that said goodbye, as an agent does that restarts or is upgraded.
    pub restart_grace: Duration,
    /// The same, right after a start of the cluster, when all workers have to come back first.
    pub start_grace: Duration,
    /// How long an instance that moves on purpose runs at both places: its program needs a moment until it listens.
    pub handover: Duration,
    /// How long a worker may run *at most one* instances without asking again.
    pub lease: Duration,
    /// CPU that may be reserved per core.
    pub cpu_overcommit: u32,
    /// Longest time between two attempts to place an instance that found no place.
    pub retry_interval: Duration,
    /// Name of the cluster.
    pub name: String,
    /// Place of the cluster.
    pub location: String,
    /// Port of its API.
    pub port: u16,
    /// Fingerprint of the root authority its workers know.
    pub authority: Option<String>,
    /// Its relay, without the address; none: it has none.
    pub relay: Option<RelayEnd>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lost_after: Duration::from_secs(3),
            restart_grace: Duration::from_secs(15),
            start_grace: Duration::from_secs(15),
            handover: Duration::from_secs(1),
            lease: Duration::from_secs(10),
            cpu_overcommit: DEFAULT_CPU_OVERCOMMIT,
            retry_interval: Duration::from_secs(30),
            name: "default".to_owned(),
            location: String::new(),
            port: 10100,
            authority: None,
            relay: None,
        }
    }
}

/// What the shell does after the rows of the step are committed.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Answers the hello of a worker.
    Welcome {
        /// Which worker.
        worker: WorkerId,
        /// Its session.
        session: u64,
        /// The answer.
        welcome: WorkerWelcome,
    },
    /// Sends a message to a worker, if that session is still open.
    ToWorker {
        /// Which worker.
        worker: WorkerId,
        /// Its session.
        session: u64,
        /// The message.
        message: ClusterToWorker,
    },
    /// Ends the session of a worker that was removed.
    Dismiss {
        /// Which worker.
        worker: WorkerId,
        /// Its session.
        session: u64,
    },
    /// The nodes a worker has to do with, all of them: the relay passes on packets between it and each of these.
    Relay {
        /// Which worker.
        worker: WorkerId,
        /// Its public keys, the present one first; none if it does not encrypt or is gone.
        keys: Vec<String>,
        /// Public keys of the others.
        peers: Vec<String>,
    },
    /// Sends a message to the root, if it is connected; otherwise the next hello tells everything.
    ToRoot(ClusterToRoot),
}

/// Counters that outlive every object.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Meta {
    generation: Generation,
    incarnation: Incarnation,
    node_blocks: Vec<Ipv4Net>,
    /// The subnet that was given out last; the search for the next one begins behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_subnet: Option<Ipv4Net>,
    /// The root whose complete wishes are known here.
    #[serde(default)]
    lineage: Option<Lineage>,
    /// Service and instance addresses that are given out here, and those of them the root has in use.
    #[serde(default)]
    local_block: Option<Ipv4Net>,
    #[serde(default)]
    local_addresses: BTreeSet<Ipv4Addr>,
}

/// The state of a cluster.
#[derive(Debug)]
pub struct Cluster {
    settings: Settings,
    meta: Meta,
    workers: BTreeMap<WorkerId, Worker>,
    placed: BTreeMap<InstanceKey, Placed>,
    /// What the instances belong to.
    applications: BTreeMap<ApplicationId, KnownApplication>,
    services: BTreeMap<ServiceId, Service>,
    /// Per worker the instances of which something may be there.
    held: HashMap<WorkerId, BTreeSet<InstanceKey>>,
    /// When something may be due for a worker; the worker itself tells what, if anything. Kept because looking at all
    /// of them after every step would cost more than the steps.
    alarms: BTreeSet<(Moment, WorkerId)>,
    /// Successors that run, and when they take over.
    handovers: BTreeMap<InstanceKey, (Placement, Moment)>,
    /// Instances with bounds that must hold, and since when they do not.
    bounded: BTreeMap<InstanceKey, Option<Moment>>,
    /// When the bounds are looked at again.
    next_look: Option<Moment>,
    /// Workers that are being emptied.
    draining: BTreeSet<WorkerId>,
    tokens: BTreeMap<String, Token>,
    fleet: Fleet,
    /// Instances without a place, or with one on a worker that went silent.
    pending: Waiting,
    /// The root has said what it wants, and is still there.
    root_connected: bool,
    /// The root was asked for another address block.
    block_requested: bool,
    overlay: overlay::Overlay,
    abroad: abroad::Abroad,
    outbox: Outbox<Effect>,
}

impl Cluster {
    /// A cluster that knows nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            meta: Meta::default(),
            workers: BTreeMap::new(),
            placed: BTreeMap::new(),
            applications: BTreeMap::new(),
            services: BTreeMap::new(),
            held: HashMap::new(),
            alarms: BTreeSet::new(),
            handovers: BTreeMap::new(),
            bounded: BTreeMap::new(),
            next_look: None,
            draining: BTreeSet::new(),
            tokens: BTreeMap::new(),
            fleet: Fleet::new(),
            pending: Waiting::default(),
            root_connected: false,
            block_requested: false,
            overlay: overlay::Overlay::default(),
            abroad: abroad::Abroad::default(),
            outbox: Outbox::default(),
        }
    }

    /// Takes what the last calls asked for.
    #[must_use]
    pub fn take_outbox(&mut self) -> Outbox<Effect> {
        self.tell_overlay();
        self.tell_relay();
        self.outbox.take()
    }

    /// Its settings.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// All workers with what is reserved on them, oldest first.
    pub fn summaries(&self) -> impl Iterator<Item = WorkerSummary> + '_ {
        self.workers.keys().filter_map(|id| self.worker_summary(*id))
    }

    /// All workers, oldest first.
    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values()
    }

    /// One worker.
    #[must_use]
    pub fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id)
    }

    /// All instances.
    pub fn placed(&self) -> impl Iterator<Item = &Placed> {
        self.placed.values()
    }

    /// One instance.
    #[must_use]
    pub fn instance(&self, key: InstanceKey) -> Option<&Placed> {
        self.placed.get(&key)
    }

    fn save_meta(&mut self) {
        self.outbox.put(Table::Meta, "cluster", &self.meta);
    }

    fn save_worker(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get(&id) {
            self.outbox.put(Table::Worker, id, worker);
        }
    }

    fn save_placed(&mut self, key: InstanceKey) {
        if let Some(placed) = self.placed.get(&key) {
            self.outbox.put(Table::Placement, key, placed);
        }
    }

    fn send_to_worker(&mut self, worker: WorkerId, message: ClusterToWorker) {
        if let Some(session) = self.workers.get(&worker).and_then(|worker| worker.session) {
            self.outbox.emit(Effect::ToWorker { worker, session, message });
        }
    }

    fn report_instance(&mut self, key: InstanceKey) {
        if let Some(report) = self.instance_report(key) {
            self.outbox.emit(Effect::ToRoot(ClusterToRoot::Instances(vec![report])));
        }
    }

    fn instance_report(&self, key: InstanceKey) -> Option<InstanceReport> {
        let placed = self.placed.get(&key)?;
        let worker = placed.placement.map(|placement| placement.worker);
        let host_address = worker
            .and_then(|id| self.workers.get(&id))
            .map(|worker| worker.facts.address.clone())
            .unwrap_or_default();
        Some(InstanceReport {
            key,
            generation: placed.desired.generation,
            status: placed.status,
            detail: placed.detail.clone(),
            worker,
            host_address,
            address: placed.placement.and_then(|place| self.overlay_address(key, place.worker)),
            ended: placed.completed,
        })
    }

    fn report_removal(&mut self, id: WorkerId) {
        self.outbox.emit(Effect::ToRoot(ClusterToRoot::WorkerRemoved(id)));
    }

    fn report_worker(&mut self, id: WorkerId) {
        if let Some(summary) = self.worker_summary(id) {
            self.outbox.emit(Effect::ToRoot(ClusterToRoot::Workers(vec![summary])));
        }
    }

    /// A worker with what is reserved on it.
    #[must_use]
    pub fn worker_summary(&self, id: WorkerId) -> Option<WorkerSummary> {
        let worker = self.workers.get(&id)?;
        let (reserved, instances) = self.fleet.reserved(id).unwrap_or_default();
        let host_ports =
            self.fleet.host_ports(id).map(|(protocol, port)| format!("{port}/{protocol}")).collect();
        Some(WorkerSummary {
            id,
            facts: worker.facts.clone(),
            reserved,
            instances,
            connected: worker.session.is_some(),
            host_ports,
            availability: worker.availability,
            round_trip_us: worker.round_trip_us,
            subnet: worker.subnet,
            more_subnets: worker.more_subnets.clone(),
            outside: worker.outside,
        })
    }

    /// A subnet for a worker out of the blocks of this cluster: the next free one after the last one given, going
    /// round, so that the subnet of a worker that was removed rests before another one gets it.
    fn allocate_subnet(&mut self) -> Option<Ipv4Net> {
        let taken: BTreeSet<_> = self.workers.values().flat_map(Worker::subnets).collect();
        let blocks = self.meta.node_blocks.iter();
        let subnets = blocks.filter_map(|block| block.subnets(plan::WORKER_PREFIX).ok()).flatten();
        let free = next_free(subnets, self.meta.last_subnet, &taken)?;
        self.meta.last_subnet = Some(free);
        self.save_meta();
        Some(free)
    }
}

/// Instances that subnets of a worker have addresses for: all hosts but the first one of each.
fn addresses_of(subnets: impl Iterator<Item = Ipv4Net>) -> u32 {
    subnets.map(|subnet| AddressPool::hosts_of(subnet).without_first().capacity()).sum()
}
