//! Which services have bounds to which, by what their descriptors call each other: a placement asks who is bound to one
//! service, and must not look at all others for that.

use std::collections::{BTreeMap, BTreeSet};

use oak_model::{ApplicationId, Service, ServiceId};

/// What a descriptor calls a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Called {
    ById(ServiceId),
    /// `application.namespace.service.namespace`; of one owner there is one such, of all there may be many.
    InFull(String),
    /// A name alone means a service of the same application.
    Within(ApplicationId, String),
}

impl Called {
    fn by(caller: &Service, target: &str) -> Self {
        match target.parse() {
            Ok(id) => Self::ById(id),
            Err(_) if target.contains('.') => Self::InFull(target.to_owned()),
            Err(_) => Self::Within(caller.application, target.to_owned()),
        }
    }

    fn names_of(service: &Service) -> [Self; 3] {
        let name = &service.job_name;
        [
            Self::ById(service.id),
            Self::InFull(name.to_string()),
            Self::Within(service.application, name.service.to_string()),
        ]
    }
}

/// All services with bounds to others.
#[derive(Debug, Default)]
pub(super) struct Links {
    calls: BTreeMap<ServiceId, BTreeSet<Called>>,
    callers: BTreeMap<Called, BTreeSet<ServiceId>>,
}

impl Links {
    /// Takes in what a service is bound to now.
    pub(super) fn know(&mut self, service: &Service) {
        self.forget(service.id);
        let bounds = service.spec.connectivity.iter();
        let calls: BTreeSet<_> = bounds.map(|bound| Called::by(service, &bound.target)).collect();
        for called in &calls {
            self.callers.entry(called.clone()).or_default().insert(service.id);
        }
        if !calls.is_empty() {
            self.calls.insert(service.id, calls);
        }
    }

    /// A service is gone.
    pub(super) fn forget(&mut self, id: ServiceId) {
        for called in self.calls.remove(&id).unwrap_or_default() {
            let Some(callers) = self.callers.get_mut(&called) else { continue };
            callers.remove(&id);
            if callers.is_empty() {
                self.callers.remove(&called);
            }
        }
    }

    /// Services whose descriptors have a name for `service`. Whether they mean it is another question: another owner may
    /// have one of the same name.
    pub(super) fn callers_of(&self, service: &Service) -> BTreeSet<ServiceId> {
        if self.callers.is_empty() {
            return BTreeSet::new();
        }
        let names = Called::names_of(service);
        names.iter().filter_map(|name| self.callers.get(name)).flatten().copied().collect()
    }
}
