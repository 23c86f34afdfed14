//! Which services need a look, and when. Nothing is stored: it follows from the services.

use std::collections::{BTreeMap, BTreeSet};

use oak_model::{Moment, ServiceId};

#[derive(Clone, Debug, Default)]
pub(super) struct Looks {
    at: BTreeMap<ServiceId, Moment>,
    order: BTreeSet<(Moment, ServiceId)>,
}

impl Looks {
    /// When the next look is due.
    pub(super) fn next(&self) -> Option<Moment> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Whether a service is looked after.
    pub(super) fn contains(&self, service: ServiceId) -> bool {
        self.at.contains_key(&service)
    }

    /// Plans a look, instead of a later one.
    pub(super) fn by(&mut self, at: Moment, service: ServiceId) {
        if self.at.get(&service).is_some_and(|planned| *planned <= at) {
            return;
        }
        self.forget(service);
        self.at.insert(service, at);
        self.order.insert((at, service));
    }

    /// Nothing needs to be looked at.
    pub(super) fn forget(&mut self, service: ServiceId) {
        if let Some(at) = self.at.remove(&service) {
            self.order.remove(&(at, service));
        }
    }

    /// Takes out a service whose time has come.
    pub(super) fn take_due(&mut self, now: Moment) -> Option<ServiceId> {
        let (at, service) = self.order.first().copied().filter(|(at, _)| *at <= now)?;
        self.order.remove(&(at, service));
        self.at.remove(&service);
        Some(service)
    }
}
