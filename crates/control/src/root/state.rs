//! Objects the root keeps. Fields marked `serde(skip)` are known only while the root runs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use oak_model::message::{DesiredInstance, InstanceReport, Lineage, NodeUsage, WorkerSummary};
use oak_model::overlay::RelayEnd;
use oak_model::{
    ApplicationId, ClusterId, Generation, InstanceKey, Moment, Now, Position, Service, Status, Surroundings,
    WallTime, WorkerId,
};
use oak_placement::Fleet;
use serde::{Deserialize, Serialize};

/// An instance that shall run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Instance {
    /// Identity.
    pub key: InstanceKey,
    /// Version of what its cluster was told.
    pub generation: Generation,
    /// Address of this one instance.
    pub address: Ipv4Addr,
    /// Cluster that has it.
    pub cluster: Option<ClusterId>,
    /// Status word.
    pub status: Status,
    /// One line for people.
    pub detail: String,
    /// Worker that has it.
    pub worker: Option<WorkerId>,
    /// Address of that worker.
    #[serde(default)]
    pub host_address: String,
    /// Its address in the subnet of that worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) node_address: Option<Ipv4Addr>,
    /// It has ended for good.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
    /// Last change of the status.
    pub changed: WallTime,
    /// Revision of the service it runs, for its whole life.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub revision: u32,
    /// Since when it runs or has completed, as far as this root has seen.
    #[serde(skip)]
    pub(super) ready_since: Option<Moment>,
    /// Since when it does not run; the start of the root if that was before.
    #[serde(skip)]
    pub(super) unready_since: Moment,
    /// How often it failed.
    #[serde(skip)]
    pub(super) failures: u32,
    /// Worker on which the root counts it: the real one, or a guess until the cluster has decided.
    #[serde(skip)]
    pub(super) counted_on: Option<WorkerId>,
    /// A cluster that could not take it; tried again only if there is no other.
    #[serde(skip)]
    pub(super) avoid: Option<ClusterId>,
    /// When it was last told to leave its cluster because another seemed to have room.
    #[serde(skip)]
    pub(super) offered: Option<Moment>,
    /// Told to leave its cluster so that another can take it.
    #[serde(skip)]
    pub(super) moving: bool,
    /// Measurements.
    #[serde(skip)]
    pub usage: Usage,
}

impl Instance {
    /// Whether it has run to its end: it needs no place.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended || self.status == Status::Completed
    }

    /// An instance that looks for a place.
    pub(super) fn new(
        key: InstanceKey,
        revision: u32,
        generation: Generation,
        address: Ipv4Addr,
        now: Now,
    ) -> Self {
        Self {
            key,
            generation,
            address,
            cluster: None,
            status: Status::Requested,
            detail: "waiting for a placement decision".to_owned(),
            worker: None,
            host_address: String::new(),
            node_address: None,
            changed: now.wall,
            revision,
            ready_since: None,
            unready_since: now.moment,
            failures: 0,
            ended: false,
            counted_on: None,
            avoid: None,
            offered: None,
            moving: false,
            usage: Usage::default(),
        }
    }

    /// Takes over what its cluster says; true when that is news.
    pub(super) fn observe(&mut self, mut report: InstanceReport, now: Now) -> bool {
        // A cluster that has just started does not know it yet.
        if report.worker == self.worker {
            report.address = report.address.or(self.node_address);
        }
        let changed = self.status != report.status
            || self.detail != report.detail
            || self.worker != report.worker
            || self.host_address != report.host_address
            || self.node_address != report.address
            || self.ended != report.ended;
        if changed {
            self.set_status(report.status, now.moment);
            self.detail = report.detail;
            self.worker = report.worker;
            self.host_address = report.host_address;
            self.node_address = report.address;
            self.changed = now.wall;
            self.ended = report.ended;
        }
        changed
    }

    /// Changes the status and remembers since when it can be relied on.
    pub(super) fn set_status(&mut self, status: Status, now: Moment) {
        let is_up = |status: Status| matches!(status, Status::Running | Status::Completed);
        let has_failed = |status: Status| matches!(status, Status::Failed | Status::Dead);
        match (is_up(self.status), is_up(status)) {
            (false, true) => self.ready_since = Some(now),
            (true, false) => {
                self.ready_since = None;
                self.unready_since = now;
            }
            (true, true) | (false, false) => {}
        }
        if has_failed(status) && !has_failed(self.status) {
            self.failures = self.failures.saturating_add(1);
        }
        self.status = status;
    }

    /// What was observed before counts from the start of this root.
    pub(super) fn observed_at_start(&mut self, now: Moment) {
        self.unready_since = now;
        self.ready_since = matches!(self.status, Status::Running | Status::Completed).then_some(now);
    }
}

/// An instance that is being taken down.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Departure {
    /// Identity.
    pub key: InstanceKey,
    /// Cluster that must confirm.
    pub cluster: ClusterId,
    /// Address that becomes free then.
    pub address: Ipv4Addr,
    /// Version of the removal.
    pub generation: Generation,
}

/// Measurements of an instance.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Share of one core, 0–100 per core.
    pub cpu_percent: f32,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Disk, bytes.
    pub disk_bytes: u64,
    /// End of the output.
    pub log_tail: String,
    /// The last 100 samples, oldest first.
    pub history: VecDeque<HistorySample>,
    /// Time of the last sample; zero before the first.
    pub sampled: WallTime,
}

/// One sample of a history.
#[derive(Clone, Copy, Debug)]
pub struct HistorySample {
    /// When.
    pub at: WallTime,
    /// CPU percent.
    pub cpu: f32,
    /// Memory: bytes for an instance, percent for a cluster.
    pub memory: f64,
}

/// Samples kept, as in the original.
pub(super) const HISTORY: usize = 100;

pub(super) fn push_sample(history: &mut VecDeque<HistorySample>, sample: HistorySample) {
    if history.len() == HISTORY {
        history.pop_front();
    }
    history.push_back(sample);
}

/// A cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cluster {
    /// Identity.
    pub id: ClusterId,
    /// Unique name.
    pub name: String,
    /// Place, conventionally `latitude,longitude,radius`.
    pub location: String,
    /// Address its link comes from.
    #[serde(default)]
    pub address: String,
    /// Port of its API.
    #[serde(default)]
    pub port: u16,
    /// Address blocks for its workers.
    #[serde(default)]
    pub node_blocks: Vec<Ipv4Net>,
    /// Service and instance addresses the cluster gives out by itself while the root is away.
    #[serde(default)]
    pub local_block: Option<Ipv4Net>,
    /// The life of this root in which everything the cluster had was taken over.
    #[serde(default)]
    pub(super) taken_over: Option<Lineage>,
    /// The life of this root in which it was learned what the cluster has.
    #[serde(default)]
    pub(super) known_in: Option<Lineage>,
    /// Local applications that were taken over, until the cluster has heard of it: they must not come back after
    /// they were deleted here.
    #[serde(default)]
    pub(super) adopted: BTreeSet<ApplicationId>,
    /// Fingerprint of the authority its workers know, if that is not this root.
    #[serde(default)]
    pub authority: Option<String>,
    /// Its relay, as it said itself.
    #[serde(skip)]
    pub(super) relay: Option<RelayEnd>,
    /// Open session.
    #[serde(skip)]
    pub session: Option<u64>,
    /// Its whole holdings were asked for in this session.
    #[serde(skip)]
    pub(super) asked_for_holdings: bool,
    /// It was away for so long that its instances were placed elsewhere where possible.
    #[serde(skip)]
    pub(super) given_up: bool,
    /// Since when it is away; the start of the root before it came for the first time after that.
    #[serde(skip)]
    pub lost_since: Option<Moment>,
    /// Time of its last sign of life.
    #[serde(skip)]
    pub last_seen: WallTime,
    /// Round trip to it, smoothed, microseconds.
    #[serde(skip)]
    pub round_trip_us: Option<u32>,
    /// Its workers.
    #[serde(skip)]
    pub workers: BTreeMap<WorkerId, WorkerSummary>,
    /// Load of its workers.
    #[serde(skip)]
    pub usage: BTreeMap<WorkerId, NodeUsage>,
    /// The last 100 samples of its average load.
    #[serde(skip)]
    pub history: VecDeque<HistorySample>,
    /// Its capacity less what the root knows to be there.
    #[serde(skip)]
    pub(super) fleet: Fleet,
    /// Its instances, moving and leaving ones included.
    #[serde(skip)]
    pub(super) instances: BTreeSet<InstanceKey>,
}

impl Cluster {
    /// Whether its link is up.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        self.session.is_some()
    }

    /// Where it is, if it says so in the usual form.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.location.parse().ok()
    }

    /// Whether it was learned what it has, in this life of the root.
    pub(super) fn is_known_in(&self, lineage: Lineage) -> bool {
        self.known_in == Some(lineage)
    }

    /// Average CPU and memory load of its workers, percent.
    #[must_use]
    pub fn average_load(&self) -> (f32, f32) {
        #[allow(clippy::cast_precision_loss, reason = "a number of workers is small")]
        let count = self.usage.len().max(1) as f32;
        let (cpu, memory) = self
            .usage
            .values()
            .fold((0.0, 0.0), |(cpu, memory), node| (cpu + node.cpu_percent, memory + node.memory_percent));
        (cpu / count, memory / count)
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What a cluster is told about an instance.
#[must_use]
pub(super) fn desired(service: &Service, instance: &Instance, surroundings: Surroundings) -> DesiredInstance {
    DesiredInstance {
        key: instance.key,
        generation: instance.generation,
        application: service.application,
        job_name: service.job_name.clone(),
        spec: Arc::clone(service.spec_of(instance.revision)),
        service_addresses: vec![service.address],
        policies: service.policies.clone(),
        instance_address: instance.address,
        surroundings,
        material: Vec::new(),
    }
}
