//! Opening and closing workers, and moving instances on purpose: the new one starts before the old one stops.
//!
//! A service of which at most one may run is stopped first. A one-shot instance is left to finish.

use oak_model::message::ClusterToWorker;
use oak_model::{Availability, InstanceKey, Moment, Now, Status, WorkerId};

use super::place::request;
use super::{Cluster, Placement};

/// Beginnings of details about moves; they are replaced when the move is given up.
const MOVING: &str = "moving to worker";
const CANNOT_LEAVE: &str = "cannot leave worker";

/// Instances of one worker that move at the same time: a drain must not load the others with everything at once.
const MOVES: usize = 10;

impl Cluster {
    /// Opens or closes a worker for instances; draining moves away what it has. False if there is no such worker.
    pub fn set_availability(&mut self, now: Now, id: WorkerId, availability: Availability) -> bool {
        let Some(worker) = self.workers.get_mut(&id) else { return false };
        if worker.availability != availability {
            worker.availability = availability;
            self.save_worker(id);
            self.fleet.set_cordoned(id, availability != Availability::Open);
        }
        if availability == Availability::Draining {
            self.draining.insert(id);
        } else if self.draining.remove(&id) {
            for key in self.held_by(id) {
                self.say_it_stays(key);
            }
        }
        // Told also when nothing changed: whoever asked waits for this.
        self.report_worker(id);
        self.continue_drain(now, id);
        self.retry_soon(now);
        true
    }

    /// Moves the next instances away from a worker that is being drained.
    pub(super) fn continue_drain(&mut self, now: Now, id: WorkerId) {
        if !self.draining.contains(&id) {
            return;
        }
        let keys = self.held_by(id);
        let mut under_way = keys.iter().filter(|key| self.is_moving_from(**key, id)).count();
        for key in keys {
            if under_way >= MOVES {
                return;
            }
            if self.start_move(now, key, id) {
                under_way += 1;
            }
        }
    }

    fn is_moving_from(&self, key: InstanceKey, id: WorkerId) -> bool {
        self.placed.get(&key).is_some_and(|placed| {
            placed.successor.is_some() || placed.retiring.iter().any(|place| place.worker == id)
        })
    }

    pub(super) fn start_move(&mut self, now: Now, key: InstanceKey, from: WorkerId) -> bool {
        let Some(placed) = self.placed.get(&key) else { return false };
        let Some(place) = placed.placement.filter(|place| place.worker == from) else { return false };
        let finishes_by_itself = placed.desired.spec.finishes_by_itself();
        if placed.successor.is_some() || placed.removing || placed.completed || finishes_by_itself {
            return false;
        }
        let worker = match self.fleet.place(&request(&placed.desired, Some(from))) {
            Ok(worker) => worker,
            Err(refusal) => {
                self.say_it_cannot_move(now, key, &refusal.to_string());
                return false;
            }
        };
        if worker == from {
            return false;
        }
        if placed.desired.spec.at_most_one {
            self.stop_before_move(now, key, place);
        } else {
            self.start_successor(key, worker);
        }
        true
    }

    fn start_successor(&mut self, key: InstanceKey, worker: WorkerId) {
        self.superseded(key, worker);
        let successor = Placement { worker, incarnation: self.next_incarnation() };
        let organization = self.organization_of(key);
        let Some(placed) = self.placed.get_mut(&key) else { return };
        placed.successor = Some(successor);
        let assignment = placed.assignment(successor, organization);
        self.hold(key, successor);
        self.save_placed(key);
        self.send_to_worker(worker, ClusterToWorker::Assign(assignment));
        self.report_worker(worker);
        self.widen(worker);
    }

    fn stop_before_move(&mut self, now: Now, key: InstanceKey, place: Placement) {
        let Some(placed) = self.placed.get_mut(&key) else { return };
        placed.placement = None;
        placed.retiring.push(place);
        self.overlay_placed(key);
        self.save_placed(key);
        let message = ClusterToWorker::Remove { key, incarnation: place.incarnation };
        self.send_to_worker(place.worker, message);
        // Says what it waits for, or places it at once if its worker is long gone.
        self.unfence(now, key);
    }

    fn say_it_cannot_move(&mut self, now: Now, key: InstanceKey, refusal: &str) {
        self.pending.due_by(now.moment + self.settings.retry_interval);
        let from = self.placed.get(&key).and_then(|placed| placed.placement).map(|place| place.worker);
        let name = from.map(|from| self.worker_name(from)).unwrap_or_default();
        let why = match from.is_some_and(|from| self.draining.contains(&from)) {
            true => "which is being drained",
            false => "which breaks a bound",
        };
        self.set_detail(key, format!("{CANNOT_LEAVE} {name}, {why}: {refusal}"));
    }

    /// The successor is not there yet: how far it is.
    pub(super) fn say_how_it_moves(&mut self, key: InstanceKey, worker: WorkerId, progress: &str) {
        let name = self.worker_name(worker);
        self.set_detail(key, format!("{MOVING} {name}: {progress}"));
    }

    /// Nothing moves it any more.
    pub(super) fn say_it_stays(&mut self, key: InstanceKey) {
        let Some(placed) = self.placed.get(&key).filter(|placed| placed.successor.is_none()) else { return };
        let was_leaving = placed.detail.starts_with(MOVING) || placed.detail.starts_with(CANNOT_LEAVE);
        let word = placed.status.as_str().to_lowercase();
        if was_leaving {
            // What its worker said before was overwritten by the move.
            self.set_detail(key, word);
        }
    }

    fn set_detail(&mut self, key: InstanceKey, detail: String) {
        let Some(placed) = self.placed.get_mut(&key) else { return };
        if placed.detail != detail {
            placed.detail = detail;
            self.report_instance(key);
        }
    }

    /// Lets successors take over that have run for long enough.
    pub(super) fn hand_over(&mut self, now: Now) {
        let due = |(_, (_, at)): &(&InstanceKey, &(Placement, Moment))| *at <= now.moment;
        let due: Vec<_> = self.handovers.iter().filter(due).map(|(key, (place, _))| (*key, *place)).collect();
        for (key, place) in due {
            self.handovers.remove(&key);
            let Some(placed) = self.placed.get_mut(&key).filter(|p| p.successor == Some(place)) else {
                continue;
            };
            let former = placed.placement.map(|former| former.worker);
            placed.status = Status::Running;
            "running".clone_into(&mut placed.detail);
            self.promote(key);
            self.report_instance(key);
            // The new worker, too, may have been closed meanwhile.
            for worker in former.into_iter().chain([place.worker]) {
                self.continue_drain(now, worker);
            }
        }
    }

    /// What it replaces is lost before the successor took over.
    pub(super) fn promote_early(&mut self, key: InstanceKey, successor: Placement) {
        // Its worker has said that it runs, and says so once only.
        let runs = self.handovers.remove(&key).is_some_and(|(place, _)| place == successor);
        let name = self.worker_name(successor.worker);
        let Some(placed) = self.placed.get_mut(&key) else { return };
        (placed.status, placed.detail) = if runs {
            (Status::Running, "running".to_owned())
        } else {
            (Status::NodeScheduled, format!("waiting for worker {name} to start it"))
        };
        self.promote(key);
        self.report_instance(key);
    }

    /// The successor serves now; what it replaces goes.
    fn promote(&mut self, key: InstanceKey) {
        let Some(placed) = self.placed.get_mut(&key) else { return };
        let Some(successor) = placed.successor.take() else { return };
        let former = placed.placement.replace(successor);
        placed.retiring.extend(former);
        self.overlay_placed(key);
        self.save_placed(key);
        if let Some(former) = former {
            let message = ClusterToWorker::Remove { key, incarnation: former.incarnation };
            self.send_to_worker(former.worker, message);
        }
    }

    /// Gives up a move: what was started elsewhere goes again.
    pub(super) fn abandon_move(&mut self, key: InstanceKey) {
        let Some(placed) = self.placed.get_mut(&key) else { return };
        let Some(successor) = placed.successor.take() else { return };
        placed.retiring.push(successor);
        self.overlay_placed(key);
        self.save_placed(key);
        let message = ClusterToWorker::Remove { key, incarnation: successor.incarnation };
        self.send_to_worker(successor.worker, message);
    }
}
