//! Which worker holds what: reservations and the index by worker, kept in step with the places of every instance.

use oak_model::{InstanceKey, WorkerId};

use super::{Cluster, Placement};

impl Cluster {
    /// Instances of which something may be on a worker.
    pub(super) fn held_by(&self, worker: WorkerId) -> Vec<InstanceKey> {
        self.held.get(&worker).into_iter().flatten().copied().collect()
    }

    /// Counts a place of an instance.
    pub(super) fn hold(&mut self, key: InstanceKey, place: Placement) {
        if self.held.entry(place.worker).or_default().insert(key) {
            self.overlay_hold(key, place.worker);
        }
        self.watch_bounds(key);
        let Some(placed) = self.placed.get(&key) else { return };
        if placed.completed && placed.placement == Some(place) {
            return;
        }
        let desired = &placed.desired;
        let name = desired.job_name.to_string();
        self.fleet.reserve(place.worker, key.service, &name, desired.spec.resources, &desired.spec.ports);
    }

    /// Takes back what [`Cluster::hold`] counted. The place must still be among those of the instance.
    pub(super) fn let_go(&mut self, key: InstanceKey, place: Placement) {
        let Some(placed) = self.placed.get(&key) else { return };
        if placed.places().filter(|other| other.worker == place.worker).count() < 2
            && self.held.get_mut(&place.worker).is_some_and(|held| held.remove(&key))
        {
            self.overlay_release(key, place.worker);
        }
        let Some(placed) = self.placed.get(&key) else { return };
        if placed.completed && placed.placement == Some(place) {
            return;
        }
        let spec = &placed.desired.spec;
        self.fleet.release(place.worker, key.service, spec.resources, &spec.ports);
    }

    /// Forgets a former place on `worker` that the newer place there replaces: a worker keeps one workload per
    /// instance.
    pub(super) fn superseded(&mut self, key: InstanceKey, worker: WorkerId) {
        let Some(placed) = self.placed.get(&key) else { return };
        let Some(index) = placed.retiring.iter().position(|place| place.worker == worker) else { return };
        let Some(place) = placed.retiring.get(index).copied() else { return };
        self.let_go(key, place);
        if let Some(placed) = self.placed.get_mut(&key) {
            placed.retiring.remove(index);
        }
    }
}
