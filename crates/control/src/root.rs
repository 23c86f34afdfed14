//! The root: what exists, which cluster runs it, and what is known about it.

mod adopt;
mod applications;
mod around;
mod change;
mod clusters;
mod dry_run;
mod events;
mod explain;
mod history;
mod instances;
mod keep;
mod ledger;
mod links;
mod load;
mod looks;
mod lost;
mod overlay;
mod quota;
mod removal;
mod rollout;
mod schedule;
mod secrets;
mod service_addresses;
mod state;
mod tenants;
mod tokens;
mod workers;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use oak_model::message::{ClusterWelcome, Lineage, RootToCluster};
use oak_model::{
    ApplicationId, Availability, ClusterId, Generation, InstanceKey, Moment, OrganizationId, ServiceId,
    WorkerId,
};
use serde::{Deserialize, Serialize};

use self::tenants::{FullName, Tenants};
use crate::address::{BlockPool, ServicePool, plan};
use crate::token::Token;
use crate::waiting::Waiting;
use crate::{Outbox, Table};
use ledger::Ledger;
use links::Links;
use looks::Looks;

pub use applications::Refusal;
pub use change::{Change, Scaled};
pub use clusters::Attention;
pub use dry_run::{MOST_PLANNED, PlanRefusal, PlannedInstance, PlannedPlace, PlannedService};
pub use explain::{ClusterExplanation, ClusterReason, Explanation, WorkerExplanation};
pub use history::{Occurrence, Replay, Topic};
pub use keep::Progress;
pub use oak_model::{Application, Service};
pub use quota::{Consumption, OverQuota, Quota, QuotaKind};
pub use removal::ClusterKept;
pub use secrets::{MAX_SECRETS, Secret, SecretKey, SecretOwner, SecretRefusal};
pub use state::{Cluster, Departure, HistorySample, Instance, Usage};
pub use tenants::Owner;
pub use tokens::Candidate;
pub use workers::WorkerRefusal;

/// Settings of the root's decisions.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Longest time between two attempts to place an instance that found no place.
    pub retry_interval: Duration,
    /// How long a cluster may be away before its instances are placed in other clusters; `None`: for ever. A cluster
    /// that is only cut off goes on running them, and stops them when it is back.
    pub cluster_lost_after: Option<Duration>,
    /// CPU that may be reserved per core; must be the value the clusters use, so that both decide alike.
    pub cpu_overcommit: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            retry_interval: Duration::from_secs(30),
            cluster_lost_after: Some(Duration::from_secs(300)),
            cpu_overcommit: DEFAULT_CPU_OVERCOMMIT,
        }
    }
}

/// Descriptors can ask for whole cores only, and most services need far less: ten of them share a core, each
/// still limited to what it asked for.
pub const DEFAULT_CPU_OVERCOMMIT: u32 = 10;

/// What the shell does after the rows of the step are committed.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Answers the hello of a cluster.
    Welcome {
        /// Which cluster.
        cluster: ClusterId,
        /// Its session.
        session: u64,
        /// The answer.
        welcome: ClusterWelcome,
    },
    /// Sends a message to a cluster, if that session is still open.
    Send {
        /// Which cluster.
        cluster: ClusterId,
        /// Its session.
        session: u64,
        /// The message.
        message: RootToCluster,
    },
    /// A cluster confirmed that it can check this worker token.
    TokenReady {
        /// Public part of the token.
        id: String,
    },
    /// A cluster confirmed what [`Root::set_availability`] asked for.
    AvailabilityConfirmed {
        /// Which worker.
        worker: WorkerId,
        /// What it is now.
        availability: Availability,
    },
    /// Ends the session of a cluster that was removed.
    Dismiss {
        /// Which cluster.
        cluster: ClusterId,
        /// Its session.
        session: u64,
    },
    /// A cluster answered what [`Root::remove_worker`] asked for.
    WorkerRemoval {
        /// Which worker.
        worker: WorkerId,
        /// Why it was not removed.
        kept: Option<String>,
    },
    /// What happened in the step, in order; it is stored.
    Events(Vec<Arc<Occurrence>>),
}

/// Counters that outlive every object.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Meta {
    generation: Generation,
    address_cursor: Option<Ipv4Addr>,
    /// The address block that a cluster got last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_node_block: Option<Ipv4Net>,
    #[serde(default)]
    lineage: Option<Lineage>,
    /// Whether this root learns from clusters what there is, and there may be some it has not heard of yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    learns: bool,
}

/// The state of the root.
#[derive(Debug)]
pub struct Root {
    settings: Settings,
    meta: Meta,
    applications: BTreeMap<ApplicationId, Application>,
    application_names: HashMap<FullName, ApplicationId>,
    tenants: Tenants,
    quotas: BTreeMap<OrganizationId, Quota>,
    ledger: Ledger,
    services: BTreeMap<ServiceId, Service>,
    /// Services with bounds to others.
    linked: Links,
    instances: BTreeMap<InstanceKey, Instance>,
    /// Instances that were undeployed but whose cluster has not confirmed that nothing is left.
    departures: BTreeMap<InstanceKey, Departure>,
    clusters: BTreeMap<ClusterId, Cluster>,
    tokens: BTreeMap<String, Token>,
    addresses: ServicePool,
    node_blocks: BlockPool,
    /// Instances without a place.
    pending: Waiting,
    /// Services that need a look, and when.
    looks: Looks,
    /// Since when it waits for what its clusters hold, if it learns from them or was put back to an older state.
    asks_since: Moment,
    /// What clusters were asked about their workers and have not confirmed.
    asked: BTreeSet<(WorkerId, Availability)>,
    history: history::History,
    secrets: BTreeMap<SecretKey, Secret>,
    overlay: overlay::Overlay,
    outbox: Outbox<Effect>,
}

impl Root {
    /// A root that knows nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            meta: Meta::default(),
            applications: BTreeMap::new(),
            application_names: HashMap::new(),
            tenants: Tenants::default(),
            quotas: BTreeMap::new(),
            ledger: Ledger::default(),
            services: BTreeMap::new(),
            linked: Links::default(),
            instances: BTreeMap::new(),
            departures: BTreeMap::new(),
            clusters: BTreeMap::new(),
            tokens: BTreeMap::new(),
            addresses: ServicePool::new(plan::SERVICES),
            node_blocks: BlockPool::new(plan::NODES_FIRST, plan::NODES_LAST, plan::CLUSTER_PREFIX),
            pending: Waiting::default(),
            looks: Looks::default(),
            asks_since: Moment(0),
            asked: BTreeSet::new(),
            history: history::History::default(),
            secrets: BTreeMap::new(),
            overlay: overlay::Overlay::default(),
            outbox: Outbox::default(),
        }
    }

    /// Takes what the last calls asked for.
    #[must_use]
    pub fn take_outbox(&mut self) -> Outbox<Effect> {
        self.tell();
        self.tell_overlay();
        self.outbox.take()
    }

    /// All applications, oldest first.
    pub fn applications(&self) -> impl Iterator<Item = &Application> {
        self.applications.values()
    }

    /// One application.
    #[must_use]
    pub fn application(&self, id: ApplicationId) -> Option<&Application> {
        self.applications.get(&id)
    }

    /// All services, oldest first.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// One service.
    #[must_use]
    pub fn service(&self, id: ServiceId) -> Option<&Service> {
        self.services.get(&id)
    }

    /// All instances.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.instances.values()
    }

    /// Instances of a service, lowest number first.
    pub fn instances_of(&self, service: ServiceId) -> impl Iterator<Item = &Instance> {
        self.instances.range(InstanceKey::all_of(service)).map(|(_, instance)| instance)
    }

    /// One instance.
    #[must_use]
    pub fn instance(&self, key: InstanceKey) -> Option<&Instance> {
        self.instances.get(&key)
    }

    /// Number of instances.
    #[must_use]
    pub fn instance_count(&self) -> usize {
        self.instances.len()
    }

    /// Instances that are still being taken down somewhere.
    pub fn departures(&self) -> impl Iterator<Item = &Departure> {
        self.departures.values()
    }

    /// One instance that is still being taken down somewhere.
    #[must_use]
    pub fn departure(&self, key: InstanceKey) -> Option<&Departure> {
        self.departures.get(&key)
    }

    /// All clusters, oldest first.
    pub fn clusters(&self) -> impl Iterator<Item = &Cluster> {
        self.clusters.values()
    }

    /// One cluster.
    #[must_use]
    pub fn cluster(&self, id: ClusterId) -> Option<&Cluster> {
        self.clusters.get(&id)
    }

    /// Service and instance addresses in use.
    #[must_use]
    pub fn addresses_in_use(&self) -> usize {
        self.addresses.used()
    }

    /// The addresses that the next services get if nothing else happens, `wanted` of them if there are so many.
    #[must_use]
    pub fn next_addresses(&self, wanted: usize) -> Vec<Ipv4Addr> {
        let mut preview = self.addresses.clone();
        (0..wanted).map_while(|_| preview.allocate()).collect()
    }

    fn next_generation(&mut self) -> Generation {
        self.meta.generation.0 += 1;
        self.save_meta();
        self.meta.generation
    }

    fn save_meta(&mut self) {
        self.meta.address_cursor = Some(self.addresses.cursor());
        self.meta.last_node_block = self.node_blocks.last();
        self.outbox.put(Table::Meta, "root", &self.meta);
    }

    fn save_instance(&mut self, key: InstanceKey) {
        if let Some(instance) = self.instances.get(&key) {
            self.outbox.put(Table::Instance, key, instance);
        }
        self.overlay_instance(key);
    }

    /// Sends to a cluster if it is connected; otherwise the next welcome tells it.
    fn send(&mut self, cluster: ClusterId, mut message: RootToCluster) {
        for wish in message.wishes_mut() {
            self.supply(wish);
        }
        if let Some(session) = self.clusters.get(&cluster).and_then(|cluster| cluster.session) {
            self.outbox.emit(Effect::Send { cluster, session, message });
        }
    }
}
