//! A root and its clusters with workers that do what they are told, joined by links without delay.

use oak_model::message::{ClusterToWorker, WorkerHello, WorkerToCluster, WorkerToken, WorkloadReport};

use super::super::*;
use super::random::{self, Dice};
use crate::cluster::{self, Cluster as Machine, Parting};

pub(super) struct Worker {
    pub(super) id: WorkerId,
    facts: WorkerFacts,
}

pub(super) struct Site {
    pub(super) id: ClusterId,
    pub(super) name: String,
    pub(super) cluster: Machine,
    pub(super) workers: Vec<Worker>,
    connected: bool,
}

pub(super) struct World {
    pub(super) root: Root,
    pub(super) sites: Vec<Site>,
    pub(super) entropy: SeededEntropy,
    counter: u32,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            root: Root::new(Settings::default()),
            sites: Vec::new(),
            entropy: SeededEntropy::new(11),
            counter: 0,
        }
    }

    /// Up to three clusters with up to four workers, some of which are closed, away or not measured; and some services.
    pub(super) fn random(dice: &mut Dice) -> Self {
        let mut world = Self::new();
        for number in 0..=dice.roll(3) {
            let location = if dice.one_in(3) { String::new() } else { dice.position().to_string() };
            let site = world.add_site_at(&format!("c{number}"), location);
            world.connect(site);
            if !dice.one_in(4) {
                world.measure_cluster(site, 500 * dice.number(20));
            }
            for _ in 0..dice.roll(5) {
                let name = format!("c{number}w{}", world.sites[site].workers.len());
                let facts = dice.facts(name);
                let worker = world.add_worker(site, |own| *own = facts);
                world.disturb(dice, site, worker);
            }
        }
        let services =
            ["s0", "s1", "s2"].map(|name| (name, ServiceSpec { connectivity: Vec::new(), ..dice.spec() }));
        let base = world.create(random::application("base", services.into()));
        world.deploy_all(base, 2);
        let waiting: Vec<_> = world.root.pending.iter().collect();
        for key in waiting {
            world.root.undeploy(at(0), key).unwrap();
        }
        world.settle();
        if dice.one_in(6) {
            world.disconnect(0);
        }
        world
    }

    fn disturb(&mut self, dice: &mut Dice, site: usize, worker: WorkerId) {
        if !dice.one_in(4) {
            self.measure(site, worker, 500 * dice.number(20));
        }
        if dice.one_in(8) {
            self.sites[site].cluster.set_availability(at(0), worker, Availability::Cordoned);
        }
        if dice.one_in(8) {
            self.sites[site].cluster.worker_closed(at(0), worker, 1, Parting::Broken);
        }
        self.settle();
    }

    pub(super) fn add_site(&mut self, name: &str) -> usize {
        self.add_site_at(name, String::new())
    }

    fn add_site_at(&mut self, name: &str, location: String) -> usize {
        self.root.create_token(at(0), name.into(), "hash".into(), TokenRole::Cluster, MINUTE);
        let candidate = Candidate {
            token_id: name,
            secret_hash: "hash",
            key_fingerprint: name,
            name,
            location: &location,
            former: None,
        };
        let id = self.root.enrol_cluster(at(0), &mut self.entropy, candidate).unwrap();
        let settings = cluster::Settings {
            name: name.to_owned(),
            location: location.clone(),
            ..cluster::Settings::default()
        };
        let cluster = Machine::new(settings);
        self.sites.push(Site { id, name: name.to_owned(), cluster, workers: Vec::new(), connected: false });
        self.sites.len() - 1
    }

    pub(super) fn connect(&mut self, site: usize) {
        let own = &mut self.sites[site];
        own.connected = true;
        let hello = own.cluster.hello();
        self.root.cluster_opened(at(0), own.id, 1, "192.0.2.1", hello).unwrap();
        self.settle();
    }

    fn disconnect(&mut self, site: usize) {
        let own = &mut self.sites[site];
        own.connected = false;
        own.cluster.root_closed();
        self.root.cluster_closed(at(0), own.id, 1);
        self.settle();
    }

    pub(super) fn measure_cluster(&mut self, site: usize, micros: u32) {
        self.root.cluster_measured(at(0), self.sites[site].id, 1, micros);
    }

    pub(super) fn measure(&mut self, site: usize, worker: WorkerId, micros: u32) {
        self.sites[site].cluster.worker_measured(at(0), worker, 1, micros);
        self.settle();
    }

    /// Adds a worker to a site; `change` makes it special.
    pub(super) fn add_worker(&mut self, site: usize, change: impl FnOnce(&mut WorkerFacts)) -> WorkerId {
        self.counter += 1;
        let mut facts = summary(u64::from(self.counter), 1_000).facts;
        change(&mut facts);
        let own = &mut self.sites[site];
        let text = format!("t{}", self.counter);
        let token = WorkerToken { id: text.clone(), secret_hash: "hash".into(), valid_for_ms: 60_000 };
        own.cluster.token_received(at(0), token, true);
        let candidate = cluster::Candidate {
            cluster: own.id,
            token_id: &text,
            secret_hash: "hash",
            key_fingerprint: &text,
            name: &facts.name,
        };
        let id = own.cluster.enrol_worker(at(0), &mut self.entropy, candidate).unwrap();
        own.workers.push(Worker { id, facts });
        self.open_worker(site, id);
        id
    }

    pub(super) fn open_worker(&mut self, site: usize, id: WorkerId) {
        let own = &mut self.sites[site];
        let facts = own.workers.iter().find(|worker| worker.id == id).unwrap().facts.clone();
        let hello = WorkerHello { facts, workloads: Vec::new(), calls: Vec::new(), own_address: None };
        own.cluster.worker_opened(at(0), id, 1, "192.0.2.7", hello);
        self.settle();
    }

    pub(super) fn create(&mut self, request: ApplicationRequest) -> ApplicationId {
        let created = self.root.create_applications(at(0), &mut self.entropy, &admin(), vec![request]);
        created.unwrap()[0]
    }

    pub(super) fn deploy_all(&mut self, application: ApplicationId, count: u32) {
        for service in self.root.application(application).unwrap().services.clone() {
            for _ in 0..count {
                self.root.deploy(at(0), service).unwrap();
                self.settle();
            }
        }
    }

    /// Lets the root try again what waits.
    pub(super) fn retry(&mut self) {
        self.root.retry_soon(at(0));
        let due = self.root.next_deadline().unwrap();
        self.root.tick(Now { moment: due, ..at(0) });
        self.settle();
    }

    /// Carries messages until there are none.
    pub(super) fn settle(&mut self) {
        loop {
            let mut quiet = true;
            for effect in self.root.take_outbox().effects {
                quiet = false;
                match effect {
                    Effect::Welcome { cluster, welcome, .. } => {
                        self.site(cluster).cluster.root_welcome(at(0), welcome);
                    }
                    Effect::Send { cluster, message, .. } => {
                        self.site(cluster).cluster.root_message(at(0), message);
                    }
                    Effect::TokenReady { .. }
                    | Effect::AvailabilityConfirmed { .. }
                    | Effect::Dismiss { .. }
                    | Effect::WorkerRemoval { .. }
                    | Effect::Events(_) => {}
                }
            }
            for site in &mut self.sites {
                for effect in site.cluster.take_outbox().effects {
                    quiet = false;
                    match effect {
                        cluster::Effect::ToRoot(message) if site.connected => {
                            self.root.cluster_message(at(0), site.id, 1, message).unwrap();
                        }
                        cluster::Effect::ToWorker { worker, message, .. } => {
                            if let Some(answer) = obey(message) {
                                site.cluster.worker_message(at(0), worker, 1, answer);
                            }
                        }
                        cluster::Effect::ToRoot(_)
                        | cluster::Effect::Dismiss { .. }
                        | cluster::Effect::Relay { .. }
                        | cluster::Effect::Welcome { .. } => {}
                    }
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn site(&mut self, id: ClusterId) -> &mut Site {
        self.sites.iter_mut().find(|site| site.id == id).unwrap()
    }
}

/// A worker that does everything at once.
fn obey(message: ClusterToWorker) -> Option<WorkerToCluster> {
    match message {
        ClusterToWorker::Assign(assignment) => Some(WorkerToCluster::Workload(WorkloadReport {
            key: assignment.desired.key,
            incarnation: assignment.incarnation,
            status: Status::Running,
            detail: "running".into(),
            address: None,
            ended: false,
        })),
        ClusterToWorker::Remove { key, incarnation } => Some(WorkerToCluster::Removed { key, incarnation }),
        ClusterToWorker::ReportUsage
        | ClusterToWorker::Leases { .. }
        | ClusterToWorker::Overlay(_)
        | ClusterToWorker::NotFound(_)
        | ClusterToWorker::MoreSubnets(_) => None,
    }
}
