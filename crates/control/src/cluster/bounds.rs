//! Bounds that must hold: measurements, and instances that move because a bound has been broken for too long.

use std::time::Duration;

use oak_model::{
    Area, InstanceKey, Moment, Now, PeerBound, Position, Service, ServiceId, Surroundings, WorkerId,
};

use super::Cluster;
use super::place::request;

/// Time between two looks at the bounds of all instances that have such: they change with the network, not with us.
const LOOK: Duration = Duration::from_secs(10);

/// A round trip that differs less from the last one told is no news: microseconds, and share in percent.
const NEWS_US: u32 = 500;
const NEWS_PERCENT: u32 = 20;

impl Cluster {
    /// Where it is, if it says so in the usual form.
    pub(super) fn position(&self) -> Option<Position> {
        self.settings.location.parse().ok()
    }

    /// The link measured how long a message to a worker and back takes.
    pub fn worker_measured(&mut self, now: Now, id: WorkerId, session: u64, round_trip_us: u32) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.session == Some(session)) else {
            return;
        };
        let is_news = worker.round_trip_us.is_none_or(|told| {
            let difference = told.abs_diff(round_trip_us);
            difference >= NEWS_US && difference >= told.saturating_mul(NEWS_PERCENT) / 100
        });
        if is_news {
            worker.round_trip_us = Some(round_trip_us);
            self.fleet.set_round_trip(id, round_trip_us);
            self.report_worker(id);
            self.retry_soon(now);
        }
    }

    /// Remembers whether an instance has bounds that must hold.
    pub(super) fn watch_bounds(&mut self, key: InstanceKey) {
        let is_bounded = self.placed.get(&key).is_some_and(|placed| {
            let areas = placed.desired.spec.target.near.iter().map(|bound| bound.strictness);
            let peers = placed.desired.surroundings.peers.iter().map(|bound| bound.strictness);
            areas.chain(peers).any(|strictness| strictness.is_hard())
        });
        if is_bounded {
            self.bounded.entry(key).or_default();
        } else {
            self.bounded.remove(&key);
        }
        if self.bounded.is_empty() {
            self.next_look = None;
        } else if self.next_look.is_none() {
            // Set by the next tick, which knows the time.
            self.next_look = Some(Moment::default());
        }
    }

    /// Moves instances whose bounds have been broken for as long as they may be.
    pub(super) fn look_at_bounds(&mut self, now: Now) {
        if self.next_look.is_none_or(|at| at > now.moment) {
            return;
        }
        let keys: Vec<_> = self.bounded.keys().copied().collect();
        self.next_look = (!keys.is_empty()).then(|| now.moment + LOOK);
        for key in keys {
            self.look_at(now, key);
        }
    }

    fn look_at(&mut self, now: Now, key: InstanceKey) {
        let Some(placed) = self.placed.get(&key) else { return };
        let Some(place) = placed.placement.filter(|_| placed.successor.is_none() && !placed.removing) else {
            return;
        };
        // Whatever is wrong with a silent worker, its distance is not.
        if self.workers.get(&place.worker).is_none_or(|worker| worker.session.is_none()) {
            return;
        }
        let broken = self.fleet.violations(place.worker, &request(&placed.desired, None));
        let patience = broken.iter().map(|(_, seconds)| Duration::from_secs(u64::from(*seconds))).min();
        let Some(since) = self.bounded.get_mut(&key) else { return };
        let Some(patience) = patience else {
            *since = None;
            self.say_it_stays_if_kept(key, place.worker);
            return;
        };
        let since = *since.get_or_insert(now.moment);
        if now.moment - since >= patience && self.start_move(now, key, place.worker) {
            self.bounded.insert(key, None);
        }
    }

    fn say_it_stays_if_kept(&mut self, key: InstanceKey, worker: WorkerId) {
        if !self.draining.contains(&worker) {
            self.say_it_stays(key);
        }
    }

    /// What places are measured against as long as there is no root to tell it: this cluster, and its own services.
    pub(super) fn local_surroundings(&self, service: ServiceId) -> Surroundings {
        let mut around = Surroundings::default();
        let Some(service) = self.services.get(&service) else { return around };
        let own_name = Area::Named(self.settings.name.clone());
        if service.spec.target.near.iter().any(|bound| bound.area == own_name) {
            around.areas.insert(self.settings.name.clone(), 0);
        }
        for (index, bound) in service.spec.connectivity.iter().enumerate() {
            let peer = self.local_peer(service, &bound.target);
            around.peers.push(PeerBound::new(index, bound, service, peer));
        }
        for other in self.services.values().filter(|other| other.id != service.id) {
            for (index, bound) in other.spec.connectivity.iter().enumerate() {
                if self.local_peer(other, &bound.target).is_some_and(|peer| peer.id == service.id) {
                    around.peers.push(PeerBound::new(index, bound, other, Some(other)));
                }
            }
        }
        around
    }

    /// The service of the same owner that a descriptor means by its id, its full name, or its name in the application.
    fn local_peer(&self, service: &Service, target: &str) -> Option<&Service> {
        let owner_of = |service: &Service| {
            let known = &self.applications.get(&service.application)?.application;
            Some((known.organization, known.owner.as_str()))
        };
        let own = owner_of(service)?;
        if let Ok(id) = target.parse::<ServiceId>() {
            return self.services.get(&id).filter(|found| owner_of(found) == Some(own));
        }
        let is_full = target.contains('.');
        self.services.values().find(|other| {
            if is_full {
                other.job_name.to_string() == target && owner_of(other) == Some(own)
            } else {
                other.application == service.application && other.job_name.service.as_str() == target
            }
        })
    }
}
