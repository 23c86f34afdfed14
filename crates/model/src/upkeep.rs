//! How a service is kept: how many instances it has, which revision they run, and the update from one revision to
//! the next. Kept with the service, by the root and by every cluster, so that a half-done update survives both.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ServiceSpec;

/// Most instances a service can be told to keep.
pub const MAX_REPLICAS: u32 = 1000;

/// What happens first when an instance is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    /// The new instance runs before the old one goes: needs room for one more.
    #[default]
    StartFirst,
    /// The old one goes first: for what may not run twice, and for full machines.
    StopFirst,
}

impl UpdateOrder {
    /// The word in a descriptor.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::StartFirst => "start-first",
            Self::StopFirst => "stop-first",
        }
    }
}

/// How instances are replaced when the service changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdatePolicy {
    /// What happens first.
    pub order: UpdateOrder,
    /// Instances replaced at the same time, 1–1000.
    pub parallel: u32,
    /// Seconds a new instance must have been running before an old one goes, 0–3600. The default is longer than it takes
    /// to notice that a link is silent: until then what was last heard of an instance may not be true any more.
    pub min_ready_s: u32,
    /// Seconds a new instance may take until it runs, 1–86400; then the update is rolled back.
    pub deadline_s: u32,
}

impl Default for UpdatePolicy {
    fn default() -> Self {
        Self { order: UpdateOrder::StartFirst, parallel: 1, min_ready_s: 5, deadline_s: 180 }
    }
}

/// What a service was or is asked to be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// Its number; numbers of a service are never used again.
    pub number: u32,
    /// What to run.
    pub spec: Arc<ServiceSpec>,
    /// The descriptor as the API shows it.
    pub document: Map<String, Value>,
    /// Number of instances it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// How it wants to be updated.
    #[serde(default)]
    pub policy: UpdatePolicy,
}

/// Where an update is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RolloutState {
    /// Instances of the new revision replace those of the old one.
    Running,
    /// It failed or was called off: instances of the former revision replace those of the failed one.
    RollingBack,
    /// All instances have the new revision.
    Done,
    /// All instances have the former revision again.
    RolledBack,
}

impl RolloutState {
    /// Whether something remains to be done.
    #[must_use]
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Running | Self::RollingBack)
    }

    /// The word on the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::RollingBack => "rolling-back",
            Self::Done => "done",
            Self::RolledBack => "rolled-back",
        }
    }
}

/// The update of a service from one revision to another: the one under way, or the last one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Where it is.
    pub state: RolloutState,
    /// The revision that is left: the way back of an update, what has failed in a rollback. Absent when instances of
    /// a revision were found that nobody remembers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Revision>,
    /// Instances there shall be while it lasts.
    pub total: u32,
    /// Why it was rolled back.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Instances, revisions and updates of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Upkeep {
    /// Number of the revision the service has now.
    pub revision: u32,
    /// Highest number a revision of it ever had.
    pub highest: u32,
    /// Instances it keeps by itself; absent: those that were asked for one by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// How it is updated.
    pub policy: UpdatePolicy,
    /// Further revisions some instances have, besides the present one and that of the update.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<Revision>,
    /// The update under way, or the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
}

impl Upkeep {
    /// That of a new service.
    #[must_use]
    pub fn new(replicas: Option<u32>, policy: UpdatePolicy) -> Self {
        Self { replicas, policy, ..Self::default() }
    }

    /// Brings numbers that another machine has sent into their ranges.
    pub fn bound(&mut self) {
        let bound = |replicas: &mut Option<u32>, policy: &mut UpdatePolicy| {
            *replicas = replicas.map(|number| number.min(MAX_REPLICAS));
            policy.parallel = policy.parallel.clamp(1, MAX_REPLICAS);
            policy.min_ready_s = policy.min_ready_s.min(3_600);
            policy.deadline_s = policy.deadline_s.clamp(1, 86_400);
        };
        bound(&mut self.replicas, &mut self.policy);
        let from = self.rollout.as_mut().and_then(|rollout| rollout.from.as_mut());
        for revision in self.former.iter_mut().chain(from) {
            bound(&mut revision.replicas, &mut revision.policy);
        }
        if let Some(rollout) = &mut self.rollout {
            // There are no more addresses.
            rollout.total = rollout.total.min(1 << 16);
        }
    }

    /// Whether a service of an earlier release could be kept like this: then it is not written down.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The update that is under way.
    #[must_use]
    pub fn active(&self) -> Option<&Rollout> {
        self.rollout.as_ref().filter(|rollout| rollout.state.is_active())
    }

    /// Instances there shall be, as far as that is known: those it keeps by itself, otherwise those of its last update.
    #[must_use]
    pub fn known_total(&self) -> Option<u32> {
        self.replicas.or(self.rollout.as_ref().map(|rollout| rollout.total))
    }

    /// The revision of which an instance can be added without taking a risk: the one an update comes from.
    #[must_use]
    pub fn proven_revision(&self) -> u32 {
        let running = self.rollout.as_ref().filter(|rollout| rollout.state == RolloutState::Running);
        running.and_then(|rollout| rollout.from.as_ref()).map_or(self.revision, |from| from.number)
    }

    /// A revision besides the present one.
    #[must_use]
    pub fn other(&self, number: u32) -> Option<&Revision> {
        let from = self.rollout.iter().filter_map(|rollout| rollout.from.as_ref());
        from.chain(&self.former).find(|revision| revision.number == number)
    }
}
