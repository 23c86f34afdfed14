//! Starting from stored rows and from what still runs.

use std::collections::BTreeMap;

use oak_model::{InstanceKey, Now, Status};

use super::{Attempt, Exit, Meta, Phase, Settings, Stored, Worker, Workload};
use crate::address::AddressPool;
use crate::{CorruptRow, Row, Table};

/// What the runtime found of a workload when the worker started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Its process runs.
    Running,
    /// It ended while nobody watched.
    Exited(Exit),
}

impl Worker {
    /// Rebuilds the state from stored rows. Returns the attempts under which the ends of adopted processes are told.
    /// What still runs is adopted untouched; everything else that shall run is started again: when the cluster has said
    /// that it still shall, or alone after [`Settings::boot_grace`].
    ///
    /// # Errors
    /// A row that cannot be read; nothing may be guessed about it.
    pub fn load(
        settings: Settings,
        now: Now,
        rows: &[Row],
        found: &BTreeMap<InstanceKey, Found>,
    ) -> Result<(Self, BTreeMap<InstanceKey, Attempt>), CorruptRow> {
        let mut worker = Self::new(settings);
        let mut stored: Vec<Stored> = Vec::new();
        for row in rows {
            match row.table {
                Table::Meta => worker.meta = row.parse::<Meta>()?,
                Table::Workload => stored.push(row.parse()?),
                // Kept by other machines.
                _ => {}
            }
        }
        worker.addresses = worker.meta.subnet.map(|subnet| AddressPool::hosts_of(subnet).without_first());
        let mut adopted = BTreeMap::new();
        for mut stored in stored {
            if let (Some(pool), Some(address)) = (worker.addresses.as_mut(), stored.address) {
                pool.claim(address);
            }
            let key = stored.assignment.desired.key;
            let ended_well = match found.get(&key) {
                Some(Found::Exited(exit)) => exit.is_success(),
                Some(Found::Running) | None => false,
            };
            let newly_completed = ended_well && stored.assignment.desired.spec.one_shot && !stored.completed;
            stored.completed |= newly_completed;
            let completed = stored.completed;
            let runs = found.get(&key) == Some(&Found::Running) && !completed;
            let attempt = worker.next_attempt();
            let (phase, status, detail) = match (completed, runs) {
                (true, _) => (Phase::Completed, Status::Completed, "completed"),
                (false, true) => (Phase::Running { since: now.moment }, Status::Running, "running"),
                (false, false) => {
                    let until = now.moment + worker.settings.boot_grace;
                    (Phase::Waiting { until }, Status::NodeScheduled, "starting again")
                }
            };
            if runs {
                adopted.insert(key, attempt);
            }
            let removing = stored.removing;
            let workload = Workload {
                stored,
                phase,
                attempt,
                failures: 0,
                next: None,
                opening: None,
                leased_until: None,
                status,
                detail: detail.to_owned(),
            };
            worker.workloads.insert(key, workload);
            if newly_completed {
                worker.save(key);
            }
            if removing {
                worker.stop(now, key, true);
            }
        }
        worker.update_network();
        Ok((worker, adopted))
    }
}
