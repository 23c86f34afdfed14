//! How processes end, and what follows: another attempt, or the end for good.

use std::time::Duration;

use oak_model::{InstanceKey, Now, RestartPolicy, ServiceSpec, Status, WallTime};

use super::{Attempt, Phase, Worker, clock_text};
use crate::Entropy;

/// How a process ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, if it ended by itself.
    pub code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// The kernel ended it because it used more memory than it may.
    pub out_of_memory: bool,
    /// The runtime ended it because it may run only with permission, and the permission was not renewed.
    pub lease_ended: bool,
}

impl Exit {
    const fn is_success(self) -> bool {
        matches!(self.code, Some(0)) && !self.out_of_memory && !self.lease_ended
    }

    pub(super) fn describe(self, memory_mib: u32) -> String {
        if self.lease_ended {
            return "stopped, because the cluster could not renew its permission and at most one may run"
                .to_owned();
        }
        match (self.out_of_memory, self.signal, self.code) {
            (true, ..) => format!("out of memory: killed at its limit of {memory_mib} MiB"),
            (false, Some(signal), _) => format!("killed by signal {signal}"),
            (false, None, Some(code)) => format!("exited with code {code}"),
            (false, None, None) => "ended in an unknown way".to_owned(),
        }
    }

    /// What follows by the descriptor.
    pub(super) fn verdict(self, spec: &ServiceSpec) -> Verdict {
        match (self.lease_ended, spec.restart, self.is_success()) {
            // It was no end of its own.
            (true, ..) => Verdict::Again,
            (false, _, true) if spec.one_shot => Verdict::Completed,
            (false, RestartPolicy::OnFailure | RestartPolicy::Never, true) => Verdict::Completed,
            (false, RestartPolicy::Never, false) => Verdict::Failed,
            (false, RestartPolicy::Always, _) | (false, RestartPolicy::OnFailure, false) => Verdict::Again,
        }
    }
}

/// What follows the end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Another attempt.
    Again,
    /// It has done what it should. Final.
    Completed,
    /// It has failed and gets no other attempt. Final.
    Failed,
}

/// What a workload that is being stopped becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AfterStop {
    /// Waits for its next attempt.
    Wait(oak_model::Moment),
    /// It has failed for good; the text says why.
    End(String),
}

impl Worker {
    /// The process ended.
    pub fn exited(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        key: InstanceKey,
        attempt: Attempt,
        exit: Exit,
    ) {
        let Some(workload) = self.current(key, attempt) else { return };
        if !matches!(workload.phase, Phase::Running { .. }) {
            return;
        }
        let spec = &workload.stored.assignment.desired.spec;
        let text = exit.describe(spec.resources.memory_mib);
        let verdict = exit.verdict(spec);
        self.count_end(now, key, exit.lease_ended);
        match verdict {
            Verdict::Completed => self.finish(now, key, Status::Completed, &text),
            Verdict::Failed => self.finish(now, key, Status::Failed, &text),
            Verdict::Again => {
                let status = match (exit.lease_ended, exit.is_success()) {
                    (true, _) => Status::NodeScheduled,
                    (false, true) => Status::Dead,
                    (false, false) => Status::Failed,
                };
                self.wait(now, entropy, key, status, &text);
                self.update_network();
            }
        }
    }

    /// A process that ran long enough, or did not end by itself, begins with the shortest delay again.
    fn count_end(&mut self, now: Now, key: InstanceKey, is_forgiven: bool) {
        let healthy_after = self.settings.healthy_after;
        let Some(workload) = self.workloads.get_mut(&key) else { return };
        let Phase::Running { since } = workload.phase else { return };
        if is_forgiven || now.moment - since >= healthy_after {
            workload.failures = 0;
        }
        workload.stored.restarts = workload.stored.restarts.saturating_add(1);
    }

    /// It has ended for good.
    fn finish(&mut self, now: Now, key: InstanceKey, status: Status, why: &str) {
        let Some(workload) = self.workloads.get_mut(&key) else { return };
        let detail = match status {
            Status::Failed => {
                format!(
                    "{why} at {}; not started again, because its restart policy is never",
                    clock_text(now.wall)
                )
            }
            _ => format!("{why} at {}", clock_text(now.wall)),
        };
        workload.stored.completed = true;
        workload.stored.failed = status == Status::Failed;
        workload.stored.ending.clone_from(&detail);
        workload.phase = Phase::Completed;
        workload.attempt = Attempt::default();
        self.save(key);
        self.update_network();
        self.set_status(key, status, detail);
    }

    /// A running process breaks a rule: it is ended, and what follows is as if it had failed by itself.
    pub(super) fn give_up(&mut self, now: Now, entropy: &mut dyn Entropy, key: InstanceKey, why: &str) {
        self.count_end(now, key, false);
        let delay = self.next_delay(entropy, key);
        let Some(workload) = self.workloads.get_mut(&key) else { return };
        let never = workload.stored.assignment.desired.spec.restart == RestartPolicy::Never;
        let (after, detail) = if never {
            (AfterStop::End(why.to_owned()), format!("{why}; stopping it for good"))
        } else {
            (AfterStop::Wait(now.moment + delay), format!("{why}; {}", next_attempt(now, delay)))
        };
        self.set_status(key, Status::Failed, detail);
        self.stop(now, key, false);
        if let Some(workload) = self.workloads.get_mut(&key) {
            workload.after_stop = Some(after);
        }
    }

    /// The container has written more than it may.
    pub fn overfull(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        key: InstanceKey,
        attempt: Attempt,
        written_bytes: u64,
    ) {
        let Some(workload) = self.current(key, attempt) else { return };
        let limit = workload.stored.assignment.desired.spec.resources.storage_mib;
        if !matches!(workload.phase, Phase::Running { .. }) || limit == 0 {
            return;
        }
        let why =
            format!("out of storage: {} MiB written, limit {limit} MiB", written_bytes.div_ceil(1 << 20));
        self.give_up(now, entropy, key, &why);
    }

    /// What was given up is stopped.
    pub(super) fn after_stop(&mut self, now: Now, key: InstanceKey, after: AfterStop) {
        match after {
            AfterStop::End(why) => self.finish(now, key, Status::Failed, &why),
            AfterStop::Wait(until) => {
                if let Some(workload) = self.workloads.get_mut(&key) {
                    workload.phase = Phase::Waiting { until: until.max(now.moment) };
                    workload.attempt = Attempt::default();
                }
            }
        }
    }

    pub(super) fn wait(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        key: InstanceKey,
        status: Status,
        why: &str,
    ) {
        let delay = self.next_delay(entropy, key);
        let Some(workload) = self.workloads.get_mut(&key) else { return };
        workload.phase = Phase::Waiting { until: now.moment + delay };
        // Results of the ended attempt are history now.
        workload.attempt = Attempt::default();
        self.set_status(key, status, format!("{why}; {}", next_attempt(now, delay)));
    }

    fn next_delay(&mut self, entropy: &mut dyn Entropy, key: InstanceKey) -> Duration {
        let Some(workload) = self.workloads.get_mut(&key) else { return Duration::ZERO };
        let delay = self.settings.restart.delay(workload.failures, entropy);
        workload.failures = workload.failures.saturating_add(1);
        delay
    }
}

fn next_attempt(now: Now, delay: Duration) -> String {
    let at = clock_text(WallTime(now.wall.0 + u64::try_from(delay.as_millis()).unwrap_or(0)));
    format!("next attempt at {at} (in {:.0} s)", delay.as_secs_f64().ceil())
}
