//! Objects a cluster keeps. Fields marked `serde(skip)` are known only while it runs.

use ipnet::Ipv4Net;
use oak_model::message::{Assignment, DesiredInstance};
use oak_model::{Incarnation, Moment, Status, WorkerFacts, WorkerId};
use serde::{Deserialize, Serialize};

/// A worker of this cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Worker {
    /// Identity.
    pub id: WorkerId,
    /// What it last said about itself.
    pub facts: WorkerFacts,
    /// Addresses of its instances, for life. Absent while the cluster has no block to give from.
    pub subnet: Option<Ipv4Net>,
    /// Open session.
    #[serde(skip)]
    pub session: Option<u64>,
    /// When its instances are placed elsewhere if it is not back.
    #[serde(skip)]
    pub(super) lost_at: Option<Moment>,
    /// Its hello waits for a subnet.
    #[serde(skip)]
    pub(super) waiting: bool,
}

/// Where an instance runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The worker.
    pub worker: WorkerId,
    /// The attempt.
    pub incarnation: Incarnation,
}

/// An instance of this cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Placed {
    /// What the root wants.
    pub desired: DesiredInstance,
    /// Where it is.
    pub placement: Option<Placement>,
    /// It shall go; the worker has not confirmed yet.
    #[serde(default)]
    pub removing: bool,
    /// The root wants it back although its removal is under way: placed anew once the worker has confirmed.
    #[serde(default)]
    pub wanted_again: bool,
    /// A one-shot instance that ended well. Final.
    #[serde(default)]
    pub completed: bool,
    /// Status word.
    pub status: Status,
    /// One line for people.
    #[serde(default)]
    pub detail: String,
}

impl Placed {
    /// What its worker is told.
    pub(super) fn assignment(&self) -> Option<Assignment> {
        let incarnation = self.placement?.incarnation;
        Some(Assignment { incarnation, desired: self.desired.clone() })
    }
}
