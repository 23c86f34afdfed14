//! A scenario: which machines there are, what runs on them, what goes wrong when, and what is expected of it.
//!
//! Scenarios are written in TOML (`docs/simulator.md`). Reading one is strict: a key nobody knows, a name that does
//! not exist, or a key that has no meaning where it stands is an error that says where it stands and what would be
//! right.

mod amount;
mod check;
mod fault;
mod load;
mod model;
mod target;

pub use amount::{Memory, Share, Span};
pub use fault::{Action, Clock, Direction, Fault};
pub use load::{Churn, RandomFaults, Weights, Workload};
pub use model::{DiskModel, Disks, LinkModel, Links, RuntimeModel, Tuning};
pub use target::Target;

use oak_model::{Architecture, Resources};
use serde::Deserialize;

use amount::Located;

/// Why a scenario cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct ScenarioError {
    /// Line in the file, from 1.
    pub line: usize,
    /// What is wrong and what would be right.
    pub problem: String,
}

/// A group of equal workers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct WorkerGroup {
    /// How many.
    pub count: usize,
    /// Beginning of their names; the cluster's name by default. A number follows.
    pub name: Option<String>,
    /// Where they stand; the cluster's site by default. A site loses power as one.
    pub site: Option<String>,
    /// Cores of each.
    #[serde(default = "four")]
    pub cpu: f64,
    /// Memory of each for services.
    #[serde(default = "Memory::eight_gib")]
    pub memory: Memory,
    /// Disk of each for services.
    #[serde(default = "Memory::hundred_gib")]
    pub storage: Memory,
    /// Processor of each.
    #[serde(default = "amd64")]
    pub architecture: Architecture,
}

const fn four() -> f64 {
    4.0
}

const fn amd64() -> Architecture {
    Architecture::Amd64
}

impl WorkerGroup {
    /// What each of them has.
    #[must_use]
    pub fn capacity(&self) -> Resources {
        Resources {
            cpu_millis: amount::millis(self.cpu),
            memory_mib: self.memory.mib(),
            storage_mib: self.storage.mib(),
            gpus: 0,
        }
    }
}

/// A cluster and its workers at the beginning.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ClusterEntry {
    /// Its name.
    pub name: String,
    /// Where its own machine stands; its name by default.
    pub site: Option<String>,
    /// Its workers.
    #[serde(default)]
    pub workers: Vec<WorkerGroup>,
}

impl ClusterEntry {
    /// Where its own machine stands.
    #[must_use]
    pub fn site(&self) -> &str {
        self.site.as_deref().unwrap_or(&self.name)
    }
}

/// What must be true for the run to count as good. What is absent is not checked.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Expect {
    /// A new instance runs at the latest this long after it was asked for.
    pub start_within: Option<Span>,
    /// An instance that stopped running through no fault of its own runs again at the latest after this time.
    pub recover_within: Option<Span>,
    /// This long after the last fault and the last change everywhere is what it should be.
    pub settle_within: Option<Span>,
    /// Instances that may be without a place at the end, each with a reason. Without it: none when
    /// `settle-within` is given.
    pub unplaced_at_most: Option<usize>,
    /// Share of the instances wanted that run at every moment, from the time the first workloads were up.
    pub running_at_least: Option<Share>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Document {
    #[serde(default)]
    title: String,
    duration: Span,
    #[serde(default = "one")]
    seed: u64,
    #[serde(default)]
    cluster: Vec<Located<ClusterEntry>>,
    #[serde(default)]
    links: Links,
    #[serde(default)]
    disks: Disks,
    #[serde(default)]
    runtime: RuntimeModel,
    #[serde(default)]
    tuning: Tuning,
    #[serde(default)]
    workload: Vec<Located<load::WorkloadEntry>>,
    churn: Option<Located<load::ChurnEntry>>,
    #[serde(default)]
    fault: Vec<Located<fault::FaultEntry>>,
    random: Option<Located<load::RandomEntry>>,
    #[serde(default)]
    expect: Expect,
}

const fn one() -> u64 {
    1
}

/// A scenario that makes sense.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it is about, one line.
    pub title: String,
    /// Virtual time to simulate, milliseconds.
    pub duration_ms: u64,
    /// Seed if none is given.
    pub seed: u64,
    /// Clusters and their workers at the beginning.
    pub clusters: Vec<ClusterEntry>,
    /// Properties of the links.
    pub links: Links,
    /// Properties of the disks.
    pub disks: Disks,
    /// How long containers take, and how often they go wrong.
    pub runtime: RuntimeModel,
    /// Settings of the machines.
    pub tuning: Tuning,
    /// What the users want.
    pub workloads: Vec<Workload>,
    /// Further comings and goings.
    pub churn: Option<Churn>,
    /// What goes wrong, in order of time.
    pub faults: Vec<Fault>,
    /// What goes wrong at random.
    pub random: Option<RandomFaults>,
    /// What must come of it.
    pub expect: Expect,
}

impl Scenario {
    /// Reads a scenario.
    ///
    /// # Errors
    /// The first thing in it that makes no sense.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let document = toml::from_str(text).map_err(|error| ScenarioError {
            line: check::line_of(text, error.span().map_or(0, |span| span.start)),
            problem: error.message().trim().replace('\n', " "),
        })?;
        check::checked(text, document)
    }

    /// When nothing goes wrong and nobody changes anything any more, milliseconds.
    #[must_use]
    pub fn calm_from_ms(&self) -> u64 {
        let faults = self.faults.iter().map(|fault| fault.at_ms + fault.lasts_ms.unwrap_or(0));
        let workloads = self.workloads.iter().map(|workload| workload.at_ms);
        let random = self.random.iter().map(|random| random.until_ms);
        let churn = self.churn.iter().map(|churn| churn.until_ms);
        faults.chain(workloads).chain(random).chain(churn).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
