//! How far a worker is from areas and from instances of other services.
//!
//! Every hop that is measured counts as measured: between two workers of a cluster the packets of the link pass the
//! cluster, so the sum of both round trips is an upper bound of what a direct way takes. To a circle on the earth
//! there is nothing to measure; there the hop of the worker is added to the time light takes in glass.

use oak_model::{Area, Limit, PeerBound, PeerPlace, Position, Strictness};

use super::rules::Candidate;
use super::{Details, Fleet};
use crate::{BoundRef, Missing, Reason, Request};

/// Light in glass goes 200 m in a microsecond, so there and back it takes a microsecond per 100 m.
const METRES_PER_US: u32 = 100;

/// What a bound is measured to, looked up once per request.
#[derive(Debug)]
enum End {
    Circle {
        centre: Position,
        radius_m: u32,
    },
    /// The nearest of the marked workers, and of what is outside of the fleet.
    Nearest {
        label: String,
        marked: Vec<Place>,
        outside: Option<u32>,
    },
    /// The furthest of all instances.
    Furthest {
        here: Vec<Place>,
        elsewhere: Vec<PeerPlace>,
    },
    NoSuchService,
}

/// A worker of the fleet at the other end.
#[derive(Clone, Copy, Debug)]
struct Place {
    number: usize,
    round_trip_us: Option<u32>,
    position: Option<Position>,
}

/// A bound of a request with what it is measured to.
#[derive(Debug)]
pub(super) struct Bound {
    reference: BoundRef,
    to: String,
    limit: Limit,
    pub(super) strictness: Strictness,
    end: End,
}

impl Fleet {
    /// The bounds of a request, those of its descriptor first.
    pub(super) fn bounds(&self, request: &Request<'_>) -> Vec<Bound> {
        let areas = request.target.near.iter().enumerate().map(|(index, bound)| Bound {
            reference: BoundRef::Area { index },
            to: bound.area.to_string(),
            limit: bound.limit,
            strictness: bound.strictness,
            end: self.area(&bound.area, request),
        });
        let peers = request.surroundings.peers.iter().map(|bound| Bound {
            reference: BoundRef::Service { declared_by: bound.declared_by.clone(), index: bound.index },
            to: bound.name.clone(),
            limit: bound.limit,
            strictness: bound.strictness,
            end: self.peer(bound),
        });
        areas.chain(peers).collect()
    }

    fn area(&self, area: &Area, request: &Request<'_>) -> End {
        match area {
            Area::Around { centre, radius_m } => End::Circle { centre: *centre, radius_m: *radius_m },
            Area::Named(name) => {
                let label = format!("area={name}");
                let all = self.details.iter().enumerate();
                let marked = all.filter(|(_, details)| details.state.has_label(&label));
                let marked = marked.map(|(number, details)| place(number, details)).collect();
                End::Nearest { label, marked, outside: request.surroundings.areas.get(name).copied() }
            }
        }
    }

    fn peer(&self, bound: &PeerBound) -> End {
        let Some(peer) = bound.peer else { return End::NoSuchService };
        let hosts = self.hosts.get(&peer).into_iter().flatten();
        let here = hosts.filter_map(|number| Some(place(*number, self.details.get(*number)?))).collect();
        End::Furthest { here, elsewhere: bound.elsewhere.clone() }
    }
}

fn place(number: usize, details: &Details) -> Place {
    Place { number, round_trip_us: details.state.round_trip_us, position: details.state.position }
}

impl Bound {
    /// Why a worker breaks this bound, if it does.
    pub(super) fn broken_by(&self, candidate: Candidate<'_>) -> Option<Reason> {
        let (bound, to) = (|| self.reference.clone(), || self.to.clone());
        match self.estimate(candidate) {
            Ok(amount) if amount <= self.limit.amount() => None,
            Ok(amount) => Some(Reason::TooFar {
                bound: bound(),
                to: to(),
                is: self.limit.with_amount(amount),
                limit: self.limit,
            }),
            Err(missing) => Some(Reason::NotMeasured { bound: bound(), to: to(), missing }),
        }
    }

    fn estimate(&self, candidate: Candidate<'_>) -> Result<u32, Missing> {
        match (&self.end, self.limit) {
            (End::Circle { centre, radius_m }, Limit::DistanceM(_)) => {
                to_circle(candidate, *centre, *radius_m)
            }
            (End::Circle { centre, radius_m }, Limit::RoundTripUs(_)) => {
                let glass = to_circle(candidate, *centre, *radius_m)? / METRES_PER_US;
                Ok(own_hop(candidate)?.saturating_add(glass))
            }
            (End::Nearest { label, marked, outside }, _) => {
                if candidate.details.state.has_label(label) {
                    return Ok(0);
                }
                to_nearest(candidate, marked, *outside)
            }
            (End::Furthest { here, elsewhere }, Limit::RoundTripUs(_)) => {
                furthest_in_time(candidate, here, elsewhere)
            }
            (End::Furthest { here, elsewhere }, Limit::DistanceM(_)) => {
                furthest_in_space(candidate, here, elsewhere)
            }
            (End::NoSuchService, _) => Err(Missing::Service),
        }
    }
}

fn own_hop(candidate: Candidate<'_>) -> Result<u32, Missing> {
    candidate.details.state.round_trip_us.ok_or(Missing::RoundTrip)
}

fn own_position(candidate: Candidate<'_>) -> Result<Position, Missing> {
    candidate.details.state.position.ok_or(Missing::Position)
}

fn is_at(candidate: Candidate<'_>, place: &Place) -> bool {
    candidate.position == Some(place.number)
}

fn to_circle(candidate: Candidate<'_>, centre: Position, radius_m: u32) -> Result<u32, Missing> {
    Ok(own_position(candidate)?.distance_m(centre).saturating_sub(radius_m))
}

fn to_nearest(candidate: Candidate<'_>, marked: &[Place], outside: Option<u32>) -> Result<u32, Missing> {
    if marked.is_empty() && outside.is_none() {
        return Err(Missing::Area);
    }
    let own = own_hop(candidate)?;
    let measured = marked.iter().filter_map(|place| place.round_trip_us).chain(outside);
    measured.min().map(|hop| own.saturating_add(hop)).ok_or(Missing::OtherEnd)
}

/// Without any placed instance there is nothing to be far from: the bound holds when the other one is placed.
fn furthest_in_time(
    candidate: Candidate<'_>,
    here: &[Place],
    elsewhere: &[PeerPlace],
) -> Result<u32, Missing> {
    let others = here.iter().filter(|place| !is_at(candidate, place)).map(|place| place.round_trip_us);
    let mut furthest = 0;
    for hop in others.chain(elsewhere.iter().map(|place| place.round_trip_us)) {
        let hop = hop.ok_or(Missing::OtherEnd)?;
        furthest = furthest.max(own_hop(candidate)?.saturating_add(hop));
    }
    Ok(furthest)
}

fn furthest_in_space(
    candidate: Candidate<'_>,
    here: &[Place],
    elsewhere: &[PeerPlace],
) -> Result<u32, Missing> {
    let others = here.iter().filter(|place| !is_at(candidate, place)).map(|place| place.position);
    let mut furthest = 0;
    for position in others.chain(elsewhere.iter().map(|place| place.position)) {
        let position = position.ok_or(Missing::OtherEnd)?;
        furthest = furthest.max(own_position(candidate)?.distance_m(position));
    }
    Ok(furthest)
}
