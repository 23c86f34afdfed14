//! The user: remembers what was acknowledged.

use std::collections::BTreeMap;

use oak_model::{ApplicationId, InstanceKey, ServiceId};

/// What the user knows about something it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Acknowledged and never asked to go.
    Exists,
    /// Asked to go, no answer (yet): may or may not exist.
    Leaving,
    /// Its removal was acknowledged.
    Gone,
}

/// An answer of the API, sent after the commit.
#[derive(Clone, Debug)]
pub enum Answer {
    Created(Vec<ApplicationId>, Vec<ServiceId>),
    Deployed(InstanceKey),
    Undeployed(InstanceKey),
    ServiceDeleted(ServiceId),
    ApplicationDeleted(ApplicationId, Vec<ServiceId>),
}

#[derive(Default)]
pub struct Client {
    pub applications: BTreeMap<ApplicationId, Known>,
    pub services: BTreeMap<ServiceId, Known>,
    pub instances: BTreeMap<InstanceKey, Known>,
}

impl Client {
    /// The user asks for something to go.
    pub fn asks_service_to_go(&mut self, service: ServiceId) {
        self.services.insert(service, Known::Leaving);
        let keys: Vec<_> = self.instances.keys().copied().filter(|key| key.service == service).collect();
        for key in keys {
            self.asks_instance_to_go(key);
        }
    }

    pub fn asks_instance_to_go(&mut self, key: InstanceKey) {
        let known = self.instances.entry(key).or_insert(Known::Leaving);
        if *known == Known::Exists {
            *known = Known::Leaving;
        }
    }

    pub fn hears(&mut self, answer: Answer) {
        match answer {
            Answer::Created(applications, services) => {
                // Something may have been asked to go before the answer came.
                for id in applications {
                    self.applications.entry(id).or_insert(Known::Exists);
                }
                for id in services {
                    self.services.entry(id).or_insert(Known::Exists);
                }
            }
            Answer::Deployed(key) => {
                if self.services.get(&key.service) == Some(&Known::Exists) {
                    self.instances.entry(key).or_insert(Known::Exists);
                }
            }
            Answer::Undeployed(key) => {
                self.instances.insert(key, Known::Gone);
            }
            Answer::ServiceDeleted(id) => self.service_gone(id),
            Answer::ApplicationDeleted(id, services) => {
                self.applications.insert(id, Known::Gone);
                for service in services {
                    self.service_gone(service);
                }
            }
        }
    }

    fn service_gone(&mut self, id: ServiceId) {
        self.services.insert(id, Known::Gone);
        for (key, known) in &mut self.instances {
            if key.service == id {
                *known = Known::Gone;
            }
        }
    }
}
