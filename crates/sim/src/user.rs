//! The users: deploy the workloads of the scenario, scale them, delete them, and change things at random.
//!
//! They speak to the root as the API does: an answer comes after the commit, or never when the root crashes. What was
//! not answered is asked for again.

use std::collections::HashMap;

use oak_control::root::Owner;
use oak_model::message::Assignment;
use oak_model::sla::{ApplicationRequest, ServiceRequest};
use oak_model::{InstanceKey, Name, PortMapping, Protocol, ServiceId, ServiceSpec};

use crate::agenda::{Agenda, Event};
use crate::client::{Answer, Known};
use crate::node::Reply;
use crate::runtime::Luck;
use crate::scenario::{Scenario, Workload};
use crate::world::World;

/// What is wanted of a workload now.
struct Wish {
    instances: usize,
    service: Option<ServiceId>,
    deleted: bool,
    /// A look at it is on the agenda.
    planned: bool,
}

/// What the users want and know.
pub(crate) struct Users {
    wishes: Vec<Wish>,
    workload_of: HashMap<ServiceId, usize>,
    lives: HashMap<ServiceId, u64>,
    pub(crate) applications_made: u64,
}

/// Pause between two bursts of requests, milliseconds.
const BURST_MS: u64 = 100;
/// A request without an answer is repeated after this time, milliseconds.
const RETRY_MS: u64 = 2_000;

impl Users {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let wish = |workload: &Workload| Wish {
            instances: workload.instances,
            service: None,
            deleted: false,
            planned: true,
        };
        Self {
            wishes: scenario.workloads.iter().map(wish).collect(),
            workload_of: HashMap::new(),
            lives: HashMap::new(),
            applications_made: 0,
        }
    }

    /// How long a process lives before it ends by itself; absent for as long as it is let.
    pub(crate) fn life_of(&self, agenda: &mut Agenda, luck: Luck, assignment: &Assignment) -> Option<u64> {
        let planned = self.lives.get(&assignment.desired.key.service);
        if let Some(life) = planned {
            return Some(agenda.between(life / 2, *life));
        }
        (assignment.desired.spec.one_shot || agenda.chance(luck.dies)).then(|| agenda.between(0, 20_000))
    }
}

impl World {
    /// The first looks at the workloads and the first random change.
    pub(crate) fn plan_users(&mut self) {
        for (index, workload) in self.scenario.workloads.iter().enumerate() {
            // Root and clusters have met by then.
            self.agenda.at(workload.at_ms.max(2_000), Event::Deploy { workload: index });
        }
        if let Some(churn) = &self.scenario.churn {
            self.agenda.at(churn.from_ms.max(2_000), Event::Churn);
        }
    }

    pub(crate) fn answered(&mut self, answer: Answer) {
        let now = self.agenda.time;
        self.client.hears(&answer);
        match answer {
            Answer::Created { workload: Some(index), services, .. } => {
                let Some(wish) = self.users.wishes.get_mut(index) else { return };
                wish.service = services.first().copied();
                let life = self.scenario.workloads.get(index).and_then(|workload| workload.runs_for_ms);
                for service in services {
                    self.users.workload_of.insert(service, index);
                    if let Some(life) = life {
                        self.users.lives.insert(service, life);
                    }
                }
                self.look_again(index, BURST_MS);
            }
            Answer::Deployed(key) => {
                if self.client.instances.get(&key) == Some(&Known::Exists) {
                    self.metrics.want(now, key);
                }
            }
            Answer::DeployedLocally(keys) => keys.into_iter().for_each(|key| self.metrics.want(now, key)),
            Answer::Created { .. }
            | Answer::Undeployed(_)
            | Answer::ServiceDeleted(_)
            | Answer::ApplicationDeleted(..) => {}
        }
    }

    fn look_again(&mut self, index: usize, delay: u64) {
        let Some(wish) = self.users.wishes.get_mut(index) else { return };
        if !wish.planned {
            wish.planned = true;
            self.agenda.after(delay, Event::Deploy { workload: index });
        }
    }

    /// Another number of instances is wanted of a workload, or none of it any more.
    pub(crate) fn wish(&mut self, name: &str, instances: Option<usize>) {
        let index = self.scenario.workloads.iter().position(|workload| workload.name.as_str() == name);
        let Some(wish) = index.and_then(|index| self.users.wishes.get_mut(index)) else { return };
        match instances {
            Some(instances) => wish.instances = instances,
            None => wish.deleted = true,
        }
        self.look_again(index.unwrap_or_default(), 1);
    }

    /// Brings a workload a burst closer to what is wanted of it.
    pub(crate) fn deploy(&mut self, index: usize) {
        let (Some(wish), Some(workload)) =
            (self.users.wishes.get_mut(index), self.scenario.workloads.get(index))
        else {
            return;
        };
        wish.planned = false;
        let burst = usize::try_from(workload.deploys_per_second * BURST_MS / 1_000).unwrap_or(1).max(1);
        let (wanted, deleted) = (wish.instances, wish.deleted);
        let Some(service) = wish.service else {
            if !deleted {
                self.create_workload(index);
                self.look_again(index, RETRY_MS);
            }
            return;
        };
        if self.root.machine.is_none() {
            self.look_again(index, RETRY_MS);
            return;
        }
        if deleted {
            if self.client.services.get(&service) != Some(&Known::Gone) {
                self.delete_service(service);
                self.look_again(index, RETRY_MS);
            }
            return;
        }
        let present = self.client.instances_of(service);
        if present.len() < wanted {
            for _ in 0..burst.min(wanted - present.len()) {
                self.deploy_one(service);
            }
            // Answers need a moment; what is under way must not be asked for twice.
            let settle = if burst >= wanted - present.len() { RETRY_MS } else { BURST_MS };
            self.look_again(index, settle.max(self.commit_time()));
        } else if present.len() > wanted {
            for key in present.iter().rev().take(burst.min(present.len() - wanted)) {
                self.undeploy(*key);
            }
            self.look_again(index, BURST_MS);
        }
    }

    /// Time by which a commit of the root is over, with room, milliseconds.
    fn commit_time(&self) -> u64 {
        let model = self.root.disk.model;
        let full = self.root.disk.full_until.saturating_sub(self.agenda.time);
        2 * (model.commit.ms + model.jitter.ms) + full + 20 * u64::from(self.root.queued() > 0)
    }

    fn create_workload(&mut self, index: usize) {
        let Some(workload) = self.scenario.workloads.get(index) else { return };
        let port = |port: &u16| PortMapping { host: *port, container: *port, protocol: Protocol::Tcp };
        let mut spec = ServiceSpec {
            image: format!("registry.example/{}:1", workload.name),
            resources: workload.resources,
            one_shot: workload.one_shot,
            at_most_one: workload.at_most_one,
            ports: workload.ports.iter().map(port).collect(),
            ..ServiceSpec::default()
        };
        spec.target.clusters.clone_from(&workload.clusters);
        spec.target.workers.clone_from(&workload.workers);
        let service = service_request(workload.name.clone(), spec);
        self.create(Some(index), workload.name.clone(), vec![service]);
    }

    pub(crate) fn create(&mut self, workload: Option<usize>, name: Name, services: Vec<ServiceRequest>) {
        let request = application_request(name, services);
        let owner = Owner { user: "Admin".to_owned(), organization: None };
        self.root.call(&mut self.agenda, |root, now, random| {
            let applications = match root.create_applications(now, random, &owner, vec![request.clone()]) {
                Ok(created) => created,
                // It was stored, but the answer got lost.
                Err(oak_control::root::Refusal::ApplicationExists { .. }) => root
                    .applications()
                    .filter(|application| application.name == request.name)
                    .map(|application| application.id)
                    .collect(),
                Err(_) => return None,
            };
            let services = applications
                .iter()
                .filter_map(|id| root.application(*id))
                .flat_map(|application| application.services.clone())
                .collect();
            Some(Reply::Client(Answer::Created { workload, applications, services }))
        });
    }

    pub(crate) fn deploy_one(&mut self, service: ServiceId) {
        self.root.call(&mut self.agenda, |root, now, _| {
            let key = root.deploy(now, service).ok()?;
            Some(Reply::Client(Answer::Deployed(key)))
        });
    }

    pub(crate) fn undeploy(&mut self, key: InstanceKey) {
        if self.root.machine.is_none() {
            return;
        }
        self.client.asks_instance_to_go(key);
        self.metrics.unwant(key);
        self.root.call(&mut self.agenda, |root, now, _| {
            root.undeploy(now, key).ok()?;
            Some(Reply::Client(Answer::Undeployed(key)))
        });
    }

    pub(crate) fn delete_service(&mut self, service: ServiceId) {
        if self.root.machine.is_none() {
            return;
        }
        self.forget_wishes(service);
        self.client.asks_service_to_go(service);
        self.root.call(&mut self.agenda, |root, now, _| {
            // It may be gone already, and only the answer was lost.
            if root.service(service).is_some() {
                root.delete_service(now, service).ok()?;
            }
            Some(Reply::Client(Answer::ServiceDeleted(service)))
        });
    }

    pub(crate) fn forget_wishes(&mut self, service: ServiceId) {
        for key in self.client.instances_of(service) {
            self.metrics.unwant(key);
        }
    }

    /// Name of a service of the scenario, or its identifier.
    pub(crate) fn service_name(&self, service: ServiceId) -> String {
        let workload = self.users.workload_of.get(&service);
        let name = workload.and_then(|index| self.scenario.workloads.get(*index));
        name.map_or_else(|| service.to_string(), |workload| workload.name.to_string())
    }
}

pub(crate) fn application_request(name: Name, services: Vec<ServiceRequest>) -> ApplicationRequest {
    ApplicationRequest {
        application_id: None,
        namespace: name.clone(),
        name,
        description: String::new(),
        services,
        other: serde_json::Map::new(),
    }
}

pub(crate) fn service_request(name: Name, spec: ServiceSpec) -> ServiceRequest {
    ServiceRequest { namespace: name.clone(), name, spec, document: serde_json::Map::new() }
}
