//! Permissions for services of which at most one may run; see `cluster::leases` for the other side.
//!
//! A permission counts from the moment of the question, by the clock of this machine alone. The runtime is told its
//! end before the process starts and with every renewal, and ends the process by itself: this program may be dead
//! or frozen by then.

use std::collections::VecDeque;
use std::time::Duration;

use oak_model::message::WorkerToCluster;
use oak_model::{Incarnation, InstanceKey, Moment, Now, Status};

use super::{Effect, Phase, Worker, Workload};

/// Time between questions until the length of a permission is known, and at least while one is missing.
const IMPATIENCE: Duration = Duration::from_secs(2);

/// Questions without an answer that are remembered.
const REMEMBERED: usize = 8;

/// A process is not started for less than this: more than the time before its end at which the runtime asks it to
/// stop, and some for creating the container. Less than what is always left of the shortest permission, which is
/// renewed after a third of it.
pub const SHORTEST_RUN: Duration = Duration::from_secs(3);

/// The questions asked, and when to ask again.
#[derive(Debug, Default)]
pub(super) struct Questions {
    asked: VecDeque<(u64, Moment)>,
    number: u64,
    ask_at: Option<Moment>,
    interval: Option<Duration>,
}

impl Questions {
    pub(super) const fn ask_at(&self) -> Option<Moment> {
        self.ask_at
    }
}

impl Workload {
    fn needs_lease(&self) -> bool {
        self.assignment().desired.spec.at_most_one && !self.stored.removing && !self.stored.completed
    }

    /// Until when a process that starts now may run; `Err` when it must not start. `Ok(None)`: for ever.
    pub(super) fn lease(&self, now: Now) -> Result<Option<Moment>, NoLease> {
        if !self.assignment().desired.spec.at_most_one {
            return Ok(None);
        }
        self.leased_until.filter(|until| *until >= now.moment + SHORTEST_RUN).map(Some).ok_or(NoLease)
    }
}

/// The cluster has not permitted it, or not for long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoLease;

impl Worker {
    /// Asks for permission if something here needs one.
    pub(super) fn ask_for_leases(&mut self, now: Now) {
        if !self.workloads.values().any(Workload::needs_lease) {
            self.leases.ask_at = None;
            return;
        }
        let questions = &mut self.leases;
        questions.number += 1;
        if questions.asked.len() == REMEMBERED {
            questions.asked.pop_front();
        }
        questions.asked.push_back((questions.number, now.moment));
        questions.ask_at = Some(now.moment + questions.interval.unwrap_or(IMPATIENCE));
        let question = questions.number;
        self.outbox.emit(Effect::ToCluster(WorkerToCluster::RenewLeases { question }));
    }

    /// A workload that needs a permission is new or was given another number.
    pub(super) fn needs_answer(&mut self, now: Now, key: InstanceKey) {
        if self.workloads.get(&key).is_some_and(Workload::needs_lease) {
            self.ask_for_leases(now);
        }
    }

    pub(super) fn ask_when_due(&mut self, now: Now) {
        if self.leases.ask_at.is_some_and(|at| at <= now.moment) {
            self.ask_for_leases(now);
        }
    }

    pub(super) fn leases_received(
        &mut self,
        now: Now,
        question: u64,
        length: Duration,
        instances: &[(InstanceKey, Incarnation)],
    ) {
        let questions = &mut self.leases;
        let Some((_, asked)) = questions.asked.iter().find(|(number, _)| *number == question).copied() else {
            return;
        };
        questions.asked.retain(|(number, _)| *number > question);
        questions.interval = Some(length / 3);
        questions.ask_at = Some(now.moment + length / 3);
        let until = asked + length;
        for (key, incarnation) in instances {
            self.permit(now, *key, *incarnation, until);
        }
    }

    fn permit(&mut self, now: Now, key: InstanceKey, incarnation: Incarnation, until: Moment) {
        let Some(workload) = self.workloads.get_mut(&key) else { return };
        if workload.incarnation() != incarnation || !workload.needs_lease() {
            return;
        }
        let until = workload.leased_until.map_or(until, |former| former.max(until));
        workload.leased_until = Some(until);
        match workload.phase {
            Phase::Starting { .. } | Phase::Running { .. } => self.outbox.emit(Effect::Lease { key, until }),
            Phase::AwaitingLease => self.start(now, key),
            Phase::Preparing { .. } | Phase::Stopping { .. } | Phase::Waiting { .. } | Phase::Completed => {}
        }
    }

    pub(super) fn await_lease(&mut self, now: Now, key: InstanceKey) {
        let Some(workload) = self.workloads.get_mut(&key) else { return };
        workload.phase = Phase::AwaitingLease;
        let detail = "waiting for the permission of the cluster, because at most one may run";
        self.set_status(key, Status::NodeScheduled, detail.to_owned());
        if self.leases.ask_at.is_none() {
            self.ask_for_leases(now);
        }
    }
}
