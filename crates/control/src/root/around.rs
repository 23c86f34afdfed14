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

impl Root {
    /// What the cluster of an instance is told about it.
    pub(super) fn wish(&self, key: InstanceKey) -> Option<DesiredInstance> {
        let (instance, service) = (self.instances.get(&key)?, self.services.get(&key.service)?);
        let cluster = instance.cluster.and_then(|id| self.clusters.get(&id));
        let surroundings = self.surroundings(&service.at_revision(instance.revision), cluster);
        Some(desired(service, instance, surroundings))
    }

    /// Remembers whether a service has bounds to others.
    pub(super) fn know_links(&mut self, service: &Service) {
        if service.spec.connectivity.is_empty() {
            self.linked.remove(&service.id);
        } else {
            self.linked.insert(service.id);
        }
    }

    /// The same, when what a service asks for was changed in place.
    pub(super) fn know_links_again(&mut self, id: ServiceId) {
        let is_linked = self.services.get(&id).is_some_and(|service| !service.spec.connectivity.is_empty());
        if is_linked {
            self.linked.insert(id);
        } else {
            self.linked.remove(&id);
        }
    }

    /// A cluster refused an instance for which there is no other cluster: perhaps it decided by old measurements. They
    /// are told again, not more often than the cluster tries again.
    pub(super) fn tell_surroundings(&mut self, now: Now, key: InstanceKey, cluster: ClusterId) {
        if self.wish(key).is_none_or(|wish| wish.surroundings.is_empty()) {
            return;
        }
        let generation = self.next_generation();
        let Some(instance) = self.instances.get_mut(&key) else { return };
        instance.offered = Some(now.moment);
        instance.generation = generation;
        self.save_instance(key);
        if let Some(desired) = self.wish(key) {
            self.send(cluster, RootToCluster::Set(desired));
        }
    }

    /// What the places of a cluster, or of one that is not there yet, are measured against.
    pub(super) fn surroundings(&self, service: &Service, cluster: Option<&Cluster>) -> Surroundings {
        let mut around = Surroundings::default();
        for bound in &service.spec.target.near {
            if let Area::Named(name) = &bound.area
                && let Some(hop) = cluster.and_then(|cluster| self.hop_to_area(name, cluster))
            {
                around.areas.insert(name.clone(), hop);
            }
        }
        for bound in service.spec.connectivity.iter().enumerate() {
            let peer = self.find_peer(service, &bound.1.target);
            around.peers.push(self.peer_bound(bound, service, peer, cluster));
        }
        for other in self.linked.iter().filter_map(|id| self.services.get(id)) {
            // One that is bound to itself has said so above.
            if other.id == service.id {
                continue;
            }
            for bound in other.spec.connectivity.iter().enumerate() {
                if self.find_peer(other, &bound.1.target).is_some_and(|peer| peer.id == service.id) {
                    around.peers.push(self.peer_bound(bound, other, Some(other), cluster));
                }
            }
        }
        around
    }

    /// Shortest round trip from a cluster to a cluster of that name or to a marked worker of another one.
    fn hop_to_area(&self, name: &str, from: &Cluster) -> Option<u32> {
        if from.name == name {
            return Some(0);
        }
        let label = format!("area={name}");
        let others = self.clusters.values().filter(|other| other.id != from.id);
        let hops = others.filter_map(|other| {
            let between = between(from, other)?;
            if other.name == name {
                return Some(between);
            }
            let marked = other.fleet.workers().filter(|(_, state)| state.has_label(&label));
            let nearest = marked.filter_map(|(_, state)| state.round_trip_us).min()?;
            Some(between.saturating_add(nearest))
        });
        hops.min()
    }

    /// A bound that the descriptor of `declared_by` has, as the service at the other end of `peer` sees it.
    fn peer_bound(
        &self,
        (index, bound): (usize, &ServiceBound),
        declared_by: &Service,
        peer: Option<&Service>,
        cluster: Option<&Cluster>,
    ) -> PeerBound {
        PeerBound {
            elsewhere: peer.map(|peer| self.elsewhere(peer.id, cluster)).unwrap_or_default(),
            ..PeerBound::new(index, bound, declared_by, peer)
        }
    }

    /// Instances of a service in other clusters.
    fn elsewhere(&self, service: ServiceId, from: Option<&Cluster>) -> Vec<PeerPlace> {
        let of_service = InstanceKey { service, number: 0 }..=InstanceKey { service, number: u32::MAX };
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

/// Round trip between two clusters by way of the root.
fn between(from: &Cluster, other: &Cluster) -> Option<u32> {
    Some(from.round_trip_us?.saturating_add(other.round_trip_us?))
}
