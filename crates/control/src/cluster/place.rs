//! Choosing the worker of an instance, and trying again.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use oak_model::message::{ClusterToWorker, DesiredInstance};
use oak_model::{InstanceKey, Moment, Now, Status, WorkerId};
use oak_placement::Request;

use super::{Cluster, Placement};

/// Freed capacity is offered to waiting instances after this time, so that a burst of changes costs one pass.
const SETTLE: Duration = Duration::from_millis(100);

/// Waiting instances tried in one pass; the next pass takes the rest.
const BATCH: usize = 1_000;

impl Cluster {
    /// When [`Cluster::tick`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Moment> {
        let lost = self.workers.values().filter_map(|worker| worker.lost_at).min();
        match (lost, self.retry_at) {
            (Some(lost), Some(retry)) => Some(lost.min(retry)),
            (lost, retry) => lost.or(retry),
        }
    }

    /// Does what is due: gives up silent workers, tries waiting instances again.
    pub fn tick(&mut self, now: Now) {
        let lost: Vec<_> = self
            .workers
            .values()
            .filter(|worker| worker.lost_at.is_some_and(|at| at <= now.moment))
            .map(|worker| worker.id)
            .collect();
        for worker in lost {
            self.give_up(now, worker);
        }
        if self.retry_at.is_none_or(|at| at > now.moment) {
            return;
        }
        self.retry_at = None;
        let start = self.retried_up_to.take().map_or(Bound::Unbounded, Bound::Excluded);
        let waiting: Vec<_> = self.pending.range((start, Bound::Unbounded)).copied().take(BATCH).collect();
        if waiting.len() == BATCH {
            self.retried_up_to = waiting.last().copied();
        }
        for key in waiting {
            self.pending.remove(&key);
            self.place(now, key);
        }
        if !self.pending.is_empty() {
            let pause = if self.retried_up_to.is_none() { self.settings.retry_interval } else { SETTLE };
            self.retry_at = Some(now.moment + pause);
        }
    }

    pub(super) fn retry_soon(&mut self, now: Now) {
        if self.pending.is_empty() {
            return;
        }
        let soon = now.moment + SETTLE;
        self.retry_at = Some(self.retry_at.map_or(soon, |at| at.min(soon)));
    }

    /// A worker stayed away too long: its instances look for another place.
    fn give_up(&mut self, now: Now, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.lost_at = None;
        }
        let orphans: Vec<_> = self
            .placed
            .values()
            .filter(|placed| placed.placement.is_some_and(|placement| placement.worker == id))
            .filter(|placed| !placed.removing && !placed.completed)
            .map(|placed| placed.desired.key)
            .collect();
        for key in orphans {
            self.place(now, key);
        }
    }

    /// Finds a worker for an instance that has none, or whose worker went silent. An instance never loses its old
    /// place without getting a new one: the silent worker may come back with everything still running.
    pub(super) fn place(&mut self, now: Now, key: InstanceKey) {
        let Some(placed) = self.placed.get(&key) else { return };
        if placed.removing || placed.completed {
            return;
        }
        let previous = placed.placement;
        let is_back =
            |worker: WorkerId| self.workers.get(&worker).is_some_and(|worker| worker.session.is_some());
        if previous.is_some_and(|previous| is_back(previous.worker)) {
            return;
        }
        let choice = self.fleet.place(&request(&placed.desired, previous.map(|previous| previous.worker)));
        match choice {
            Ok(worker) => self.assign(key, worker),
            Err(refusal) => {
                let detail = match previous.and_then(|previous| self.workers.get(&previous.worker)) {
                    Some(lost) => format!(
                        "worker {} is unreachable and no other can take it: {refusal}",
                        lost.facts.name
                    ),
                    None => refusal.to_string(),
                };
                self.wait(now, key, refusal.status(), detail);
            }
        }
        // Also when nothing changed: the root looks for another cluster whenever it hears of a refusal.
        self.report_instance(key);
    }

    /// Its removal was confirmed, but the root wanted it back meanwhile.
    pub(super) fn place_again(&mut self, now: Now, key: InstanceKey) {
        let Some(placed) = self.placed.get_mut(&key) else { return };
        let placement = placed.placement.take();
        let counted = !std::mem::replace(&mut placed.completed, false);
        placed.removing = false;
        placed.wanted_again = false;
        let spec = Arc::clone(&placed.desired.spec);
        if let Some(placement) = placement.filter(|_| counted) {
            self.fleet.release(placement.worker, key.service, spec.resources, &spec.ports);
            self.report_worker(placement.worker);
        }
        self.save_placed(key);
        self.place(now, key);
        self.retry_soon(now);
    }

    /// Leaves an instance waiting for a place.
    fn wait(&mut self, now: Now, key: InstanceKey, status: Status, detail: String) {
        self.pending.insert(key);
        let later = now.moment + self.settings.retry_interval;
        self.retry_at = Some(self.retry_at.map_or(later, |at| at.min(later)));
        let Some(placed) = self.placed.get_mut(&key) else { return };
        if placed.status != status || placed.detail != detail {
            placed.status = status;
            placed.detail = detail;
            self.save_placed(key);
        }
    }

    fn assign(&mut self, key: InstanceKey, worker: WorkerId) {
        self.meta.incarnation.0 += 1;
        let placement = Placement { worker, incarnation: self.meta.incarnation };
        self.save_meta();
        let Some(placed) = self.placed.get_mut(&key) else { return };
        let previous = placed.placement.replace(placement);
        placed.status = Status::NodeScheduled;
        "waiting for the worker".clone_into(&mut placed.detail);
        let desired = placed.desired.clone();
        let assignment = placed.assignment();
        self.save_placed(key);
        if let Some(previous) = previous {
            self.fleet.release(previous.worker, key.service, desired.spec.resources, &desired.spec.ports);
            self.report_worker(previous.worker);
        }
        let name = desired.job_name.to_string();
        self.fleet.reserve(worker, key.service, &name, desired.spec.resources, &desired.spec.ports);
        if let Some(assignment) = assignment {
            self.send_to_worker(worker, ClusterToWorker::Assign(assignment));
        }
        self.report_worker(worker);
    }
}

fn request(desired: &DesiredInstance, avoid: Option<WorkerId>) -> Request<'_> {
    Request {
        service: desired.key.service,
        resources: desired.spec.resources,
        architectures: &desired.spec.architectures,
        workers: &desired.spec.target.workers,
        ports: &desired.spec.ports,
        avoid,
    }
}
