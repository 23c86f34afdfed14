//! Removing clusters that are gone for good, and asking clusters to remove workers.
//!
//! A cluster is removed in one step: after it nothing here refers to it, and what it had looks for another place. Workers
//! belong to their cluster; the root forgets one when its cluster has said that it is removed.

use oak_model::message::RootToCluster;
use oak_model::{ClusterId, EventKind, InstanceKey, Now, Removal, Status, WorkerId};

use super::{Cluster, Effect, Root, WorkerRefusal};
use crate::token::TokenRole;
use crate::{Table, listing};

/// Why a cluster was not removed; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterKept {
    /// There is none with this id.
    #[error("there is no cluster {0}")]
    Unknown(ClusterId),
    /// It is there.
    #[error(
        "cluster {0} is connected: empty its workers with `oak drain`, stop oak on its machine and try again, or remove it with \
         --force (?force=true)"
    )]
    Connected(String),
    /// Something would be lost with it.
    #[error(
        "cluster {name} still has {instances}: if it can come back, start it and empty it first; if its machines are gone for good \
         or switched off, remove it with --force (?force=true), and they are placed in other clusters"
    )]
    Holds {
        /// Name of the cluster.
        name: String,
        /// Number and names of its instances.
        instances: String,
    },
    /// It is there, and runs what must not run twice.
    #[error(
        "cluster {name} has {instances}, of which at most one may run, and is connected, so it is not gone: empty it first, or \
         stop oak on its machines, and try again"
    )]
    RunsOnlyOne {
        /// Name of the cluster.
        name: String,
        /// Number and names of those instances.
        instances: String,
    },
}

impl Root {
    /// Removes a cluster: it is refused from now on, and may join again only with a new token. What it had is placed in
    /// other clusters, or waits for a place.
    ///
    /// # Errors
    /// Why it stays.
    pub fn remove_cluster(&mut self, now: Now, id: ClusterId, removal: Removal) -> Result<(), ClusterKept> {
        let cluster = self.clusters.get(&id).ok_or(ClusterKept::Unknown(id))?;
        match removal {
            Removal::IfUnused => self.check_unused(cluster)?,
            Removal::Forced => self.check_is_not_there(cluster)?,
        }
        if let Some(session) = cluster.session {
            self.outbox.emit(Effect::Dismiss { cluster: id, session });
        }
        self.tell_cluster(now.wall, EventKind::ClusterRemoved, id, " was removed");
        self.forget_questions_to(id);
        let Some(cluster) = self.clusters.remove(&id) else { return Err(ClusterKept::Unknown(id)) };
        self.outbox.delete(Table::Cluster, id);
        for block in &cluster.node_blocks {
            self.node_blocks.release(*block);
        }
        if let Some(block) = cluster.local_block {
            self.addresses.release_block(block);
        }
        self.forget_tokens_of(id);
        self.overlay_closed(id);
        for worker in cluster.workers.keys() {
            self.overlay_worker_gone(*worker);
        }
        // First all of them: where one goes may depend on where others are.
        let homeless: Vec<_> =
            cluster.instances.into_iter().filter(|key| self.leave_removed(now, *key, id)).collect();
        for key in homeless {
            self.schedule(now, key);
        }
        self.save_meta();
        self.retry_soon(now);
        Ok(())
    }

    fn check_unused(&self, cluster: &Cluster) -> Result<(), ClusterKept> {
        let name = cluster.name.clone();
        if cluster.is_active() {
            return Err(ClusterKept::Connected(name));
        }
        match self.listed(cluster.instances.iter().filter(|key| self.has_not_ended(**key))) {
            Some(instances) => Err(ClusterKept::Holds { name, instances }),
            None => Ok(()),
        }
    }

    /// A cluster that is removed goes on with what it has: of what it surely runs, no second one may be placed elsewhere.
    fn check_is_not_there(&self, cluster: &Cluster) -> Result<(), ClusterKept> {
        if !cluster.is_active() {
            return Ok(());
        }
        let is_only_one = |key: &InstanceKey| {
            self.services.get(&key.service).is_some_and(|service| service.spec.at_most_one)
        };
        let may_run = |key: &InstanceKey| self.has_not_ended(*key) || self.departures.contains_key(key);
        match self.listed(cluster.instances.iter().filter(|key| is_only_one(key) && may_run(key))) {
            Some(instances) => Err(ClusterKept::RunsOnlyOne { name: cluster.name.clone(), instances }),
            None => Ok(()),
        }
    }

    fn has_not_ended(&self, key: InstanceKey) -> bool {
        self.instances.get(&key).is_some_and(|instance| !instance.has_ended())
    }

    /// Number and names of instances; `None` if there are none.
    fn listed<'a>(&self, keys: impl Iterator<Item = &'a InstanceKey>) -> Option<String> {
        let name_of = |key: &InstanceKey| {
            let service = self.services.get(&key.service);
            let service = service.map(|service| service.job_name.to_string()).unwrap_or_default();
            format!("{service}/{}", key.number)
        };
        listing::instances(&keys.map(name_of).collect::<Vec<_>>())
    }

    fn forget_tokens_of(&mut self, id: ClusterId) {
        let is_its = |role: &TokenRole| *role == TokenRole::Worker(id);
        let tokens: Vec<_> =
            self.tokens.values().filter(|token| is_its(&token.role)).map(|token| token.id.clone()).collect();
        for token in tokens {
            self.tokens.remove(&token);
            self.outbox.delete(Table::Token, &token);
        }
    }

    /// Takes an instance out of a cluster that was removed; true if it needs another place.
    fn leave_removed(&mut self, now: Now, key: InstanceKey, id: ClusterId) -> bool {
        if self.departures.contains_key(&key) {
            self.departed(now, id, key);
            return false;
        }
        let generation = self.next_generation();
        let Some(instance) = self.instances.get_mut(&key).filter(|instance| instance.cluster == Some(id))
        else {
            return false;
        };
        instance.generation = generation;
        instance.cluster = None;
        instance.worker = None;
        instance.host_address.clear();
        instance.node_address = None;
        instance.counted_on = None;
        instance.moving = false;
        instance.avoid = None;
        instance.changed = now.wall;
        let is_homeless = !instance.has_ended();
        if is_homeless {
            instance.set_status(Status::Requested, now.moment);
            "its cluster was removed".clone_into(&mut instance.detail);
        }
        self.save_instance(key);
        self.look_soon(now, key.service);
        is_homeless
    }

    /// Asks the cluster of a worker to remove it. [`Effect::WorkerRemoval`] follows with what it says.
    ///
    /// # Errors
    /// There is no such worker, or its cluster cannot be asked. Nothing has changed then.
    pub fn remove_worker(&mut self, id: WorkerId, removal: Removal) -> Result<(), WorkerRefusal> {
        let cluster = self.active_cluster_of(id)?;
        self.send(cluster, RootToCluster::RemoveWorker { worker: id, removal });
        Ok(())
    }

    /// A cluster has removed a worker.
    pub(super) fn worker_removed(&mut self, now: Now, id: ClusterId, worker: WorkerId) {
        self.outbox.emit(Effect::WorkerRemoval { worker, kept: None });
        if self.clusters.get(&id).is_none_or(|cluster| !cluster.workers.contains_key(&worker)) {
            return;
        }
        self.tell_worker(now, EventKind::WorkerRemoved, id, worker, " was removed");
        self.overlay_worker_gone(worker);
        let Some(cluster) = self.clusters.get_mut(&id) else { return };
        cluster.workers.remove(&worker);
        cluster.usage.remove(&worker);
        cluster.fleet.remove(worker);
        for key in &cluster.instances {
            if let Some(instance) = self.instances.get_mut(key).filter(|i| i.counted_on == Some(worker)) {
                instance.counted_on = None;
            }
        }
    }

    /// A cluster has not removed a worker.
    pub(super) fn worker_kept(&mut self, worker: WorkerId, reason: String) {
        self.outbox.emit(Effect::WorkerRemoval { worker, kept: Some(reason) });
    }
}
