//! What places are measured against: named areas, and the instances of other services, as seen from one cluster.
//!
//! The root is the only one that knows all clusters. A cluster gets what concerns it together with each instance, as it
//! was when the root decided; what is inside of the cluster it sees itself.

use oak_model::message::{DesiredInstance, RootToCluster};
use oak_model::{
    Area, ClusterId, InstanceKey, Now, PeerBound, PeerPlace, Service, ServiceBound, ServiceId, Surroundings,
};

use super::state::desired;
use super::tenants::FullName;
use super::{Cluster, Owner, Root};

/// Instances in other clusters that count for a bound; a service that is bound to more is not kept close by anybody.
const MOST_PLACES: usize = 1_000;

/// A bound between a service and another one, which is the same seen from every cluster.
#[derive(Clone, Copy, Debug)]
struct Bond<'a> {
    /// Position among the bounds of the descriptor that has it.
    index: usize,
    bound: &'a ServiceBound,
    declared_by: &'a Service,
    /// The service at the other end.
    peer: Option<&'a Service>,
}

/// What a service is to be near to, as far as it is the same seen from every cluster.
#[derive(Debug)]
pub(super) struct Ties<'a> {
    bonds: Vec<Bond<'a>>,
    /// Named areas, with the clusters that are there or have marked workers, and the round trip to the nearest of these.
    areas: Vec<(&'a str, Vec<(&'a Cluster, u32)>)>,
}

impl Root {
    /// What the cluster of an instance is told about it.
    pub(super) fn wish(&self, key: InstanceKey) -> Option<DesiredInstance> {
        let (instance, service) = (self.instances.get(&key)?, self.services.get(&key.service)?);
        let cluster = instance.cluster.and_then(|id| self.clusters.get(&id));
        let surroundings = self.surroundings(&service.at_revision(instance.revision), cluster);
        Some(desired(service, instance, surroundings))
    }

    /// What a service asks for was changed in place.
    pub(super) fn know_links(&mut self, id: ServiceId) {
        if let Some(service) = self.services.get(&id) {
            self.linked.know(service);
        }
    }

    /// A cluster refused an instance for which there is no other cluster: perhaps it decided by old measurements. They
    /// are told again, not more often than the cluster tries again. False when there is nothing to tell.
    pub(super) fn tell_surroundings(&mut self, now: Now, key: InstanceKey, cluster: ClusterId) -> bool {
        if self.wish(key).is_none_or(|wish| wish.surroundings.is_empty()) {
            return false;
        }
        let generation = self.next_generation();
        let Some(instance) = self.instances.get_mut(&key) else { return false };
        instance.offered = Some(now.moment);
        instance.generation = generation;
        self.save_instance(key);
        if let Some(desired) = self.wish(key) {
            self.send(cluster, RootToCluster::Set(desired));
        }
        true
    }

    /// What the places of a cluster, or of one that is not there yet, are measured against.
    pub(super) fn surroundings(&self, service: &Service, cluster: Option<&Cluster>) -> Surroundings {
        self.surroundings_in(&self.ties(service), cluster)
    }

    /// The same where more than one cluster is looked at.
    pub(super) fn surroundings_in(&self, ties: &Ties<'_>, cluster: Option<&Cluster>) -> Surroundings {
        let mut around = Surroundings::default();
        for (name, places) in &ties.areas {
            if let Some(hop) = cluster.and_then(|cluster| shortest_hop(cluster, name, places)) {
                around.areas.insert((*name).to_owned(), hop);
            }
        }
        around.peers.extend(ties.bonds.iter().map(|bond| PeerBound {
            elsewhere: bond.peer.map(|peer| self.elsewhere(peer.id, cluster)).unwrap_or_default(),
            ..PeerBound::new(bond.index, bond.bound, bond.declared_by, bond.peer)
        }));
        around
    }

    /// What a service is to be near to.
    pub(super) fn ties<'a>(&'a self, service: &'a Service) -> Ties<'a> {
        let named = service.spec.target.near.iter().filter_map(|bound| match &bound.area {
            Area::Named(name) => Some(name.as_str()),
            Area::Around { .. } => None,
        });
        let areas = named.map(|name| (name, self.places_in(name))).collect();
        Ties { bonds: self.bonds(service), areas }
    }

    /// The bounds between a service and others: its own first, then those of others to it.
    fn bonds<'a>(&'a self, service: &'a Service) -> Vec<Bond<'a>> {
        let own = service.spec.connectivity.iter().enumerate().map(|(index, bound)| {
            let peer = self.find_peer(service, &bound.target);
            Bond { index, bound, declared_by: service, peer }
        });
        let mut bonds: Vec<_> = own.collect();
        for id in self.linked.callers_of(service) {
            // One that is bound to itself has said so above.
            let Some(other) = self.services.get(&id).filter(|other| other.id != service.id) else { continue };
            let to_it = other.spec.connectivity.iter().enumerate().filter(|(_, bound)| {
                self.find_peer(other, &bound.target).is_some_and(|peer| peer.id == service.id)
            });
            bonds.extend(to_it.map(|(index, bound)| Bond {
                index,
                bound,
                declared_by: other,
                peer: Some(other),
            }));
        }
        bonds
    }

    /// The clusters of that name, and those with marked workers, with the round trip within to the nearest.
    fn places_in(&self, name: &str) -> Vec<(&Cluster, u32)> {
        let label = format!("area={name}");
        let within = |cluster: &Cluster| {
            if cluster.name == name {
                return Some(0);
            }
            let marked = cluster.fleet.workers().filter(|(_, state)| state.has_label(&label));
            marked.filter_map(|(_, state)| state.round_trip_us).min()
        };
        self.clusters.values().filter_map(|cluster| Some((cluster, within(cluster)?))).collect()
    }

    /// Instances of a service in other clusters.
    fn elsewhere(&self, service: ServiceId, from: Option<&Cluster>) -> Vec<PeerPlace> {
        let of_service = InstanceKey::all_of(service);
        let mut places = Vec::new();
        let is_other = |other: &&Cluster| from.is_none_or(|from| other.id != from.id);
        for other in self.clusters.values().filter(is_other) {
            let between = from.and_then(|from| between(from, other));
            places.extend(other.fleet.hosts_of(service).map(|state| PeerPlace {
                round_trip_us:
                    between.zip(state.round_trip_us).map(|(between, hop)| between.saturating_add(hop)),
                position: state.position,
            }));
            // It has some, but has not yet said where, since this root was started.
            if other.fleet.is_empty() && other.instances.range(of_service.clone()).next().is_some() {
                places.push(PeerPlace::default());
            }
        }
        places.truncate(MOST_PLACES);
        places
    }

    /// The service of the same owner that a descriptor means by its id, its full name, or its name in the application.
    fn find_peer(&self, service: &Service, target: &str) -> Option<&Service> {
        let own = self.applications.get(&service.application)?;
        if let Ok(id) = target.parse::<ServiceId>() {
            let found = self.services.get(&id)?;
            let other = self.applications.get(&found.application)?;
            let is_same = (other.organization, &other.owner) == (own.organization, &own.owner);
            return is_same.then_some(found);
        }
        let Some((application, rest)) = target.split_once('.') else {
            return self.named(&own.services, |found| found.job_name.service.as_str() == target);
        };
        let (namespace, _) = rest.split_once('.')?;
        let owner = Owner { user: own.owner.clone(), organization: own.organization };
        let name = FullName::new(&owner, &application.parse().ok()?, &namespace.parse().ok()?);
        let application = self.applications.get(self.application_names.get(&name)?)?;
        self.named(&application.services, |found| found.job_name.to_string() == target)
    }

    fn named(&self, services: &[ServiceId], is_meant: impl Fn(&Service) -> bool) -> Option<&Service> {
        services.iter().filter_map(|id| self.services.get(id)).find(|found| is_meant(found))
    }
}

/// Shortest round trip from a cluster to an area that is elsewhere, or that it is itself. Its own workers it sees itself.
fn shortest_hop(from: &Cluster, area: &str, places: &[(&Cluster, u32)]) -> Option<u32> {
    if from.name == area {
        return Some(0);
    }
    let others = places.iter().filter(|(place, _)| place.id != from.id);
    others.filter_map(|(place, within)| Some(between(from, place)?.saturating_add(*within))).min()
}

/// Round trip between two clusters by way of the root.
fn between(from: &Cluster, other: &Cluster) -> Option<u32> {
    Some(from.round_trip_us?.saturating_add(other.round_trip_us?))
}
