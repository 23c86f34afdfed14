//! The system: its machines, its links, and the loop that lets time pass.

use std::collections::BTreeMap;
use std::time::Duration;

use oak_control::backoff::Backoff;
use oak_control::cluster::{self, Cluster};
use oak_control::root::{self, Root};
use oak_control::token::TokenRole;
use oak_control::worker::{self, NetworkTable, TableVersion, Worker};
use oak_model::message::WorkerToken;
use oak_model::{Architecture, ClusterId, Resources, WorkerFacts, WorkerId};

use super::agenda::{Agenda, Event, Who};
use super::client::Client;
use super::invariants::Watch;
use super::link::Link;
use super::node::Node;
use super::runtime::{Luck, Runtime};

pub struct ClusterSide {
    pub id: ClusterId,
    pub node: Node<Cluster>,
    pub link: Link,
}

pub struct WorkerSide {
    pub id: WorkerId,
    pub cluster: usize,
    pub facts: WorkerFacts,
    pub node: Node<Worker>,
    pub link: Link,
    pub runtime: Runtime,
    pub network: NetworkTable,
    pub network_version: TableVersion,
}

/// The dimensions of a system.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub clusters: usize,
    pub workers_each: usize,
    /// Instances the user wants at most at a time.
    pub instances: usize,
    /// How long things go wrong, milliseconds.
    pub faults_ms: u64,
}

pub struct World {
    pub plan: Plan,
    pub agenda: Agenda,
    pub luck: Luck,
    pub root: Node<Root>,
    pub clusters: Vec<ClusterSide>,
    pub workers: Vec<WorkerSide>,
    pub client: Client,
    pub watch: Watch,
    pub applications_made: u64,
    /// Messages sent, by kind; for budgets.
    pub messages: BTreeMap<&'static str, u64>,
}

pub const WORKER_MEMORY_MIB: u32 = 1_000;

pub fn worker_settings() -> worker::Settings {
    worker::Settings {
        restart: Backoff { min: Duration::from_secs(1), max: Duration::from_secs(20) },
        prepare_timeout: Duration::from_secs(40),
        start_timeout: Duration::from_secs(20),
        stop_timeout: Duration::from_secs(15),
        ..worker::Settings::default()
    }
}

pub fn cluster_settings(index: usize) -> cluster::Settings {
    cluster::Settings { name: format!("cluster{index}"), ..cluster::Settings::default() }
}

impl World {
    /// A system whose parts have joined but never met.
    pub fn new(seed: u64, plan: Plan) -> Self {
        let mut world = Self {
            plan,
            agenda: Agenda::new(seed),
            luck: Luck::GOOD,
            root: Node::new(Who::Root, Root::new(root::Settings::default())),
            clusters: Vec::new(),
            workers: Vec::new(),
            client: Client::default(),
            watch: Watch::default(),
            applications_made: 0,
            messages: BTreeMap::new(),
        };
        for index in 0..plan.clusters {
            world.join_cluster(index);
            for _ in 0..plan.workers_each {
                world.join_worker(index);
            }
        }
        world
    }

    fn join_cluster(&mut self, index: usize) {
        let mut id = None;
        self.root.call(&mut self.agenda, |root, now, random| {
            let token = format!("cluster{index}");
            root.create_token(now, token.clone(), "hash".into(), TokenRole::Cluster, Duration::from_secs(60));
            let candidate = root::Candidate {
                token_id: &token,
                secret_hash: "hash",
                key_fingerprint: "key",
                name: &format!("cluster{index}"),
                location: "",
                former: None,
            };
            id = root.enrol_cluster(now, random, candidate).ok();
            None
        });
        let who = Who::Cluster(index);
        self.clusters.push(ClusterSide {
            id: id.expect("the token is new"),
            node: Node::new(who, Cluster::new(cluster_settings(index))),
            link: Link::new(who),
        });
        self.agenda.after(1, Event::Dial { child: who });
    }

    fn join_worker(&mut self, cluster: usize) {
        let index = self.workers.len();
        let name = format!("worker{index}");
        let side = &mut self.clusters[cluster];
        let cluster_id = side.id;
        let mut id = None;
        side.node.call(&mut self.agenda, |machine, now, random| {
            let token = WorkerToken { id: name.clone(), secret_hash: "hash".into(), valid_for_ms: 60_000 };
            machine.token_received(now, token, true);
            let candidate = cluster::Candidate {
                cluster: cluster_id,
                token_id: &name,
                secret_hash: "hash",
                key_fingerprint: "key",
                name: &name,
            };
            id = machine.enrol_worker(now, random, candidate).ok();
            None
        });
        let who = Who::Worker(index);
        let capacity = Resources { cpu_millis: 4_000, memory_mib: WORKER_MEMORY_MIB, storage_mib: 10_000 };
        self.workers.push(WorkerSide {
            id: id.expect("the token is new"),
            cluster,
            facts: WorkerFacts {
                name,
                address: format!("192.0.2.{index}"),
                architecture: Architecture::Amd64,
                capacity,
                virtualization: vec!["docker".into()],
                version: "1".into(),
            },
            node: Node::new(who, Worker::new(worker_settings())),
            link: Link::new(who),
            runtime: Runtime::new(index),
            network: NetworkTable::default(),
            network_version: TableVersion::default(),
        });
        self.agenda.after(1, Event::Dial { child: who });
    }

    /// Lets time pass until `end`, checking the invariants after every event.
    pub fn run_until(&mut self, end: u64) {
        while let Some(event) = self.agenda.next(end) {
            if std::env::var_os("OAK_SIM_TRACE").is_some() {
                eprintln!("{:>9} {event:?}", self.agenda.time);
            }
            let touched = event.touches();
            self.handle(event);
            self.check_invariants(touched);
        }
    }

    /// Lets time pass until the system has settled; panics with what is not right after `limit_ms`.
    pub fn run_until_settled(&mut self, limit_ms: u64) {
        let end = self.agenda.time + limit_ms;
        loop {
            self.run_until(self.agenda.time + 1_000);
            match self.check_settled() {
                Ok(()) => return,
                Err(problem) if self.agenda.time >= end => {
                    panic!("not settled after {} s: {problem}", limit_ms / 1_000);
                }
                Err(_) => {}
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Commit { who, epoch } => self.commit(who, epoch),
            Event::Tick { who, epoch } if self.epoch(who) == epoch => match who {
                Who::Root => self.root.tick(&mut self.agenda),
                Who::Cluster(index) => self.clusters[index].node.tick(&mut self.agenda),
                Who::Worker(index) => self.workers[index].node.tick(&mut self.agenda),
            },
            Event::Tick { .. } => {}
            Event::Restart { who } => self.restart(who),
            Event::Dial { child } => self.dial(child),
            Event::Up { child, session, frame } => self.arrive_up(child, session, *frame),
            Event::Down { child, session, frame } => self.arrive_down(child, session, *frame),
            Event::ParentNotices { child, session } => self.parent_notices(child, session),
            Event::ChildNotices { child, session } => self.child_notices(child, session),
            Event::Heal { child } => self.link(child).blocked = false,
            Event::Operation { worker, epoch, operation } => self.operation_ends(worker, epoch, operation),
            Event::Table { worker, epoch, version, table } => self.table_taken(worker, epoch, version, table),
            Event::LeaseEnds { worker, process } => self.lease_ends(worker, process),
            Event::Exit { worker, process } => self.process_ends(worker, process),
            Event::Chaos => self.chaos(),
        }
    }

    pub fn epoch(&self, who: Who) -> u64 {
        match who {
            Who::Root => self.root.epoch,
            Who::Cluster(index) => self.clusters[index].node.epoch,
            Who::Worker(index) => self.workers[index].node.epoch,
        }
    }

    pub fn is_alive(&self, who: Who) -> bool {
        match who {
            Who::Root => self.root.machine.is_some(),
            Who::Cluster(index) => self.clusters[index].node.machine.is_some(),
            Who::Worker(index) => self.workers[index].node.machine.is_some(),
        }
    }

    pub fn parent_of(&self, child: Who) -> Who {
        match child {
            Who::Worker(index) => Who::Cluster(self.workers[index].cluster),
            Who::Root | Who::Cluster(_) => Who::Root,
        }
    }

    pub fn link(&mut self, child: Who) -> &mut Link {
        match child {
            Who::Worker(index) => &mut self.workers[index].link,
            Who::Cluster(index) => &mut self.clusters[index].link,
            Who::Root => panic!("the root has no parent"),
        }
    }

    pub fn worker_index(&self, id: WorkerId) -> usize {
        self.workers.iter().position(|side| side.id == id).expect("a known worker")
    }

    pub fn cluster_index(&self, id: ClusterId) -> usize {
        self.clusters.iter().position(|side| side.id == id).expect("a known cluster")
    }

    pub fn children_of(&self, parent: Who) -> Vec<Who> {
        match parent {
            Who::Root => (0..self.clusters.len()).map(Who::Cluster).collect(),
            Who::Cluster(cluster) => (0..self.workers.len())
                .filter(|index| self.workers[*index].cluster == cluster)
                .map(Who::Worker)
                .collect(),
            Who::Worker(_) => Vec::new(),
        }
    }
}
