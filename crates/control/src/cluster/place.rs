//! Choosing the worker of an instance, and trying again.

use std::collections::BTreeSet;
use std::time::Duration;

use oak_model::message::{ClusterToWorker, DesiredInstance};
use oak_model::{Incarnation, InstanceKey, Moment, Now, Status, WorkerId};
use oak_placement::Request;

use super::state::Reliability;
use super::{Cluster, Placement};

impl Cluster {
    /// When [`Cluster::tick`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Moment> {
        let alarm = self.alarms.first().map(|(at, _)| *at);
        let handovers = self.handovers.values().map(|(_, at)| *at);
        let settled = self.overlay_deadline();
        handovers.chain(alarm).chain(self.pending.deadline()).chain(self.next_look).chain(settled).min()
    }

    /// Does what is due: gives up silent workers, tries waiting instances again.
    pub fn tick(&mut self, now: Now) {
        let due = self.alarms_due(now.moment);
        let is_due = |at: Option<Moment>| at.is_some_and(|at| at <= now.moment);
        for id in &due {
            if self.workers.get(id).is_some_and(|worker| is_due(worker.lost_at)) {
                self.give_up(now, *id);
            }
        }
        self.hand_over(now);
        self.settle_overlay(now);
        self.look_at_bounds(now);
        for id in &due {
            if let Some(worker) = self.workers.get_mut(id).filter(|worker| is_due(worker.record.probation)) {
                worker.record.probation = None;
                self.fleet.set_unreliable(*id, false);
            }
        }
        let Some(waiting) = self.pending.begin_pass(now.moment) else { return };
        for key in waiting {
            self.place(now, key);
        }
        for worker in self.draining.clone() {
            self.continue_drain(now, worker);
        }
        self.pending.end_pass(now.moment, self.settings.retry_interval);
    }

    pub(super) fn retry_soon(&mut self, now: Now) {
        let still_held = |worker: &WorkerId| self.held.get(worker).is_some_and(|keys| !keys.is_empty());
        if !self.pending.is_empty() || self.draining.iter().any(still_held) {
            self.pending.due_soon(now.moment);
        }
    }

    /// A worker stayed away too long: its instances look for another place.
    fn give_up(&mut self, now: Now, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.lost_at = None;
            worker.is_restarting = false;
            worker.record.count_loss(now.moment);
        }
        self.overlay_of_worker(id);
        for key in self.held_by(id) {
            let Some(placed) = self.placed.get(&key) else { continue };
            if placed.successor.is_some_and(|place| place.worker == id) {
                self.abandon_move(key);
                self.say_it_stays(key);
                continue;
            }
            if placed.removing || placed.completed || placed.placement.is_some_and(|place| place.worker != id)
            {
                continue;
            }
            match placed.successor {
                // It was about to leave anyway.
                Some(successor) => self.promote_early(key, successor),
                None => self.place(now, key),
            }
        }
        // What was moving there begins again.
        for worker in self.draining.clone() {
            self.continue_drain(now, worker);
        }
    }

    /// Finds a worker for an instance that has none, or whose worker went silent. An instance never loses its old
    /// place without getting a new one: the silent worker may come back with everything still running.
    pub(super) fn place(&mut self, now: Now, key: InstanceKey) {
        let Some(placed) = self.placed.get(&key) else { return };
        if placed.removing || placed.completed {
            return;
        }
        let previous = placed.placement.and_then(|previous| self.workers.get(&previous.worker));
        if previous.is_some_and(|worker| worker.session.is_some()) {
            return;
        }
        if previous.is_some_and(|worker| worker.lost_at.is_some_and(|at| at > now.moment)) {
            // It may still come back in time; if not, it is given up and this is asked again.
            return;
        }
        if let Some(until) = self.fenced_until(now, key) {
            self.wait_for_fence(now, key, until);
            self.report_instance(key);
            return;
        }
        let choice = self.fleet.place(&request(&placed.desired, previous.map(|worker| worker.id)));
        match choice {
            Ok(worker) => self.assign(key, worker),
            Err(refusal) => {
                let detail = match previous {
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
        placed.completed = false;
        placed.removing = false;
        placed.wanted_again = false;
        self.save_placed(key);
        self.place(now, key);
        self.retry_soon(now);
    }

    /// At most one may run, and the former one may still do so.
    fn wait_for_fence(&mut self, now: Now, key: InstanceKey, until: Option<Moment>) {
        let Some(placed) = self.placed.get(&key) else { return };
        let names: Vec<_> = placed.places().map(|place| self.worker_name(place.worker)).collect();
        let names = names.join(", ");
        let detail = match until {
            Some(_) => format!(
                "worker {names} is unreachable; placed elsewhere when its permission has ended, because at most one may run"
            ),
            None => format!("waiting until worker {names} has stopped it, because at most one may run"),
        };
        self.wait(now, key, Status::ClusterScheduled, detail);
        if let Some(until) = until {
            self.pending.due_by(until);
        }
    }

    /// Leaves an instance waiting for a place.
    pub(super) fn wait(&mut self, now: Now, key: InstanceKey, status: Status, detail: String) {
        self.pending.insert(key);
        self.pending.due_by(now.moment + self.settings.retry_interval);
        let Some(placed) = self.placed.get_mut(&key) else { return };
        if placed.status != status || placed.detail != detail {
            placed.status = status;
            placed.detail = detail;
            self.save_placed(key);
        }
    }

    fn assign(&mut self, key: InstanceKey, worker: WorkerId) {
        let former = self.placed.get(&key).and_then(|placed| placed.placement);
        if let Some(former) = former {
            self.let_go(key, former);
            if let Some(placed) = self.placed.get_mut(&key) {
                placed.placement = None;
            }
        }
        self.superseded(key, worker);
        self.pending.remove(key);
        let placement = Placement { worker, incarnation: self.next_incarnation() };
        let organization = self.organization_of(key);
        let Some(placed) = self.placed.get_mut(&key) else { return };
        placed.placement = Some(placement);
        placed.status = Status::NodeScheduled;
        "waiting for the worker".clone_into(&mut placed.detail);
        let assignment = placed.assignment(placement, organization);
        self.hold(key, placement);
        self.save_placed(key);
        self.send_to_worker(worker, ClusterToWorker::Assign(assignment));
        for worker in former.map(|former| former.worker).into_iter().chain([worker]) {
            self.report_worker(worker);
        }
        self.widen(worker);
    }

    pub(super) fn next_incarnation(&mut self) -> Incarnation {
        self.meta.incarnation.0 += 1;
        self.save_meta();
        self.meta.incarnation
    }

    pub(super) fn worker_name(&self, id: WorkerId) -> String {
        self.workers.get(&id).map_or_else(|| id.to_string(), |worker| worker.facts.name.clone())
    }

    /// Workers whose alarms have gone off, each once.
    fn alarms_due(&mut self, now: Moment) -> BTreeSet<WorkerId> {
        let mut due = BTreeSet::new();
        while let Some((_, id)) = self.alarms.first().copied().filter(|(at, _)| *at <= now) {
            self.alarms.pop_first();
            due.insert(id);
        }
        due
    }
}

/// First probation of a worker that was given up; doubles with every further loss.
const PROBATION: Duration = Duration::from_secs(15);

/// Longest probation.
const LONGEST_PROBATION: Duration = Duration::from_secs(600);

/// A worker that was not lost for so long starts over.
const FORGIVEN_AFTER: Duration = Duration::from_secs(1_800);

impl Reliability {
    fn count_loss(&mut self, now: Moment) {
        let forgiven = self.lost.is_none_or(|lost| now - lost > FORGIVEN_AFTER);
        self.losses = if forgiven { 1 } else { self.losses.saturating_add(1) };
        self.lost = Some(now);
    }

    /// How long a worker that comes back gets nothing it need not take: none after the first loss, which is usually
    /// a reboot.
    pub(super) fn probation(&self, now: Moment) -> Option<Duration> {
        self.lost.filter(|lost| now - *lost <= FORGIVEN_AFTER)?;
        let doublings = self.losses.checked_sub(2)?;
        Some((PROBATION * 2_u32.saturating_pow(doublings.min(16))).min(LONGEST_PROBATION))
    }
}

pub(super) fn request(desired: &DesiredInstance, avoid: Option<WorkerId>) -> Request<'_> {
    Request {
        service: desired.key.service,
        resources: desired.spec.resources,
        architectures: &desired.spec.architectures,
        volumes: &desired.spec.volumes,
        ports: &desired.spec.ports,
        target: &desired.spec.target,
        surroundings: &desired.surroundings,
        avoid,
    }
}
