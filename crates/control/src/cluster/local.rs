//! Deploying at the cluster itself, for times without a root. The root takes it over when it is back, without
//! restarting anything.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use oak_model::message::DesiredInstance;
use oak_model::sla::ApplicationRequest;
use oak_model::{
    Application, ApplicationId, Generation, InstanceKey, JobName, Now, Service, ServiceId, ServiceSpec,
    Surroundings,
};

use super::records::{Extent, KnownApplication};
use super::{Cluster, Placed};
use crate::address::AddressPool;
use crate::{Entropy, Table};

/// Owner of applications that were deployed at a cluster: it has no accounts of its own.
pub const LOCAL_OWNER: &str = "Admin";

/// Why the cluster does not do what it was asked; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocalRefusal {
    /// There is a root, and two places to deploy at would confuse people.
    #[error("the root is connected: deploy there (without --local)")]
    RootConnected,
    /// Name and namespace are taken by another local application.
    #[error("application `{0}` exists already at this cluster: delete it or choose another name")]
    ApplicationExists(String),
    /// Two services of the descriptor have the same names.
    #[error("service `{0}` occurs twice in the descriptor: choose another name")]
    ServiceTwice(JobName),
    /// No such application here.
    #[error("application {0} does not exist at this cluster")]
    UnknownApplication(ApplicationId),
    /// No such service here.
    #[error("service {0} does not exist at this cluster")]
    UnknownService(ServiceId),
    /// No such instance here.
    #[error("instance {0} does not exist at this cluster")]
    UnknownInstance(InstanceKey),
    /// It is the root's.
    #[error("`{0}` belongs to the root: change it there")]
    OfTheRoot(String),
    /// The descriptor asks for an address that the cluster may not give out.
    #[error(
        "service address {0} can be given only by the root: let the system choose, or deploy at the root"
    )]
    AddressOfTheRoot(Ipv4Addr),
    /// The service needs values that only a root keeps.
    #[error(
        "service `{0}` needs {1}, which this cluster cannot give it: secrets are kept by the root; deploy there, or leave \
         them out"
    )]
    ConfidentialOfTheRoot(JobName, String),
    /// The root never gave this cluster addresses of its own.
    #[error("this cluster has no service addresses of its own: it gets them when it is connected to a root")]
    NoAddresses,
    /// All addresses are in use.
    #[error("all service addresses of this cluster are in use: delete local services that are not needed")]
    AddressesExhausted,
}

impl Cluster {
    /// Applications of which something is here.
    pub fn applications(&self) -> impl Iterator<Item = &KnownApplication> {
        self.applications.values()
    }

    /// Services of which something is here.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// One service.
    #[must_use]
    pub fn service(&self, id: ServiceId) -> Option<&Service> {
        self.services.get(&id)
    }

    /// Instances of a service that are here.
    pub fn instances_of(&self, service: ServiceId) -> impl Iterator<Item = &Placed> {
        self.placed_of(service)
    }

    /// Creates all applications of a descriptor at this cluster, or none.
    ///
    /// # Errors
    /// The first conflict with what exists or within the descriptor.
    pub fn create_local(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        requests: Vec<ApplicationRequest>,
    ) -> Result<Vec<ApplicationId>, LocalRefusal> {
        if self.root_connected {
            return Err(LocalRefusal::RootConnected);
        }
        let mut pool = self.local_pool()?;
        self.check_local(&requests, &mut pool)?;
        let mut created = Vec::new();
        for request in requests {
            created.push(self.insert_local(now, entropy, request, &mut pool)?);
        }
        Ok(created)
    }

    fn check_local(
        &self,
        requests: &[ApplicationRequest],
        pool: &mut AddressPool,
    ) -> Result<(), LocalRefusal> {
        let mut names = BTreeSet::new();
        let mut needed = 0;
        for request in requests {
            let is_same = |known: &KnownApplication| {
                let other = &known.application;
                known.local && other.name == request.name && other.namespace == request.namespace
            };
            let name = (request.name.clone(), request.namespace.clone());
            if self.applications.values().any(is_same) || !names.insert(name) {
                return Err(LocalRefusal::ApplicationExists(request.name.to_string()));
            }
            let mut services = BTreeSet::new();
            for service in &request.services {
                if let Some(address) = service.spec.chosen_addresses().next() {
                    return Err(LocalRefusal::AddressOfTheRoot(address));
                }
                let job_name = service.job_name(&request.name, &request.namespace);
                if let Some(what) = confidential(&service.spec) {
                    return Err(LocalRefusal::ConfidentialOfTheRoot(job_name, what));
                }
                if !services.insert((service.name.clone(), service.namespace.clone())) {
                    return Err(LocalRefusal::ServiceTwice(job_name));
                }
                needed += 1 + service.spec.policies.len();
            }
        }
        let free = (pool.capacity() as usize).saturating_sub(pool.used());
        if needed > free { Err(LocalRefusal::AddressesExhausted) } else { Ok(()) }
    }

    fn insert_local(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        request: ApplicationRequest,
        pool: &mut AddressPool,
    ) -> Result<ApplicationId, LocalRefusal> {
        let id = ApplicationId::new(now.wall, entropy.next_u64());
        let mut services = Vec::new();
        for service_request in request.services {
            let address = pool.allocate().ok_or(LocalRefusal::AddressesExhausted)?;
            let job_name = service_request.job_name(&request.name, &request.namespace);
            let service_id = ServiceId::new(now.wall, entropy.next_u64());
            // There is no root to keep a number of instances; the one that takes over does.
            let mut service = Service::of_request(service_id, id, job_name, service_request, address);
            for policy in service.spec.policies.keys() {
                let address = pool.allocate().ok_or(LocalRefusal::AddressesExhausted)?;
                service.policies.insert(*policy, address);
            }
            services.push(service.id);
            self.meta.local_addresses.extend(service.addresses().map(|(_, address)| address));
            self.outbox.put(Table::Service, service.id, &service);
            self.services.insert(service.id, service);
        }
        let application = Application {
            id,
            owner: LOCAL_OWNER.to_owned(),
            organization: None,
            name: request.name,
            namespace: request.namespace,
            description: request.description,
            other: request.other,
            services,
        };
        self.save_meta();
        let known = KnownApplication { application, local: true };
        self.outbox.put(Table::Application, id, &known);
        self.applications.insert(id, known);
        Ok(id)
    }

    /// Asks for one more instance of a local service.
    ///
    /// # Errors
    /// The service is not here, is the root's, or there are no addresses. Finding no place is not an error.
    pub fn deploy_local(&mut self, now: Now, service: ServiceId) -> Result<InstanceKey, LocalRefusal> {
        self.require_local(service)?;
        let address = self.local_pool()?.allocate().ok_or(LocalRefusal::AddressesExhausted)?;
        let found = self.services.get_mut(&service).ok_or(LocalRefusal::UnknownService(service))?;
        let key = InstanceKey { service, number: found.next_number };
        found.next_number += 1;
        self.outbox.put(Table::Service, service, &*found);
        let desired = DesiredInstance {
            key,
            // Whatever the root says about it later is newer.
            generation: Generation(0),
            application: found.application,
            job_name: found.job_name.clone(),
            spec: Arc::clone(&found.spec),
            service_addresses: vec![found.address],
            policies: found.policies.clone(),
            instance_address: address,
            surroundings: Surroundings::default(),
            material: Vec::new(),
        };
        let desired = DesiredInstance { surroundings: self.local_surroundings(service), ..desired };
        self.meta.local_addresses.insert(address);
        self.save_meta();
        self.placed.insert(key, Placed::new(desired));
        self.place(now, key);
        // If a root has just come back, it has not heard of this one.
        self.send_holdings(Extent::Local);
        Ok(key)
    }

    /// Takes an instance of a local service down.
    ///
    /// # Errors
    /// It is not here or is the root's.
    pub fn undeploy_local(&mut self, now: Now, key: InstanceKey) -> Result<(), LocalRefusal> {
        self.require_local(key.service)?;
        if self.placed.get(&key).is_none_or(|placed| placed.removing) {
            return Err(LocalRefusal::UnknownInstance(key));
        }
        self.remove_instance(now, key);
        Ok(())
    }

    /// Deletes a local application with everything in it.
    ///
    /// # Errors
    /// It is not here or is the root's.
    pub fn delete_local(&mut self, now: Now, id: ApplicationId) -> Result<(), LocalRefusal> {
        let known = self.applications.get(&id).ok_or(LocalRefusal::UnknownApplication(id))?;
        if !known.local {
            return Err(LocalRefusal::OfTheRoot(known.application.name.to_string()));
        }
        let services: Vec<_> =
            self.services.values().filter(|service| service.application == id).map(|s| s.id).collect();
        let keys: Vec<_> =
            services.iter().flat_map(|id| self.placed_of(*id)).map(|placed| placed.desired.key).collect();
        for key in keys {
            self.remove_instance(now, key);
        }
        for service in services {
            self.services.remove(&service);
            self.outbox.delete(Table::Service, service);
        }
        self.applications.remove(&id);
        self.outbox.delete(Table::Application, id);
        Ok(())
    }

    fn require_local(&self, service: ServiceId) -> Result<(), LocalRefusal> {
        let found = self.services.get(&service).ok_or(LocalRefusal::UnknownService(service))?;
        let known = self.applications.get(&found.application);
        if known.is_some_and(|known| known.local) {
            Ok(())
        } else {
            Err(LocalRefusal::OfTheRoot(found.job_name.to_string()))
        }
    }

    /// The addresses this cluster may give out, with those in use marked.
    fn local_pool(&self) -> Result<AddressPool, LocalRefusal> {
        let block = self.meta.local_block.ok_or(LocalRefusal::NoAddresses)?;
        let mut pool = AddressPool::hosts_of(block);
        let services = self.services.values().flat_map(Service::addresses).map(|(_, address)| address);
        let instances = self.placed.values().map(|placed| placed.desired.instance_address);
        for address in services.chain(instances).chain(self.meta.local_addresses.iter().copied()) {
            pool.claim(address);
        }
        Ok(pool)
    }
}

/// Which confidential value a service cannot do without, for people.
fn confidential(spec: &ServiceSpec) -> Option<String> {
    let secret = spec.secrets.first().map(|secret| format!("the secret `{}`", secret.name));
    secret.or_else(|| Some(format!("the credentials of `{}`", spec.registry_credentials.as_ref()?)))
}
