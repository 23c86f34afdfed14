//! The rules of `invariants.rs` over everything, and those that need no look after every event.
//!
//! A look at everything is made when as many events have passed as there are things to look at, so that it never
//! costs more than the events do.

use std::collections::{BTreeMap, BTreeSet};

use oak_control::cluster::{Cluster, Placed, Placement};
use oak_control::root::Root;
use oak_control::worker::Phase;
use oak_model::{InstanceKey, Resources, WorkerId};

use crate::agenda::{Event, Who};
use crate::invariants::{
    ADDRESSES, CAPACITY, Checked, DEADLINES, ONE_CLUSTER, ONE_PROCESS, QUEUES, REMOVED, TABLES, fits, require,
};
use crate::world::World;

/// Steps that may wait for a disk: the real machine stops taking calls at 4096, and callers wait.
const MOST_STEPS: usize = 100_000;
/// Messages of one link; it ends the session at a tenth of this by itself.
const MOST_MESSAGES: usize = 100_000;
/// Operations of one worker.
const MOST_OPERATIONS: usize = 1_000;
/// How long a second process may live on after its worker is in touch again: the welcome has been heard, so its stop
/// is under way or done.
const DOUBLE_MS: u64 = 1_000;
/// How long the kernel's table may differ from what runs: an exit is noticed and a table applied within this time.
pub(crate) const TABLE_MS: u64 = 5_000;
/// The kernel takes a table within this time after its commit.
const APPLY_MS: u64 = 1_000;

impl World {
    /// Every rule, over everything.
    pub(crate) fn sweep(&self) -> Checked {
        if let Some(root) = &self.root.machine {
            self.nothing_acknowledged_is_lost()?;
            addresses_are_unique(root)?;
            root_has_deadlines(root)?;
            clusters_exist(root)?;
        }
        self.one_cluster_has_an_instance()?;
        for (index, side) in self.clusters.iter().enumerate() {
            if let Some(machine) = &side.node.machine {
                self.reservations_are_placements(index, machine)?;
                places_exist(&side.name, machine)?;
                cluster_has_deadlines(&side.name, machine)?;
            }
        }
        for index in 0..self.workers.len() {
            self.worker_has_deadlines(index)?;
            self.worker_follows_its_cluster(index)?;
        }
        Ok(())
    }

    /// The root moves an instance only after its cluster has nothing left of it, or has been out of touch for long.
    fn one_cluster_has_an_instance(&self) -> Checked {
        let mut holders: BTreeMap<InstanceKey, &str> = BTreeMap::new();
        for cluster in self.clusters.iter().filter(|cluster| cluster.link.is_up()) {
            let all = cluster.node.machine.iter().flat_map(Cluster::placed);
            for placed in all.filter(|placed| !placed.removing) {
                let key = placed.desired.key;
                let former = holders.insert(key, &cluster.name);
                require(former.is_none(), ONE_CLUSTER, || {
                    format!("clusters {} and {} both have {key}", former.unwrap_or_default(), cluster.name)
                })?;
            }
        }
        Ok(())
    }

    /// What a cluster tells its root to be reserved is the sum of its placements, which fits, and which is what its
    /// steps stored.
    fn reservations_are_placements(&self, index: usize, cluster: &Cluster) -> Checked {
        let mut sums: BTreeMap<WorkerId, (Resources, u32)> = BTreeMap::new();
        for placed in cluster.placed() {
            // What has completed needs nothing any more where it was; former places may still hold something.
            let counts = |place: &Placement| !(placed.completed && placed.placement == Some(*place));
            for place in placed.places().filter(counts) {
                let sum = sums.entry(place.worker).or_default();
                sum.0 = sum.0.saturating_add(placed.desired.spec.resources);
                sum.1 += 1;
            }
        }
        let seen = self.watch.clusters.get(index);
        for worker in cluster.hello().workers {
            let (sum, count) = sums.get(&worker.id).copied().unwrap_or_default();
            let name = &worker.facts.name;
            require(worker.reserved == sum && worker.instances == count, CAPACITY, || {
                let (told, instances) = (worker.reserved, worker.instances);
                format!("{name}: {told} for {instances} are reserved, {sum} for {count} are placed")
            })?;
            fits(cluster, self.cpu_overcommit, worker.id, sum)?;
            let stored = seen.and_then(|seen| seen.sums.get(&worker.id)).copied().unwrap_or_default();
            require(stored == sum, CAPACITY, || format!("{name}: {sum} is placed, {stored} was stored"))?;
        }
        Ok(())
    }

    /// What is looked at every second.
    pub(crate) fn check_second(&mut self) -> Checked {
        self.check_doubles()?;
        self.updates_take_nothing_away()?;
        let steps = self.root.queued();
        require(steps <= MOST_STEPS, QUEUES, || format!("{steps} steps wait for the disk of the root"))?;
        self.metrics.peak("steps waiting for the disk of the root", steps);
        let (mut most_steps, mut most_messages) = (0, 0);
        for side in &self.clusters {
            let (steps, messages) = (side.node.queued(), side.link.queued());
            require(steps <= MOST_STEPS && messages <= MOST_MESSAGES, QUEUES, || {
                format!("{}: {steps} steps, {messages} messages", side.name)
            })?;
            (most_steps, most_messages) = (most_steps.max(steps), most_messages.max(messages));
        }
        self.metrics.peak("steps waiting for the disk of a cluster", most_steps);
        self.metrics.peak("messages between root and a cluster", most_messages);
        let (mut most_steps, mut most_messages, mut most_operations) = (0, 0, 0);
        for side in &self.workers {
            let (steps, messages, operations) =
                (side.node.queued(), side.link.queued(), side.runtime.queued());
            let bounded = steps <= MOST_STEPS && messages <= MOST_MESSAGES && operations <= MOST_OPERATIONS;
            require(bounded, QUEUES, || {
                format!("{}: {steps} steps, {messages} messages, {operations} operations", side.facts.name)
            })?;
            (most_steps, most_messages) = (most_steps.max(steps), most_messages.max(messages));
            most_operations = most_operations.max(operations);
        }
        self.metrics.peak("steps waiting for the disk of a worker", most_steps);
        self.metrics.peak("messages between a cluster and a worker", most_messages);
        self.metrics.peak("operations of a worker", most_operations);
        Ok(())
    }

    /// A second process of an instance is one too many, unless its worker is out of touch, has just been told, or is
    /// where the instance is moving to or from.
    fn check_doubles(&mut self) -> Checked {
        let mut over = Vec::new();
        for key in &self.watch.doubles {
            let processes = self.metrics.tracks.get(key).map(|track| track.processes.as_slice());
            let processes = processes.unwrap_or_default();
            if processes.len() < 2 {
                over.push(*key);
                continue;
            }
            let stray = processes.iter().find(|(worker, _)| self.is_stray(*worker, *key));
            require(stray.is_none(), ONE_PROCESS, || {
                let name = stray.map_or("?", |(worker, _)| self.names.of(Who::Worker(*worker)));
                format!("a process of {key} runs on {name}, where nobody wants it or stops it")
            })?;
        }
        for key in over {
            self.watch.doubles.remove(&key);
        }
        Ok(())
    }

    /// Whether a process runs on that worker although its agent and its cluster could know that it should not.
    fn is_stray(&self, worker: usize, key: InstanceKey) -> bool {
        let Some(side) = self.workers.get(worker) else { return false };
        let cluster = self.clusters.get(side.cluster).and_then(|side| side.node.machine.as_ref());
        let (Some(machine), Some(cluster)) = (&side.node.machine, cluster) else { return false };
        let in_touch = cluster.knows_worker(side.id)
            && side.link.is_up()
            && !side.link.is_blocked()
            && self.agenda.time.saturating_sub(side.in_touch_since) > DOUBLE_MS;
        let stops = machine.workload(key).is_some_and(|w| !matches!(w.phase(), Phase::Running { .. }));
        let wanted = cluster.instance(key).into_iter().flat_map(Placed::places).any(|p| p.worker == side.id);
        in_touch && !stops && !wanted && !side.runtime.is_busy_with(key)
    }

    /// Some time after a process came or went: the addresses of its node must have followed by now.
    pub(crate) fn check_table(&mut self, index: usize, epoch: u64) {
        if self.epoch(Who::Worker(index)) != epoch {
            return;
        }
        let now = self.agenda.time;
        let waits = self
            .workers
            .get(index)
            .is_some_and(|side| side.node.queued() > 0 || now.saturating_sub(side.node.committed) < APPLY_MS);
        if waits {
            // Rows go before effects: while its disk is slow or full, the table has to wait.
            self.agenda.after(TABLE_MS, Event::CheckTable { worker: index, epoch });
            return;
        }
        let checked = self.table_is_true(index);
        self.broken(checked);
    }

    /// The addresses of a node lead to processes that run, as far as its agent can know.
    fn table_is_true(&self, index: usize) -> Checked {
        let Some(side) = self.workers.get(index) else { return Ok(()) };
        let Some(machine) = &side.node.machine else { return Ok(()) };
        let long_ago = |since: u64| self.agenda.time.saturating_sub(since) >= TABLE_MS;
        for workload in machine.workloads().filter(|w| long_ago(side.runtime.last_change(w.key()))) {
            let instance_address = workload.assignment().desired.instance_address;
            // Another instance may have been given the address of one that is still being taken down.
            let target = side.network.instances.get(&instance_address).copied();
            let target = target.filter(|target| Some(*target) == workload.address());
            let container = side.runtime.containers.get(&workload.key());
            let runs =
                container.is_some_and(|container| container.ended.is_none() && container.watched.is_some());
            // While it is taken down its connections may come to their end.
            let stops = matches!(workload.phase(), Phase::Stopping { .. });
            require(target.is_none() || runs || stops, TABLES, || {
                format!(
                    "{}: {instance_address} leads to {}, which does not run",
                    side.facts.name,
                    workload.key()
                )
            })?;
            let opened = matches!(workload.phase(), Phase::Running { .. });
            require(target.is_some() || !(runs && opened), TABLES, || {
                format!("{}: {} runs, {instance_address} leads nowhere", side.facts.name, workload.key())
            })?;
        }
        Ok(())
    }
}

fn addresses_are_unique(root: &Root) -> Checked {
    let services = root.services().map(|service| service.address);
    let instances = root.services().flat_map(|s| root.instances_of(s.id)).map(|instance| instance.address);
    let departures = root.departures().map(|departure| departure.address);
    let mut count = 0;
    let mut unique = BTreeSet::new();
    for address in services.chain(instances).chain(departures) {
        count += 1;
        require(unique.insert(address), ADDRESSES, || format!("{address} is in use twice"))?;
    }
    let used = root.addresses_in_use();
    require(used == count, ADDRESSES, || format!("{used} addresses count as in use, {count} are"))
}

fn clusters_exist(root: &Root) -> Checked {
    let instances = root.services().flat_map(|service| root.instances_of(service.id));
    for instance in instances {
        let exists = instance.cluster.is_none_or(|id| root.cluster(id).is_some());
        require(exists, REMOVED, || format!("{} is in a cluster that is not there", instance.key))?;
    }
    Ok(())
}

fn places_exist(name: &str, cluster: &Cluster) -> Checked {
    for placed in cluster.placed() {
        let gone = placed.places().find(|place| cluster.worker(place.worker).is_none());
        require(gone.is_none(), REMOVED, || {
            format!("cluster {name} has {} at {gone:?}, where no worker is", placed.desired.key)
        })?;
    }
    Ok(())
}

fn root_has_deadlines(root: &Root) -> Checked {
    let waits = || {
        let mut instances = root.services().flat_map(|service| root.instances_of(service.id));
        instances.any(|instance| instance.cluster.is_none() && !instance.has_ended())
    };
    require(root.next_deadline().is_some() || !waits(), DEADLINES, || {
        "the root has waiting instances and no deadline".to_owned()
    })
}

fn cluster_has_deadlines(name: &str, cluster: &Cluster) -> Checked {
    if cluster.next_deadline().is_some() {
        return Ok(());
    }
    let silent: BTreeSet<WorkerId> =
        cluster.workers().filter(|worker| worker.session.is_none()).map(|worker| worker.id).collect();
    let waits = cluster
        .placed()
        .filter(|placed| !placed.removing && !placed.completed)
        .any(|placed| placed.placement.is_none_or(|placement| silent.contains(&placement.worker)));
    require(!waits, DEADLINES, || format!("cluster {name} has waiting instances and no deadline"))
}
