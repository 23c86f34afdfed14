//! What users, networks and power supplies do to the system.

use oak_model::sla::{ApplicationRequest, ServiceRequest};
use oak_model::{Availability, InstanceKey, PortMapping, Protocol, Resources, ServiceId, ServiceSpec};

use super::agenda::{Event, Who};
use super::client::{Answer, Known};
use super::node::Reply;
use super::runtime::Luck;
use super::world::World;

impl World {
    /// Lets things go wrong for the planned time.
    pub fn run_faults(&mut self) {
        self.luck = Luck::BAD;
        self.agenda.after(100, Event::Chaos);
        let end = self.agenda.time + self.plan.faults_ms;
        self.run_until(end);
        self.luck = Luck::GOOD;
        (0..self.clusters.len()).for_each(|index| self.open_all_workers(index));
    }

    /// One thing is done to the system.
    pub fn chaos(&mut self) {
        if self.luck.fails == 0 {
            return;
        }
        match self.agenda.between(1, 100) {
            1..=30 => (0..self.agenda.between(1, 3)).for_each(|_| self.deploy_something()),
            31..=45 => self.undeploy_something(),
            46..=50 => self.create_application(),
            51..=52 => self.delete_some_service(),
            53 => self.delete_some_application(),
            54..=56 => self.open_or_close_some_worker(),
            57..=70 => self.cut_some_link(),
            71..=80 => self.partition_some_link(),
            81..=97 => self.crash_something(),
            _ => self.turn_some_clock(),
        }
        let pause = self.agenda.between(10, 1_000);
        self.agenda.after(pause, Event::Chaos);
    }

    fn some_child(&mut self) -> Who {
        let chosen = self.agenda.pick(self.clusters.len() + self.workers.len());
        if chosen < self.clusters.len() {
            Who::Cluster(chosen)
        } else {
            Who::Worker(chosen - self.clusters.len())
        }
    }

    fn cut_some_link(&mut self) {
        let child = self.some_child();
        let (agenda, link) = self.agenda_and_link(child);
        link.cut(agenda);
    }

    fn partition_some_link(&mut self) {
        let child = self.some_child();
        let (agenda, link) = self.agenda_and_link(child);
        if !link.blocked {
            link.blocked = true;
            link.cut(agenda);
            let length = agenda.between(500, 30_000);
            agenda.after(length, Event::Heal { child });
        }
    }

    fn crash_something(&mut self) {
        let who = if self.agenda.chance(20) { Who::Root } else { self.some_child() };
        self.crash(who);
    }

    fn open_or_close_some_worker(&mut self) {
        let index = self.agenda.pick(self.workers.len());
        let (id, cluster) = (self.workers[index].id, self.workers[index].cluster);
        let availability = match self.agenda.pick(3) {
            0 => Availability::Open,
            1 => Availability::Cordoned,
            _ => Availability::Draining,
        };
        self.clusters[cluster].node.call(&mut self.agenda, |machine, now, _| {
            machine.set_availability(now, id, availability);
            None
        });
    }

    pub fn open_all_workers(&mut self, cluster: usize) {
        self.clusters[cluster].node.call(&mut self.agenda, |machine, now, _| {
            let closed = machine.workers().filter(|worker| worker.availability != Availability::Open);
            let closed: Vec<_> = closed.map(|worker| worker.id).collect();
            for worker in closed {
                machine.set_availability(now, worker, Availability::Open);
            }
            None
        });
    }

    fn turn_some_clock(&mut self) {
        let skew = self.agenda.between(0, 2_000_000_000);
        match self.some_child() {
            Who::Cluster(index) => self.clusters[index].node.skew = skew,
            Who::Worker(index) => self.workers[index].node.skew = skew,
            Who::Root => {}
        }
    }

    pub fn create_application(&mut self) {
        let number = self.applications_made;
        self.applications_made += 1;
        let services =
            (0..self.agenda.between(1, 3)).map(|index| self.some_service(number * 10 + index)).collect();
        let request = ApplicationRequest {
            application_id: None,
            name: format!("app{number}").parse().expect("a name"),
            namespace: "test".parse().expect("a name"),
            description: String::new(),
            services,
            other: serde_json::Map::new(),
        };
        self.root.call(&mut self.agenda, |root, now, random| {
            let created = root.create_applications(now, random, "Admin", vec![request]).ok()?;
            let services =
                created.iter().filter_map(|id| root.application(*id)).flat_map(|a| a.services.clone());
            let services = services.collect();
            Some(Reply::Client(Answer::Created(created, services)))
        });
    }

    fn some_service(&mut self, number: u64) -> ServiceRequest {
        let cpu_millis = 100 * u32::try_from(self.agenda.between(0, 10)).unwrap_or(0);
        let memory_mib = 10 * u32::try_from(self.agenda.between(0, 20)).unwrap_or(0);
        let tight = self.plan.is_tight();
        let mut spec = ServiceSpec {
            image: "registry/image:1".into(),
            resources: Resources { cpu_millis, memory_mib, storage_mib: 0 },
            one_shot: self.agenda.chance(15),
            at_most_one: self.agenda.chance(25),
            ..ServiceSpec::default()
        };
        if tight && self.agenda.chance(20) {
            spec.target.clusters.push(format!("cluster{}", self.agenda.pick(self.clusters.len())));
        }
        if tight && self.agenda.chance(20) {
            spec.target.workers.push(format!("worker{}", self.agenda.pick(self.workers.len())));
        }
        if tight && self.agenda.chance(20) {
            let host = 8_000 + u16::try_from(number % 3).unwrap_or(0);
            spec.ports.push(PortMapping { host, container: 80, protocol: Protocol::Tcp });
        }
        ServiceRequest {
            name: format!("service{number}").parse().expect("a name"),
            namespace: "test".parse().expect("a name"),
            spec,
            document: serde_json::Map::new(),
        }
    }

    fn known_services(&self) -> Vec<ServiceId> {
        let known = self.client.services.iter().filter(|(_, known)| **known == Known::Exists);
        known.map(|(id, _)| *id).collect()
    }

    fn deploy_something(&mut self) {
        let services = self.known_services();
        let full = self.root.machine.as_ref().is_none_or(|root| root.instance_count() >= self.plan.instances);
        if services.is_empty() || full {
            return;
        }
        let service = services[self.agenda.pick(services.len())];
        self.root.call(&mut self.agenda, |root, now, _| {
            let key = root.deploy(now, service).ok()?;
            Some(Reply::Client(Answer::Deployed(key)))
        });
    }

    fn undeploy_something(&mut self) {
        let keys: Vec<InstanceKey> = self
            .client
            .instances
            .iter()
            .filter(|(_, known)| **known != Known::Gone)
            .map(|(key, _)| *key)
            .collect();
        if keys.is_empty() {
            return;
        }
        let key = keys[self.agenda.pick(keys.len())];
        if self.root.machine.is_some() {
            self.client.asks_instance_to_go(key);
        }
        self.root.call(&mut self.agenda, |root, now, _| {
            root.undeploy(now, key).ok()?;
            Some(Reply::Client(Answer::Undeployed(key)))
        });
    }

    fn delete_some_service(&mut self) {
        let services = self.known_services();
        if services.is_empty() || self.root.machine.is_none() {
            return;
        }
        let service = services[self.agenda.pick(services.len())];
        self.client.asks_service_to_go(service);
        self.root.call(&mut self.agenda, |root, now, _| {
            root.delete_service(now, service).ok()?;
            Some(Reply::Client(Answer::ServiceDeleted(service)))
        });
    }

    fn delete_some_application(&mut self) {
        let known: Vec<_> = self.client.applications.iter().filter(|(_, k)| **k == Known::Exists).collect();
        let ids: Vec<_> = known.into_iter().map(|(id, _)| *id).collect();
        let Some(root) = &self.root.machine else { return };
        if ids.is_empty() {
            return;
        }
        let id = ids[self.agenda.pick(ids.len())];
        let Some(application) = root.application(id) else { return };
        let services = application.services.clone();
        self.client.applications.insert(id, Known::Leaving);
        for service in &services {
            self.client.asks_service_to_go(*service);
        }
        self.root.call(&mut self.agenda, |root, now, _| {
            root.delete_application(now, id).ok()?;
            Some(Reply::Client(Answer::ApplicationDeleted(id, services)))
        });
    }
}
