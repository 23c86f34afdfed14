//! Workers: sessions and what they report.

use ipnet::Ipv4Net;
use oak_model::message::{
    ClusterToRoot, ClusterToWorker, UsageReport, WorkerHello, WorkerToCluster, WorkerWelcome, WorkloadReport,
};
use oak_model::{Availability, Incarnation, InstanceKey, Now, Position, Status, WorkerId};
use oak_placement::WorkerState;

use super::relay::outside;
use super::{Cluster, Effect, Parting, Placement, Worker, addresses_of};
use crate::counter::LARGEST_LEAP;

/// Addresses that a worker has left when it gets a further subnet: more than start before it knows.
const SPARE_ADDRESSES: u32 = 8;

impl Cluster {
    /// Whether a worker belongs to this cluster; others are refused.
    #[must_use]
    pub fn knows_worker(&self, id: WorkerId) -> bool {
        self.workers.contains_key(&id)
    }

    /// A worker connected. Answers with everything it shall run, as soon as it has a subnet.
    pub fn worker_opened(&mut self, now: Now, id: WorkerId, session: u64, address: &str, hello: WorkerHello) {
        let Some(known) = self.workers.get(&id) else {
            // Removed while its hello was on the way.
            self.outbox.emit(Effect::Dismiss { worker: id, session });
            return;
        };
        let subnet = known.subnet.or_else(|| self.allocate_subnet());
        let (overcommit, position) = (self.settings.cpu_overcommit, self.position());
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let mut facts = hello.facts;
        // The name was settled when the worker enrolled.
        facts.name.clone_from(&worker.facts.name);
        if facts.address.is_empty() {
            address.clone_into(&mut facts.address);
        }
        let outside = outside(address, hello.own_address, facts.address6);
        let changed = worker.facts != facts || worker.subnet != subnet || worker.outside != outside;
        worker.facts = facts;
        worker.outside = outside;
        worker.subnet = subnet;
        worker.session = Some(session);
        worker.lost_at = None;
        worker.waiting = subnet.is_none();
        worker.record.probation = worker.record.probation(now.moment).map(|probation| now.moment + probation);
        self.alarms.extend(worker.record.probation.map(|until| (until, id)));
        worker.is_restarting = false;
        self.fleet.upsert(id, worker.state(overcommit, position));
        self.expect_the_others(now, id);
        if changed {
            self.save_worker(id);
        }
        for report in hello.workloads {
            self.saw_incarnation(id, &report);
            self.workload_reported(now, id, report);
        }
        self.keep_returned(id);
        self.overlay_opened(id, hello.calls);
        self.overlay_of_worker(id);
        if subnet.is_some() {
            self.welcome_worker(id);
        } else {
            self.request_node_block();
        }
        self.report_worker(id);
        self.continue_drain(now, id);
        self.retry_soon(now);
    }

    /// The first worker that comes back after all were away: probably this machine was cut off, and the others come
    /// back as well. The first one shall not get everything.
    fn expect_the_others(&mut self, now: Now, first: WorkerId) {
        if self.workers.values().any(|worker| worker.session.is_some() && worker.id != first) {
            return;
        }
        let grace = now.moment + self.settings.start_grace;
        for worker in self.workers.values_mut().filter(|worker| worker.id != first) {
            let at = worker.lost_at.map_or(grace, |at| at.max(grace));
            worker.lost_at = Some(at);
            self.alarms.insert((at, worker.id));
        }
    }

    /// A cluster restored from an old copy continues above every incarnation its workers have seen.
    fn saw_incarnation(&mut self, id: WorkerId, report: &WorkloadReport) {
        let leap = report.incarnation.0.saturating_sub(self.meta.incarnation.0);
        if leap >= LARGEST_LEAP {
            return;
        }
        if leap > 0 {
            self.meta.incarnation = report.incarnation;
            self.save_meta();
        }
        let placement = self.placed.get_mut(&report.key).and_then(|placed| placed.placement.as_mut());
        if let Some(placement) = placement.filter(|p| p.worker == id && p.incarnation < report.incarnation) {
            placement.incarnation = report.incarnation;
            self.save_placed(report.key);
        }
    }

    /// Instances that found no other place while their worker was silent stay with it.
    fn keep_returned(&mut self, id: WorkerId) {
        let is_here = |key: &InstanceKey| {
            self.placed.get(key).and_then(|p| p.placement).is_some_and(|p| p.worker == id)
        };
        let returned: Vec<_> = self.pending.iter().filter(is_here).collect();
        for key in returned {
            self.pending.remove(key);
            if let Some(placed) = self.placed.get_mut(&key) {
                placed.status = Status::NodeScheduled;
                "waiting for the worker".clone_into(&mut placed.detail);
            }
            self.save_placed(key);
            self.report_instance(key);
        }
    }

    fn welcome_worker(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        let (Some(session), Some(subnet)) = (worker.session, worker.subnet) else { return };
        let more_subnets = worker.more_subnets.clone();
        let mut assignments = Vec::new();
        let mut removals = Vec::new();
        for placed in self.held.get(&id).into_iter().flatten().filter_map(|key| self.placed.get(key)) {
            let here = |place: &Placement| place.worker == id;
            let current = placed.placement.into_iter().chain(placed.successor).find(here);
            match current {
                Some(place) if !placed.removing => {
                    let organization = self.organization_of(placed.desired.key);
                    assignments.push(placed.assignment(place, organization));
                }
                Some(place) => removals.push((placed.desired.key, place.incarnation)),
                None => {}
            }
            removals.extend(
                placed.retiring.iter().filter(|p| here(p)).map(|p| (placed.desired.key, p.incarnation)),
            );
        }
        let overlay = self.overlay_welcome(id);
        let vantage = self.vantage(id);
        let welcome = WorkerWelcome { subnet, more_subnets, assignments, overlay, vantage };
        self.outbox.emit(Effect::Welcome { worker: id, session, welcome });
        // What is being removed is not in the welcome; the worker confirms each removal it still has to do, and
        // this asks for the confirmation of those it has already done.
        for (key, incarnation) in removals {
            self.send_to_worker(id, ClusterToWorker::Remove { key, incarnation });
        }
    }

    fn request_node_block(&mut self) {
        if !self.block_requested {
            self.block_requested = true;
            self.outbox.emit(Effect::ToRoot(ClusterToRoot::NeedsNodeBlock));
        }
    }

    pub(super) fn admit_waiting_workers(&mut self, now: Now) {
        let waiting: Vec<_> = self.workers.values().filter(|w| w.waiting).map(|w| w.id).collect();
        for id in waiting {
            let Some(subnet) = self.allocate_subnet() else {
                self.request_node_block();
                break;
            };
            let (overcommit, position) = (self.settings.cpu_overcommit, self.position());
            let Some(worker) = self.workers.get_mut(&id) else { continue };
            worker.waiting = false;
            worker.subnet = Some(subnet);
            let connected = worker.session.is_some();
            self.fleet.upsert(id, worker.state(overcommit, position));
            self.fleet.set_connected(id, connected);
            self.save_worker(id);
            self.overlay_peer(id);
            self.welcome_worker(id);
            self.report_worker(id);
        }
        let all: Vec<_> = self.workers.keys().copied().collect();
        for id in all {
            self.widen(id);
        }
        self.retry_soon(now);
    }

    /// Gives a worker a further subnet before it has no addresses left.
    pub(super) fn widen(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id).filter(|worker| worker.subnet.is_some()) else { return };
        let (_, instances) = self.fleet.reserved(id).unwrap_or_default();
        if instances + SPARE_ADDRESSES <= addresses_of(worker.subnets()) {
            return;
        }
        let Some(subnet) = self.allocate_subnet() else {
            self.request_node_block();
            return;
        };
        let (overcommit, position) = (self.settings.cpu_overcommit, self.position());
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.more_subnets.push(subnet);
        let more_subnets = worker.more_subnets.clone();
        let (state, connected) = (worker.state(overcommit, position), worker.session.is_some());
        self.fleet.upsert(id, state);
        self.fleet.set_connected(id, connected);
        self.save_worker(id);
        self.overlay_peer(id);
        self.send_to_worker(id, ClusterToWorker::MoreSubnets(more_subnets));
        self.report_worker(id);
    }

    /// The link to a worker ended: suspect at once, given up when it is not back in time. Silence has lasted long
    /// enough to be sure.
    pub fn worker_closed(&mut self, now: Now, id: WorkerId, session: u64, parting: Parting) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.session == Some(session)) else {
            return;
        };
        worker.session = None;
        worker.lost_at = Some(match parting {
            Parting::Left => now.moment + self.settings.restart_grace.max(self.settings.lost_after),
            Parting::Broken => now.moment + self.settings.lost_after,
            Parting::Silent => now.moment,
        });
        self.alarms.extend(worker.lost_at.map(|at| (at, id)));
        worker.is_restarting = parting == Parting::Left;
        self.fleet.set_connected(id, false);
        self.overlay_closed(id);
        self.report_worker(id);
    }

    /// A message of a worker. Messages of ended sessions are ignored: the next hello tells everything.
    pub fn worker_message(&mut self, now: Now, id: WorkerId, session: u64, message: WorkerToCluster) {
        if self.workers.get(&id).is_none_or(|worker| worker.session != Some(session)) {
            return;
        }
        match message {
            WorkerToCluster::Workload(report) => self.workload_reported(now, id, report),
            WorkerToCluster::Removed { key, incarnation } => self.workload_removed(now, id, key, incarnation),
            WorkerToCluster::Usage(usage) => self.usage_reported(id, usage),
            WorkerToCluster::RenewLeases { question } => self.renew_leases(now, id, question),
            WorkerToCluster::Ask { caller, target } => self.asked(id, caller, target),
            WorkerToCluster::Seen(addresses) => self.worker_seen(id, addresses),
            WorkerToCluster::Keys(keys) => self.worker_rekeyed(id, keys),
        }
    }

    fn workload_reported(&mut self, now: Now, id: WorkerId, report: WorkloadReport) {
        let key = report.key;
        let has_news = self.overlay_reported(id, &report);
        let place = Placement { worker: id, incarnation: report.incarnation };
        let Some(placed) = self.placed.get_mut(&key).filter(|placed| !placed.removing) else { return };
        if placed.successor == Some(place) && report.status == Status::Running {
            let at = now.moment + self.settings.handover;
            self.handovers.entry(key).or_insert((place, at));
            self.hand_over(now);
            return;
        }
        if placed.successor == Some(place) {
            self.handovers.remove(&key);
            let progress = if report.detail.is_empty() { report.status.as_str() } else { &report.detail };
            let progress = progress.to_owned();
            self.say_how_it_moves(key, id, &progress);
            return;
        }
        let unchanged = placed.status == report.status && placed.detail == report.detail;
        if placed.placement == Some(place) && unchanged && has_news {
            self.report_instance(key);
            return;
        }
        if placed.placement != Some(place) || unchanged {
            return;
        }
        placed.status = report.status;
        placed.detail = report.detail;
        self.pending.remove(key);
        if (report.ended || report.status == Status::Completed) && !placed.completed {
            self.complete(key, place);
        }
        self.report_instance(key);
    }

    /// An instance has ended for good: it keeps its place, but no capacity.
    fn complete(&mut self, key: InstanceKey, place: Placement) {
        self.abandon_move(key);
        let Some(placed) = self.placed.get_mut(&key) else { return };
        placed.completed = true;
        let spec = std::sync::Arc::clone(&placed.desired.spec);
        self.fleet.release(place.worker, key.service, spec.resources, &spec.ports);
        self.save_placed(key);
        self.report_worker(place.worker);
    }

    fn workload_removed(&mut self, now: Now, id: WorkerId, key: InstanceKey, incarnation: Incarnation) {
        let Some(placed) = self.placed.get(&key) else { return };
        let gone = |place: &Placement| place.worker == id && place.incarnation <= incarnation;
        if let Some(place) = placed.retiring.iter().copied().find(gone) {
            self.let_go(key, place);
            if let Some(placed) = self.placed.get_mut(&key) {
                placed.retiring.retain(|other| *other != place);
            }
        } else if let Some(place) = placed.placement.filter(|place| placed.removing && gone(place)) {
            self.let_go(key, place);
            if let Some(placed) = self.placed.get_mut(&key) {
                placed.placement = None;
            }
        } else {
            return;
        }
        self.save_placed(key);
        self.report_worker(id);
        let Some(placed) = self.placed.get(&key) else { return };
        match (placed.removing && placed.places().next().is_none(), placed.wanted_again) {
            (true, true) => self.place_again(now, key),
            (true, false) => self.forget_instance(now, key),
            (false, _) => self.unfence(now, key),
        }
        self.continue_drain(now, id);
        self.retry_soon(now);
    }

    fn usage_reported(&mut self, id: WorkerId, mut usage: UsageReport) {
        for node in &mut usage.nodes {
            node.worker = Some(id);
        }
        usage.instances.retain(|usage| {
            self.placed
                .get(&usage.key)
                .and_then(|placed| placed.placement)
                .is_some_and(|placement| placement.worker == id)
        });
        for instance in &usage.instances {
            self.overlay_measured(id, instance.key, instance.cpu_percent);
        }
        self.outbox.emit(Effect::ToRoot(ClusterToRoot::Usage(usage)));
    }
}

impl Worker {
    /// Addresses of its instances.
    pub(super) fn subnets(&self) -> impl Iterator<Item = Ipv4Net> {
        self.subnet.iter().chain(&self.more_subnets).copied()
    }

    /// What placement must know about it, with its link up.
    pub(super) fn state(&self, cpu_overcommit: u32, position: Option<Position>) -> WorkerState {
        WorkerState {
            cordoned: self.availability != Availability::Open,
            unreliable: self.record.probation.is_some(),
            round_trip_us: self.round_trip_us,
            ..WorkerState::new(&self.facts, cpu_overcommit, addresses_of(self.subnets()), position)
        }
    }
}
