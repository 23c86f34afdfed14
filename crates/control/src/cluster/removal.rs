//! Removing workers that are gone for good. One step: after it nothing here refers to the worker, and what it had looks
//! for another place.

use oak_model::{InstanceKey, Moment, Now, Removal, WorkerId};

use super::{Cluster, Effect, Placed, Worker};
use crate::{Table, listing};

/// Why a worker was not removed; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkerKept {
    /// There is none with this id.
    #[error("worker {0} does not exist in this cluster")]
    Unknown(WorkerId),
    /// It is there.
    #[error(
        "worker {0} is connected: empty it with `oak drain {0} --wait`, stop oak on that machine and try again, or remove it \
         with --force (?force=true)"
    )]
    Connected(String),
    /// Something would be lost with it.
    #[error(
        "worker {name} still has {instances}: if it can come back, start it and empty it with `oak drain {name} --wait`; if it is \
         gone for good, remove it with --force (?force=true), and they are placed on other workers"
    )]
    Holds {
        /// Name of the worker.
        name: String,
        /// Number and names of its instances.
        instances: String,
    },
    /// It is there, and runs what must not run twice.
    #[error(
        "worker {name} has {instances}, of which at most one may run, and is connected, so it is not gone: empty it with \
         `oak drain {name} --wait`, or stop it (`oak down` there), and try again"
    )]
    RunsOnlyOne {
        /// Name of the worker.
        name: String,
        /// Number and names of those instances.
        instances: String,
    },
    /// It may still run what must not run twice.
    #[error(
        "worker {name} may still run {instances}, of which at most one may run, until its permission ends in {seconds} s: try again \
         then, or, if the machine is surely off, remove it with --force (?force=true)"
    )]
    MayRunOnlyOne {
        /// Name of the worker.
        name: String,
        /// Number and names of those instances.
        instances: String,
        /// How long its permission lasts at most.
        seconds: u64,
    },
}

impl Cluster {
    /// Removes a worker: it is refused from now on, and may join again only with a new token. What it had is placed
    /// elsewhere, or waits for a place.
    ///
    /// # Errors
    /// Why it stays.
    pub fn remove_worker(&mut self, now: Now, id: WorkerId, removal: Removal) -> Result<(), WorkerKept> {
        let worker = self.workers.get(&id).ok_or(WorkerKept::Unknown(id))?;
        self.check_removal(now.moment, worker, removal)?;
        if let Some(session) = worker.session {
            self.outbox.emit(Effect::Dismiss { worker: id, session });
        }
        self.workers.remove(&id);
        self.outbox.delete(Table::Worker, id);
        self.draining.remove(&id);
        self.alarms.retain(|(_, worker)| *worker != id);
        // With everything that is reserved there.
        self.fleet.remove(id);
        self.report_removal(id);
        self.overlay_removed(id);
        for key in self.held.remove(&id).unwrap_or_default() {
            self.overlay_release(key, id);
            self.leave_removed(now, key, id);
        }
        self.retry_soon(now);
        Ok(())
    }

    fn check_removal(&self, now: Moment, worker: &Worker, removal: Removal) -> Result<(), WorkerKept> {
        let name = worker.facts.name.clone();
        let is_connected = worker.session.is_some();
        if is_connected && removal == Removal::IfUnused {
            return Err(WorkerKept::Connected(name));
        }
        let is_exclusive = |placed: &Placed| placed.desired.spec.at_most_one && !placed.completed;
        if let Some(instances) = self.listed_on(worker.id, is_exclusive) {
            if is_connected {
                return Err(WorkerKept::RunsOnlyOne { name, instances });
            }
            if worker.leased_until > now && removal == Removal::IfUnused {
                let seconds = (worker.leased_until - now).as_secs() + 1;
                return Err(WorkerKept::MayRunOnlyOne { name, instances, seconds });
            }
        }
        let is_lost = |placed: &Placed| {
            let is_here = placed.placement.is_some_and(|place| place.worker == worker.id);
            is_here && !placed.removing && !placed.completed
        };
        match self.listed_on(worker.id, is_lost).filter(|_| removal == Removal::IfUnused) {
            Some(instances) => Err(WorkerKept::Holds { name, instances }),
            None => Ok(()),
        }
    }

    /// Number and names of some instances of which something may be on a worker; `None` if there are none.
    fn listed_on(&self, id: WorkerId, wanted: impl Fn(&Placed) -> bool) -> Option<String> {
        let held = self.held.get(&id).into_iter().flatten().filter_map(|key| self.placed.get(key));
        let names: Vec<_> = held
            .filter(|placed| wanted(placed))
            .map(|placed| format!("{}/{}", placed.desired.job_name, placed.desired.key.number))
            .collect();
        listing::instances(&names)
    }

    /// Takes away the places of an instance on a worker that was removed: nothing of it is left there as far as anybody
    /// will ever learn.
    fn leave_removed(&mut self, now: Now, key: InstanceKey, id: WorkerId) {
        let Some(placed) = self.placed.get_mut(&key) else { return };
        placed.retiring.retain(|place| place.worker != id);
        if placed.successor.is_some_and(|place| place.worker == id) {
            placed.successor = None;
            self.handovers.remove(&key);
            self.say_it_stays(key);
        }
        let Some(placed) = self.placed.get_mut(&key) else { return };
        if placed.placement.is_some_and(|place| place.worker == id) {
            placed.placement = None;
            if let Some(successor) = placed.successor {
                self.promote_early(key, successor);
            }
        }
        self.save_placed(key);
        let Some(placed) = self.placed.get(&key) else { return };
        match (placed.removing && placed.places().next().is_none(), placed.wanted_again) {
            (true, true) => self.place_again(now, key),
            (true, false) => self.forget_instance(now, key),
            (false, _) if placed.completed => self.report_instance(key),
            (false, _) => self.unfence(now, key),
        }
    }
}
