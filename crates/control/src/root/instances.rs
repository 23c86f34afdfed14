//! Instances: deploying and undeploying them.

use oak_model::message::RootToCluster;
use oak_model::{ClusterId, EventKind, InstanceKey, MAX_REPLICAS, Now, ServiceId, WorkerId};

use super::ledger::Promise;
use super::{Departure, Instance, Refusal, Root};
use crate::Table;

impl Root {
    /// Asks for one more instance of a service and looks for a place at once. A service that keeps a number of
    /// instances keeps one more from now on. While it is being updated, the new one has the former revision, which is
    /// known to work, and is replaced like the others.
    ///
    /// # Errors
    /// The service does not exist, keeps the most instances already, all addresses are in use, or the quota of its
    /// organisation is used up. Finding no place is not an error: the instance waits, and its status tells why.
    pub fn deploy(&mut self, now: Now, service: ServiceId) -> Result<InstanceKey, Refusal> {
        let found = self.services.get(&service).ok_or(Refusal::UnknownService(service))?;
        let wanted = found.upkeep.replicas.map(|replicas| replicas + 1);
        if wanted.is_some_and(|wanted| wanted > MAX_REPLICAS) {
            return Err(Refusal::TooManyReplicas);
        }
        self.check_secrets_of(found)?;
        self.check_promise(found, Promise::of(found).with_one_more(), 1)?;
        let revision = found.upkeep.proven_revision();
        let key = self.create_instance(now, service, revision)?;
        self.wanted_changed(now, service, wanted, |total| total.saturating_add(1));
        Ok(key)
    }

    /// Creates an instance, whatever the quota says, and looks for a place at once: the one way in which instances come
    /// into being.
    pub(super) fn create_instance(
        &mut self,
        now: Now,
        service: ServiceId,
        revision: u32,
    ) -> Result<InstanceKey, Refusal> {
        let found = self.services.get_mut(&service).ok_or(Refusal::UnknownService(service))?;
        let address = self.addresses.allocate().ok_or(Refusal::AddressesExhausted)?;
        let key = InstanceKey { service, number: found.next_number };
        found.next_number += 1;
        self.outbox.put(Table::Service, service, found);
        let instance = Instance::new(key, revision, self.meta.generation, address, now);
        self.instances.insert(key, instance);
        self.count_created(key);
        self.tell_instance(now.wall, EventKind::InstanceRequested, key, "");
        self.schedule(now, key);
        self.save_meta();
        Ok(key)
    }

    /// Takes an instance down. It disappears from every list at once; its address is free when its cluster has
    /// confirmed that nothing is left. A service that keeps a number of instances keeps one less from now on.
    ///
    /// # Errors
    /// The instance does not exist.
    pub fn undeploy(&mut self, now: Now, key: InstanceKey) -> Result<(), Refusal> {
        if !self.instances.contains_key(&key) {
            return Err(Refusal::UnknownInstance(key));
        }
        self.remove_instance(now, key);
        let replicas = self.services.get(&key.service).and_then(|service| service.upkeep.replicas);
        let wanted = replicas.map(|replicas| replicas.saturating_sub(1));
        self.wanted_changed(now, key.service, wanted, |total| total.saturating_sub(1));
        Ok(())
    }

    /// Takes all instances of a service down.
    ///
    /// # Errors
    /// The service does not exist.
    pub fn undeploy_all(&mut self, now: Now, service: ServiceId) -> Result<(), Refusal> {
        let found = self.services.get(&service).ok_or(Refusal::UnknownService(service))?;
        let wanted = found.upkeep.replicas.map(|_| 0);
        self.remove_instances(now, service);
        self.wanted_changed(now, service, wanted, |_| 0);
        Ok(())
    }

    pub(super) fn remove_instances(&mut self, now: Now, service: ServiceId) {
        let keys: Vec<_> = self.instances_of(service).map(|instance| instance.key).collect();
        for key in keys {
            self.remove_instance(now, key);
        }
    }

    pub(super) fn remove_instance(&mut self, now: Now, key: InstanceKey) {
        self.tell_instance(now.wall, EventKind::InstanceRemoved, key, "");
        self.count_removed(key);
        let Some(mut instance) = self.instances.remove(&key) else { return };
        self.pending.remove(key);
        self.outbox.delete(Table::Instance, key);
        match instance.cluster {
            None => self.addresses.release(instance.address),
            Some(cluster) => {
                self.uncount(&mut instance, cluster);
                let generation = self.next_generation();
                let departure = Departure { key, cluster, address: instance.address, generation };
                self.outbox.put(Table::Departure, key, &departure);
                self.departures.insert(key, departure);
                self.overlay_instance(key);
                self.send(cluster, RootToCluster::Remove { key, generation });
            }
        }
        self.retry_soon(now);
    }

    /// The cluster has nothing left of an instance.
    pub(super) fn departed(&mut self, now: Now, cluster: ClusterId, key: InstanceKey) {
        if self.departures.get(&key).is_some_and(|departure| departure.cluster == cluster) {
            if let Some(departure) = self.departures.remove(&key) {
                self.addresses.release(departure.address);
                self.outbox.delete(Table::Departure, key);
            }
            self.overlay_instance(key);
            self.forget_in_cluster(cluster, key);
            self.look_soon(now, key.service);
            return;
        }
        let moved = self
            .instances
            .get(&key)
            .is_some_and(|instance| instance.moving && instance.cluster == Some(cluster));
        if moved {
            self.forget_in_cluster(cluster, key);
            if let Some(instance) = self.instances.get_mut(&key) {
                instance.moving = false;
                instance.cluster = None;
                instance.worker = None;
                instance.avoid = Some(cluster);
            }
            self.save_instance(key);
            self.schedule(now, key);
        }
    }

    pub(super) fn forget_in_cluster(&mut self, cluster: ClusterId, key: InstanceKey) {
        if let Some(cluster) = self.clusters.get_mut(&cluster) {
            cluster.instances.remove(&key);
        }
    }

    /// Counts an instance on a worker of its cluster.
    pub(super) fn count(&mut self, key: InstanceKey, worker: Option<WorkerId>) {
        let Some(mut instance) = self.instances.remove(&key) else { return };
        if let Some(cluster) = instance.cluster {
            self.uncount(&mut instance, cluster);
            if let (Some(worker), Some(service)) = (worker, self.services.get(&key.service))
                && let Some(cluster) = self.clusters.get_mut(&cluster)
                && cluster.fleet.worker(worker).is_some()
            {
                let spec = service.spec_of(instance.revision);
                let name = service.job_name.to_string();
                cluster.fleet.reserve(worker, key.service, &name, spec.resources, &spec.ports);
                instance.counted_on = Some(worker);
            }
        }
        self.instances.insert(key, instance);
    }

    pub(super) fn uncount(&mut self, instance: &mut Instance, cluster: ClusterId) {
        let Some(worker) = instance.counted_on.take() else { return };
        let service = instance.key.service;
        if let (Some(found), Some(cluster)) = (self.services.get(&service), self.clusters.get_mut(&cluster)) {
            let spec = found.spec_of(instance.revision);
            cluster.fleet.release(worker, service, spec.resources, &spec.ports);
        }
    }
}
