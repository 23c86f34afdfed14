//! Workers: sessions and what they report.

use oak_model::message::{
    Assignment, ClusterToRoot, UsageReport, WorkerHello, WorkerToCluster, WorkerWelcome, WorkloadReport,
};
use oak_model::{Incarnation, InstanceKey, Now, Status, WorkerId};
use oak_placement::WorkerState;

use super::{Cluster, Effect, Placement, addresses_of};
use crate::counter::LARGEST_LEAP;

impl Cluster {
    /// Whether a worker belongs to this cluster; others are refused.
    #[must_use]
    pub fn knows_worker(&self, id: WorkerId) -> bool {
        self.workers.contains_key(&id)
    }

    /// A worker connected. Answers with everything it shall run, as soon as it has a subnet.
    pub fn worker_opened(&mut self, now: Now, id: WorkerId, session: u64, address: &str, hello: WorkerHello) {
        let subnet = match self.workers.get(&id) {
            None => return,
            Some(worker) => worker.subnet.or_else(|| self.allocate_subnet()),
        };
        let overcommit = self.settings.cpu_overcommit;
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let mut facts = hello.facts;
        // The name was settled when the worker enrolled.
        facts.name.clone_from(&worker.facts.name);
        if facts.address.is_empty() {
            address.clone_into(&mut facts.address);
        }
        let changed = worker.facts != facts || worker.subnet != subnet;
        worker.facts = facts;
        worker.subnet = subnet;
        worker.session = Some(session);
        worker.lost_at = None;
        worker.waiting = subnet.is_none();
        self.fleet.upsert(id, WorkerState::new(&worker.facts, overcommit, addresses_of(subnet)));
        if changed {
            self.save_worker(id);
        }
        for report in hello.workloads {
            self.saw_incarnation(id, &report);
            self.workload_reported(id, report);
        }
        self.keep_returned(id);
        if subnet.is_some() {
            self.welcome_worker(id);
        } else {
            self.request_node_block();
        }
        self.report_worker(id);
        self.retry_soon(now);
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
            self.placed
                .get(key)
                .and_then(|placed| placed.placement)
                .is_some_and(|placement| placement.worker == id)
        };
        let returned: Vec<_> = self.pending.iter().copied().filter(is_here).collect();
        for key in returned {
            self.pending.remove(&key);
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
        let assignments: Vec<Assignment> = self
            .placed
            .values()
            .filter(|placed| {
                placed.placement.is_some_and(|placement| placement.worker == id) && !placed.removing
            })
            .filter_map(super::Placed::assignment)
            .collect();
        let welcome = WorkerWelcome { subnet, assignments };
        self.outbox.emit(Effect::Welcome { worker: id, session, welcome });
        // What is being removed is not in the welcome; the worker confirms each removal it still has to do, and
        // this asks for the confirmation of those it has already done.
        let removals: Vec<_> = self
            .placed
            .values()
            .filter(|placed| placed.removing)
            .filter_map(|placed| Some((placed.desired.key, placed.placement?)))
            .filter(|(_, placement)| placement.worker == id)
            .collect();
        for (key, placement) in removals {
            let message =
                oak_model::message::ClusterToWorker::Remove { key, incarnation: placement.incarnation };
            self.send_to_worker(id, message);
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
            let overcommit = self.settings.cpu_overcommit;
            let Some(worker) = self.workers.get_mut(&id) else { continue };
            worker.waiting = false;
            worker.subnet = Some(subnet);
            let connected = worker.session.is_some();
            self.fleet.upsert(id, WorkerState::new(&worker.facts, overcommit, addresses_of(Some(subnet))));
            self.fleet.set_connected(id, connected);
            self.save_worker(id);
            self.welcome_worker(id);
            self.report_worker(id);
        }
        self.retry_soon(now);
    }

    /// The link to a worker ended: suspect at once, given up when it is not back in time.
    pub fn worker_closed(&mut self, now: Now, id: WorkerId, session: u64) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.session == Some(session)) else {
            return;
        };
        worker.session = None;
        worker.lost_at = Some(now.moment + self.settings.lost_after);
        self.fleet.set_connected(id, false);
        self.report_worker(id);
    }

    /// A message of a worker. Messages of ended sessions are ignored: the next hello tells everything.
    pub fn worker_message(&mut self, now: Now, id: WorkerId, session: u64, message: WorkerToCluster) {
        if self.workers.get(&id).is_none_or(|worker| worker.session != Some(session)) {
            return;
        }
        match message {
            WorkerToCluster::Workload(report) => self.workload_reported(id, report),
            WorkerToCluster::Removed { key, incarnation } => self.workload_removed(now, id, key, incarnation),
            WorkerToCluster::Usage(usage) => self.usage_reported(id, usage),
        }
    }

    fn workload_reported(&mut self, id: WorkerId, report: WorkloadReport) {
        let key = report.key;
        let placement = Placement { worker: id, incarnation: report.incarnation };
        let Some(placed) = self.placed.get_mut(&key).filter(|placed| placed.placement == Some(placement))
        else {
            return;
        };
        if placed.removing || (placed.status == report.status && placed.detail == report.detail) {
            return;
        }
        placed.status = report.status;
        placed.detail = report.detail;
        self.pending.remove(&key);
        if report.status == Status::Completed && !placed.completed {
            placed.completed = true;
            let spec = std::sync::Arc::clone(&placed.desired.spec);
            self.fleet.release(id, key.service, spec.resources, &spec.ports);
            self.save_placed(key);
            self.report_worker(id);
        }
        self.report_instance(key);
    }

    fn workload_removed(&mut self, now: Now, id: WorkerId, key: InstanceKey, incarnation: Incarnation) {
        let Some(placed) = self.placed.get(&key).filter(|placed| placed.removing) else { return };
        let current = placed.placement.is_some_and(|p| p.worker == id && p.incarnation <= incarnation);
        if !current {
            return;
        }
        if placed.wanted_again {
            self.place_again(now, key);
        } else {
            self.forget_instance(now, key);
        }
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
        self.outbox.emit(Effect::ToRoot(ClusterToRoot::Usage(usage)));
    }
}
