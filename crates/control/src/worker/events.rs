//! What happens to a worker: orders of its cluster, results of its operations, the passing of time.

use std::time::Duration;

use oak_model::message::{Assignment, ClusterToWorker, WorkerToCluster, WorkerWelcome};
use oak_model::{Incarnation, InstanceKey, Now, RestartPolicy, Status};

use super::health::Health;
use super::{Attempt, Effect, Meta, Phase, Stored, Worker, Workload};
use crate::{Entropy, Table};

impl Worker {
    /// The cluster answered with everything this worker shall run.
    pub fn welcome(&mut self, now: Now, welcome: WorkerWelcome) {
        let WorkerWelcome { subnet, more_subnets, vantage, .. } = welcome;
        self.set_meta(Meta { subnet: Some(subnet), more_subnets, vantage });
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
        self.connected = true;
        self.overlay_changed(welcome.overlay);
        self.repeat_questions();
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

    fn set_meta(&mut self, meta: Meta) {
        self.addresses.set_subnets(&meta.subnets());
        if self.meta != meta {
            self.meta = meta;
            self.outbox.put(Table::Meta, "worker", &self.meta);
        }
    }

    /// An order of the cluster.
    pub fn message(&mut self, now: Now, message: ClusterToWorker) {
        match message {
            ClusterToWorker::Assign(assignment) => self.assign(now, assignment),
            ClusterToWorker::MoreSubnets(more_subnets) => {
                self.set_meta(Meta { more_subnets, ..self.meta.clone() });
            }
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
            ClusterToWorker::Overlay(change) => self.overlay_changed(change),
            ClusterToWorker::NotFound(target) => self.not_found(now, target),
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
        let address = self.addresses.allocate();
        let stored = Stored::new(assignment, address);
        let workload = Workload {
            stored,
            phase: Phase::Waiting { until: now.moment },
            attempt: Attempt::default(),
            failures: 0,
            next: None,
            opening: None,
            health: None,
            after_stop: None,
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
        let Some(workload) = self.workloads.get_mut(&key) else { return };
        let grace = workload.stored.assignment.desired.spec.stop_grace_s;
        let grace = grace.map_or(self.settings.stop_grace, |grace| Duration::from_secs(grace.into()));
        let served = workload.serves() && workload.is_reachable();
        let linger = if served { self.settings.linger } else { Duration::ZERO };
        let deadline = now.moment + linger + grace + self.settings.stop_timeout;
        let finishes = match workload.phase {
            Phase::Running { .. } => true,
            Phase::Stopping { finishes, .. } => finishes,
            _ => false,
        };
        workload.attempt = attempt;
        workload.phase = Phase::Stopping { deadline, finishes };
        workload.after_stop = None;
        // First nothing new comes, then the process is asked to end.
        self.update_network();
        let after = self.network_version;
        self.outbox.emit(Effect::Stop { key, attempt, after, linger, grace, forget });
    }

    pub(super) fn current(&mut self, key: InstanceKey, attempt: Attempt) -> Option<&mut Workload> {
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
            let address = self.addresses.allocate();
            if let Some(workload) = self.workloads.get_mut(&key) {
                workload.stored.address = address;
            }
            self.save(key);
        }
        let attempt = self.next_attempt();
        let Some(workload) = self.workloads.get_mut(&key) else { return };
        let Some(address) = workload.stored.address else {
            let attempt = workload.attempt;
            self.failed(now, &mut NoJitter, key, attempt, "all addresses of the node's subnets are in use");
            return;
        };
        // From here on it may have run, whatever becomes of this program.
        let runs_once = workload.stored.assignment.desired.spec.restart == RestartPolicy::Never;
        let begins = !std::mem::replace(&mut workload.stored.begun, runs_once) && runs_once;
        workload.attempt = attempt;
        workload.phase = Phase::Starting { deadline };
        let assignment = Box::new(workload.stored.assignment.clone());
        if begins {
            self.save(key);
        }
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
        let check = workload.stored.assignment.desired.spec.healthcheck.as_ref();
        workload.health = check.map(|check| Health::of_new(check, now.moment));
        if workload.health.is_some() {
            self.update_network();
            self.set_status(key, Status::Created, "waiting for its health check".to_owned());
        } else {
            self.open(key);
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
        let begun = std::mem::take(&mut workload.stored.begun);
        if begun {
            // Its program was not executed.
            self.save(key);
        }
        self.wait(now, entropy, key, Status::Failed, why);
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
            self.overlay_left(key.service);
            self.outbox.delete(Table::Workload, key);
            if let Some(address) = address {
                self.addresses.release(address);
            }
            self.outbox.emit(Effect::ToCluster(WorkerToCluster::Removed { key, incarnation }));
            if let Some(assignment) = next {
                self.insert(now, assignment);
            }
        } else {
            let after = workload.after_stop.take();
            match (next, after) {
                (Some(assignment), _) => {
                    workload.stored = Stored::new(assignment, address);
                    workload.failures = 0;
                    self.save(key);
                    self.prepare(now, key);
                }
                (None, Some(after)) => self.after_stop(now, key, after),
                (None, None) => self.prepare(now, key),
            }
        }
        self.update_network();
    }

    /// Does what is due: next attempts, and operations that took too long.
    pub fn tick(&mut self, now: Now, entropy: &mut dyn Entropy) {
        self.tick_overlay(now);
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
                    let Some(workload) = self.workloads.get_mut(&key) else { continue };
                    let (forget, after) = (workload.stored.removing, workload.after_stop.take());
                    if let Phase::Stopping { finishes, .. } = &mut workload.phase {
                        // It had its time.
                        *finishes = false;
                    }
                    self.stop(now, key, forget);
                    if let Some(workload) = self.workloads.get_mut(&key) {
                        workload.after_stop = after;
                    }
                }
                Phase::AwaitingLease | Phase::Running { .. } | Phase::Completed => {}
            }
        }
        self.try_health(now, entropy);
        self.ask_when_due(now);
    }
}

/// For a delay whose exact length does not matter.
struct NoJitter;

impl Entropy for NoJitter {
    fn next_u64(&mut self) -> u64 {
        0
    }
}
