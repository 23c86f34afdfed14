//! What a descriptor would do: the same checks and the same choices as the real thing, and nothing stays.
//!
//! The new objects are put into the state without rows, their instances are placed one after the other so that each
//! counts for the next, and everything is taken out again.

use std::net::Ipv4Addr;

use oak_model::sla::ApplicationRequest;
use oak_model::{ApplicationId, ClusterId, InstanceKey, JobName, Now, Service, ServiceId, WorkerId};

use super::applications::split;
use super::tenants::FullName;
use super::{Explanation, Instance, Owner, Refusal, Root};
use crate::Entropy;

/// Instances of one plan: each of them is explained if it finds no place.
pub const MOST_PLANNED: usize = 1_000;

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanRefusal {
    /// The real thing would be refused in the same way.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// More than is planned at once.
    #[error("the plan would have {0} instances, at most {MOST_PLANNED} are planned at once: ask for fewer")]
    TooMany(usize),
}

/// An instance of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedInstance {
    /// Its number.
    pub number: u32,
    /// Where it would go, with the names of the cluster and the worker; or why it would go nowhere.
    pub outcome: Result<PlannedPlace, Box<Explanation>>,
}

/// Where an instance would go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedPlace {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its name.
    pub cluster_name: String,
    /// The worker.
    pub worker: WorkerId,
    /// Its name.
    pub worker_name: String,
}

/// A service of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedService {
    /// Its names.
    pub job_name: JobName,
    /// Its instances in order.
    pub instances: Vec<PlannedInstance>,
}

/// What was put into the state.
#[derive(Default)]
struct Draft {
    applications: Vec<ApplicationId>,
    services: Vec<ServiceId>,
    instances: Vec<InstanceKey>,
}

impl Root {
    /// Plans the applications of a descriptor with all instances of each service: as many as it keeps by itself, otherwise
    /// `count`. Nothing is changed.
    ///
    /// # Errors
    /// What [`Root::create_applications`], or deploying the instances, would refuse; or too many instances.
    pub fn plan(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        owner: &Owner,
        mut requests: Vec<ApplicationRequest>,
        count: u32,
    ) -> Result<Vec<PlannedService>, PlanRefusal> {
        self.check_applications(owner, &requests)?;
        let mut total = 0_usize;
        for service in requests.iter_mut().flat_map(|request| &mut request.services) {
            let wanted = *service.replicas.get_or_insert(count);
            total = total.saturating_add(usize::try_from(wanted).unwrap_or(usize::MAX));
        }
        if total > MOST_PLANNED {
            return Err(PlanRefusal::TooMany(total));
        }
        // Addresses and quota of the instances.
        self.check_applications(owner, &requests)?;
        let mut draft = Draft::default();
        for request in requests {
            self.draft_application(now, entropy, owner, request, &mut draft);
        }
        let mut plan = Vec::with_capacity(draft.services.len());
        for id in draft.services.clone() {
            let Some(service) = self.services.get(&id) else { continue };
            let (job_name, count) = (service.job_name.clone(), service.upkeep.replicas.unwrap_or(count));
            let keys = (0..count).map(|number| InstanceKey { service: id, number });
            let instances = keys.filter_map(|key| self.draft_instance(now, key, &mut draft)).collect();
            plan.push(PlannedService { job_name, instances });
        }
        self.discard(draft);
        Ok(plan)
    }

    fn draft_application(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        owner: &Owner,
        request: ApplicationRequest,
        draft: &mut Draft,
    ) {
        let id = ApplicationId::new(now.wall, entropy.next_u64());
        let (mut application, services) = split(id, owner, request);
        for request in services {
            let job_name = request.job_name(&application.name, &application.namespace);
            let service_id = ServiceId::new(now.wall, entropy.next_u64());
            let service = Service::of_request(service_id, id, job_name, request, Ipv4Addr::UNSPECIFIED);
            application.services.push(service.id);
            draft.services.push(service.id);
            self.linked.know(&service);
            self.services.insert(service.id, service);
        }
        self.application_names.insert(FullName::of(&application), id);
        self.applications.insert(id, application);
        draft.applications.push(id);
    }

    /// Places an instance so that it counts for the next ones.
    fn draft_instance(&mut self, now: Now, key: InstanceKey, draft: &mut Draft) -> Option<PlannedInstance> {
        let service = self.services.get(&key.service)?;
        let outcome = match self.decide(now, service, None) {
            Err(_) => Err(Box::new(self.explain_one_more(now, service))),
            Ok((cluster, worker)) => Ok(self.planned_place(cluster, worker)?),
        };
        if let Ok(place) = &outcome {
            let (revision, address) = (service.upkeep.revision, Ipv4Addr::UNSPECIFIED);
            let mut instance = Instance::new(key, revision, self.meta.generation, address, now);
            instance.cluster = Some(place.cluster);
            self.instances.insert(key, instance);
            self.count(key, Some(place.worker));
            draft.instances.push(key);
        }
        Some(PlannedInstance { number: key.number, outcome })
    }

    fn planned_place(&self, id: ClusterId, worker: WorkerId) -> Option<PlannedPlace> {
        let cluster = self.clusters.get(&id)?;
        Some(PlannedPlace {
            cluster: id,
            cluster_name: cluster.name.clone(),
            worker,
            worker_name: cluster.workers.get(&worker)?.facts.name.clone(),
        })
    }

    fn discard(&mut self, draft: Draft) {
        for key in draft.instances {
            self.count(key, None);
            self.instances.remove(&key);
        }
        for id in draft.services {
            self.services.remove(&id);
            self.linked.forget(id);
        }
        for id in draft.applications {
            if let Some(application) = self.applications.remove(&id) {
                self.application_names.remove(&FullName::of(&application));
            }
        }
    }
}
