//! Telling the cluster, and deriving the network table from what runs.

use oak_model::message::WorkerToCluster;
use oak_model::{InstanceKey, Status};

use super::{Effect, NetworkTable, Phase, Worker};

impl Worker {
    pub(super) fn set_status(&mut self, key: InstanceKey, status: Status, detail: String) {
        let Some(workload) = self.workloads.get_mut(&key) else { return };
        if workload.status == status && workload.detail == detail {
            return;
        }
        workload.status = status;
        workload.detail = detail;
        self.report(key);
    }

    pub(super) fn report(&mut self, key: InstanceKey) {
        if let Some(workload) = self.workloads.get(&key) {
            let report = workload.report();
            self.outbox.emit(Effect::ToCluster(WorkerToCluster::Workload(report)));
        }
    }

    /// Emits the network table when it changed: only instances that can serve get new connections.
    pub(super) fn update_network(&mut self) {
        let mut table = NetworkTable::default();
        for workload in self.workloads.values() {
            let desired = &workload.stored.assignment.desired;
            // A service that is here but does not run yet keeps its address: clients are refused at once instead
            // of being sent elsewhere.
            for address in &desired.service_addresses {
                table.services.entry(*address).or_default();
            }
            let Some(address) = workload.stored.address else { continue };
            let finishes = matches!(workload.phase, Phase::Stopping { finishes: true, .. });
            if finishes || matches!(workload.phase, Phase::Running { .. }) {
                // Connections of an address that is nowhere in the table are cut.
                table.instances.insert(desired.instance_address, address);
            }
            if !workload.serves() {
                continue;
            }
            for service_address in &desired.service_addresses {
                table.services.entry(*service_address).or_default().push(address);
            }
            for port in &desired.spec.ports {
                table.ports.entry(*port).or_default().push(address);
            }
        }
        if table != self.network {
            self.network = table.clone();
            self.network_version.0 += 1;
            self.outbox.emit(Effect::Network { version: self.network_version, table });
        }
    }
}
