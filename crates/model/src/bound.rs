//! Bounds on where an instance may run: distances and round trips to areas and to other services.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Position, Service, ServiceId};

/// What must not be exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Great-circle distance, metres.
    DistanceM(u32),
    /// Time there and back, microseconds.
    RoundTripUs(u32),
}

impl Limit {
    /// The number without its unit.
    #[must_use]
    pub const fn amount(self) -> u32 {
        match self {
            Self::DistanceM(amount) | Self::RoundTripUs(amount) => amount,
        }
    }

    /// The same kind of limit with another number.
    #[must_use]
    pub const fn with_amount(self, amount: u32) -> Self {
        match self {
            Self::DistanceM(_) => Self::DistanceM(amount),
            Self::RoundTripUs(_) => Self::RoundTripUs(amount),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (amount, unit) = match self {
            Self::DistanceM(amount) => (amount, "km"),
            Self::RoundTripUs(amount) => (amount, "ms"),
        };
        write!(f, "{} {unit}", f64::from(*amount) / 1000.0)
    }
}

/// How a bound is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Strictness {
    /// `rigidness` in thousandths. [`Self::HARD`]: a place beyond the bound is not used. Less: of the places that can
    /// take the instance those win whose broken bounds weigh least together.
    pub rigidness: u16,
    /// `convergence_time`: how long a hard bound may be broken, seconds, before the instance moves to a place that
    /// keeps it.
    pub convergence_s: u32,
}

impl Strictness {
    /// Rigidness of a bound that must hold.
    pub const HARD: u16 = 1000;

    /// `convergence_time` where none is given, as the manual documents it.
    pub const DEFAULT_CONVERGENCE_S: u32 = 300;

    /// Whether the bound must hold.
    #[must_use]
    pub const fn is_hard(self) -> bool {
        self.rigidness >= Self::HARD
    }
}

impl Default for Strictness {
    fn default() -> Self {
        Self { rigidness: Self::HARD, convergence_s: Self::DEFAULT_CONVERGENCE_S }
    }
}

/// What a bound is measured to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    /// A circle on the earth.
    Around {
        /// Its centre.
        centre: Position,
        /// Its radius, metres.
        radius_m: u32,
    },
    /// A cluster of that name, and workers with the label `area=<name>`.
    Named(String),
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Around { centre, radius_m: 0 } => centre.fmt(f),
            Self::Around { centre, radius_m } => write!(f, "{centre} (radius {radius_m} m)"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// A bound to an area: constraints `geo` and `latency`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AreaBound {
    /// To where.
    pub area: Area,
    /// How far.
    pub limit: Limit,
    /// How it is meant.
    #[serde(flatten)]
    pub strictness: Strictness,
}

/// A bound to every placed instance of another service: an element of `con_constraints`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceBound {
    /// The service as the descriptor names it: its id, its full name, or its name within the application.
    pub target: String,
    /// How far.
    pub limit: Limit,
    /// How it is meant.
    #[serde(flatten)]
    pub strictness: Strictness,
}

/// What a place is measured against that is not among the workers of its cluster. The root fills it in for the
/// cluster at the moment of the decision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Surroundings {
    /// Named areas outside of this cluster, and the cluster itself: shortest round trip from the cluster, microseconds.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub areas: BTreeMap<String, u32>,
    /// Bounds between this service and others, in both directions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<PeerBound>,
}

impl Surroundings {
    /// Nothing around.
    #[must_use]
    pub const fn none() -> &'static Self {
        static NONE: Surroundings = Surroundings { areas: BTreeMap::new(), peers: Vec::new() };
        &NONE
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.areas.is_empty() && self.peers.is_empty()
    }
}

/// A [`ServiceBound`] with what it refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerBound {
    /// The service at the other end; absent when there is none of that name.
    pub peer: Option<ServiceId>,
    /// Its name, for people.
    pub name: String,
    /// Name of the service whose descriptor has the bound, and the number of the bound there.
    pub declared_by: String,
    /// Position among the bounds of that descriptor.
    pub index: usize,
    /// How far.
    pub limit: Limit,
    /// How it is meant.
    #[serde(flatten)]
    pub strictness: Strictness,
    /// Instances of the peer in other clusters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elsewhere: Vec<PeerPlace>,
}

impl PeerBound {
    /// The bound number `index` in the descriptor of `declared_by`, as the service at the other end of `peer` sees it.
    #[must_use]
    pub fn new(index: usize, bound: &ServiceBound, declared_by: &Service, peer: Option<&Service>) -> Self {
        Self {
            peer: peer.map(|peer| peer.id),
            name: peer.map_or_else(|| bound.target.clone(), |peer| peer.job_name.to_string()),
            declared_by: declared_by.job_name.to_string(),
            index,
            limit: bound.limit,
            strictness: bound.strictness,
            elsewhere: Vec::new(),
        }
    }
}

/// An instance of a peer in another cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerPlace {
    /// Round trip between this cluster and the instance, if all of its parts are measured, microseconds.
    pub round_trip_us: Option<u32>,
    /// Where its worker is, if that is known.
    pub position: Option<Position>,
}
