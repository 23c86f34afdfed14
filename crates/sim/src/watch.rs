//! What the rules remember: the system as its steps stored it.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use oak_control::cluster::{Placed, Placement};
use oak_model::{Generation, Incarnation, InstanceKey, Resources, ServiceId, WorkerId};

use crate::agenda::Who;
use crate::invariants::{ADDRESSES, Checked, is_refusal, require};

/// An instance as its cluster had it when it last stored it.
#[derive(Clone)]
pub(crate) struct Seen {
    pub(crate) generation: Generation,
    /// The highest incarnation that was its proper place.
    pub(crate) incarnation: Incarnation,
    /// Its proper place.
    pub(crate) worker: Option<WorkerId>,
    /// What is counted where: something of it may be on several workers.
    pub(crate) counted: Vec<(WorkerId, Resources)>,
    pub(crate) waits: bool,
}

/// One cluster as its steps stored it.
#[derive(Default)]
pub(crate) struct ClusterSeen {
    pub(crate) placed: HashMap<InstanceKey, Seen>,
    pub(crate) sums: HashMap<WorkerId, Resources>,
    pub(crate) subnets: HashMap<Ipv4Net, WorkerId>,
}

/// What the rules need to remember.
#[derive(Default)]
pub(crate) struct Watch {
    pub(crate) clusters: Vec<ClusterSeen>,
    /// Which living cluster has an instance.
    pub(crate) holders: HashMap<InstanceKey, usize>,
    /// Highest incarnation each worker has stored in its present life.
    pub(crate) incarnations: Vec<HashMap<InstanceKey, Incarnation>>,
    /// Addresses the living root has given away.
    addresses: HashMap<Ipv4Addr, Holder>,
    holds: HashMap<Holder, Ipv4Addr>,
    /// Instances for which the root knows no cluster.
    pub(crate) waiting: BTreeSet<InstanceKey>,
    /// Workloads all instances of which ran at the same time, since another number was wanted.
    pub(crate) complete: HashMap<ServiceId, usize>,
    /// Instances with more than one process.
    pub(crate) doubles: BTreeSet<InstanceKey>,
}

/// Who has an address of the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    Service(ServiceId),
    Instance(InstanceKey),
}

impl Watch {
    pub(crate) fn add_worker(&mut self) {
        self.incarnations.push(HashMap::new());
    }

    /// A machine lost what it had not stored; its numbers start from its disk.
    pub(crate) fn crashed(&mut self, who: Who) {
        match who {
            Who::Root => {
                self.addresses.clear();
                self.holds.clear();
                self.waiting.clear();
            }
            Who::Cluster(index) => {
                if let Some(cluster) = self.clusters.get_mut(index) {
                    *cluster = ClusterSeen::default();
                }
                self.holders.retain(|_, holder| *holder != index);
            }
            Who::Worker(index) => {
                if let Some(incarnations) = self.incarnations.get_mut(index) {
                    incarnations.clear();
                }
            }
        }
    }

    pub(crate) fn give(&mut self, holder: Holder, address: Ipv4Addr) -> Checked {
        if let Some(former) = self.holds.insert(holder, address) {
            self.addresses.remove(&former);
        }
        let other = self.addresses.insert(address, holder);
        require(other.is_none_or(|other| other == holder), ADDRESSES, || {
            format!("{address} was given to {holder:?} while {other:?} has it")
        })
    }

    pub(crate) fn take(&mut self, holder: Holder) {
        if let Some(address) = self.holds.remove(&holder) {
            self.addresses.remove(&address);
        }
    }
}

/// What is remembered of an instance.
pub(crate) fn as_seen(placed: &Placed, former: Option<&Seen>) -> Seen {
    let resources = placed.desired.spec.resources;
    let counts = |place: &Placement| !(placed.completed && placed.placement == Some(*place));
    let highest = former.map_or(Incarnation(0), |former| former.incarnation);
    Seen {
        generation: placed.desired.generation,
        incarnation: placed.placement.map_or(highest, |place| place.incarnation),
        worker: placed.placement.map(|place| place.worker),
        counted: placed.places().filter(counts).map(|place| (place.worker, resources)).collect(),
        waits: placed.placement.is_none() && is_refusal(placed.status),
    }
}
