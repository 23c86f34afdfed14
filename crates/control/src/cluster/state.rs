//! Objects a cluster keeps. Fields marked `serde(skip)` are known only while it runs.

use std::net::IpAddr;

use ipnet::Ipv4Net;
use oak_model::message::{Assignment, DesiredInstance};
use oak_model::{Availability, Incarnation, Moment, OrganizationId, Status, WorkerFacts, WorkerId};
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
    /// Further ones, for life, too: it had more instances than the first one has addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_subnets: Vec<Ipv4Net>,
    /// Whether it takes instances.
    #[serde(default)]
    pub availability: Availability,
    /// Where its link comes from, if it does not have that address itself: there is a NAT in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<IpAddr>,
    /// Open session.
    #[serde(skip)]
    pub session: Option<u64>,
    /// When its instances are placed elsewhere if it is not back.
    #[serde(skip)]
    pub(super) lost_at: Option<Moment>,
    /// It said goodbye and will be back; what it has goes on.
    #[serde(skip)]
    pub(super) is_restarting: bool,
    /// Its hello waits for a subnet.
    #[serde(skip)]
    pub(super) waiting: bool,
    /// Until when it may run *at most one* instances by the last permission; they go nowhere else before.
    #[serde(skip)]
    pub(super) leased_until: Moment,
    /// Round trip to it, smoothed, microseconds.
    #[serde(skip)]
    pub round_trip_us: Option<u32>,
    /// How reliable it was lately.
    #[serde(skip)]
    pub(super) record: Reliability,
}

/// What is remembered of a worker that went away again and again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reliability {
    /// Losses in a row, without a long quiet time between them.
    pub(super) losses: u32,
    /// When it was last given up.
    pub(super) lost: Option<Moment>,
    /// Until then it gets instances only if no other worker can take them.
    pub(super) probation: Option<Moment>,
}

/// How the link to a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// It said goodbye: its agent restarts, or is upgraded.
    Left,
    /// The connection broke.
    Broken,
    /// No sign of life for as long as it takes to be sure.
    Silent,
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
    /// Where it is moving to: takes over once it runs there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<Placement>,
    /// Where it was and may still be: workers that have not confirmed that nothing is left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retiring: Vec<Placement>,
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
    /// An instance without a place.
    pub(super) fn new(desired: DesiredInstance) -> Self {
        Self {
            desired,
            placement: None,
            successor: None,
            retiring: Vec::new(),
            removing: false,
            wanted_again: false,
            completed: false,
            status: Status::ClusterScheduled,
            detail: "waiting for a worker".to_owned(),
        }
    }

    /// Every place where something of it may be.
    pub fn places(&self) -> impl Iterator<Item = Placement> + '_ {
        self.placement.into_iter().chain(self.successor).chain(self.retiring.iter().copied())
    }

    /// What the worker of one of its places is told.
    pub(super) fn assignment(&self, place: Placement, organization: Option<OrganizationId>) -> Assignment {
        Assignment { incarnation: place.incarnation, desired: self.desired.clone(), organization }
    }
}
