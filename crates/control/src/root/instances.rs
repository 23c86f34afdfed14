//! Instances: deploying and undeploying them.

use oak_model::message::RootToCluster;
use oak_model::{ClusterId, InstanceKey, Now, ServiceId, WorkerId};

use super::{Consumption, Departure, Instance, Refusal, Root};
use crate::Table;

impl Root {
    /// Asks for one more instance of a service and looks for a place at once.
    ///
    /// # Errors
    /// The service does not exist, all addresses are in use, or the quota of its organisation is used up. Finding no
    /// place is not an error: the instance waits, and its status tells why.
    pub fn deploy(&mut self, now: Now, service: ServiceId) -> Result<InstanceKey, Refusal> {
        let found = self.services.get(&service).ok_or(Refusal::UnknownService(service))?;
        self.check_quota(self.organization_of(found), &Consumption::of_instance(found))?;
        self.start_instance(now, service)
    }

    /// One more instance, whatever the quota says.
    pub(super) fn start_instance(&mut self, now: Now, service: ServiceId) -> Result<InstanceKey, Refusal> {
        let found = self.services.get_mut(&service).ok_or(Refusal::UnknownService(service))?;
        let address = self.addresses.allocate().ok_or(Refusal::AddressesExhausted)?;
        let key = InstanceKey { service, number: found.next_number };
        found.next_number += 1;
        self.outbox.put(Table::Service, service, found);
        let instance = Instance::new(key, self.meta.generation, address, now.wall);
        self.instances.insert(key, instance);
        self.schedule(now, key);
        self.save_meta();
        Ok(key)
    }

    /// Takes an instance down. It disappears from every list at once; its address is free when its cluster has
    /// confirmed that nothing is left.
    ///
    /// # Errors
    /// The instance does not exist.
    pub fn undeploy(&mut self, now: Now, key: InstanceKey) -> Result<(), Refusal> {
        let Some(mut instance) = self.instances.remove(&key) else {
            return Err(Refusal::UnknownInstance(key));
        };
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
                self.send(cluster, RootToCluster::Remove { key, generation });
            }
        }
        self.retry_soon(now);
        Ok(())
    }

    /// The cluster has nothing left of an instance.
    pub(super) fn departed(&mut self, now: Now, cluster: ClusterId, key: InstanceKey) {
        if self.departures.get(&key).is_some_and(|departure| departure.cluster == cluster) {
            if let Some(departure) = self.departures.remove(&key) {
                self.addresses.release(departure.address);
                self.outbox.delete(Table::Departure, key);
            }
            self.forget_in_cluster(cluster, key);
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
                let spec = &service.spec;
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
            cluster.fleet.release(worker, service, found.spec.resources, &found.spec.ports);
        }
    }
}
