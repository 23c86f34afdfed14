//! What the root wants of this cluster.

use std::collections::HashSet;

use oak_model::message::{
    ClusterHello, ClusterToRoot, ClusterToWorker, ClusterWelcome, DesiredInstance, RootToCluster,
};
use oak_model::{Generation, InstanceKey, Now, Status};

use super::records::Extent;
use super::{Cluster, Effect, Placed, WorkerKept};
use crate::Table;

impl Cluster {
    /// First message of a new session with the root.
    #[must_use]
    pub fn hello(&self) -> ClusterHello {
        ClusterHello {
            name: self.settings.name.clone(),
            location: self.settings.location.clone(),
            port: self.settings.port,
            generation: self.meta.generation,
            workers: self.workers.keys().filter_map(|id| self.worker_summary(*id)).collect(),
            instances: self.placed.keys().filter_map(|key| self.instance_report(*key)).collect(),
            lineage: self.meta.lineage,
            local: self.applications.values().filter(|k| k.local).map(|k| k.application.id).collect(),
            node_blocks: self.meta.node_blocks.clone(),
            local_block: self.meta.local_block,
            authority: self.settings.authority.clone(),
            calls: self.overlay_calls(),
            relay: self.settings.relay.clone(),
        }
    }

    /// The root answered with everything it wants.
    pub fn root_welcome(&mut self, now: Now, mut welcome: ClusterWelcome) {
        self.block_requested = false;
        if welcome.take_over {
            // It does not know what is here; nothing may go before it does.
            self.send_holdings(Extent::Everything);
            return;
        }
        self.root_connected = true;
        self.welcome_records(&mut welcome);
        self.abroad_changed(std::mem::take(&mut welcome.overlay));
        let wanted: HashSet<_> = welcome.instances.iter().map(|desired| desired.key).collect();
        for desired in welcome.instances {
            self.set_desired(now, desired);
        }
        let unwanted: Vec<_> =
            self.placed.keys().copied().filter(|key| !wanted.contains(key) && !self.is_local(*key)).collect();
        for key in unwanted {
            self.remove_instance(now, key);
        }
        for token in welcome.tokens {
            self.token_received(now, token, false);
        }
        self.node_blocks_received(now, welcome.node_blocks);
        self.saw_generation(welcome.generation);
        self.send_holdings(Extent::Local);
        self.repeat_calls();
        let connected: Vec<_> = self.workers.values().filter(|w| w.session.is_some()).map(|w| w.id).collect();
        for worker in connected {
            self.send_to_worker(worker, ClusterToWorker::ReportUsage);
        }
    }

    /// The link to the root ended.
    pub fn root_closed(&mut self) {
        self.root_connected = false;
        self.abroad_closed();
    }

    /// The root wants a change.
    pub fn root_message(&mut self, now: Now, message: RootToCluster) {
        match message {
            RootToCluster::Set(desired) => {
                self.saw_generation(desired.generation);
                self.set_desired(now, desired);
            }
            RootToCluster::Remove { key, generation } => {
                self.saw_generation(generation);
                let older =
                    self.placed.get(&key).is_some_and(|placed| placed.desired.generation > generation);
                if !older {
                    self.remove_instance(now, key);
                }
            }
            RootToCluster::Token(token) => self.token_received(now, token, true),
            RootToCluster::SetAvailability { worker, availability } => {
                self.set_availability(now, worker, availability);
            }
            RootToCluster::RemoveWorker { worker, removal } => match self.remove_worker(now, worker, removal)
            {
                Ok(()) => {}
                // Done already; whoever asks waits for this.
                Err(WorkerKept::Unknown(worker)) => self.report_removal(worker),
                Err(kept) => {
                    let reason = kept.to_string();
                    self.outbox.emit(Effect::ToRoot(ClusterToRoot::WorkerKept { worker, reason }));
                }
            },
            RootToCluster::Records { applications, services } => {
                self.records_received(applications, services);
            }
            RootToCluster::Welcome(welcome) => self.root_welcome(now, *welcome),
            RootToCluster::Adopted(applications) => {
                self.adopted(&applications);
                self.repeat_calls();
            }
            RootToCluster::Overlay(change) => self.abroad_changed(change),
            RootToCluster::NotFound(target) => self.not_found(&target),
            RootToCluster::NodeBlocks(blocks) => {
                self.block_requested = false;
                self.node_blocks_received(now, blocks);
            }
        }
    }

    fn saw_generation(&mut self, generation: Generation) {
        if generation > self.meta.generation {
            self.meta.generation = generation;
            self.save_meta();
        }
    }

    fn set_desired(&mut self, now: Now, desired: DesiredInstance) {
        let key = desired.key;
        match self.placed.get_mut(&key) {
            Some(placed) if placed.desired.generation >= desired.generation => {}
            Some(_) => self.change_desired(desired),
            None => {
                self.placed.insert(key, Placed::new(desired));
                self.place(now, key);
            }
        }
    }

    /// The root wants something else of an instance that is here, or counts it under a newer generation.
    fn change_desired(&mut self, mut desired: DesiredInstance) {
        let key = desired.key;
        let Some(placed) = self.placed.get_mut(&key) else { return };
        desired.keep_material_of(&placed.desired.material);
        placed.wanted_again = placed.removing;
        // What is around it may have changed; that is no reason to restart it.
        let same = DesiredInstance {
            generation: desired.generation,
            surroundings: desired.surroundings.clone(),
            material: desired.material.clone(),
            ..placed.desired.clone()
        } == desired;
        if same {
            let is_supplied_anew = placed.desired.material != desired.material;
            placed.desired = desired;
            self.watch_bounds(key);
            if is_supplied_anew {
                self.supply_anew(key);
            }
        } else {
            self.replace_desired(key, desired);
        }
        self.save_placed(key);
        self.report_instance(key);
    }

    fn replace_desired(&mut self, key: InstanceKey, desired: DesiredInstance) {
        self.abandon_move(key);
        let places: Vec<_> = self.placed.get(&key).into_iter().flat_map(Placed::places).collect();
        let kept = self.overlay_take(key);
        // Everything is counted by the newest wish, so that it is taken back as it was counted.
        for place in &places {
            self.let_go(key, *place);
        }
        let Some(placed) = self.placed.get_mut(&key) else { return };
        placed.desired = desired;
        placed.completed = false;
        let renews = placed.placement.is_some() && !placed.removing;
        for place in places {
            self.hold(key, place);
        }
        if renews {
            self.renew(key);
        }
        self.overlay_put_back(key, kept);
    }

    /// Gives the workers changed secrets for the next start of the container; what runs goes on.
    fn supply_anew(&mut self, key: InstanceKey) {
        let Some(placed) = self.placed.get(&key).filter(|placed| !placed.removing) else { return };
        let places = placed.placement.into_iter().chain(placed.successor);
        let organization = self.organization_of(key);
        let assignment = |place| placed.assignment(place, organization);
        let orders: Vec<_> = places.map(|place| (place.worker, assignment(place))).collect();
        for (worker, assignment) in orders {
            self.send_to_worker(worker, ClusterToWorker::Assign(assignment));
        }
    }

    /// Has the present worker run the changed instance, as a new incarnation.
    fn renew(&mut self, key: InstanceKey) {
        let incarnation = self.next_incarnation();
        let organization = self.organization_of(key);
        let Some(placed) = self.placed.get_mut(&key) else { return };
        let Some(placement) = placed.placement.as_mut() else { return };
        placement.incarnation = incarnation;
        let placement = *placement;
        placed.status = Status::NodeScheduled;
        "waiting for the worker to replace it".clone_into(&mut placed.detail);
        let assignment = placed.assignment(placement, organization);
        self.send_to_worker(placement.worker, ClusterToWorker::Assign(assignment));
    }

    /// Takes an instance down; its row stays until every worker that may have it has confirmed.
    pub(super) fn remove_instance(&mut self, now: Now, key: InstanceKey) {
        if !self.placed.contains_key(&key) {
            // Not here (any more): the root waits for exactly this answer.
            self.outbox.emit(Effect::ToRoot(ClusterToRoot::Removed(vec![key])));
            return;
        }
        self.abandon_move(key);
        let Some(placed) = self.placed.get_mut(&key) else { return };
        if placed.places().next().is_none() {
            self.forget_instance(now, key);
            return;
        }
        let was_kept = !placed.removing || placed.wanted_again;
        placed.removing = true;
        placed.wanted_again = false;
        self.overlay_placed(key);
        let Some(placed) = self.placed.get(&key) else { return };
        let places: Vec<_> = placed.places().collect();
        if was_kept {
            self.pending.remove(key);
            self.save_placed(key);
        }
        for place in places {
            let message = ClusterToWorker::Remove { key, incarnation: place.incarnation };
            self.send_to_worker(place.worker, message);
        }
    }

    pub(super) fn forget_instance(&mut self, now: Now, key: InstanceKey) {
        let places: Vec<_> = self.placed.get(&key).into_iter().flat_map(Placed::places).collect();
        for place in &places {
            self.let_go(key, *place);
        }
        let Some(placed) = self.placed.remove(&key) else { return };
        self.overlay_forget(key, placed.desired.instance_address);
        self.bounded.remove(&key);
        self.pending.remove(key);
        self.outbox.delete(Table::Placement, key);
        self.forget_records(key.service);
        for place in places {
            self.report_worker(place.worker);
        }
        self.outbox.emit(Effect::ToRoot(ClusterToRoot::Removed(vec![key])));
        self.retry_soon(now);
    }

    fn node_blocks_received(&mut self, now: Now, blocks: Vec<ipnet::Ipv4Net>) {
        if blocks != self.meta.node_blocks {
            self.meta.node_blocks = blocks;
            self.save_meta();
        }
        self.admit_waiting_workers(now);
    }
}
