//! What must hold after every single event, whatever goes wrong.
//!
//! After each event the objects that its steps stored are looked at, so the cost follows the change and not the size
//! of the system. `sweep.rs` looks at everything from time to time.

use oak_control::Table;
use oak_control::cluster::Placed;
use oak_control::worker::Phase;
use oak_model::{InstanceKey, Resources, Status, WorkerId};

use crate::agenda::{ProcessChange, Who};
use crate::client::Known;
use crate::timeline::Consequence;
use crate::watch::{Holder, Seen, as_seen};
use crate::world::World;

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Violation {
    /// When, milliseconds.
    pub at_ms: u64,
    /// Which rule.
    pub rule: &'static str,
    /// How.
    pub detail: String,
}

/// A broken rule without its time.
pub(crate) type Broken = (&'static str, String);
pub(crate) type Checked = Result<(), Broken>;

pub(crate) fn require(holds: bool, rule: &'static str, detail: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err((rule, detail())) }
}

pub(crate) const NUMBERS: &str = "generations and incarnations never decrease at a receiver";
pub(crate) const ACKNOWLEDGED: &str = "acknowledged writes never vanish";
pub(crate) const ADDRESSES: &str = "addresses are unique";
pub(crate) const ONE_CLUSTER: &str = "one of the clusters in touch has an instance";
pub(crate) const CAPACITY: &str = "reservations never exceed capacity";
pub(crate) const FOLLOWS: &str = "a worker in touch runs nothing that its cluster placed elsewhere";
pub(crate) const ONE_PROCESS: &str = "an instance has one process, unless a worker is out of touch";
pub(crate) const AT_MOST_ONE: &str = "of an at most one service no instance ever has two processes";
pub(crate) const REMOVED: &str = "nothing refers to a machine that was removed";
pub(crate) const DEADLINES: &str = "every state that is not final has a deadline";
pub(crate) const UPDATES: &str = "an update costs no more instances than its policy allows";
pub(crate) const TABLES: &str = "address tables lead to what runs";
pub(crate) const QUEUES: &str = "no queue grows without bound";
pub(crate) const BUSY: &str = "no machine does the same again and again without end";
pub(crate) const ROWS: &str = "stored rows can be read back";
pub(crate) const PROTOCOL: &str = "tiers speak only to those they know";

impl World {
    /// Looks at what the last event changed.
    pub(crate) fn check_changes(&mut self) -> Checked {
        let touched = std::mem::take(&mut self.agenda.touched);
        let mut result = Ok(());
        for who in &touched {
            result = result.and_then(|()| self.check_machine(*who));
        }
        // The same allocation serves again.
        self.agenda.touched = touched;
        self.agenda.touched.clear();
        result
    }

    fn check_machine(&mut self, who: Who) -> Checked {
        match who {
            Who::Root => {
                for (table, key) in std::mem::take(&mut self.root.changed) {
                    self.root_stored(table, &key)?;
                }
                Ok(())
            }
            Who::Cluster(index) => {
                let changed = self.clusters.get_mut(index).map(|side| std::mem::take(&mut side.node.changed));
                for (table, key) in changed.unwrap_or_default() {
                    self.cluster_stored(index, table, &key)?;
                }
                Ok(())
            }
            Who::Worker(index) => {
                let changed = self.workers.get_mut(index).map(|side| std::mem::take(&mut side.node.changed));
                for (table, key) in changed.unwrap_or_default() {
                    self.worker_stored(index, table, &key)?;
                }
                self.worker_has_deadlines(index)?;
                self.worker_follows_its_cluster(index)
            }
        }
    }

    /// Everything a started machine loaded counts as stored just now.
    pub(crate) fn check_restarted(&mut self, who: Who) -> Checked {
        match who {
            Who::Root => {
                for (table, key) in self.root.disk.keys() {
                    self.root_stored(table, &key)?;
                }
                self.nothing_acknowledged_is_lost()
            }
            Who::Cluster(index) => {
                let keys = self.clusters.get(index).map(|side| side.node.disk.keys());
                for (table, key) in keys.unwrap_or_default() {
                    self.cluster_stored(index, table, &key)?;
                }
                Ok(())
            }
            Who::Worker(index) => {
                let keys = self.workers.get(index).map(|side| side.node.disk.keys());
                for (table, key) in keys.unwrap_or_default() {
                    self.worker_stored(index, table, &key)?;
                }
                Ok(())
            }
        }
    }

    fn root_stored(&mut self, table: Table, key: &str) -> Checked {
        let Some(root) = &self.root.machine else { return Ok(()) };
        match table {
            Table::Service => {
                let Ok(id) = key.parse() else { return Ok(()) };
                self.update_keeps_to_its_policy(id)?;
                match root.service(id) {
                    Some(service) => self.watch.give(Holder::Service(id), service.address),
                    None => {
                        self.watch.take(Holder::Service(id));
                        let known = self.client.services.get(&id);
                        require(known != Some(&Known::Exists), ACKNOWLEDGED, || {
                            format!("service {id} is lost")
                        })
                    }
                }
            }
            Table::Instance | Table::Departure => {
                let Ok(key) = key.parse() else { return Ok(()) };
                let holder = Holder::Instance(key);
                match root.instance(key) {
                    Some(instance) => {
                        let waits = instance.cluster.is_none() && is_refusal(instance.status);
                        if !waits {
                            self.watch.waiting.remove(&key);
                        } else if self.watch.waiting.insert(key) {
                            self.metrics.timeline.follows(
                                self.agenda.time,
                                Consequence::NoPlace,
                                "all clusters",
                            );
                        }
                        self.watch.give(holder, instance.address)
                    }
                    None => {
                        // While it departs the address stays with it.
                        if root.departure(key).is_some() {
                            return Ok(());
                        }
                        self.watch.take(holder);
                        let known = self.client.instances.get(&key);
                        require(known != Some(&Known::Exists), ACKNOWLEDGED, || {
                            format!("instance {key} is lost")
                        })
                    }
                }
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn nothing_acknowledged_is_lost(&self) -> Checked {
        let Some(root) = &self.root.machine else { return Ok(()) };
        for (id, known) in &self.client.services {
            let exists = root.service(*id).is_some();
            require(*known != Known::Exists || exists, ACKNOWLEDGED, || format!("service {id} is lost"))?;
            require(*known != Known::Gone || !exists, ACKNOWLEDGED, || {
                format!("deleted service {id} is back")
            })?;
        }
        for (key, known) in &self.client.instances {
            let exists = root.instance(*key).is_some();
            require(*known != Known::Exists || exists, ACKNOWLEDGED, || format!("instance {key} is lost"))?;
            require(*known != Known::Gone || !exists, ACKNOWLEDGED, || {
                format!("undeployed instance {key} is back")
            })?;
        }
        Ok(())
    }

    fn cluster_stored(&mut self, index: usize, table: Table, key: &str) -> Checked {
        match table {
            Table::Placement => match key.parse() {
                Ok(key) => self.instance_stored(index, key),
                Err(_) => Ok(()),
            },
            Table::Worker => {
                let Some(side) = self.clusters.get(index) else { return Ok(()) };
                let (Some(machine), Some(seen), Ok(id)) =
                    (&side.node.machine, self.watch.clusters.get_mut(index), key.parse())
                else {
                    return Ok(());
                };
                let Some(worker) = machine.worker(id) else {
                    seen.subnets.retain(|_, holder| *holder != id);
                    return nothing_is_on(machine, id);
                };
                let Some(subnet) = worker.subnet else { return Ok(()) };
                let other = seen.subnets.insert(subnet, id);
                require(other.is_none_or(|other| other == id), ADDRESSES, || {
                    format!("workers {id} and {other:?} of {} share the subnet {subnet}", side.name)
                })
            }
            _ => Ok(()),
        }
    }

    fn instance_stored(&mut self, index: usize, key: InstanceKey) -> Checked {
        let Some(side) = self.clusters.get(index) else { return Ok(()) };
        let (Some(machine), Some(seen)) = (&side.node.machine, self.watch.clusters.get_mut(index)) else {
            return Ok(());
        };
        let former = seen.placed.remove(&key);
        for (worker, counted) in former.iter().flat_map(|former| &former.counted) {
            if let Some(sum) = seen.sums.get_mut(worker) {
                *sum = sum.saturating_sub(*counted);
            }
        }
        let Some(placed) = machine.instance(key) else {
            if self.watch.holders.get(&key) == Some(&index) {
                self.watch.holders.remove(&key);
            }
            return Ok(());
        };
        let removing = placed.removing;
        let present = as_seen(placed, former.as_ref());
        let is_new = former
            .as_ref()
            .is_none_or(|f| f.counted.len() < present.counted.len() || f.worker != present.worker);
        for (worker, counted) in &present.counted {
            let sum = seen.sums.entry(*worker).or_default();
            *sum = sum.saturating_add(*counted);
            if is_new {
                fits(machine, self.cpu_overcommit, *worker, *sum)?;
            }
        }
        if let Some(former) = &former {
            numbers_grow(&side.name, key, former, &present)?;
        }
        let (from, to, waits) = (former.as_ref().and_then(|f| f.worker), present.worker, present.waits);
        let waited = former.as_ref().is_some_and(|former| former.waits);
        self.metrics.placements +=
            u64::from(to.is_some() && former.is_none_or(|f| f.incarnation < present.incarnation));
        seen.placed.insert(key, present);
        if !removing {
            let former = self.watch.holders.insert(key, index);
            let other =
                former.filter(|other| *other != index && self.holds(*other, key) && self.holds(index, key));
            require(other.is_none(), ONE_CLUSTER, || {
                let other = other.map_or("?", |other| self.names.of(Who::Cluster(other)));
                format!("cluster {} has {key}, and so has {other}", self.names.of(Who::Cluster(index)))
            })?;
        }
        if let (Some(from), Some(to)) = (from, to)
            && from != to
        {
            let away_since = self.worker_by_id.get(&from).and_then(|w| self.workers.get(*w)?.link.away_since);
            self.metrics.moved(key, away_since);
            let place = self.place_of(Who::Cluster(index));
            self.metrics.timeline.follows(self.agenda.time, Consequence::Moved, &place);
        }
        if waits && !waited {
            let place = self.place_of(Who::Cluster(index));
            self.metrics.timeline.follows(self.agenda.time, Consequence::NoPlace, &place);
        }
        Ok(())
    }

    /// Whether a cluster runs an instance and could know that it should not: it is in touch with the root. One that
    /// is cut off goes on, also when the root has given it up.
    pub(crate) fn holds(&self, cluster: usize, key: InstanceKey) -> bool {
        let Some(side) = self.clusters.get(cluster).filter(|side| side.link.is_up()) else { return false };
        let placed = side.node.machine.as_ref().and_then(|machine| machine.instance(key));
        placed.is_some_and(|placed| !placed.removing)
    }

    fn worker_stored(&mut self, index: usize, table: Table, key: &str) -> Checked {
        if table != Table::Workload {
            return Ok(());
        }
        let (Some(side), Some(seen), Ok(key)) =
            (self.workers.get(index), self.watch.incarnations.get_mut(index), key.parse())
        else {
            return Ok(());
        };
        let Some(machine) = &side.node.machine else { return Ok(()) };
        let Some(workload) = machine.workload(key) else {
            seen.remove(&key);
            return Ok(());
        };
        let present = workload.incarnation();
        let highest = seen.entry(key).or_insert(present);
        require(present >= *highest, NUMBERS, || {
            format!(
                "worker {} went from incarnation {} of {key} back to {}",
                side.facts.name, highest.0, present.0
            )
        })?;
        *highest = present;
        Ok(())
    }

    /// Real processes, whoever knows of them: of an instance of an *at most one* service there are never two.
    pub(crate) fn at_most_one_runs(&self, change: &ProcessChange) -> Checked {
        let side = self.workers.get(change.worker);
        let container = side.and_then(|side| side.runtime.containers.get(&change.key));
        let is_one = container.is_some_and(|container| container.assignment.desired.spec.at_most_one);
        require(!is_one, AT_MOST_ONE, || {
            let processes = self.metrics.tracks.get(&change.key).map(|track| track.processes.as_slice());
            let workers =
                processes.unwrap_or_default().iter().map(|(worker, _)| self.names.of(Who::Worker(*worker)));
            format!("{} has processes on {}", change.key, workers.collect::<Vec<_>>().join(" and "))
        })
    }

    /// A worker in touch with its cluster (it has heard the welcome of a living session) runs nothing that its
    /// cluster has placed elsewhere. Out of touch it may: it is told when it returns.
    pub(crate) fn worker_follows_its_cluster(&self, index: usize) -> Checked {
        let Some(worker) = self.workers.get(index).filter(|worker| worker.link.is_up()) else {
            return Ok(());
        };
        let cluster = self.clusters.get(worker.cluster).and_then(|side| side.node.machine.as_ref());
        let (Some(cluster), Some(machine)) = (cluster, &worker.node.machine) else { return Ok(()) };
        if !cluster.knows_worker(worker.id) {
            // It was removed in this moment, and its session is about to be ended.
            return Ok(());
        }
        for workload in machine.workloads() {
            if !matches!(workload.phase(), Phase::Starting { .. } | Phase::Running { .. }) {
                continue;
            }
            let key = workload.key();
            let places: Vec<_> = cluster.instance(key).into_iter().flat_map(Placed::places).collect();
            require(places.iter().any(|place| place.worker == worker.id), FOLLOWS, || {
                format!("worker {} runs {key}, its cluster has it at {places:?}", worker.facts.name)
            })?;
        }
        Ok(())
    }

    pub(crate) fn worker_has_deadlines(&self, index: usize) -> Checked {
        let Some(machine) = self.workers.get(index).and_then(|worker| worker.node.machine.as_ref()) else {
            return Ok(());
        };
        let waits = |phase: &Phase| !matches!(phase, Phase::Running { .. } | Phase::Completed);
        for workload in machine.workloads().filter(|workload| waits(workload.phase())) {
            // One that waits for a permission has none: without one it must not run, however long that takes.
            let asks = matches!(workload.phase(), Phase::AwaitingLease);
            let has_deadline = workload.phase().deadline().is_some() && machine.next_deadline().is_some();
            require(asks || has_deadline, DEADLINES, || {
                format!("{} has none: {:?}", workload.key(), workload.phase())
            })?;
        }
        Ok(())
    }
}

/// A worker that was removed has nothing any more, as far as its cluster knows.
fn nothing_is_on(cluster: &oak_control::cluster::Cluster, id: WorkerId) -> Checked {
    let left = cluster.placed().find(|placed| placed.places().any(|place| place.worker == id));
    require(left.is_none(), REMOVED, || {
        format!("{} has {:?} on worker {id}", cluster.settings().name, left.map(|placed| placed.desired.key))
    })
}

pub(crate) const fn is_refusal(status: Status) -> bool {
    matches!(
        status,
        Status::NoWorkerCapacity
            | Status::NoQualifiedWorkerFound
            | Status::NoNodeFound
            | Status::TargetClusterNotFound
            | Status::TargetClusterNotActive
            | Status::TargetClusterNoCapacity
            | Status::NoActiveClusterWithCapacity
    )
}

fn numbers_grow(cluster: &str, key: InstanceKey, former: &Seen, present: &Seen) -> Checked {
    require(present.generation >= former.generation, NUMBERS, || {
        let (from, to) = (former.generation.0, present.generation.0);
        format!("cluster {cluster} went from generation {from} of {key} back to {to}")
    })?;
    require(present.incarnation >= former.incarnation, NUMBERS, || {
        let (from, to) = (former.incarnation.0, present.incarnation.0);
        format!("cluster {cluster} went from incarnation {from} of {key} back to {to}")
    })?;
    let same_place = former.worker == present.worker || former.worker.is_none() || present.worker.is_none();
    require(same_place || present.incarnation > former.incarnation, NUMBERS, || {
        format!("cluster {cluster} moved {key} to another worker under the same incarnation")
    })
}

/// What a cluster has placed on a worker fits there.
pub(crate) fn fits(
    cluster: &oak_control::cluster::Cluster,
    cpu_overcommit: u32,
    id: WorkerId,
    sum: Resources,
) -> Checked {
    let Some(worker) = cluster.worker(id) else { return Ok(()) };
    let capacity = worker.facts.capacity;
    let cpu = capacity.cpu_millis.saturating_mul(cpu_overcommit);
    let holds = sum.memory_mib <= capacity.memory_mib
        && sum.cpu_millis <= cpu
        && sum.storage_mib <= capacity.storage_mib;
    require(holds, CAPACITY, || format!("{} has {capacity}, and {sum} is placed on it", worker.facts.name))
}
