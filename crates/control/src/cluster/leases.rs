//! Permissions for services of which at most one may run.
//!
//! A worker asks again and again; each answer is good for [`super::Settings::lease`], counted by the worker from the
//! moment it asked and by the cluster from the moment it answered, which is later. So the worker has always stopped
//! before the cluster places the instance elsewhere, whatever their clocks show. Nothing of this is stored: a
//! cluster that starts assumes that it has just answered everybody.

use oak_model::message::ClusterToWorker;
use oak_model::{InstanceKey, Moment, Now, WorkerId};

use super::{Cluster, Placed};

/// Time for the kill to take effect, and for clocks that run differently fast.
pub(super) const MARGIN: std::time::Duration = std::time::Duration::from_millis(500);

impl Cluster {
    pub(super) fn renew_leases(&mut self, now: Now, id: WorkerId, question: u64) {
        let lease = self.settings.lease;
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.leased_until = now.moment + lease + MARGIN;
        let instances = self
            .held
            .get(&id)
            .into_iter()
            .flatten()
            .filter_map(|key| self.placed.get(key))
            .filter(|placed| placed.desired.spec.at_most_one && !placed.removing)
            .filter_map(|placed| Some((placed.desired.key, placed.placement?)))
            .filter(|(_, place)| place.worker == id)
            .map(|(key, place)| (key, place.incarnation))
            .collect();
        let valid_for_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        self.send_to_worker(id, ClusterToWorker::Leases { question, valid_for_ms, instances });
    }

    /// Until when an instance must not be started anywhere because it may still run where it was; `None` when it
    /// cannot. `Some(None)`: until a worker that is connected has confirmed that it has stopped it.
    pub(super) fn fenced_until(&self, now: Now, key: InstanceKey) -> Option<Option<Moment>> {
        let placed = self.placed.get(&key).filter(|placed| placed.desired.spec.at_most_one)?;
        let fences =
            placed.places().filter_map(|place| self.workers.get(&place.worker)).filter_map(|worker| {
                match (worker.session, worker.leased_until) {
                    (Some(_), _) => Some(None),
                    (None, until) if until > now.moment => Some(Some(until)),
                    (None, _) => None,
                }
            });
        fences.reduce(|left, right| Some(left?.max(right?)))
    }

    /// Places instances whose former worker has confirmed, or has lost its permission.
    pub(super) fn unfence(&mut self, now: Now, key: InstanceKey) {
        let waits = |placed: &Placed| placed.placement.is_none() && !placed.removing && !placed.completed;
        if self.placed.get(&key).is_some_and(waits) {
            self.place(now, key);
        }
    }
}
