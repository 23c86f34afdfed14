//! What happens to a worker: orders of its cluster, results of its operations, the passing of time.

use std::time::Duration;

use oak_model::message::{Assignment, ClusterToWorker, WorkerToCluster, WorkerWelcome};
use oak_model::{Incarnation, InstanceKey, Now, Status};

use super::{Attempt, Effect, Phase, Stored, TableVersion, Worker, Workload, clock_text};
use crate::address::AddressPool;
use crate::{Entropy, Table};

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
    pub(super) const fn is_success(self) -> bool {
        matches!(self.code, Some(0)) && !self.out_of_memory && !self.lease_ended
    }

    fn describe(self, memory_mib: u32) -> String {
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
}

impl Worker {
    /// The cluster answered with everything this worker shall run.
    pub fn welcome(&mut self, now: Now, welcome: WorkerWelcome) {
        if self.meta.subnet != Some(welcome.subnet) {
            self.meta.subnet = Some(welcome.subnet);
            self.outbox.put(Table::Meta, "worker", &self.meta);
            self.addresses = Some(AddressPool::hosts_of(welcome.subnet).without_first());
        }
        let unwanted: Vec<_> = self
            .workloads
            .values()
            .filter(|workload| !welcome.assignments.iter().any(|a| a.desired.key == workload.key()))
            .map(|workload| (workload.key(), workload.newest_incarnation()))
            .collect();
        // What was lost stops before anything new starts.
        for (key, incarnation) in unwanted {
            self.remove(now, key, incarnation);
        }
        for assignment in welcome.assignments {
            self.assign(now, assignment);
        }
        self.start_what_waited_for_the_cluster(now);
        self.update_network();
        self.ask_for_leases(now);
        self.outbox.emit(Effect::ReportUsage);
    }

    /// After a start of this program nothing that was lost meanwhile shall run even for a moment.
    fn start_what_waited_for_the_cluster(&mut self, now: Now) {
        let waits =
            |workload: &&Workload| matches!(workload.phase, Phase::Waiting { .. }) && workload.failures == 0;
        let keys: Vec<_> = self.workloads.values().filter(waits).map(Workload::key).collect();
        for key in keys {
            self.prepare(now, key);
        }
    }

    /// An order of the cluster.
    pub fn message(&mut self, now: Now, message: ClusterToWorker) {
        match message {
            ClusterToWorker::Assign(assignment) => self.assign(now, assignment),
            ClusterToWorker::Remove { key, incarnation } => {
                if self.workloads.contains_key(&key) {
                    self.remove(now, key, incarnation);
                } else {
                    self.outbox.emit(Effect::ToCluster(WorkerToCluster::Removed { key, incarnation }));
                }
            }
            ClusterToWorker::ReportUsage => self.outbox.emit(Effect::ReportUsage),
            ClusterToWorker::Leases { question, valid_for_ms, instances } => {
                self.leases_received(now, question, Duration::from_millis(valid_for_ms), &instances);
            }
        }
        self.update_network();
    }

    fn assign(&mut self, now: Now, mut assignment: Assignment) {
        let key = assignment.desired.key;
        let Some(workload) = self.workloads.get_mut(&key) else {
            self.insert(now, assignment);
            return;
        };
        if assignment.incarnation < workload.newest_incarnation() {
            return;
        }
        assignment.desired.keep_material_of(&workload.stored.assignment.desired.material);
        if workload.stored.removing {
            let newer = assignment.incarnation > workload.incarnation();
            if newer {
                workload.next = Some(assignment);
            }
            return;
        }
        // Whatever was to follow the current stop is older than this.
        workload.next = None;
        let same_process = assignment.desired.spec == workload.stored.assignment.desired.spec
            && assignment.desired.instance_address == workload.stored.assignment.desired.instance_address;
        if same_process {
            // A new number for what runs already: the cluster may have lost its memory, the process need not.
            if workload.stored.assignment != assignment {
                workload.stored.assignment = assignment;
                self.save(key);
                self.report(key);
                self.needs_answer(now, key);
            }
            return;
        }
        workload.next = Some(assignment);
        self.stop(now, key, false);
    }

    fn insert(&mut self, now: Now, assignment: Assignment) {
        let key = assignment.desired.key;
        let address = self.addresses.as_mut().and_then(AddressPool::allocate);
        let stored = Stored { assignment, address, removing: false, completed: false, restarts: 0 };
        let workload = Workload {
            stored,
            phase: Phase::Waiting { until: now.moment },
            attempt: Attempt::default(),
            failures: 0,
            next: None,
            opening: None,
            leased_until: None,
            status: Status::NodeScheduled,
            detail: String::new(),
        };
        self.workloads.insert(key, workload);
        self.save(key);
        self.needs_answer(now, key);
        self.prepare(now, key);
    }

    fn remove(&mut self, now: Now, key: InstanceKey, incarnation: Incarnation) {
        let Some(workload) = self.workloads.get_mut(&key) else { return };
        if workload.newest_incarnation() > incarnation {
            return;
        }
        workload.next = None;
        let already = std::mem::replace(&mut workload.stored.removing, true);
        // The confirmation names the newest incarnation that is gone: one that waited for the stop of an older one
        // is gone with it, and the cluster asks about that one.
        let newest = workload.stored.assignment.incarnation.max(incarnation);
        let renamed = std::mem::replace(&mut workload.stored.assignment.incarnation, newest) != newest;
        if renamed || !already {
            self.save(key);
        }
        if !already {
            self.stop(now, key, true);
        }
    }

    pub(super) fn prepare(&mut self, now: Now, key: InstanceKey) {
        let attempt = self.next_attempt();
        let deadline = now.moment + self.settings.prepare_timeout;
        let Some(workload) = self.workloads.get_mut(&key) else { return };
        workload.attempt = attempt;
        workload.phase = Phase::Preparing { deadline };
        let image = workload.stored.assignment.desired.spec.image.clone();
        self.outbox.emit(Effect::Prepare { key, attempt, image });
        self.set_status(key, Status::NodeScheduled, "fetching the image".to_owned());
    }

    pub(super) fn stop(&mut self, now: Now, key: InstanceKey, forget: bool) {
        let attempt = self.next_attempt();
        let deadline = now.moment + self.settings.stop_timeout;
        let grace = self.settings.stop_grace;
        let Some(workload) = self.workloads.get_mut(&key) else { return };
        workload.attempt = attempt;
        workload.phase = Phase::Stopping { deadline };
        self.outbox.emit(Effect::Stop { key, attempt, grace, forget });
        self.update_network();
    }

    fn current(&mut self, key: InstanceKey, attempt: Attempt) -> Option<&mut Workload> {
        self.workloads.get_mut(&key).filter(|workload| workload.attempt == attempt)
    }

    /// The image is here.
    pub fn prepared(&mut self, now: Now, key: InstanceKey, attempt: Attempt) {
        if self.current(key, attempt).is_none_or(|w| !matches!(w.phase, Phase::Preparing { .. })) {
            return;
        }
        self.start(now, key);
    }

    /// Starts what is prepared, if it may run.
    pub(super) fn start(&mut self, now: Now, key: InstanceKey) {
        let deadline = now.moment + self.settings.start_timeout;
        let Some(lease) = self.workloads.get(&key).map(|workload| workload.lease(now)) else { return };
        let Ok(lease) = lease else {
            self.await_lease(now, key);
            return;
        };
        // A workload that came before the node had a subnet gets its address here.
        let missing = self.workloads.get(&key).is_some_and(|workload| workload.stored.address.is_none());
        if missing {
            let address = self.addresses.as_mut().and_then(AddressPool::allocate);
            if let Some(workload) = self.workloads.get_mut(&key) {
                workload.stored.address = address;
            }
            self.save(key);
        }
        let attempt = self.next_attempt();
        let Some(workload) = self.workloads.get_mut(&key) else { return };
        let Some(address) = workload.stored.address else {
            let attempt = workload.attempt;
            self.failed(now, &mut NoJitter, key, attempt, "all addresses of the node's subnet are in use");
            return;
        };
        workload.attempt = attempt;
        workload.phase = Phase::Starting { deadline };
        let assignment = Box::new(workload.stored.assignment.clone());
        self.outbox.emit(Effect::Start { key, attempt, assignment, address, lease });
        self.set_status(key, Status::Creating, "creating the container".to_owned());
    }

    /// The pull goes on; `detail` says how far it is.
    pub fn progress(&mut self, now: Now, key: InstanceKey, attempt: Attempt, detail: String) {
        let deadline = now.moment + self.settings.prepare_timeout;
        let Some(workload) = self.current(key, attempt) else { return };
        if !matches!(workload.phase, Phase::Preparing { .. }) {
            return;
        }
        workload.phase = Phase::Preparing { deadline };
        self.set_status(key, Status::NodeScheduled, detail);
    }

    /// The process runs. It counts as running once its addresses answer, too.
    pub fn started(&mut self, now: Now, key: InstanceKey, attempt: Attempt) {
        let Some(workload) = self.current(key, attempt) else { return };
        if !matches!(workload.phase, Phase::Starting { .. }) {
            return;
        }
        workload.phase = Phase::Running { since: now.moment };
        self.update_network();
        let version = self.network_version;
        if let Some(workload) = self.workloads.get_mut(&key) {
            workload.opening = Some(version);
        }
        if version > self.network_applied {
            self.set_status(key, Status::Creating, "opening its addresses".to_owned());
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
                matches!(workload.phase, Phase::Running { .. })
                    .then_some((workload.key(), workload.stored.restarts))
            })
            .collect();
        for (key, restarts) in open {
            let detail = match (problem, restarts) {
                (Some(problem), _) => format!("running, but its addresses do not work: {problem}"),
                (None, 0) => "running".to_owned(),
                (None, restarts) => format!("running, restarted {restarts} times"),
            };
            self.set_status(key, Status::Running, detail);
        }
    }

    /// A pull or a start failed. The text says what happened and what to do.
    pub fn failed(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        key: InstanceKey,
        attempt: Attempt,
        why: &str,
    ) {
        let Some(workload) = self.current(key, attempt) else { return };
        if !matches!(workload.phase, Phase::Preparing { .. } | Phase::Starting { .. }) {
            return;
        }
        self.wait(now, entropy, key, Status::Failed, why);
    }

    /// The process ended.
    pub fn exited(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        key: InstanceKey,
        attempt: Attempt,
        exit: Exit,
    ) {
        let healthy_after = self.settings.healthy_after;
        let Some(workload) = self.current(key, attempt) else { return };
        let Phase::Running { since } = workload.phase else { return };
        if now.moment - since >= healthy_after || exit.lease_ended {
            workload.failures = 0;
        }
        workload.stored.restarts = workload.stored.restarts.saturating_add(1);
        let spec = &workload.stored.assignment.desired.spec;
        let text = exit.describe(spec.resources.memory_mib);
        if spec.one_shot && exit.is_success() {
            workload.stored.completed = true;
            workload.phase = Phase::Completed;
            self.save(key);
            self.update_network();
            self.set_status(key, Status::Completed, format!("{text} at {}", clock_text(now.wall)));
            return;
        }
        let status = match (exit.lease_ended, exit.is_success()) {
            (true, _) => Status::NodeScheduled,
            (false, true) => Status::Dead,
            (false, false) => Status::Failed,
        };
        self.wait(now, entropy, key, status, &text);
        self.update_network();
    }

    fn wait(&mut self, now: Now, entropy: &mut dyn Entropy, key: InstanceKey, status: Status, why: &str) {
        let Some(workload) = self.workloads.get_mut(&key) else { return };
        let delay = self.settings.restart.delay(workload.failures, entropy);
        workload.failures = workload.failures.saturating_add(1);
        workload.phase = Phase::Waiting { until: now.moment + delay };
        // Results of the ended attempt are history now.
        workload.attempt = Attempt::default();
        let next =
            clock_text(oak_model::WallTime(now.wall.0 + u64::try_from(delay.as_millis()).unwrap_or(0)));
        let detail = format!("{why}; next attempt at {next} (in {})", seconds(delay));
        self.set_status(key, status, detail);
    }

    /// Nothing of the container is left.
    pub fn stopped(&mut self, now: Now, key: InstanceKey, attempt: Attempt) {
        let Some(workload) = self.current(key, attempt) else { return };
        if !matches!(workload.phase, Phase::Stopping { .. }) {
            return;
        }
        let next = workload.next.take();
        let address = workload.stored.address;
        let incarnation = workload.incarnation();
        if workload.stored.removing {
            self.workloads.remove(&key);
            self.outbox.delete(Table::Workload, key);
            if let (Some(pool), Some(address)) = (self.addresses.as_mut(), address) {
                pool.release(address);
            }
            self.outbox.emit(Effect::ToCluster(WorkerToCluster::Removed { key, incarnation }));
            if let Some(assignment) = next {
                self.insert(now, assignment);
            }
        } else {
            if let Some(assignment) = next {
                workload.stored.assignment = assignment;
                workload.stored.completed = false;
                workload.failures = 0;
                self.save(key);
            }
            self.prepare(now, key);
        }
        self.update_network();
    }

    /// Does what is due: next attempts, and operations that took too long.
    pub fn tick(&mut self, now: Now, entropy: &mut dyn Entropy) {
        let due: Vec<_> = self
            .workloads
            .values()
            .filter(|workload| workload.phase.deadline().is_some_and(|at| at <= now.moment))
            .map(|workload| (workload.key(), workload.attempt, workload.phase.clone()))
            .collect();
        for (key, attempt, phase) in due {
            match phase {
                Phase::Waiting { .. } => self.prepare(now, key),
                Phase::Preparing { .. } => {
                    self.failed(now, entropy, key, attempt, "the image pull made no progress");
                }
                Phase::Starting { .. } => {
                    // Whatever hangs there is taken down before the next attempt.
                    self.set_status(
                        key,
                        Status::Failed,
                        "the start took too long; removing what hangs".to_owned(),
                    );
                    self.stop(now, key, false);
                }
                Phase::Stopping { .. } => {
                    let forget = self.workloads.get(&key).is_some_and(|workload| workload.stored.removing);
                    self.stop(now, key, forget);
                }
                Phase::AwaitingLease | Phase::Running { .. } | Phase::Completed => {}
            }
        }
        self.ask_when_due(now);
    }
}

fn seconds(delay: Duration) -> String {
    format!("{:.0} s", delay.as_secs_f64().ceil())
}

/// For a delay whose exact length does not matter.
struct NoJitter;

impl Entropy for NoJitter {
    fn next_u64(&mut self) -> u64 {
        0
    }
}
