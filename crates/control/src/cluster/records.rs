//! What the instances of this cluster belong to: kept so that a root that lost its disk can be told again, and so that
//! applications can be deployed here while there is no root.

use oak_model::message::{ClusterToRoot, ClusterWelcome, DesiredInstance, HeldInstance, Holdings};
use oak_model::{Application, ApplicationId, InstanceKey, OrganizationId, Service, ServiceId};
use serde::{Deserialize, Serialize};

use super::{Cluster, Effect, Placed};
use crate::Table;

/// An application of which something is here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnownApplication {
    /// The application.
    #[serde(flatten)]
    pub application: Application,
    /// It was deployed here and no root has taken it over yet.
    #[serde(default)]
    pub local: bool,
}

impl Cluster {
    pub(super) fn records_received(&mut self, applications: Vec<Application>, services: Vec<Service>) {
        for application in applications {
            let known = KnownApplication { application, local: false };
            let id = known.application.id;
            // A local one stays so until the root says that it has all of it.
            let local = self.applications.get(&id).is_some_and(|known| known.local);
            let known = KnownApplication { local, ..known };
            if self.applications.get(&id) != Some(&known) {
                self.outbox.put(Table::Application, id, &known);
                self.applications.insert(id, known);
            }
        }
        for service in services {
            if self.services.get(&service.id) != Some(&service) {
                self.outbox.put(Table::Service, service.id, &service);
                self.services.insert(service.id, service);
            }
        }
    }

    /// Keeps what a welcome says beside the instances.
    pub(super) fn welcome_records(&mut self, welcome: &mut ClusterWelcome) {
        let (applications, services) =
            (std::mem::take(&mut welcome.applications), std::mem::take(&mut welcome.services));
        self.records_received(applications, services);
        let addresses = welcome.local_addresses.iter().copied().collect();
        let changed = self.meta.lineage != welcome.lineage
            || self.meta.local_block != welcome.local_block
            || self.meta.local_addresses != addresses;
        if changed {
            self.meta.lineage = welcome.lineage;
            self.meta.local_block = welcome.local_block;
            self.meta.local_addresses = addresses;
            self.save_meta();
        }
    }

    /// The root has these applications now.
    pub(super) fn adopted(&mut self, applications: &[ApplicationId]) {
        for id in applications {
            if let Some(known) = self.applications.get_mut(id).filter(|known| known.local) {
                known.local = false;
                self.outbox.put(Table::Application, id, known);
            }
        }
    }

    /// Whether an instance belongs to an application the root does not have yet.
    pub(super) fn is_local(&self, key: InstanceKey) -> bool {
        let service = self.services.get(&key.service);
        let application = service.and_then(|service| self.applications.get(&service.application));
        application.is_some_and(|known| known.local)
    }

    /// The organisation of an instance, if it has one.
    pub(super) fn organization_of(&self, key: InstanceKey) -> Option<OrganizationId> {
        let application = self.placed.get(&key)?.desired.application;
        self.applications.get(&application)?.application.organization
    }

    /// Tells the root what it does not know: everything, or what was deployed here.
    pub(super) fn send_holdings(&mut self, extent: Extent) {
        let wanted = |known: &&KnownApplication| extent == Extent::Everything || known.local;
        let applications: Vec<_> =
            self.applications.values().filter(wanted).map(|known| known.application.clone()).collect();
        if applications.is_empty() && extent == Extent::Local {
            return;
        }
        let chosen = |id: ApplicationId| applications.iter().any(|application| application.id == id);
        let services: Vec<_> =
            self.services.values().filter(|service| chosen(service.application)).cloned().collect();
        let instances = services
            .iter()
            .flat_map(|service| self.placed_of(service.id))
            .filter(|placed| !placed.removing)
            .filter_map(|placed| {
                let report = self.instance_report(placed.desired.key)?;
                // Values are for its workers only; a root that lost them is told them by their owner.
                let desired = DesiredInstance { material: Vec::new(), ..placed.desired.clone() };
                Some(HeldInstance { desired, report })
            })
            .collect();
        let holdings = Holdings { applications, services, instances };
        self.outbox.emit(Effect::ToRoot(ClusterToRoot::Holdings(holdings)));
    }

    /// Instances of a service.
    pub(super) fn placed_of(&self, service: ServiceId) -> impl Iterator<Item = &Placed> {
        self.placed.range(InstanceKey::all_of(service)).map(|(_, placed)| placed)
    }

    /// Forgets a service of the root, and its application, with the last instance.
    pub(super) fn forget_records(&mut self, service: ServiceId) {
        if self.placed_of(service).next().is_some() {
            return;
        }
        let Some(application) = self.services.get(&service).map(|service| service.application) else {
            return;
        };
        if self.applications.get(&application).is_some_and(|known| known.local) {
            return;
        }
        self.services.remove(&service);
        self.outbox.delete(Table::Service, service);
        if !self.services.values().any(|service| service.application == application)
            && self.applications.remove(&application).is_some()
        {
            self.outbox.delete(Table::Application, application);
        }
    }
}

/// How much the root is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Everything that is here.
    Everything,
    /// What was deployed here.
    Local,
}
