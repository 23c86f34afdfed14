//! Applications and services: creating and deleting them.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use oak_model::sla::{ApplicationRequest, ServiceRequest};
use oak_model::{ApplicationId, InstanceKey, JobName, Name, Now, ServiceId};

use super::tenants::FullName;
use super::{Application, Consumption, OverQuota, Owner, Root, Service};
use crate::{Entropy, Table};

/// Why the root does not do what it was asked; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Name and namespace are taken.
    #[error(
        "application `{name}` in namespace `{namespace}` exists already: delete it or choose another name"
    )]
    ApplicationExists {
        /// Name.
        name: Name,
        /// Namespace.
        namespace: Name,
    },
    /// A service of that name is there already.
    #[error("service `{0}` exists already: delete it or choose another name")]
    ServiceExists(JobName),
    /// No such application of this owner.
    #[error("application {0} does not exist")]
    UnknownApplication(ApplicationId),
    /// No such service.
    #[error("service {0} does not exist")]
    UnknownService(ServiceId),
    /// No such instance.
    #[error("instance {0} does not exist")]
    UnknownInstance(InstanceKey),
    /// The service address asked for is in use.
    #[error(
        "service address {address} is in use by `{holder}`: choose another `addresses.rr_ip` or leave it out"
    )]
    AddressTaken {
        /// The address.
        address: Ipv4Addr,
        /// Who has it.
        holder: String,
    },
    /// The organisation may not ask for more.
    #[error(transparent)]
    OverQuota(#[from] OverQuota),
    /// The organisation was deleted meanwhile.
    #[error("the organisation does not exist any more")]
    OrganizationGone,
    /// The user was deleted meanwhile.
    #[error("the user `{0}` does not exist any more")]
    OwnerGone(String),
    /// The address pool is empty.
    #[error("all service addresses of 10.30.0.0/16 are in use: delete services that are not needed")]
    AddressesExhausted,
}

impl Root {
    /// Creates all applications of a descriptor, or none.
    ///
    /// # Errors
    /// The first conflict with what exists or within the descriptor.
    pub fn create_applications(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        owner: &Owner,
        requests: Vec<ApplicationRequest>,
    ) -> Result<Vec<ApplicationId>, Refusal> {
        self.tenants.check(owner)?;
        let mut names = HashSet::new();
        for request in &requests {
            let key = FullName::new(owner, &request.name, &request.namespace);
            if self.application_names.contains_key(&key) || !names.insert(key) {
                return Err(Refusal::ApplicationExists {
                    name: request.name.clone(),
                    namespace: request.namespace.clone(),
                });
            }
        }
        let prepared = requests
            .iter()
            .map(|request| (&request.name, &request.namespace, &[][..], &request.services[..]))
            .collect::<Vec<_>>();
        self.check_services(&prepared)?;
        self.check_quota(owner.organization, &Consumption::of_applications(&requests))?;
        let mut created = Vec::with_capacity(requests.len());
        for request in requests {
            let id = ApplicationId::new(now.wall, entropy.next_u64());
            let application = Application {
                id,
                owner: owner.user.clone(),
                organization: owner.organization,
                name: request.name,
                namespace: request.namespace,
                description: request.description,
                other: request.other,
                services: Vec::new(),
            };
            self.application_names.insert(FullName::of(&application), id);
            self.applications.insert(id, application);
            self.insert_services(now, entropy, id, request.services);
            created.push(id);
        }
        Ok(created)
    }

    /// Adds services to an application: all of them, or none.
    ///
    /// # Errors
    /// The first conflict.
    pub fn add_services(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        application: ApplicationId,
        requests: Vec<ServiceRequest>,
    ) -> Result<Vec<ServiceId>, Refusal> {
        let existing = self.applications.get(&application).ok_or(Refusal::UnknownApplication(application))?;
        let checked = (&existing.name, &existing.namespace, &existing.services[..], &requests[..]);
        self.check_services(&[checked])?;
        self.check_quota(existing.organization, &Consumption::of_services(&requests))?;
        Ok(self.insert_services(now, entropy, application, requests))
    }

    /// Changes the description of an application; names and services have their own operations.
    ///
    /// # Errors
    /// The application does not exist.
    pub fn describe_application(&mut self, id: ApplicationId, description: String) -> Result<(), Refusal> {
        let application = self.applications.get_mut(&id).ok_or(Refusal::UnknownApplication(id))?;
        application.description = description;
        self.outbox.put(Table::Application, id, application);
        Ok(())
    }

    /// Deletes an application with everything in it.
    ///
    /// # Errors
    /// The application does not exist.
    pub fn delete_application(&mut self, now: Now, id: ApplicationId) -> Result<(), Refusal> {
        let services = self.applications.get(&id).ok_or(Refusal::UnknownApplication(id))?.services.clone();
        for service in services {
            self.delete_service(now, service)?;
        }
        if let Some(application) = self.applications.remove(&id) {
            self.application_names.remove(&FullName::of(&application));
            self.outbox.delete(Table::Application, id);
        }
        Ok(())
    }

    /// Deletes a service with all its instances.
    ///
    /// # Errors
    /// The service does not exist.
    pub fn delete_service(&mut self, now: Now, id: ServiceId) -> Result<(), Refusal> {
        if !self.services.contains_key(&id) {
            return Err(Refusal::UnknownService(id));
        }
        let keys: Vec<_> = self.instances_of(id).map(|instance| instance.key).collect();
        for key in keys {
            self.undeploy(now, key)?;
        }
        let Some(service) = self.services.remove(&id) else { return Ok(()) };
        self.addresses.release(service.address);
        self.outbox.delete(Table::Service, id);
        if let Some(application) = self.applications.get_mut(&service.application) {
            application.services.retain(|other| *other != id);
            self.outbox.put(Table::Application, application.id, application);
        }
        Ok(())
    }

    /// Checks names and addresses of new services against what exists and against each other.
    fn check_services(
        &self,
        groups: &[(&Name, &Name, &[ServiceId], &[ServiceRequest])],
    ) -> Result<(), Refusal> {
        let mut addresses = HashSet::new();
        let mut wanted = 0;
        for (application, namespace, existing, requests) in groups {
            let mut names: HashSet<JobName> = existing
                .iter()
                .filter_map(|id| self.services.get(id))
                .map(|service| service.job_name.clone())
                .collect();
            for request in *requests {
                let job_name = job_name(application, namespace, request);
                if names.contains(&job_name) {
                    return Err(Refusal::ServiceExists(job_name));
                }
                if let Some(address) = request.spec.service_address
                    && (self.addresses.is_used(address) || !addresses.insert(address))
                {
                    return Err(Refusal::AddressTaken { address, holder: self.holder(address) });
                }
                names.insert(job_name);
                wanted += 1;
            }
        }
        if wanted > self.addresses.free() {
            return Err(Refusal::AddressesExhausted);
        }
        Ok(())
    }

    fn holder(&self, address: Ipv4Addr) -> String {
        if self.addresses.is_in_block(address) {
            return "a cluster, for what is deployed there while the root is away".to_owned();
        }
        let service = self.services.values().find(|service| service.address == address);
        let instance = self.instances.values().find(|instance| instance.address == address);
        match (service, instance) {
            (Some(service), _) => service.job_name.to_string(),
            (None, Some(instance)) => format!("instance {}", instance.key),
            (None, None) => {
                "another service of this descriptor or an instance that is being removed".to_owned()
            }
        }
    }

    fn insert_services(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        application: ApplicationId,
        requests: Vec<ServiceRequest>,
    ) -> Vec<ServiceId> {
        // Addresses somebody asked for are taken first, so that an automatic one cannot be in the way.
        for address in requests.iter().filter_map(|request| request.spec.service_address) {
            self.addresses.claim(address);
        }
        let mut created = Vec::with_capacity(requests.len());
        for request in requests {
            let Some(address) = request.spec.service_address.or_else(|| self.addresses.allocate()) else {
                continue;
            };
            let Some(parent) = self.applications.get_mut(&application) else { continue };
            let id = ServiceId::new(now.wall, entropy.next_u64());
            let service = Service {
                id,
                application,
                job_name: job_name(&parent.name, &parent.namespace, &request),
                spec: Arc::new(request.spec),
                document: request.document,
                address,
                next_number: 0,
            };
            parent.services.push(id);
            self.outbox.put(Table::Service, id, &service);
            self.services.insert(id, service);
            created.push(id);
        }
        if let Some(parent) = self.applications.get(&application) {
            self.outbox.put(Table::Application, application, parent);
        }
        self.save_meta();
        created
    }
}

fn job_name(application: &Name, namespace: &Name, request: &ServiceRequest) -> JobName {
    JobName {
        application: application.clone(),
        application_namespace: namespace.clone(),
        service: request.name.clone(),
        service_namespace: request.namespace.clone(),
    }
}
