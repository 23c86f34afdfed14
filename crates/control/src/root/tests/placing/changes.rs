//! Makes the changes that explanations suggest.

use oak_placement::{BoundRef, Change};

use super::super::*;
use super::world::World;

/// One word for what was changed.
pub(super) fn kind(change: &Change) -> &'static str {
    match change {
        Change::LowerMemory { .. } => "lower_memory",
        Change::LowerCpu { .. } => "lower_cpu",
        Change::LowerStorage { .. } => "lower_storage",
        Change::LowerGpus { .. } => "lower_gpus",
        Change::RaiseMaxPerNode { .. } => "raise_max_per_node",
        Change::AllowWorker { .. } => "allow_worker",
        Change::AllowCluster { .. } => "allow_cluster",
        Change::RemoveNeed { .. } => "remove_need",
        Change::RemoveVolume { .. } => "remove_volume",
        Change::AllowArchitecture { .. } => "allow_architecture",
        Change::WidenBound { .. } => "widen_bound",
        Change::RemoveBound { .. } => "remove_bound",
        Change::Uncordon { .. } => "uncordon",
        Change::ConnectWorker { .. } => "connect_worker",
        Change::ConnectCluster { .. } => "connect_cluster",
        Change::FreePort { .. } => "free_port",
        Change::AddCluster { .. } => "add_cluster",
        Change::AddWorker { .. } => "add_worker",
    }
}

impl World {
    /// Makes a change that was suggested for an instance of a service.
    pub(super) fn make(&mut self, service: ServiceId, change: &Change) {
        match change {
            Change::LowerMemory { to, .. } => self.edit(service, |spec| spec.resources.memory_mib = *to),
            Change::LowerCpu { to, .. } => self.edit(service, |spec| spec.resources.cpu_millis = *to),
            Change::LowerStorage { to, .. } => self.edit(service, |spec| spec.resources.storage_mib = *to),
            Change::LowerGpus { to, .. } => self.edit(service, |spec| spec.resources.gpus = *to),
            Change::RaiseMaxPerNode { to, .. } => {
                self.edit(service, |spec| spec.target.max_per_worker = Some(*to));
            }
            Change::AllowWorker { worker } => {
                self.edit(service, |spec| spec.target.workers.push(worker.clone()));
            }
            Change::AllowCluster { cluster } => {
                self.edit(service, |spec| spec.target.clusters.push(cluster.clone()));
            }
            Change::RemoveNeed { label } => {
                self.edit(service, |spec| spec.target.needs.retain(|need| need != label));
            }
            Change::RemoveVolume { driver } => {
                self.edit(service, |spec| spec.volumes.retain(|volume| volume.driver != *driver));
            }
            Change::AllowArchitecture { architecture } => {
                self.edit(service, |spec| spec.architectures.push(*architecture));
            }
            Change::WidenBound { bound, limit, .. } => self.bound(service, bound, |old, _| *old = *limit),
            // Kept, so that the others keep their numbers, but without effect.
            Change::RemoveBound { bound, .. } => self.bound(service, bound, |_, rigidness| *rigidness = 0),
            Change::Uncordon { worker, .. } => {
                let site = self.site_of(*worker);
                self.sites[site].cluster.set_availability(at(0), *worker, Availability::Open);
            }
            Change::ConnectWorker { worker, .. } => self.open_worker(self.site_of(*worker), *worker),
            Change::ConnectCluster { cluster } => self.connect(self.site_named(cluster)),
            Change::FreePort { worker, holder, .. } => {
                let there = |instance: &&Instance| instance.worker == Some(*worker);
                let keys: Vec<_> = self.root.instances_of(*holder).filter(there).map(|i| i.key).collect();
                for key in keys {
                    self.root.undeploy(at(0), key).unwrap();
                }
            }
            Change::AddCluster { name } => {
                let site = self.add_site(name.as_deref().unwrap_or("it"));
                self.connect(site);
                self.measure_cluster(site, 0);
            }
            Change::AddWorker {
                cluster,
                name,
                resources,
                architecture,
                labels,
                volume_drivers,
                position,
            } => {
                let site = self.site_named(cluster);
                let worker = self.add_worker(site, |facts| {
                    if let Some(name) = name {
                        facts.name.clone_from(name);
                    }
                    facts.capacity = *resources;
                    facts.architecture = architecture.unwrap_or(Architecture::Amd64);
                    facts.labels.clone_from(labels);
                    facts.csi_drivers.clone_from(volume_drivers);
                    facts.position = *position;
                });
                self.measure(site, worker, 0);
            }
        }
        self.settle();
    }

    fn edit(&mut self, service: ServiceId, change: impl FnOnce(&mut ServiceSpec)) {
        let service = self.root.services.get_mut(&service).unwrap();
        let mut spec = (*service.spec).clone();
        change(&mut spec);
        service.spec = Arc::new(spec);
    }

    fn bound(
        &mut self,
        service: ServiceId,
        bound: &BoundRef,
        change: impl FnOnce(&mut oak_model::Limit, &mut u16),
    ) {
        match bound {
            BoundRef::Area { index } => self.edit(service, |spec| {
                let bound = &mut spec.target.near[*index];
                change(&mut bound.limit, &mut bound.strictness.rigidness);
            }),
            BoundRef::Service { declared_by, index } => {
                let services = self.root.services.values();
                let declared = services.filter(|service| service.job_name.to_string() == *declared_by);
                let id = declared.map(|service| service.id).next().unwrap();
                self.edit(id, |spec| {
                    let bound = &mut spec.connectivity[*index];
                    change(&mut bound.limit, &mut bound.strictness.rigidness);
                });
            }
        }
    }

    fn site_of(&self, worker: WorkerId) -> usize {
        let has = |site: &super::world::Site| site.workers.iter().any(|known| known.id == worker);
        self.sites.iter().position(has).unwrap()
    }

    fn site_named(&self, name: &str) -> usize {
        self.sites.iter().position(|site| site.name == name).unwrap()
    }
}
