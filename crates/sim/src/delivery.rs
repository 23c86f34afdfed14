//! What the shells do: frames become calls, effects become frames and operations, crashed machines load their disk.

use oak_control::cluster::{self, Cluster};
use oak_control::root::{self, Root};
use oak_control::worker::{self, Exit, NetworkTable, TableVersion, Worker};
use oak_model::message::{ClusterToWorker, WorkerHello};

use super::agenda::{Event, Who};
use super::link::{DownFrame, UpFrame};
use super::node::Reply;
use super::runtime::{Operation, Work};
use super::world::{World, cluster_settings, worker_settings};

impl World {
    pub fn commit(&mut self, who: Who, epoch: u64) {
        if self.epoch(who) != epoch {
            return;
        }
        match who {
            Who::Root => {
                let Some(step) = self.root.commit() else { return };
                for effect in step.effects {
                    self.perform_root(effect);
                }
                self.reply(who, step.reply);
            }
            Who::Cluster(index) => {
                let Some(step) = self.clusters[index].node.commit() else { return };
                for effect in step.effects {
                    self.perform_cluster(index, effect);
                }
                self.reply(who, step.reply);
            }
            Who::Worker(index) => {
                let Some(step) = self.workers[index].node.commit() else { return };
                for effect in step.effects {
                    self.perform_worker(index, effect);
                }
                self.reply(who, step.reply);
            }
        }
    }

    fn reply(&mut self, who: Who, reply: Option<Reply>) {
        match reply {
            None => {}
            Some(Reply::Client(answer)) => self.client.hears(answer),
            Some(Reply::Hello { session, frame }) => match who {
                Who::Cluster(index) => self.clusters[index].link.hello(&mut self.agenda, session, frame),
                Who::Worker(index) => self.workers[index].link.hello(&mut self.agenda, session, frame),
                Who::Root => {}
            },
        }
    }

    fn perform_root(&mut self, effect: root::Effect) {
        match effect {
            root::Effect::Welcome { cluster, session, welcome } => {
                let index = self.cluster_index(cluster);
                let frame = DownFrame::ClusterWelcome(welcome);
                self.clusters[index].link.welcome(&mut self.agenda, session, frame);
            }
            root::Effect::Send { cluster, session, message } => {
                *self.messages.entry("root to cluster").or_default() += 1;
                let index = self.cluster_index(cluster);
                self.clusters[index].link.send_down(&mut self.agenda, session, DownFrame::ToCluster(message));
            }
            root::Effect::TokenReady { .. } | root::Effect::AvailabilityConfirmed { .. } => {}
        }
    }

    fn perform_cluster(&mut self, index: usize, effect: cluster::Effect) {
        match effect {
            cluster::Effect::Welcome { worker, session, welcome } => {
                let worker = self.worker_index(worker);
                let frame = DownFrame::WorkerWelcome(welcome);
                self.workers[worker].link.welcome(&mut self.agenda, session, frame);
            }
            cluster::Effect::ToWorker { worker, session, message } => {
                // Permissions are renewed also while nothing happens.
                let kind = match message {
                    ClusterToWorker::Leases { .. } => "permissions",
                    _ => "cluster to worker",
                };
                *self.messages.entry(kind).or_default() += 1;
                let worker = self.worker_index(worker);
                self.workers[worker].link.send_down(&mut self.agenda, session, DownFrame::ToWorker(message));
            }
            cluster::Effect::ToRoot(message) => {
                *self.messages.entry("cluster to root").or_default() += 1;
                self.clusters[index].link.send_up(&mut self.agenda, UpFrame::ToRoot(message));
            }
        }
    }

    fn perform_worker(&mut self, index: usize, effect: worker::Effect) {
        let number = self.agenda.number();
        let side = &mut self.workers[index];
        let (key, attempt, work) = match effect {
            worker::Effect::Prepare { key, attempt, .. } => (key, attempt, Work::Prepare),
            worker::Effect::Start { key, attempt, assignment, lease, .. } => {
                (key, attempt, Work::Start(assignment, lease))
            }
            worker::Effect::Lease { key, until } => {
                side.runtime.permit(key, until);
                return;
            }
            worker::Effect::Stop { key, attempt, .. } => (key, attempt, Work::Stop),
            worker::Effect::Network { version, table } => {
                let epoch = side.node.epoch;
                let delay = self.agenda.between(1, 20);
                self.agenda.after(delay, Event::Table { worker: index, epoch, version, table });
                return;
            }
            // Measurements decide nothing.
            worker::Effect::ReportUsage => return,
            worker::Effect::ToCluster(message) => {
                side.link.send_up(&mut self.agenda, UpFrame::ToCluster(message));
                return;
            }
        };
        let operation = Operation { number, key, attempt, work };
        side.runtime.begin(&mut self.agenda, side.node.epoch, self.luck, operation);
    }

    pub fn operation_ends(&mut self, index: usize, epoch: u64, number: u64) {
        let side = &mut self.workers[index];
        if side.node.epoch != epoch {
            return;
        }
        let luck = self.luck;
        let Some(operation) = side.runtime.finish(&mut self.agenda, epoch, luck, number) else { return };
        let Operation { key, attempt, work, .. } = operation;
        let fails = self.agenda.chance(luck.fails);
        match work {
            Work::Prepare if fails => side.node.call(&mut self.agenda, |worker, now, random| {
                worker.failed(now, random, key, attempt, "the registry is away");
                None
            }),
            Work::Prepare => side.node.call(&mut self.agenda, |worker, now, _| {
                worker.progress(now, key, attempt, "90 %".to_owned());
                worker.prepared(now, key, attempt);
                None
            }),
            Work::Start(..) if fails => side.node.call(&mut self.agenda, |worker, now, random| {
                worker.failed(now, random, key, attempt, "no such command");
                None
            }),
            Work::Start(assignment, lease) => {
                if !side.runtime.create(&mut self.agenda, luck, key, assignment, lease) {
                    side.node.call(&mut self.agenda, |worker, now, random| {
                        worker.failed(now, random, key, attempt, "its permission has ended");
                        None
                    });
                    return;
                }
                side.node.call(&mut self.agenda, |worker, now, _| {
                    worker.started(now, key, attempt);
                    None
                });
                if let Some(container) = side.runtime.containers.get_mut(&key) {
                    container.watched = Some(attempt);
                }
            }
            Work::Stop => {
                if !fails || self.agenda.chance(50) {
                    side.runtime.containers.remove(&key);
                }
                if !fails {
                    side.node.call(&mut self.agenda, |worker, now, _| {
                        worker.stopped(now, key, attempt);
                        None
                    });
                }
            }
        }
    }

    pub fn table_taken(&mut self, index: usize, epoch: u64, version: TableVersion, table: NetworkTable) {
        let side = &mut self.workers[index];
        // Tables may overtake each other in this world's kernel; the shell applies only the newest.
        if side.node.epoch != epoch || side.network_version > version {
            return;
        }
        side.network_version = version;
        side.network = table;
        let problem = self.agenda.chance(self.luck.fails).then_some("the kernel is full");
        side.node.call(&mut self.agenda, |worker, _, _| {
            worker.network_applied(version, problem);
            None
        });
    }

    pub fn process_ends(&mut self, index: usize, process: u64) {
        let side = &mut self.workers[index];
        let well = side
            .runtime
            .containers
            .values()
            .any(|c| c.process == process && c.assignment.desired.spec.one_shot)
            && (self.luck.fails == 0 || self.agenda.chance(60));
        let exit = if well {
            Exit { code: Some(0), ..Exit::default() }
        } else {
            let out_of_memory = self.agenda.chance(30);
            Exit { signal: Some(9), out_of_memory, ..Exit::default() }
        };
        self.tell_exit(index, process, exit);
    }

    pub fn lease_ends(&mut self, index: usize, process: u64) {
        if self.workers[index].runtime.lease_ends(&mut self.agenda, process) {
            self.tell_exit(index, process, Exit { signal: Some(9), lease_ended: true, ..Exit::default() });
        }
    }

    fn tell_exit(&mut self, index: usize, process: u64, exit: Exit) {
        let side = &mut self.workers[index];
        if let Some((key, attempt)) = side.runtime.exit(process, exit) {
            side.node.call(&mut self.agenda, |worker, now, random| {
                worker.exited(now, random, key, attempt, exit);
                None
            });
        }
    }

    pub fn dial(&mut self, child: Who) {
        let parent_alive = self.is_alive(self.parent_of(child));
        if !self.is_alive(child) || self.link(child).below.session.is_some() {
            return;
        }
        if !parent_alive || self.link(child).blocked {
            let delay = self.agenda.between(200, 1_000);
            self.agenda.after(delay, Event::Dial { child });
            return;
        }
        match child {
            Who::Cluster(index) => {
                let side = &mut self.clusters[index];
                let session = side.link.dial(&mut self.agenda);
                side.node.call(&mut self.agenda, |machine, _, _| {
                    Some(Reply::Hello { session, frame: UpFrame::ClusterHello(machine.hello()) })
                });
            }
            Who::Worker(index) => {
                let side = &mut self.workers[index];
                let session = side.link.dial(&mut self.agenda);
                let facts = side.facts.clone();
                side.node.call(&mut self.agenda, |machine, _, _| {
                    let hello = WorkerHello { facts, workloads: machine.reports() };
                    Some(Reply::Hello { session, frame: UpFrame::WorkerHello(hello) })
                });
            }
            Who::Root => {}
        }
    }

    pub fn arrive_up(&mut self, child: Who, session: u64, frame: UpFrame) {
        if !self.link(child).carries(session) {
            return;
        }
        let is_hello = matches!(frame, UpFrame::ClusterHello(_) | UpFrame::WorkerHello(_));
        if is_hello {
            if let Some(former) = self.link(child).above.session {
                self.parent_notices(child, former);
            }
            self.link(child).opened(session);
        }
        let agenda = &mut self.agenda;
        match (child, frame) {
            (Who::Cluster(index), UpFrame::ClusterHello(hello)) => {
                let id = self.clusters[index].id;
                self.root.call(agenda, |root, now, _| {
                    root.cluster_opened(now, id, session, "192.0.2.200", hello).expect("a known cluster");
                    None
                });
            }
            (Who::Cluster(index), UpFrame::ToRoot(message)) => {
                let id = self.clusters[index].id;
                self.root.call(agenda, |root, now, _| {
                    root.cluster_message(now, id, session, message).expect("enough address blocks");
                    None
                });
            }
            (Who::Worker(index), UpFrame::WorkerHello(hello)) => {
                let side = &self.workers[index];
                self.clusters[side.cluster].node.call(agenda, |cluster, now, _| {
                    cluster.worker_opened(now, side.id, session, "192.0.2.1", hello);
                    None
                });
            }
            (Who::Worker(index), UpFrame::ToCluster(message)) => {
                let side = &self.workers[index];
                self.clusters[side.cluster].node.call(agenda, |cluster, now, _| {
                    cluster.worker_message(now, side.id, session, message);
                    None
                });
            }
            (_, frame) => panic!("{child:?} sent {frame:?}"),
        }
    }

    pub fn arrive_down(&mut self, child: Who, session: u64, frame: DownFrame) {
        if !self.link(child).carries(session) {
            return;
        }
        let agenda = &mut self.agenda;
        match (child, frame) {
            (Who::Cluster(index), DownFrame::ClusterWelcome(welcome)) => {
                let side = &mut self.clusters[index];
                side.link.welcomed(agenda, session);
                side.node.call(agenda, |cluster, now, _| {
                    cluster.root_welcome(now, welcome);
                    None
                });
            }
            (Who::Cluster(index), DownFrame::ToCluster(message)) => {
                self.clusters[index].node.call(agenda, |cluster, now, _| {
                    cluster.root_message(now, message);
                    None
                });
            }
            (Who::Worker(index), DownFrame::WorkerWelcome(welcome)) => {
                let side = &mut self.workers[index];
                side.link.welcomed(agenda, session);
                side.node.call(agenda, |worker, now, _| {
                    worker.welcome(now, welcome);
                    None
                });
            }
            (Who::Worker(index), DownFrame::ToWorker(message)) => {
                self.workers[index].node.call(agenda, |worker, now, _| {
                    worker.message(now, message);
                    None
                });
            }
            (_, frame) => panic!("{child:?} was sent {frame:?}"),
        }
    }

    pub fn parent_notices(&mut self, child: Who, session: u64) {
        if self.link(child).above.session != Some(session) {
            return;
        }
        self.link(child).above = super::link::View::default();
        match child {
            Who::Cluster(index) => {
                let id = self.clusters[index].id;
                self.root.call(&mut self.agenda, |root, now, _| {
                    root.cluster_closed(now, id, session);
                    None
                });
            }
            Who::Worker(index) => {
                let side = &self.workers[index];
                self.clusters[side.cluster].node.call(&mut self.agenda, |cluster, now, _| {
                    cluster.worker_closed(now, side.id, session, cluster::Parting::Broken);
                    None
                });
            }
            Who::Root => {}
        }
    }

    pub fn child_notices(&mut self, child: Who, session: u64) {
        if self.link(child).below.session == Some(session) {
            self.link(child).below = super::link::View::default();
            let delay = self.agenda.between(50, 1_000);
            self.agenda.after(delay, Event::Dial { child });
        }
    }

    pub fn crash(&mut self, who: Who) {
        if !self.is_alive(who) {
            return;
        }
        match who {
            Who::Root => self.root.crash(&mut self.agenda),
            Who::Cluster(index) => self.clusters[index].node.crash(&mut self.agenda),
            Who::Worker(index) => {
                let side = &mut self.workers[index];
                side.node.crash(&mut self.agenda);
                side.runtime.agent_crashed(&mut self.agenda, self.luck);
            }
        }
        for child in self.children_of(who) {
            let (agenda, link) = self.agenda_and_link(child);
            link.parent_crashed(agenda);
        }
        if who != Who::Root {
            let (agenda, link) = self.agenda_and_link(who);
            link.child_crashed(agenda);
        }
        let down = self.agenda.between(10, 10_000);
        self.agenda.after(down, Event::Restart { who });
    }

    pub fn agenda_and_link(&mut self, child: Who) -> (&mut super::agenda::Agenda, &mut super::link::Link) {
        match child {
            Who::Worker(index) => (&mut self.agenda, &mut self.workers[index].link),
            Who::Cluster(index) => (&mut self.agenda, &mut self.clusters[index].link),
            Who::Root => panic!("the root has no parent"),
        }
    }

    pub fn restart(&mut self, who: Who) {
        self.watch.restarted(who);
        match who {
            Who::Root => {
                let now = self.root.now(&self.agenda);
                let root =
                    Root::load(root::Settings::default(), now, &self.root.rows()).expect("readable rows");
                self.root.start(&mut self.agenda, root);
            }
            Who::Cluster(index) => {
                let node = &mut self.clusters[index].node;
                let now = node.now(&self.agenda);
                let cluster =
                    Cluster::load(cluster_settings(index), now, &node.rows()).expect("readable rows");
                node.start(&mut self.agenda, cluster);
                if self.luck.fails == 0 {
                    self.open_all_workers(index);
                }
                self.agenda.after(1, Event::Dial { child: who });
            }
            Who::Worker(index) => {
                let side = &mut self.workers[index];
                let now = side.node.now(&self.agenda);
                let (worker, adopted) =
                    Worker::load(worker_settings(), now, &side.node.rows(), &side.runtime.found())
                        .expect("readable rows");
                side.network_version = TableVersion::default();
                side.runtime.containers.retain(|key, _| worker.workload(*key).is_some());
                for (key, attempt) in adopted {
                    let container = side.runtime.containers.get_mut(&key).expect("an adopted container");
                    container.watched = Some(attempt);
                }
                side.node.start(&mut self.agenda, worker);
                self.agenda.after(1, Event::Dial { child: who });
            }
        }
    }
}
