//! Applications and services: creating and deleting them.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use oak_model::sla::{ApplicationRequest, ServiceRequest};
use oak_model::{
    ApplicationId, EventKind, InstanceKey, JobName, MAX_REPLICAS, Name, Now, Purpose, ServiceId,
};

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
    #[error("service address {address} is in use by `{holder}`: choose another one or let the system choose")]
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
    /// Its organisation does not have it.
    #[error("there is no {0} in this organisation: store it first (`oak secret set`, `oak registry login`)")]
    UnknownSecret(Purpose),
    /// The address pool is empty.
    #[error("all service addresses of 10.30.0.0/16 are in use: delete services that are not needed")]
    AddressesExhausted,
    /// A service keeps as many instances as it can.
    #[error("a service can keep at most {MAX_REPLICAS} instances: split the work over several services")]
    TooManyReplicas,
    /// The names of a service are part of its addresses and its identity.
    #[error("the service is `{present}` and cannot be renamed to `{wanted}`: create another service")]
    Renamed {
        /// Its names.
        present: Box<JobName>,
        /// Those sent.
        wanted: Box<JobName>,
    },
    /// The service address is what others know it by.
    #[error(
        "the service address is {present} and cannot become {wanted}: leave it out of `addresses`, or create \
         another service"
    )]
    AddressFixed {
        /// What it is.
        present: Ipv4Addr,
        /// What was asked for.
        wanted: Ipv4Addr,
    },
    /// One update at a time.
    #[error(
        "service `{service}` is being updated to revision {revision}: wait for its end, or roll it back first"
    )]
    UpdateRunning {
        /// Which.
        service: Box<JobName>,
        /// Where it is going.
        revision: u32,
    },
    /// There is no revision to go back to.
    #[error("service `{0}` has no update that could be rolled back")]
    NothingToRollBack(Box<JobName>),
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
        self.check_applications(owner, &requests)?;
        let mut created = Vec::with_capacity(requests.len());
        for request in requests {
            let id = ApplicationId::new(now.wall, entropy.next_u64());
            let (application, services) = split(id, owner, request);
            self.application_names.insert(FullName::of(&application), id);
            self.ledger.admit(&application);
            self.applications.insert(id, application);
            self.tell_application(now.wall, EventKind::ApplicationCreated, id);
            self.insert_services(now, entropy, id, services);
            created.push(id);
        }
        Ok(created)
    }

    /// Checks names and addresses of new applications against what exists and against each other.
    pub(super) fn check_applications(
        &self,
        owner: &Owner,
        requests: &[ApplicationRequest],
    ) -> Result<(), Refusal> {
        self.tenants.check(owner)?;
        let mut names = HashSet::new();
        for request in requests {
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
        self.check_quota(owner.organization, &Consumption::of_applications(requests))?;
        Ok(())
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
        self.tell_application(now.wall, EventKind::ApplicationDeleted, id);
        if let Some(application) = self.applications.remove(&id) {
            self.forget_history_of(&application);
            self.application_names.remove(&FullName::of(&application));
            self.ledger.dismiss(&application);
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
        self.remove_instances(now, id);
        self.tell_service(now.wall, EventKind::ServiceDeleted, id);
        let Some(service) = self.services.remove(&id) else { return Ok(()) };
        self.overlay_forget(id);
        self.recount(id);
        self.linked.forget(id);
        self.forget_history_of_service(service.application, id);
        self.looks.forget(id);
        for (_, address) in service.addresses() {
            self.addresses.release(address);
        }
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
        for (application, namespace, existing, requests) in groups {
            let mut names: HashSet<JobName> = existing
                .iter()
                .filter_map(|id| self.services.get(id))
                .map(|service| service.job_name.clone())
                .collect();
            for request in *requests {
                let job_name = request.job_name(application, namespace);
                if names.contains(&job_name) {
                    return Err(Refusal::ServiceExists(job_name));
                }
                names.insert(job_name);
            }
        }
        self.check_addresses(groups.iter().flat_map(|(.., requests)| requests.iter()))
    }

    fn insert_services(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        application: ApplicationId,
        requests: Vec<ServiceRequest>,
    ) -> Vec<ServiceId> {
        // Addresses somebody asked for are taken first, so that an automatic one cannot be in the way.
        let chosen: Vec<_> = requests.iter().flat_map(|request| request.spec.chosen_addresses()).collect();
        for address in &chosen {
            self.addresses.claim(*address);
        }
        let mut created = Vec::with_capacity(requests.len());
        for request in requests {
            let Some(address) = request.spec.service_address.or_else(|| self.addresses.allocate()) else {
                continue;
            };
            let Some(parent) = self.applications.get_mut(&application) else { continue };
            let id = ServiceId::new(now.wall, entropy.next_u64());
            let job_name = request.job_name(&parent.name, &parent.namespace);
            let mut service = Service::of_request(id, application, job_name, request, address);
            let spec = Arc::clone(&service.spec);
            self.give_addresses(&mut service, &spec);
            let Some(parent) = self.applications.get_mut(&application) else { continue };
            parent.services.push(id);
            self.outbox.put(Table::Service, id, &service);
            self.linked.know(&service);
            self.services.insert(id, service);
            self.recount(id);
            self.tell_service(now.wall, EventKind::ServiceCreated, id);
            created.push(id);
        }
        if let Some(parent) = self.applications.get(&application) {
            self.outbox.put(Table::Application, application, parent);
        }
        self.save_meta();
        // Those that keep a number of instances by themselves.
        for id in &created {
            self.look_after(now, *id);
        }
        created
    }
}

/// The application that is asked for, still without services, and these.
pub(super) fn split(
    id: ApplicationId,
    owner: &Owner,
    request: ApplicationRequest,
) -> (Application, Vec<ServiceRequest>) {
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
    (application, request.services)
}
