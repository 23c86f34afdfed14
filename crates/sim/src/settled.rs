//! What must be true some time after things stopped going wrong: desired and observed agree everywhere.

use std::collections::{BTreeMap, BTreeSet};

use oak_control::cluster::Cluster;
use oak_control::root::Root;
use oak_control::worker::Phase;
use oak_model::{InstanceKey, Service, Status};

use crate::agenda::Who;
use crate::invariants::is_refusal;
use crate::world::World;

pub(crate) type Settled = Result<(), String>;

pub(crate) fn require(holds: bool, problem: impl FnOnce() -> String) -> Settled {
    if holds { Ok(()) } else { Err(problem()) }
}

impl World {
    /// Whether desired and observed agree, and if not, where.
    ///
    /// # Errors
    /// The first difference.
    pub(crate) fn check_settled(&self) -> Settled {
        for child in self.children() {
            let in_touch = self.is_alive(child) && self.link(child).is_some_and(crate::link::Link::is_up);
            require(in_touch, || format!("{} is out of touch", self.names.of(child)))?;
        }
        let root = self.root.machine.as_ref().ok_or("the root is down")?;
        let departures = root.departures().count();
        require(departures == 0, || format!("{departures} departures are left"))?;
        let instances: Vec<_> = root.services().flat_map(|service| root.instances_of(service.id)).collect();
        let addresses = root.services().count() + instances.len();
        require(root.addresses_in_use() == addresses, || format!("{addresses} addresses should be in use"))?;

        for service in root.services() {
            self.update_is_over(root, service)?;
        }
        let lost = self.client.must_return.iter().find(|key| root.instance(**key).is_none());
        require(lost.is_none(), || {
            format!("{lost:?} was held by a cluster and has not come back to the root")
        })?;

        let mut running = BTreeSet::new();
        let mut waiting = 0;
        for instance in instances {
            match instance.status {
                Status::Running => {
                    running.insert(instance.key);
                }
                Status::Completed => {}
                // All clusters are in touch: waiting for one would be for nothing.
                Status::TargetClusterNotActive => {
                    return Err(format!("{} waits for a cluster", instance.key));
                }
                status if is_refusal(status) && !instance.detail.is_empty() => waiting += 1,
                _ => return Err(format!("{} is {}: {}", instance.key, instance.status, instance.detail)),
            }
        }
        let may_wait = self.scenario.expect.unplaced_at_most.unwrap_or(0);
        require(waiting <= may_wait, || {
            format!("{waiting} instances have no place, {may_wait} may have none")
        })?;
        self.clusters_agree(root)?;
        self.workers_agree()?;
        self.tables_agree()?;
        self.processes_agree(&running)
    }

    /// No update goes on, no instance has another revision, and the number is kept.
    fn update_is_over(&self, root: &Root, service: &Service) -> Settled {
        let (name, upkeep) = (self.service_name(service.id), &service.upkeep);
        require(upkeep.active().is_none(), || format!("{name} is still being updated: {upkeep:?}"))?;
        let orphan = root.instances_of(service.id).find(|instance| instance.revision != upkeep.revision);
        require(orphan.is_none() && upkeep.former.is_empty(), || {
            format!("{name} has instances of an earlier revision: {orphan:?}")
        })?;
        let (count, kept) = (root.instances_of(service.id).count(), upkeep.replicas);
        require(kept.is_none_or(|kept| kept as usize == count), || {
            format!("{name} has {count} instances and should keep {kept:?}")
        })
    }

    /// Every child that is not gone for good.
    fn children(&self) -> Vec<Who> {
        let clusters = (0..self.clusters.len()).map(Who::Cluster);
        let workers =
            self.workers.iter().enumerate().filter(|(_, side)| !side.gone).map(|(i, _)| Who::Worker(i));
        clusters.chain(workers).collect()
    }

    fn clusters_agree(&self, root: &Root) -> Settled {
        let mut held = 0;
        for cluster in &self.clusters {
            for placed in cluster.node.machine.iter().flat_map(Cluster::placed) {
                held += 1;
                let key = placed.desired.key;
                let instance =
                    root.instance(key).ok_or_else(|| format!("cluster keeps {key}, the root does not"))?;
                require(instance.cluster == Some(cluster.id), || format!("the root has {key} elsewhere"))?;
                require(instance.generation == placed.desired.generation, || format!("generation of {key}"))?;
                require(instance.status == placed.status && instance.detail == placed.detail, || {
                    format!("{key}: cluster says {}, root says {}", placed.status, instance.status)
                })?;
                require(placed.successor.is_none() && placed.retiring.is_empty(), || {
                    format!("{key} has not come to rest: {:?} {:?}", placed.successor, placed.retiring)
                })?;
                let worker = placed.placement.map(|placement| placement.worker);
                require(instance.worker == worker, || {
                    format!("{key}: cluster and root differ in the worker")
                })?;
            }
        }
        let assigned =
            root.services().flat_map(|s| root.instances_of(s.id)).filter(|i| i.cluster.is_some()).count();
        require(held == assigned, || format!("clusters hold {held} instances, the root assigned {assigned}"))
    }

    fn workers_agree(&self) -> Settled {
        let mut placed_on: BTreeMap<InstanceKey, _> = BTreeMap::new();
        for cluster in &self.clusters {
            for placed in cluster.node.machine.iter().flat_map(Cluster::placed) {
                if let Some(placement) = placed.placement {
                    placed_on.insert(placed.desired.key, placement);
                }
            }
        }
        for worker in self.workers.iter().filter(|worker| !worker.gone) {
            let workloads = worker.node.machine.iter().flat_map(|machine| machine.workloads());
            let mut instances = BTreeMap::new();
            for workload in workloads {
                let key = workload.key();
                let placement =
                    placed_on.remove(&key).ok_or_else(|| format!("{key} is a leftover on a worker"))?;
                require(placement.worker == worker.id, || format!("{key} is on the wrong worker"))?;
                require(placement.incarnation == workload.incarnation(), || format!("incarnation of {key}"))?;
                if matches!(workload.phase(), Phase::Running { .. }) {
                    let address = workload.assignment().desired.instance_address;
                    instances.insert(address, workload.address().ok_or("a running workload has no address")?);
                }
            }
            let unique: BTreeSet<_> = instances.values().collect();
            require(unique.len() == instances.len(), || "two workloads share an address".to_owned())?;
            let subnet = worker.node.machine.as_ref().and_then(|machine| machine.subnet());
            let mut here = worker.network.instances.clone();
            here.retain(|_, address| subnet.is_some_and(|subnet| subnet.contains(&*address)));
            require(here == instances, || format!("network of {}", worker.facts.name))?;
        }
        require(placed_on.is_empty(), || format!("{} workloads are missing", placed_on.len()))
    }

    /// Exactly one process per running instance, and no other.
    fn processes_agree(&self, running: &BTreeSet<InstanceKey>) -> Settled {
        let mut processes = BTreeSet::new();
        for worker in &self.workers {
            for (key, _) in worker.runtime.running() {
                require(processes.insert(*key), || format!("{key} runs twice"))?;
            }
            let known =
                |key: &InstanceKey| worker.node.machine.as_ref().is_some_and(|m| m.workload(*key).is_some());
            let leftover = worker.runtime.containers.keys().find(|key| !known(key));
            require(leftover.is_none(), || format!("container {leftover:?} was left behind"))?;
        }
        require(processes == *running, || {
            let missing = running.difference(&processes).count();
            let extra = processes.difference(running).count();
            format!("{missing} processes are missing, {extra} are too many")
        })
    }
}
