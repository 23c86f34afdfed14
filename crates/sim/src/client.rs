//! The user: remembers what was acknowledged.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use oak_model::{ApplicationId, InstanceKey, ServiceId};

/// What the user knows about something it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// Acknowledged and never asked to go.
    Exists,
    /// Asked to go, no answer (yet): may or may not exist.
    Leaving,
    /// Its removal was acknowledged.
    Gone,
    /// The root has lost its memory since: anything may be true.
    Unsure,
}

/// An answer of the API, sent after the commit.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// `workload`: which of the scenario asked for it.
    Created {
        workload: Option<usize>,
        applications: Vec<ApplicationId>,
        services: Vec<ServiceId>,
    },
    Deployed(InstanceKey),
    Undeployed(InstanceKey),
    ServiceDeleted(ServiceId),
    ApplicationDeleted(ApplicationId, Vec<ServiceId>),
    /// Deployed at a cluster, without the root.
    DeployedLocally(Vec<InstanceKey>),
    /// It keeps so many instances by itself from now on; these are there.
    Scaled(ServiceId, usize, Vec<InstanceKey>),
}

/// Keys in no order from which one can be drawn at once.
pub(crate) struct Bag<K> {
    keys: Vec<K>,
    places: HashMap<K, usize>,
}

impl<K> Default for Bag<K> {
    fn default() -> Self {
        Self { keys: Vec::new(), places: HashMap::new() }
    }
}

impl<K: Copy + Eq + std::hash::Hash> Bag<K> {
    pub(crate) fn insert(&mut self, key: K) {
        if !self.places.contains_key(&key) {
            self.places.insert(key, self.keys.len());
            self.keys.push(key);
        }
    }

    pub(crate) fn remove(&mut self, key: K) {
        let Some(place) = self.places.remove(&key) else { return };
        self.keys.swap_remove(place);
        if let Some(moved) = self.keys.get(place) {
            self.places.insert(*moved, place);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn get(&self, place: usize) -> Option<K> {
        self.keys.get(place).copied()
    }
}

#[derive(Default)]
pub(crate) struct Client {
    pub(crate) applications: BTreeMap<ApplicationId, Known>,
    pub(crate) services: BTreeMap<ServiceId, Known>,
    pub(crate) instances: BTreeMap<InstanceKey, Known>,
    /// Services that exist.
    pub(crate) open_services: Bag<ServiceId>,
    /// Applications that exist.
    pub(crate) open_applications: Bag<ApplicationId>,
    /// Instances that may exist.
    pub(crate) open_instances: Bag<InstanceKey>,
    /// Services that keep their instances by themselves or are updated: which ones they have is their own affair.
    pub(crate) managed: BTreeSet<ServiceId>,
    /// The root has lost its memory, or part of it, once.
    pub(crate) root_has_forgotten: bool,
    /// Looks for something to mend since then that found nothing.
    pub(crate) good_looks: u32,
    /// Instances that must be known to the root once everybody is in touch: clusters have them, whoever lost what.
    pub(crate) must_return: BTreeSet<InstanceKey>,
}

impl Client {
    /// Instances of a service that were acknowledged and not asked to go, lowest number first.
    pub(crate) fn instances_of(&self, service: ServiceId) -> Vec<InstanceKey> {
        let known = self.instances.range(InstanceKey::all_of(service));
        known.filter(|(_, known)| **known == Known::Exists).map(|(key, _)| *key).collect()
    }

    /// From now on a service decides itself which instances it has.
    pub(crate) fn manages_itself(&mut self, service: ServiceId) {
        self.managed.insert(service);
        for (key, known) in self.instances.range_mut(InstanceKey::all_of(service)) {
            self.must_return.remove(key);
            if *known == Known::Exists {
                *known = Known::Unsure;
            }
        }
    }

    /// The root has lost its memory, or part of it. What clusters hold must come back.
    pub(crate) fn root_forgot(&mut self, held: impl Iterator<Item = InstanceKey>) {
        let wanted = |known: Option<&Known>| known == Some(&Known::Exists);
        let must_return: Vec<_> = held.filter(|key| wanted(self.instances.get(key))).collect();
        self.must_return.extend(must_return);
        self.root_has_forgotten = true;
        self.good_looks = 0;
        self.applications.values_mut().for_each(|known| *known = Known::Unsure);
        self.services.values_mut().for_each(|known| *known = Known::Unsure);
        self.instances.values_mut().for_each(|known| *known = Known::Unsure);
    }

    /// The user asks for something to go.
    pub(crate) fn asks_application_to_go(&mut self, application: ApplicationId) {
        self.applications.insert(application, Known::Leaving);
        self.open_applications.remove(application);
    }

    pub(crate) fn asks_service_to_go(&mut self, service: ServiceId) {
        self.services.insert(service, Known::Leaving);
        self.open_services.remove(service);
        for (key, known) in self.instances.range_mut(InstanceKey::all_of(service)) {
            self.must_return.remove(key);
            if *known != Known::Gone {
                *known = Known::Leaving;
            }
        }
    }

    pub(crate) fn asks_instance_to_go(&mut self, key: InstanceKey) {
        self.must_return.remove(&key);
        let known = self.instances.entry(key).or_insert(Known::Leaving);
        if *known != Known::Gone {
            *known = Known::Leaving;
        }
    }

    pub(crate) fn hears(&mut self, answer: &Answer) {
        match answer {
            Answer::Created { applications, services, .. } => {
                // Something may have been asked to go before the answer came.
                for id in applications {
                    if *self.applications.entry(*id).or_insert(Known::Exists) == Known::Exists {
                        self.open_applications.insert(*id);
                    }
                }
                for id in services {
                    if *self.services.entry(*id).or_insert(Known::Exists) == Known::Exists {
                        self.open_services.insert(*id);
                    }
                }
            }
            Answer::Deployed(key) => {
                if self.services.get(&key.service) == Some(&Known::Exists) {
                    let managed = self.managed.contains(&key.service);
                    let known = if managed { Known::Unsure } else { Known::Exists };
                    self.instances.entry(*key).or_insert(known);
                    self.open_instances.insert(*key);
                }
            }
            Answer::DeployedLocally(keys) => {
                self.must_return.extend(keys);
                keys.iter().for_each(|key| self.open_instances.insert(*key));
            }
            Answer::Scaled(service, _, keys) => {
                if self.services.get(service) == Some(&Known::Exists) {
                    keys.iter().for_each(|key| self.open_instances.insert(*key));
                }
            }
            Answer::Undeployed(key) => {
                self.instances.insert(*key, Known::Gone);
                self.open_instances.remove(*key);
            }
            Answer::ServiceDeleted(id) => self.service_gone(*id),
            Answer::ApplicationDeleted(id, services) => {
                self.applications.insert(*id, Known::Gone);
                for service in services {
                    self.service_gone(*service);
                }
            }
        }
    }

    fn service_gone(&mut self, id: ServiceId) {
        self.services.insert(id, Known::Gone);
        self.open_services.remove(id);
        for (key, known) in self.instances.range_mut(InstanceKey::all_of(id)) {
            *known = Known::Gone;
            self.open_instances.remove(*key);
        }
    }
}
