//! Starting from stored rows and from what still runs.

use std::collections::BTreeMap;

use oak_model::{InstanceKey, Now, Status};

use super::ends::Verdict;
use super::health::Health;
use super::{Attempt, Exit, Meta, Phase, Settings, Stored, Worker, Workload};
use crate::{CorruptRow, Row, Table};

/// What the runtime found of a workload when the worker started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Its process runs.
    Running,
    /// It ended while nobody watched.
    Exited(Exit),
}

impl Stored {
    /// Whether its process ended for good while nobody watched; then that is noted.
    fn ended_unseen(&mut self, found: Option<Found>) -> bool {
        let spec = &self.assignment.desired.spec;
        let (verdict, text) = match found {
            Some(Found::Exited(exit)) => (exit.verdict(spec), exit.describe(spec.resources.memory_mib)),
            None if self.begun => {
                (Verdict::Failed, "its end was not seen; perhaps the machine was restarted".to_owned())
            }
            Some(Found::Running) | None => return false,
        };
        let ending = match verdict {
            Verdict::Again => return false,
            Verdict::Completed => text,
            Verdict::Failed => format!("{text}; not started again, because its restart policy is never"),
        };
        self.failed = verdict == Verdict::Failed;
        self.ending = ending;
        self.completed = true;
        true
    }
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
                // The others are kept by other machines.
                _ => {
                    worker.load_overlay(row)?;
                }
            }
        }
        worker.addresses.set_subnets(&worker.meta.subnets());
        let mut adopted = BTreeMap::new();
        for mut stored in stored {
            if let Some(address) = stored.address {
                worker.addresses.claim(address);
            }
            let key = stored.assignment.desired.key;
            let newly_completed = !stored.completed && stored.ended_unseen(found.get(&key).copied());
            let completed = stored.completed;
            let runs = found.get(&key) == Some(&Found::Running) && !completed;
            let attempt = worker.next_attempt();
            let (phase, status, detail) = match (completed, runs) {
                (true, _) => {
                    let status = if stored.failed { Status::Failed } else { Status::Completed };
                    (
                        Phase::Completed,
                        status,
                        if stored.ending.is_empty() { "completed" } else { &stored.ending },
                    )
                }
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
            let detail = detail.to_owned();
            let check = stored.assignment.desired.spec.healthcheck.as_ref().filter(|_| runs);
            let health = check.map(|check| Health::of_adopted(check, now.moment));
            let workload = Workload {
                stored,
                phase,
                attempt,
                failures: 0,
                next: None,
                opening: None,
                health,
                after_stop: None,
                leased_until: None,
                status,
                detail,
            };
            worker.workloads.insert(key, workload);
            if newly_completed {
                worker.save(key);
            }
            if removing {
                worker.stop(now, key, true);
            }
        }
        // Whatever the kernel has is from before the start: it may have missed the last table.
        worker.tell_network();
        Ok((worker, adopted))
    }
}
