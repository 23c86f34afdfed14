//! Who on this node may call what: services of one organisation call each other and those that are exported.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use oak_model::overlay::Target;
use oak_model::{ApplicationId, InstanceKey, OrganizationId, ServiceId};

use super::{NetworkTable, Worker, Workload};

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tenant {
    /// The machine itself.
    Machine,
    /// Services of an organisation; those of none are together, too.
    Organization(Option<OrganizationId>),
}

impl Tenant {
    /// Whether it may call a service of this organisation.
    #[must_use]
    pub fn may_call(self, organization: Option<OrganizationId>, exported: bool) -> bool {
        match self {
            Self::Machine => true,
            Self::Organization(own) => exported || own == organization,
        }
    }
}

/// What the instances of one tenant on this node may call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantTable {
    /// Their addresses in the subnet of this node.
    pub members: BTreeSet<Ipv4Addr>,
    /// Service and instance addresses they may call.
    pub reaches: BTreeSet<Ipv4Addr>,
    /// Addresses they asked for, and got no as an answer.
    pub refused: BTreeSet<Ipv4Addr>,
}

/// An address and who may call it.
type Owned = (Ipv4Addr, Option<OrganizationId>, bool);

impl Worker {
    pub(super) fn tenant_of(&self, caller: Option<ServiceId>) -> Tenant {
        let Some(caller) = caller else { return Tenant::Machine };
        let workload = self.workloads.range(InstanceKey::all_of(caller)).next();
        Tenant::Organization(workload.and_then(|(_, workload)| workload.assignment().organization))
    }

    pub(super) fn tenant_of_application(&self, application: Option<ApplicationId>) -> Tenant {
        let Some(application) = application else { return Tenant::Machine };
        let of = |workload: &&Workload| workload.assignment().desired.application == application;
        let workload = self.workloads.values().find(of);
        Tenant::Organization(workload.and_then(|workload| workload.assignment().organization))
    }

    /// Says in a table of what is known who may call it.
    pub(super) fn add_tenants(&self, table: &mut NetworkTable) {
        for workload in self.workloads.values() {
            if let Some(address) = workload.address() {
                let tenant = table.tenants.entry(workload.assignment().organization).or_default();
                tenant.members.insert(address);
            }
        }
        let owned: Vec<Owned> = self.owned_here().chain(self.owned_elsewhere()).collect();
        for (organization, tenant) in &mut table.tenants {
            let caller = Tenant::Organization(*organization);
            let reached = owned.iter().filter(|(_, owner, exported)| caller.may_call(*owner, *exported));
            tenant.reaches = reached.map(|(address, ..)| *address).collect();
        }
        table.owned = owned.into_iter().map(|(address, ..)| address).collect();
        for (target, tenant) in self.overlay.refused.keys() {
            let Target::Address(address) = target else { continue };
            match tenant {
                Tenant::Machine => {
                    table.services.entry(*address).or_default();
                }
                Tenant::Organization(organization) => {
                    if let Some(tenant) = table.tenants.get_mut(organization) {
                        tenant.refused.insert(*address);
                    }
                }
            }
        }
    }

    fn owned_here(&self) -> impl Iterator<Item = Owned> {
        self.workloads.values().flat_map(|workload| {
            let assignment = workload.assignment();
            let desired = &assignment.desired;
            let services = desired.addresses().map(|(_, address)| address);
            let addresses = services.chain([desired.instance_address]);
            let (owner, exported) = (assignment.organization, desired.spec.exported);
            addresses.map(move |address| (address, owner, exported))
        })
    }

    fn owned_elsewhere(&self) -> impl Iterator<Item = Owned> {
        self.overlay.services.values().flat_map(|service| {
            let instances = self.overlay.backends_of(service.id).map(|backend| backend.instance_address);
            let addresses = service.all_addresses().map(|(_, address)| address).chain(instances);
            addresses.map(|address| (address, service.organization, service.exported))
        })
    }
}
