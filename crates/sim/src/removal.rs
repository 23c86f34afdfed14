//! Removing workers from their cluster, and how a machine that was removed by mistake comes back: as another worker,
//! after it has stopped and forgotten everything.

use oak_control::worker::NetworkTable;
use oak_model::Removal;

use crate::agenda::{Event, Who};
use crate::world::World;

/// Time between two attempts of a worker without a place to join.
const JOIN_MS: u64 = 1_000;

impl World {
    /// An operator removes a worker at its cluster; whether the cluster did it. It is forced only if the machine is off, or if
    /// its cluster hears from it and so knows better.
    pub(crate) fn remove_worker(&mut self, worker: usize, forced: bool) -> bool {
        let Some(side) = self.workers.get(worker) else { return false };
        let is_off = side.node.machine.is_none() && side.runtime.running().next().is_none();
        let id = side.id;
        let Some(cluster) = self.clusters.get_mut(side.cluster) else { return false };
        let mut removed = false;
        cluster.node.call(&mut self.agenda, |machine, now, _| {
            let is_connected = machine.worker(id).is_some_and(|worker| worker.session.is_some());
            let removal =
                if forced && (is_off || is_connected) { Removal::Forced } else { Removal::IfUnused };
            removed = machine.remove_worker(now, id, removal).is_ok();
            None
        });
        removed
    }

    /// Its cluster does not know a worker: it joins, once nothing is left of what it had.
    pub(crate) fn join_again(&mut self, index: usize) {
        let Some(side) = self.workers.get(index) else { return };
        let has_workloads = side.node.machine.iter().any(|machine| machine.workloads().next().is_some());
        if !has_workloads && side.runtime.containers.is_empty() {
            // Also one that never joined: its cluster crashed before the enrolment was stored, and nobody was told that it
            // had succeeded.
            self.agenda.after(JOIN_MS, Event::Join { worker: index });
            return;
        }
        self.crash(Who::Worker(index), JOIN_MS);
        let Some(side) = self.workers.get_mut(index) else { return };
        side.runtime.power_lost(&mut self.agenda);
        side.network = NetworkTable::default();
        side.node.disk.replace(crate::node::Rows::default());
    }
}
