//! Health checks: when to try, and what follows. The shell tries, and tells the outcome.
//!
//! An instance with a health check serves after the first success, and until as many failures in a row as its
//! descriptor allows; then it is stopped and started again. While it has never succeeded it is tried every second, and
//! has its start period and the time of the allowed failures for that.

use std::time::Duration;

use oak_model::{HealthCheck, InstanceKey, Moment, Now, Status};

use super::{Attempt, Effect, Phase, Worker, Workload};
use crate::Entropy;

/// Longest time between two tries of an instance that has not succeeded yet.
const IMPATIENCE: Duration = Duration::from_secs(1);

/// A try without any outcome so long after its time-out has failed: whoever tried is stuck.
const LOST: Duration = Duration::from_secs(60);

/// What is known of the health of a running instance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Health {
    /// It serves.
    ready: bool,
    /// Failures in a row since it serves.
    failures: u32,
    /// A try is under way.
    trying: bool,
    /// The next try, or when the one under way counts as failed.
    next: Moment,
    /// Without a success until then it has failed.
    ready_by: Moment,
}

impl Health {
    /// Of a process that starts now.
    pub(super) fn of_new(check: &HealthCheck, now: Moment) -> Self {
        let allowed = seconds(check.interval_s).saturating_mul(check.retries);
        let ready_by = now + seconds(check.start_period_s) + allowed;
        Self { ready: false, failures: 0, trying: false, next: now, ready_by }
    }

    /// Of a process that was found running: it serves until the opposite is known.
    pub(super) fn of_adopted(check: &HealthCheck, now: Moment) -> Self {
        Self { ready: true, next: now + seconds(check.interval_s), ..Self::of_new(check, now) }
    }
}

impl Workload {
    /// Whether new connections may be sent to it.
    #[must_use]
    pub fn serves(&self) -> bool {
        matches!(self.phase, Phase::Running { .. }) && self.health.is_none_or(|health| health.ready)
    }

    fn check(&self) -> Option<&HealthCheck> {
        self.assignment().desired.spec.healthcheck.as_ref()
    }

    /// When its health is the next thing to look after.
    pub(super) fn health_due(&self) -> Option<Moment> {
        self.health.filter(|_| matches!(self.phase, Phase::Running { .. })).map(|health| health.next)
    }
}

impl Worker {
    /// Begins the tries that are due, and gives up those without an outcome.
    pub(super) fn try_health(&mut self, now: Now, entropy: &mut dyn Entropy) {
        let is_due = |workload: &&Workload| workload.health_due().is_some_and(|at| at <= now.moment);
        let due: Vec<_> = self
            .workloads
            .values()
            .filter(is_due)
            .map(|workload| (workload.key(), workload.attempt))
            .collect();
        for (key, attempt) in due {
            let trying = self.workloads.get(&key).and_then(|w| w.health).is_some_and(|health| health.trying);
            if trying {
                self.probed(now, entropy, key, attempt, Err("the check itself got stuck".to_owned()));
            } else {
                self.probe(now, key);
            }
        }
    }

    fn probe(&mut self, now: Now, key: InstanceKey) {
        let Some(workload) = self.workloads.get_mut(&key) else { return };
        let Some(check) = workload.check().cloned() else { return };
        let (Some(health), Some(address)) = (workload.health.as_mut(), workload.stored.address) else {
            return;
        };
        let timeout = seconds(check.timeout_s);
        health.trying = true;
        health.next = now.moment + timeout + LOST;
        let attempt = workload.attempt;
        self.outbox.emit(Effect::Probe { key, attempt, probe: check.probe, address, timeout });
    }

    /// A try of a health check ended; the text says what went wrong.
    pub fn probed(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        key: InstanceKey,
        attempt: Attempt,
        outcome: Result<(), String>,
    ) {
        let Some(workload) = self.workloads.get_mut(&key).filter(|workload| workload.attempt == attempt)
        else {
            return;
        };
        let Some(check) = workload.check().cloned() else { return };
        let is_running = matches!(workload.phase, Phase::Running { .. });
        let Some(health) = workload.health.as_mut().filter(|health| is_running && health.trying) else {
            return;
        };
        health.trying = false;
        let interval = seconds(check.interval_s);
        let was_ready = health.ready;
        health.ready |= outcome.is_ok();
        health.next = now.moment + if health.ready { interval } else { interval.min(IMPATIENCE) };
        match (outcome, was_ready) {
            (Ok(()), false) => self.open(key),
            (Ok(()), true) => {
                if std::mem::take(&mut health.failures) > 0 {
                    self.say_it_runs(key, None);
                }
            }
            (Err(why), false) if now.moment >= health.ready_by => {
                let patience =
                    check.start_period_s.saturating_add(check.interval_s.saturating_mul(check.retries));
                let why = format!("its health check did not succeed within {patience} s: {why}");
                self.give_up(now, entropy, key, &why);
            }
            (Err(why), false) => {
                self.set_status(key, Status::Created, format!("waiting for its health check: {why}"));
            }
            (Err(why), true) => {
                health.failures = health.failures.saturating_add(1);
                let (failures, most) = (health.failures, check.retries);
                if failures >= most {
                    let why = format!("unhealthy: its health check failed {failures} times in a row: {why}");
                    self.give_up(now, entropy, key, &why);
                } else {
                    let detail = format!("running, but {failures} of {most} health checks failed: {why}");
                    self.set_status(key, Status::Running, detail);
                }
            }
        }
    }
}

fn seconds(number: u32) -> Duration {
    Duration::from_secs(number.into())
}
