//! Users that change their minds: deployments, scaling and deletions at random.

use oak_model::sla::ServiceRequest;
use oak_model::{Name, PortMapping, Protocol, Resources, ServiceSpec};

use crate::agenda::{Agenda, Event};
use crate::client::Answer;
use crate::node::Reply;
use crate::scenario::Churn;
use crate::updates::Quality;
use crate::user::{application_request, service_request};
use crate::world::World;

impl World {
    /// One change at random.
    pub(crate) fn churn(&mut self) {
        let Some(churn) = self.scenario.churn.clone() else { return };
        if self.agenda.time >= churn.until_ms {
            self.mend();
            return;
        }
        let weights = [
            churn.deploy,
            churn.undeploy,
            churn.create,
            churn.delete_service,
            churn.delete_application,
            churn.deploy_locally,
            churn.scale,
            churn.update,
            churn.break_service,
            churn.call,
        ];
        match self.agenda.weighted(&weights) {
            0 => self.deploy_something(&churn),
            1 => self.undeploy_something(),
            2 => self.create_application(&churn),
            3 => self.delete_some_service(),
            4 => self.delete_some_application(),
            5 => self.deploy_locally(&churn),
            6 => self.scale_something(&churn),
            7 => self.update_something(Quality::Good),
            8 => self.update_something(Quality::Broken),
            _ => self.call_something(),
        }
        let pause = self.agenda.between(1, 2 * churn.every_ms);
        self.agenda.after(pause, Event::Churn);
    }

    fn deploy_something(&mut self, churn: &Churn) {
        let services = self.client.open_services.len();
        let full =
            self.root.machine.as_ref().is_none_or(|root| root.instance_count() >= churn.most_instances);
        if services == 0 || full {
            return;
        }
        let place = self.agenda.pick(services);
        if let Some(service) = self.client.open_services.get(place) {
            self.deploy_one(service);
        }
    }

    fn undeploy_something(&mut self) {
        let instances = self.client.open_instances.len();
        if instances == 0 {
            return;
        }
        let place = self.agenda.pick(instances);
        if let Some(key) = self.client.open_instances.get(place) {
            self.undeploy(key);
        }
    }

    fn delete_some_service(&mut self) {
        let services = self.client.open_services.len();
        if services == 0 {
            return;
        }
        let place = self.agenda.pick(services);
        if let Some(service) = self.client.open_services.get(place) {
            self.delete_service(service);
        }
    }

    fn delete_some_application(&mut self) {
        let applications = self.client.open_applications.len();
        let Some(root) = self.root.machine.as_ref().filter(|_| applications > 0) else { return };
        let place = self.agenda.pick(applications);
        let found = self.client.open_applications.get(place).and_then(|id| root.application(id));
        let Some(application) = found else { return };
        let (id, services) = (application.id, application.services.clone());
        self.client.asks_application_to_go(id);
        for service in &services {
            self.forget_wishes(*service);
            self.client.asks_service_to_go(*service);
        }
        self.root.call(&mut self.agenda, |root, now, _| {
            root.delete_application(now, id).ok()?;
            Some(Reply::Client(Answer::ApplicationDeleted(id, services)))
        });
    }

    fn create_application(&mut self, churn: &Churn) {
        let number = self.users.applications_made;
        self.users.applications_made += 1;
        let Ok(name) = format!("app{number}").parse::<Name>() else { return };
        let count = self.agenda.between(1, 3);
        let services = (0..count).filter_map(|index| self.some_service(churn, number * 10 + index)).collect();
        self.create(None, name, services);
    }

    /// Somebody at a site deploys at the cluster there, whether the root can be reached or not.
    fn deploy_locally(&mut self, churn: &Churn) {
        let number = self.users.applications_made;
        self.users.applications_made += 1;
        let cluster = self.agenda.pick(self.clusters.len());
        let full =
            self.root.machine.as_ref().is_some_and(|root| root.instance_count() >= churn.most_instances);
        let (Ok(name), Some(service)) =
            (format!("local{number}").parse::<Name>(), self.some_service(churn, number * 10))
        else {
            return;
        };
        let request = application_request(name, vec![service]);
        let Some(side) = self.clusters.get_mut(cluster).filter(|_| !full) else { return };
        side.node.call(&mut self.agenda, |machine, now, random| {
            let created = machine.create_local(now, random, vec![request]).ok()?;
            let services: Vec<_> = machine
                .services()
                .filter(|service| created.contains(&service.application))
                .map(|service| service.id)
                .collect();
            let keys =
                services.into_iter().filter_map(|service| machine.deploy_local(now, service).ok()).collect();
            Some(Reply::Client(Answer::DeployedLocally(keys)))
        });
    }

    fn some_service(&mut self, churn: &Churn, number: u64) -> Option<ServiceRequest> {
        // In ten steps, so that sums come out even and a full machine is exactly full.
        let step =
            |agenda: &mut Agenda, most: u32| most / 10 * u32::try_from(agenda.between(0, 10)).unwrap_or(0);
        let cpu_millis = step(&mut self.agenda, churn.cpu_millis);
        let memory_mib = step(&mut self.agenda, churn.memory_mib);
        let mut spec = ServiceSpec {
            image: "registry.example/image:1".into(),
            resources: Resources { cpu_millis, memory_mib, storage_mib: 0, gpus: 0 },
            one_shot: self.agenda.chance(0.15),
            at_most_one: self.agenda.chance(0.25),
            ..ServiceSpec::default()
        };
        if self.agenda.chance(churn.picky) {
            let cluster = self.agenda.pick(self.clusters.len());
            spec.target.clusters.extend(self.clusters.get(cluster).map(|side| side.name.clone()));
        }
        if self.agenda.chance(churn.picky) {
            let worker = self.agenda.pick(self.workers.len());
            spec.target.workers.extend(self.workers.get(worker).map(|side| side.facts.name.clone()));
        }
        if self.agenda.chance(churn.picky) {
            let host = 8_000 + u16::try_from(number % 3).unwrap_or(0);
            spec.ports.push(PortMapping { host, container: 80, protocol: Protocol::Tcp });
        }
        Some(service_request(format!("service{number}").parse().ok()?, spec))
    }
}
