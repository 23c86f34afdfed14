//! What must hold after every single event, whatever goes wrong.

use std::collections::{BTreeMap, BTreeSet};

use oak_control::cluster::{Cluster, Placed};
use oak_control::root::{DEFAULT_CPU_OVERCOMMIT, Root};
use oak_control::worker::Phase;
use oak_model::{Generation, Incarnation, InstanceKey, Resources, WorkerId};

use super::agenda::{Touched, Who};
use super::client::Known;
use super::world::World;

/// The highest numbers each receiver has applied.
#[derive(Default)]
pub struct Watch {
    generations: BTreeMap<(usize, InstanceKey), Generation>,
    placements: BTreeMap<(usize, InstanceKey), Incarnation>,
    incarnations: BTreeMap<(usize, InstanceKey), Incarnation>,
}

impl Watch {
    /// A machine lost what it had not stored; its numbers start from its disk.
    pub fn restarted(&mut self, who: Who) {
        match who {
            Who::Root => {}
            Who::Cluster(index) => {
                self.generations.retain(|(cluster, _), _| *cluster != index);
                self.placements.retain(|(cluster, _), _| *cluster != index);
            }
            Who::Worker(index) => self.incarnations.retain(|(worker, _), _| *worker != index),
        }
    }
}

fn grows<N: Copy + Ord + std::fmt::Debug>(
    seen: &mut BTreeMap<(usize, InstanceKey), N>,
    receiver: usize,
    key: InstanceKey,
    number: N,
) {
    let highest = seen.entry((receiver, key)).or_insert(number);
    assert!(number >= *highest, "receiver {receiver} went from {highest:?} back to {number:?} for {key}");
    *highest = number;
}

impl World {
    /// Panics with the first rule that is broken.
    pub fn check_invariants(&mut self, touched: Touched) {
        if matches!(touched, Touched::Root | Touched::Everything)
            && let Some(root) = &self.root.machine
        {
            self.nothing_acknowledged_is_lost(root);
            addresses_are_unique(root);
            let waits = root.services().flat_map(|s| root.instances_of(s.id)).any(|i| i.cluster.is_none());
            assert!(
                !waits || root.next_deadline().is_some(),
                "the root has waiting instances but no deadline"
            );
        }
        if matches!(touched, Touched::Below | Touched::Everything) {
            self.one_cluster_has_an_instance();
            self.at_most_one_runs();
            self.reservations_fit();
            self.workers_follow_their_cluster();
            self.clusters_have_deadlines();
            self.workers_have_deadlines();
            self.numbers_only_grow();
        }
    }

    fn reservations_fit(&self) {
        for cluster in &self.clusters {
            if let Some(machine) = &cluster.node.machine {
                reservations_fit(machine);
            }
        }
    }

    fn nothing_acknowledged_is_lost(&self, root: &Root) {
        for (id, known) in &self.client.services {
            match known {
                Known::Exists => assert!(root.service(*id).is_some(), "acknowledged service {id} is lost"),
                Known::Gone => assert!(root.service(*id).is_none(), "deleted service {id} is back"),
                Known::Leaving => {}
            }
        }
        for (key, known) in &self.client.instances {
            match known {
                Known::Exists => {
                    assert!(root.instance(*key).is_some(), "acknowledged instance {key} is lost");
                }
                Known::Gone => assert!(root.instance(*key).is_none(), "undeployed instance {key} is back"),
                Known::Leaving => {}
            }
        }
    }

    /// The root moves an instance only after its cluster has nothing left of it.
    fn one_cluster_has_an_instance(&self) {
        let mut holders: BTreeMap<InstanceKey, usize> = BTreeMap::new();
        for (index, cluster) in self.clusters.iter().enumerate() {
            for placed in cluster.node.machine.iter().flat_map(Cluster::placed) {
                let former = holders.insert(placed.desired.key, index);
                assert!(former.is_none(), "clusters {former:?} and {index} both have {}", placed.desired.key);
            }
        }
    }

    /// Real processes, whoever knows of them: of an instance of an *at most one* service there are never two.
    fn at_most_one_runs(&self) {
        let mut runs: BTreeMap<InstanceKey, WorkerId> = BTreeMap::new();
        for worker in &self.workers {
            for (key, container) in worker.runtime.running() {
                if container.assignment.desired.spec.at_most_one {
                    let other = runs.insert(*key, worker.id);
                    assert!(other.is_none(), "two processes of {key}: on {other:?} and {}", worker.id);
                }
            }
        }
    }

    /// A worker in touch with its cluster (it has heard the welcome of a living session) runs nothing that its
    /// cluster has placed elsewhere. Out of touch it may: it is told when it returns.
    fn workers_follow_their_cluster(&self) {
        for worker in self.workers.iter().filter(|worker| worker.link.is_up()) {
            let Some(cluster) = &self.clusters[worker.cluster].node.machine else { continue };
            let Some(machine) = &worker.node.machine else { continue };
            for workload in machine.workloads() {
                let key = workload.key();
                if !matches!(workload.phase(), Phase::Starting { .. } | Phase::Running { .. }) {
                    continue;
                }
                let places: Vec<_> = cluster.instance(key).into_iter().flat_map(Placed::places).collect();
                assert!(
                    places.iter().any(|place| place.worker == worker.id),
                    "worker {} runs {key}, its cluster has it at {places:?}",
                    worker.facts.name
                );
            }
        }
    }

    fn clusters_have_deadlines(&self) {
        for (index, cluster) in self.clusters.iter().enumerate() {
            let Some(machine) = &cluster.node.machine else { continue };
            let silent: BTreeSet<WorkerId> =
                machine.workers().filter(|worker| worker.session.is_none()).map(|worker| worker.id).collect();
            let waits = machine
                .placed()
                .filter(|placed| !placed.removing && !placed.completed)
                .any(|placed| placed.placement.is_none_or(|placement| silent.contains(&placement.worker)));
            assert!(!waits || machine.next_deadline().is_some(), "cluster {index} waits without a deadline");
        }
    }

    fn workers_have_deadlines(&self) {
        for worker in &self.workers {
            let Some(machine) = &worker.node.machine else { continue };
            for workload in machine.workloads() {
                let is_final = matches!(workload.phase(), Phase::Running { .. } | Phase::Completed);
                let asks = matches!(workload.phase(), Phase::AwaitingLease);
                assert!(
                    is_final || asks || workload.phase().deadline().is_some(),
                    "{} has no deadline",
                    workload.key()
                );
                assert!(is_final || machine.next_deadline().is_some());
            }
        }
    }

    fn numbers_only_grow(&mut self) {
        for (index, cluster) in self.clusters.iter().enumerate() {
            for placed in cluster.node.machine.iter().flat_map(Cluster::placed) {
                let key = placed.desired.key;
                grows(&mut self.watch.generations, index, key, placed.desired.generation);
                if let Some(placement) = placed.placement {
                    grows(&mut self.watch.placements, index, key, placement.incarnation);
                }
            }
        }
        for (index, worker) in self.workers.iter().enumerate() {
            for workload in worker.node.machine.iter().flat_map(|machine| machine.workloads()) {
                grows(&mut self.watch.incarnations, index, workload.key(), workload.incarnation());
            }
        }
    }
}

fn addresses_are_unique(root: &Root) {
    let services = root.services().map(|service| service.address);
    let instances = root.services().flat_map(|s| root.instances_of(s.id)).map(|instance| instance.address);
    let departures = root.departures().map(|departure| departure.address);
    let mut count = 0;
    let mut unique = BTreeSet::new();
    for address in services.chain(instances).chain(departures) {
        count += 1;
        assert!(unique.insert(address), "address {address} is in use twice");
    }
    assert_eq!(root.addresses_in_use(), count, "addresses in use");
}

/// What a cluster has placed on a worker fits there.
fn reservations_fit(cluster: &Cluster) {
    let mut sums: BTreeMap<WorkerId, Resources> = BTreeMap::new();
    for placed in cluster.placed().filter(|placed| !placed.completed) {
        for place in placed.places() {
            let sum = sums.entry(place.worker).or_default();
            *sum = sum.saturating_add(placed.desired.spec.resources);
        }
    }
    for worker in cluster.workers() {
        let sum = sums.get(&worker.id).copied().unwrap_or_default();
        let capacity = worker.facts.capacity;
        assert!(sum.memory_mib <= capacity.memory_mib, "memory of {} is overbooked", worker.facts.name);
        let cpu = capacity.cpu_millis * DEFAULT_CPU_OVERCOMMIT;
        assert!(sum.cpu_millis <= cpu, "cpu of {} is overbooked", worker.facts.name);
    }
}
