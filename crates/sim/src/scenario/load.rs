//! What users want, what they change all the time, and what goes wrong at random.

use oak_model::{InvalidName, Name, Resources};
use serde::Deserialize;

use super::amount::millis;
use super::{Memory, Share, Span};

/// A service the user deploys.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Name of the application and of its service.
    pub name: Name,
    /// When it is created, milliseconds.
    pub at_ms: u64,
    /// Instances wanted at first.
    pub instances: usize,
    /// What each needs.
    pub resources: Resources,
    /// It completes.
    pub one_shot: bool,
    /// Never two processes of one instance, not even while a worker cannot be reached.
    pub at_most_one: bool,
    /// How long its processes run before they end, milliseconds; absent for ever.
    pub runs_for_ms: Option<u64>,
    /// Host ports each instance needs.
    pub ports: Vec<u16>,
    /// Clusters that may take it; empty for all.
    pub clusters: Vec<String>,
    /// Workers that may take it; empty for all.
    pub workers: Vec<String>,
    /// Instances asked for per second while it is being deployed.
    pub deploys_per_second: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct WorkloadEntry {
    pub(super) name: String,
    /// So many workloads alike, with a number from 0 behind their names.
    copies: Option<u32>,
    #[serde(default)]
    at: Span,
    #[serde(default = "one")]
    instances: usize,
    #[serde(default)]
    cpu: f64,
    #[serde(default = "Memory::none")]
    memory: Memory,
    #[serde(default = "Memory::none")]
    storage: Memory,
    #[serde(default)]
    one_shot: bool,
    #[serde(default)]
    at_most_one: bool,
    runs_for: Option<Span>,
    #[serde(default)]
    ports: Vec<u16>,
    #[serde(default)]
    clusters: Vec<String>,
    #[serde(default)]
    workers: Vec<String>,
    #[serde(default = "thousand")]
    deploys_per_second: u64,
}

const fn one() -> usize {
    1
}

const fn thousand() -> u64 {
    1_000
}

impl WorkloadEntry {
    pub(super) fn understood(self) -> Result<Vec<Workload>, String> {
        let names = match self.copies {
            None => vec![self.name.clone()],
            Some(copies @ 1..=1_000) => (0..copies).map(|copy| format!("{}{copy}", self.name)).collect(),
            Some(_) => return Err("`copies` must be from 1 to 1000".to_owned()),
        };
        let names: Result<Vec<Name>, _> = names.iter().map(|name| name.parse()).collect();
        let names = names.map_err(|error: InvalidName| format!("`name`: {error}"))?;
        if !(0.0..=1_000.0).contains(&self.cpu) {
            return Err(format!("`cpu` is {}: write a number of cores from 0 to 1000", self.cpu));
        }
        if !(1..=1_000_000).contains(&self.deploys_per_second) {
            return Err("`deploys-per-second` must be from 1 to 1000000".to_owned());
        }
        if self.ports.contains(&0) {
            return Err("`ports` holds 0: write ports from 1 to 65535".to_owned());
        }
        if self.one_shot && self.runs_for.is_none() {
            return Err("`runs-for` is missing: how long does the one-shot service take?".to_owned());
        }
        let alike = |name| Workload {
            name,
            at_ms: self.at.ms,
            instances: self.instances,
            resources: Resources {
                cpu_millis: millis(self.cpu),
                memory_mib: self.memory.mib(),
                storage_mib: self.storage.mib(),
                gpus: 0,
            },
            one_shot: self.one_shot,
            at_most_one: self.at_most_one,
            runs_for_ms: self.runs_for.as_ref().map(|span| span.ms),
            ports: self.ports.clone(),
            clusters: self.clusters.clone(),
            workers: self.workers.clone(),
            deploys_per_second: self.deploys_per_second,
        };
        Ok(names.into_iter().map(alike).collect())
    }
}

/// Comings and goings: a change every so often, of kinds in proportion to their weights.
#[derive(Clone, Debug)]
pub struct Churn {
    /// From when, milliseconds.
    pub from_ms: u64,
    /// Until when, milliseconds.
    pub until_ms: u64,
    /// Mean pause between two changes, milliseconds.
    pub every_ms: u64,
    /// An instance more, of any service.
    pub deploy: u64,
    /// An instance less.
    pub undeploy: u64,
    /// A new application with one to three services of random size.
    pub create: u64,
    /// A service with all its instances goes.
    pub delete_service: u64,
    /// An application with everything in it goes.
    pub delete_application: u64,
    /// An application with one instance at a cluster, past the root.
    pub deploy_locally: u64,
    /// A service gets another number of instances to keep.
    pub scale: u64,
    /// A service is updated to another image.
    pub update: u64,
    /// A service is updated to an image that does not run.
    pub break_service: u64,
    /// A running instance calls a service.
    pub call: u64,
    /// No instance is added while there are this many.
    pub most_instances: usize,
    /// Largest memory of a random service, MiB.
    pub memory_mib: u32,
    /// Largest CPU of a random service, thousandths of a core.
    pub cpu_millis: u32,
    /// Share of random services that are picky about places and ports.
    pub picky: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct ChurnEntry {
    #[serde(default)]
    from: Span,
    pub(super) until: Option<Span>,
    every: Span,
    #[serde(default)]
    deploy: u64,
    #[serde(default)]
    undeploy: u64,
    #[serde(default)]
    create: u64,
    #[serde(default)]
    delete_service: u64,
    #[serde(default)]
    delete_application: u64,
    #[serde(default)]
    deploy_locally: u64,
    #[serde(default)]
    scale: u64,
    #[serde(default)]
    update: u64,
    #[serde(default, rename = "break")]
    break_service: u64,
    #[serde(default)]
    call: u64,
    #[serde(default = "no_limit")]
    most_instances: usize,
    #[serde(default = "Memory::none")]
    memory: Memory,
    #[serde(default)]
    cpu: f64,
    #[serde(default)]
    picky: Share,
}

const fn no_limit() -> usize {
    usize::MAX
}

impl ChurnEntry {
    pub(super) fn understood(self, end_ms: u64) -> Result<Churn, String> {
        let weights = [
            self.deploy,
            self.undeploy,
            self.create,
            self.delete_service,
            self.delete_application,
            self.deploy_locally,
            self.scale,
            self.update,
            self.break_service,
            self.call,
        ];
        if weights.iter().all(|weight| *weight == 0) || weights.iter().any(|weight| *weight > 1_000_000) {
            return Err("give at least one of `deploy`, `undeploy`, `create`, `delete-service`, \
                        `delete-application`, `deploy-locally`, `scale`, `update`, `break` and `call` a weight from 1 to 1000000"
                .to_owned());
        }
        if self.every.ms == 0 {
            return Err("`every` must be at least 1ms".to_owned());
        }
        if !(0.0..=1_000.0).contains(&self.cpu) {
            return Err(format!("`cpu` is {}: write a number of cores from 0 to 1000", self.cpu));
        }
        Ok(Churn {
            from_ms: self.from.ms,
            until_ms: self.until.map_or(end_ms, |until| until.ms),
            every_ms: self.every.ms,
            deploy: self.deploy,
            undeploy: self.undeploy,
            create: self.create,
            delete_service: self.delete_service,
            delete_application: self.delete_application,
            deploy_locally: self.deploy_locally,
            scale: self.scale,
            update: self.update,
            break_service: self.break_service,
            call: self.call,
            most_instances: self.most_instances,
            memory_mib: self.memory.mib(),
            cpu_millis: millis(self.cpu),
            picky: self.picky.value(),
        })
    }
}

/// How often each kind of random fault comes, in proportion to the others.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Weights {
    /// A session breaks.
    pub cut: u64,
    /// A link carries nothing, either way.
    pub partition: u64,
    /// A link carries nothing, one way.
    pub one_way: u64,
    /// An agent crashes.
    pub crash: u64,
    /// A machine loses power.
    pub power: u64,
    /// A wall clock jumps.
    pub clock: u64,
    /// A disk becomes slow.
    pub slow_disk: u64,
    /// A disk is full for a while.
    pub full_disk: u64,
    /// A link loses many segments for a while.
    pub lossy: u64,
    /// An agent says goodbye and is started again, as for an upgrade.
    pub restart: u64,
    /// A worker is cordoned, drained or opened again.
    pub availability: u64,
    /// A worker is removed from its cluster, if its cluster agrees, and joins again.
    pub removal: u64,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            cut: 17,
            partition: 10,
            one_way: 4,
            crash: 17,
            power: 4,
            clock: 3,
            slow_disk: 3,
            full_disk: 2,
            lossy: 4,
            restart: 3,
            availability: 3,
            removal: 0,
        }
    }
}

/// Faults at random.
#[derive(Clone, Debug)]
pub struct RandomFaults {
    /// From when, milliseconds.
    pub from_ms: u64,
    /// Until when, milliseconds.
    pub until_ms: u64,
    /// Mean pause between two faults, milliseconds.
    pub every_ms: u64,
    /// What lasts lasts up to this long, milliseconds.
    pub longest_ms: u64,
    /// Kinds.
    pub weights: Weights,
    /// Share of pulls, starts and stops that fail.
    pub operations_fail: f64,
    /// Share of them that take far too long.
    pub operations_hang: f64,
    /// Share of processes that end by themselves within twenty seconds.
    pub processes_die: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RandomEntry {
    #[serde(default)]
    from: Span,
    pub(super) until: Option<Span>,
    every: Span,
    #[serde(default = "half_a_minute")]
    longest: Span,
    #[serde(default)]
    weights: Weights,
    #[serde(default)]
    operations_fail: Share,
    #[serde(default)]
    operations_hang: Share,
    #[serde(default)]
    processes_die: Share,
}

const fn half_a_minute() -> Span {
    Span::of_ms(30_000)
}

impl RandomEntry {
    pub(super) fn understood(self, end_ms: u64) -> Result<RandomFaults, String> {
        if self.every.ms == 0 {
            return Err("`every` must be at least 1ms".to_owned());
        }
        if self.longest.ms < 1_000 {
            return Err("`longest` must be at least 1s".to_owned());
        }
        Ok(RandomFaults {
            from_ms: self.from.ms,
            until_ms: self.until.map_or(end_ms, |until| until.ms),
            every_ms: self.every.ms,
            longest_ms: self.longest.ms,
            weights: self.weights,
            operations_fail: self.operations_fail.value(),
            operations_hang: self.operations_hang.value(),
            processes_die: self.processes_die.value(),
        })
    }
}
