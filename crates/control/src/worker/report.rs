//! Telling the cluster, and deriving the network table from what runs.

use std::net::Ipv4Addr;

use oak_model::message::WorkerToCluster;
use oak_model::{Balancing, InstanceKey, Status};

use super::{Effect, NetworkTable, Phase, TableVersion, Worker};

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

    /// It can serve. It counts as running once its addresses lead to it.
    pub(super) fn open(&mut self, key: InstanceKey) {
        self.update_network();
        let version = self.network_version;
        let Some(workload) = self.workloads.get_mut(&key) else { return };
        workload.opening = Some(version);
        let status = if workload.health.is_some() { Status::Created } else { Status::Creating };
        if version > self.network_applied {
            self.set_status(key, status, "opening its addresses".to_owned());
        } else {
            self.opened(None);
        }
    }

    /// The kernel has this table now, or could not be given it: then `problem` says why, and what runs is reported
    /// as running with that remark.
    pub fn network_applied(&mut self, version: TableVersion, problem: Option<&str>) {
        self.network_applied = self.network_applied.max(version);
        self.opened(problem);
    }

    fn opened(&mut self, problem: Option<&str>) {
        let applied = self.network_applied;
        let open: Vec<_> = self
            .workloads
            .values_mut()
            .filter(|workload| workload.opening.is_some_and(|version| version <= applied))
            .filter_map(|workload| {
                workload.opening = None;
                workload.serves().then_some(workload.key())
            })
            .collect();
        for key in open {
            self.say_it_runs(key, problem);
        }
    }

    pub(super) fn say_it_runs(&mut self, key: InstanceKey, problem: Option<&str>) {
        let restarts = self.workloads.get(&key).map_or(0, |workload| workload.stored.restarts);
        let detail = match (problem, restarts) {
            (Some(problem), _) => format!("running, but its addresses do not work: {problem}"),
            (None, 0) => "running".to_owned(),
            (None, restarts) => format!("running, restarted {restarts} times"),
        };
        self.set_status(key, Status::Running, detail);
    }

    /// Emits the network table when it changed: only instances that can serve get new connections.
    pub(super) fn update_network(&mut self) {
        if self.present_network() != self.network {
            self.tell_network();
        }
    }

    /// Emits the network table.
    pub(super) fn tell_network(&mut self) {
        let table = self.present_network();
        self.network = table.clone();
        self.network_version.0 += 1;
        self.outbox.emit(Effect::Network { version: self.network_version, table: Box::new(table) });
    }

    pub(super) fn present_network(&self) -> NetworkTable {
        let mut table = NetworkTable::default();
        for workload in self.workloads.values() {
            let desired = &workload.stored.assignment.desired;
            // A service that is here but does not run yet keeps its address: clients are refused at once instead
            // of being sent elsewhere.
            if self.is_open(desired.key.service) {
                for (policy, address) in desired.addresses() {
                    table.know(policy, address);
                }
            }
            let Some(address) = workload.stored.address else { continue };
            // Connections of an address that is nowhere in the table are cut.
            match workload.phase {
                Phase::Running { .. } => {
                    table.instances.insert(desired.instance_address, address);
                }
                // Its address may have been given to another one already.
                Phase::Stopping { finishes: true, .. } => {
                    table.instances.entry(desired.instance_address).or_insert(address);
                }
                _ => {}
            }
            if !workload.serves() {
                continue;
            }
            for (policy, service_address) in desired.addresses() {
                if !self.is_open(desired.key.service) {
                    table.untold.insert(service_address);
                }
                table.know(policy, service_address).push(address);
            }
            for port in &desired.spec.ports {
                table.ports.entry(*port).or_default().push(address);
            }
        }
        self.add_overlay(&mut table);
        self.balance(&mut table);
        self.add_tenants(&mut table);
        table
    }
}

impl NetworkTable {
    /// What an address of a service leads to; nothing so far if it is new.
    pub(super) fn know(&mut self, policy: Balancing, address: Ipv4Addr) -> &mut Vec<Ipv4Addr> {
        if policy != Balancing::RoundRobin {
            self.policies.insert(address, policy);
        }
        self.services.entry(address).or_default()
    }
}
