//! Choosing the cluster of an instance, and trying again when none could take it.

use std::collections::BTreeMap;

use oak_model::message::RootToCluster;
use oak_model::{
    ClusterId, EventKind, InstanceKey, Moment, Now, ServiceId, ServiceSpec, Status, Surroundings, WorkerId,
};
use oak_placement::{Refusal as NoWorker, Request};

use super::{Cluster, Root, Service};

/// Why no cluster can take an instance.
#[derive(Debug)]
pub(super) struct NoCluster {
    pub(super) status: Status,
    pub(super) detail: String,
}

impl Root {
    /// When [`Root::tick`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Moment> {
        self.pending
            .deadline()
            .into_iter()
            .chain(self.next_loss())
            .chain(self.looks.next())
            .chain(self.overlay_deadline())
            .min()
    }

    /// Tries waiting instances again when their time has come.
    pub fn tick(&mut self, now: Now) {
        if self.next_loss().is_some_and(|at| at <= now.moment) {
            self.give_up_clusters(now);
        }
        self.stop_learning(now);
        self.look_after_services(now);
        self.settle_overlay(now);
        let Some(waiting) = self.pending.begin_pass(now.moment) else { return };
        for key in waiting {
            self.schedule(now, key);
        }
        self.give_up_clusters(now);
        self.pending.end_pass(now.moment, self.settings.retry_interval);
    }

    pub(super) fn retry_soon(&mut self, now: Now) {
        if !self.pending.is_empty() {
            self.pending.due_soon(now.moment);
        }
    }

    /// Finds a cluster for an instance without one, or leaves it waiting with the reason.
    pub(super) fn schedule(&mut self, now: Now, key: InstanceKey) {
        // What has ended keeps that, also when its cluster was removed.
        let Some(instance) = self.instances.get(&key).filter(|instance| !instance.has_ended()) else {
            return;
        };
        let Some(service) = self.services.get(&key.service) else { return };
        let service = service.at_revision(instance.revision);
        if self.is_superseded(&service, instance) && self.awaited(now, &service).next().is_none() {
            self.remove_instance(now, key);
            return;
        }
        match self.decide(now, &service, instance.avoid) {
            Ok((cluster, worker)) => self.assign(now, key, cluster, worker),
            Err(refusal) => self.wait(now, key, refusal),
        }
    }

    /// The cluster, and probably the worker, that would take one more instance of a service now.
    pub(super) fn decide(
        &self,
        now: Now,
        service: &Service,
        avoid: Option<ClusterId>,
    ) -> Result<(ClusterId, WorkerId), NoCluster> {
        if let Some(detail) = self.awaits(now, service) {
            return Err(NoCluster { status: Status::TargetClusterNotActive, detail });
        }
        self.choose(service, avoid)
    }

    /// Gives an instance to a cluster.
    pub(super) fn assign(&mut self, now: Now, key: InstanceKey, cluster: ClusterId, worker: WorkerId) {
        let generation = self.next_generation();
        let mut left = None;
        if let Some(mut instance) = self.instances.remove(&key) {
            left = instance.cluster;
            if let Some(former) = instance.cluster {
                self.uncount(&mut instance, former);
            }
            instance.generation = generation;
            instance.changed = now.wall;
            instance.cluster = Some(cluster);
            instance.worker = None;
            instance.set_status(Status::ClusterScheduled, now.moment);
            "waiting for the cluster to choose a worker".clone_into(&mut instance.detail);
            self.instances.insert(key, instance);
        }
        // The cluster forgets a service with its last instance, and may have done so before we hear of it.
        let stays = |key: &InstanceKey| self.instances.get(key).is_some_and(|instance| !instance.moving);
        let is_first = self.clusters.get_mut(&cluster).is_some_and(|cluster| {
            let is_first = !cluster.instances.range(InstanceKey::all_of(key.service)).any(stays);
            cluster.instances.insert(key);
            is_first
        });
        self.count(key, Some(worker));
        self.tell_assignment(now, key, left);
        if is_first {
            self.send_records(cluster, &[key]);
        }
        if let Some(desired) = self.wish(key) {
            self.send(cluster, RootToCluster::Set(desired));
        }
        self.save_instance(key);
    }

    /// Leaves an instance waiting for a cluster. Nothing is written when nothing changed: retries are frequent.
    fn wait(&mut self, now: Now, key: InstanceKey, refusal: NoCluster) {
        self.pending.insert(key);
        self.pending.due_by(now.moment + self.settings.retry_interval);
        let Some(instance) = self.instances.get_mut(&key) else { return };
        if instance.status != refusal.status || instance.detail != refusal.detail {
            // The numbers in a refusal change with every placement elsewhere; that is no event.
            let is_news = instance.status != refusal.status;
            let detail = if is_news { refusal.detail.clone() } else { String::new() };
            instance.set_status(refusal.status, now.moment);
            instance.detail = refusal.detail;
            instance.changed = now.wall;
            self.save_instance(key);
            if is_news {
                self.tell_instance(now.wall, EventKind::InstanceWaiting, key, detail);
            }
        }
    }

    /// A cluster reported that it has no worker for an instance: if another cluster has, the instance moves. Not
    /// more often than the retry interval: the root can be wrong about both, and the instance would wander between
    /// them as fast as the links carry it. A cluster repeats its refusal with each of its own retries.
    pub(super) fn offer_elsewhere(&mut self, now: Now, key: InstanceKey) {
        let Some(instance) = self.instances.get(&key).filter(|instance| !instance.moving) else { return };
        if instance.offered.is_some_and(|at| now.moment - at < self.settings.retry_interval) {
            return;
        }
        let (Some(current), Some(service)) = (instance.cluster, self.services.get(&key.service)) else {
            return;
        };
        let service = service.at_revision(instance.revision);
        // By what is measured now it may be the right place: then it is asked once more before anything moves.
        let may_be_outdated = instance.offered.is_none() && self.would_take(current, &service);
        let other = self.choose(&service, Some(current)).ok().map(|(other, _)| other);
        if may_be_outdated && self.tell_surroundings(now, key, current) {
            return;
        }
        if other.is_none_or(|other| other == current) {
            self.tell_surroundings(now, key, current);
            return;
        }
        let generation = self.next_generation();
        if let Some(instance) = self.instances.get_mut(&key) {
            instance.moving = true;
            instance.offered = Some(now.moment);
            instance.generation = generation;
        }
        self.count(key, None);
        self.save_instance(key);
        // The other cluster is chosen when this one has confirmed, so that two never run it.
        self.send(current, RootToCluster::Remove { key, generation });
    }

    /// Whether a cluster has room for one more instance by what the root knows.
    fn would_take(&self, cluster: ClusterId, service: &Service) -> bool {
        self.clusters.get(&cluster).is_some_and(|cluster| {
            let surroundings = self.surroundings(service, Some(cluster));
            cluster.fleet.place(&request(service, &surroundings)).is_ok()
        })
    }

    pub(super) fn choose(
        &self,
        service: &Service,
        avoid: Option<ClusterId>,
    ) -> Result<(ClusterId, WorkerId), NoCluster> {
        let spec = &*service.spec;
        let allowed = |cluster: &&Cluster| is_allowed(spec, cluster);
        let ties = self.ties(service);
        let mut refusals: Vec<(&Cluster, NoWorker)> = Vec::new();
        let mut takers = Vec::new();
        for cluster in self.clusters.values().filter(allowed).filter(|cluster| cluster.is_active()) {
            let surroundings = self.surroundings_in(&ties, Some(cluster));
            let request = request(service, &surroundings);
            match cluster.fleet.place(&request) {
                Ok(worker) => {
                    let penalty = cluster.fleet.penalty(worker, &request);
                    takers.push((avoid == Some(cluster.id), penalty, cluster, worker));
                }
                Err(refusal) => refusals.push((cluster, refusal)),
            }
        }
        let siblings = if takers.len() > 1 { self.siblings(service.id) } else { BTreeMap::new() };
        let best = takers.into_iter().min_by_key(|(avoided, penalty, cluster, _)| {
            let siblings = siblings.get(&cluster.id).copied().unwrap_or_default();
            (*avoided, *penalty, siblings, cluster.fleet.commitment(), cluster.id)
        });
        match best {
            Some((.., cluster, worker)) => Ok((cluster.id, worker)),
            None => Err(self.no_cluster(spec, &refusals)),
        }
    }

    /// How many instances of a service each cluster has.
    fn siblings(&self, service: ServiceId) -> BTreeMap<ClusterId, u32> {
        let mut siblings = BTreeMap::new();
        for cluster in self.instances_of(service).filter_map(|instance| instance.cluster) {
            *siblings.entry(cluster).or_default() += 1;
        }
        siblings
    }

    fn no_cluster(&self, spec: &ServiceSpec, refusals: &[(&Cluster, NoWorker)]) -> NoCluster {
        let named = !spec.target.clusters.is_empty();
        let known: Vec<_> = self.clusters.values().filter(|cluster| is_allowed(spec, cluster)).collect();
        if known.is_empty() && named {
            let detail = format!("no cluster is named {}", spec.target.clusters.join(" or "));
            return NoCluster { status: Status::TargetClusterNotFound, detail };
        }
        if known.is_empty() {
            let detail = "no cluster has joined yet".to_owned();
            return NoCluster { status: Status::TargetClusterNotActive, detail };
        }
        if refusals.is_empty() {
            let names: Vec<_> = known.iter().map(|cluster| cluster.name.as_str()).collect();
            let detail = format!("no connected cluster: waiting for {}", names.join(", "));
            return NoCluster { status: Status::TargetClusterNotActive, detail };
        }
        let lines: Vec<_> = refusals
            .iter()
            .take(4)
            .map(|(cluster, refusal)| format!("cluster {}: {refusal}", cluster.name))
            .collect();
        let status = if refusals.iter().all(|(_, refusal)| refusal.status() == Status::NoNodeFound) {
            Status::NoNodeFound
        } else if named {
            Status::TargetClusterNoCapacity
        } else {
            Status::NoActiveClusterWithCapacity
        };
        NoCluster { status, detail: lines.join(" | ") }
    }
}

pub(super) fn is_allowed(spec: &ServiceSpec, cluster: &Cluster) -> bool {
    let names = &spec.target.clusters;
    names.is_empty() || names.contains(&cluster.name)
}

pub(super) fn request<'a>(service: &'a Service, surroundings: &'a Surroundings) -> Request<'a> {
    Request {
        service: service.id,
        resources: service.spec.resources,
        architectures: &service.spec.architectures,
        volumes: &service.spec.volumes,
        ports: &service.spec.ports,
        target: &service.spec.target,
        surroundings,
        avoid: None,
    }
}
