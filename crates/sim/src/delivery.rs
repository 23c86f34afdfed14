//! What the shells do: frames become calls, effects become frames and operations.

use oak_control::cluster::{self, Parting};
use oak_control::root;
use oak_control::worker::{self, Exit, NetworkTable, TableVersion};
use oak_model::message::WorkerHello;

use crate::agenda::{Event, Who};
use crate::invariants::PROTOCOL;
use crate::link::{DownFrame, End, UpFrame, View};
use crate::node::Reply;
use crate::runtime::{Operation, Work};
use crate::sweep::TABLE_MS;
use crate::timeline::Consequence;
use crate::trace;
use crate::world::World;

impl World {
    pub(crate) fn commit(&mut self, who: Who, epoch: u64) {
        if self.epoch(who) != epoch {
            return;
        }
        match who {
            Who::Root => {
                let Some(step) = self.root.commit(&mut self.agenda) else { return };
                for effect in step.effects {
                    self.perform_root(effect);
                }
                self.reply(who, step.reply);
            }
            Who::Cluster(index) => {
                let side = self.clusters.get_mut(index);
                let Some(step) = side.and_then(|side| side.node.commit(&mut self.agenda)) else { return };
                for effect in step.effects {
                    self.perform_cluster(index, effect);
                }
                self.reply(who, step.reply);
            }
            Who::Worker(index) => {
                let side = self.workers.get_mut(index);
                let Some(step) = side.and_then(|side| side.node.commit(&mut self.agenda)) else { return };
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
            Some(Reply::Client(answer)) => self.answered(answer),
            Some(Reply::Hello { session, frame }) => {
                if let Some((agenda, link)) = self.agenda_and_link(who) {
                    link.hello(agenda, session, frame);
                }
            }
        }
    }

    fn perform_root(&mut self, effect: root::Effect) {
        match effect {
            root::Effect::Welcome { cluster, session, welcome } => {
                let Some(index) = self.cluster_by_id.get(&cluster) else { return };
                if let Some(side) = self.clusters.get_mut(*index) {
                    side.link.welcome(&mut self.agenda, session, DownFrame::ClusterWelcome(welcome));
                }
            }
            root::Effect::Send { cluster, session, message } => {
                self.metrics.count(trace::root_to_cluster(&message));
                let Some(index) = self.cluster_by_id.get(&cluster) else { return };
                if let Some(side) = self.clusters.get_mut(*index) {
                    side.link.send_down(&mut self.agenda, session, DownFrame::ToCluster(message));
                }
            }
            root::Effect::TokenReady { .. } | root::Effect::AvailabilityConfirmed { .. } => {}
        }
    }

    fn perform_cluster(&mut self, index: usize, effect: cluster::Effect) {
        match effect {
            cluster::Effect::Welcome { worker, session, welcome } => {
                let Some(worker) = self.worker_by_id.get(&worker) else { return };
                if let Some(side) = self.workers.get_mut(*worker) {
                    side.link.welcome(&mut self.agenda, session, DownFrame::WorkerWelcome(welcome));
                }
            }
            cluster::Effect::ToWorker { worker, session, message } => {
                self.metrics.count(trace::cluster_to_worker(&message));
                let Some(worker) = self.worker_by_id.get(&worker) else { return };
                if let Some(side) = self.workers.get_mut(*worker) {
                    side.link.send_down(&mut self.agenda, session, DownFrame::ToWorker(message));
                }
            }
            cluster::Effect::ToRoot(message) => {
                self.metrics.count(trace::cluster_to_root(&message));
                if let Some(side) = self.clusters.get_mut(index) {
                    side.link.send_up(&mut self.agenda, UpFrame::ToRoot(message));
                }
            }
        }
    }

    fn perform_worker(&mut self, index: usize, effect: worker::Effect) {
        let number = self.agenda.number();
        let Some(side) = self.workers.get_mut(index) else { return };
        let (key, attempt, work) = match effect {
            worker::Effect::Prepare { key, attempt, image } => (key, attempt, Work::Prepare { image }),
            worker::Effect::Start { key, attempt, assignment, lease, .. } => {
                let until = lease.map(|moment| side.node.time_of(moment));
                side.runtime.set_lease(key, until);
                (key, attempt, Work::Start(assignment, until))
            }
            worker::Effect::Lease { key, until } => {
                let until = side.node.time_of(until);
                side.runtime.permit(key, until);
                return;
            }
            worker::Effect::Stop { key, attempt, .. } => (key, attempt, Work::Stop),
            worker::Effect::Network { version, table } => {
                let epoch = side.node.epoch;
                let delay = self.agenda.between(1, 20);
                let table = Box::new(table);
                self.agenda.after(delay, Event::Table { worker: index, epoch, version, table });
                return;
            }
            // Measurements decide nothing.
            worker::Effect::ReportUsage => return,
            worker::Effect::ToCluster(message) => {
                self.metrics.count(trace::worker_to_cluster(&message));
                side.link.send_up(&mut self.agenda, UpFrame::ToCluster(message));
                return;
            }
        };
        let operation = Operation { number, key, attempt, work };
        side.runtime.begin(&mut self.agenda, side.node.epoch, self.luck, operation);
    }

    pub(crate) fn operation_ends(&mut self, index: usize, epoch: u64, number: u64) {
        let luck = self.luck;
        let Some(side) = self.workers.get_mut(index).filter(|side| side.node.epoch == epoch) else { return };
        let Some(operation) = side.runtime.finish(&mut self.agenda, epoch, luck, number) else { return };
        let Operation { key, attempt, work, .. } = operation;
        let fails = self.agenda.chance(luck.fails);
        match work {
            Work::Prepare { .. } if fails => side.node.call(&mut self.agenda, |worker, now, random| {
                worker.failed(now, random, key, attempt, "the registry is away");
                None
            }),
            Work::Prepare { image } => {
                side.runtime.has_image(image);
                side.node.call(&mut self.agenda, |worker, now, _| {
                    worker.progress(now, key, attempt, "90 %".to_owned());
                    worker.prepared(now, key, attempt);
                    None
                });
            }
            Work::Start(..) if fails => side.node.call(&mut self.agenda, |worker, now, random| {
                worker.failed(now, random, key, attempt, "no such command");
                None
            }),
            Work::Start(assignment, lease) => {
                let life = self.users.life_of(&mut self.agenda, luck, &assignment);
                if !side.runtime.create(&mut self.agenda, key, assignment, lease, life) {
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
                self.agenda.after(TABLE_MS, Event::CheckTable { worker: index, epoch });
            }
            Work::Stop => {
                side.runtime.set_lease(key, None);
                if !fails || self.agenda.chance(0.5) {
                    side.runtime.remove(&mut self.agenda, key);
                }
                if !fails {
                    side.node.call(&mut self.agenda, |worker, now, _| {
                        worker.stopped(now, key, attempt);
                        None
                    });
                }
                self.agenda.after(TABLE_MS, Event::CheckTable { worker: index, epoch });
            }
        }
    }

    pub(crate) fn table_taken(
        &mut self,
        index: usize,
        epoch: u64,
        version: TableVersion,
        table: NetworkTable,
    ) {
        let fails = self.luck.fails;
        let Some(side) = self.workers.get_mut(index) else { return };
        // Tables may overtake each other in this world's kernel; the shell applies only the newest.
        if side.node.epoch != epoch || side.network_version > version {
            return;
        }
        side.network_version = version;
        side.network = table;
        let problem = self.agenda.chance(fails).then_some("the kernel is full");
        side.node.call(&mut self.agenda, |worker, _, _| {
            worker.network_applied(version, problem);
            None
        });
    }

    pub(crate) fn process_ends(&mut self, index: usize, process: u64) {
        let luck = self.luck;
        let Some(side) = self.workers.get_mut(index) else { return };
        let well = side
            .runtime
            .containers
            .values()
            .any(|c| c.process == process && c.assignment.desired.spec.one_shot)
            && (luck.fails == 0.0 || self.agenda.chance(0.6));
        let exit = if well {
            Exit { code: Some(0), ..Exit::default() }
        } else {
            let out_of_memory = self.agenda.chance(0.3);
            Exit { signal: Some(9), out_of_memory, ..Exit::default() }
        };
        self.tell_exit(index, process, exit);
    }

    pub(crate) fn lease_ends(&mut self, index: usize, process: u64) {
        let Some(side) = self.workers.get(index) else { return };
        if side.runtime.lease_ends(&mut self.agenda, process) {
            self.tell_exit(index, process, Exit { signal: Some(9), lease_ended: true, ..Exit::default() });
        }
    }

    fn tell_exit(&mut self, index: usize, process: u64, exit: Exit) {
        let Some(side) = self.workers.get_mut(index) else { return };
        if let Some((key, attempt)) = side.runtime.exit(&mut self.agenda, process, exit) {
            side.node.call(&mut self.agenda, |worker, now, random| {
                worker.exited(now, random, key, attempt, exit);
                None
            });
            let epoch = side.node.epoch;
            self.agenda.after(TABLE_MS, Event::CheckTable { worker: index, epoch });
        }
    }

    pub(crate) fn dial(&mut self, child: Who) {
        let parent = self.parent_of(child);
        let parent_alive = self.is_alive(parent);
        if !self.is_alive(child) {
            return;
        }
        let Some((agenda, link)) = self.agenda_and_link(child) else { return };
        if link.below.session.is_some() {
            return;
        }
        if !parent_alive || link.is_blocked() {
            let wait = link.next_wait(agenda);
            agenda.after(wait, Event::Dial { child });
            return;
        }
        match child {
            Who::Cluster(index) => {
                let Some(side) = self.clusters.get_mut(index) else { return };
                let session = side.link.dial(&mut self.agenda);
                side.node.call(&mut self.agenda, |machine, _, _| {
                    Some(Reply::Hello { session, frame: UpFrame::ClusterHello(machine.hello()) })
                });
            }
            Who::Worker(index) => {
                let Some(side) = self.workers.get_mut(index) else { return };
                let cluster =
                    self.clusters.get(side.cluster).and_then(|cluster| cluster.node.machine.as_ref());
                if !cluster.is_some_and(|cluster| cluster.knows_worker(side.id)) {
                    // Its cluster crashed before the enrolment was stored; nobody was told that it had succeeded.
                    self.agenda.after(1_000, Event::Join { worker: index });
                    return;
                }
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

    pub(crate) fn arrive_up(&mut self, child: Who, session: u64, frame: Box<UpFrame>) {
        let Some((agenda, link)) = self.agenda_and_link(child) else { return };
        if link.carries(session) {
            link.landed(End::Parent);
            self.hand_up(child, session, *frame);
        } else if let Some(at) = link.arrives_late(agenda, session) {
            agenda.at(at, Event::LateUp { child, session, frame });
        }
    }

    /// A frame of a dead session arrives. It is up to the parent to see that it is history. A hello is believed,
    /// until the parent notices that nobody is there.
    pub(crate) fn arrive_late(&mut self, child: Who, session: u64, frame: UpFrame) {
        if !self.is_alive(self.parent_of(child)) {
            return;
        }
        let is_hello = matches!(frame, UpFrame::ClusterHello(_) | UpFrame::WorkerHello(_));
        if let Some((agenda, link)) = self.agenda_and_link(child).filter(|_| is_hello) {
            // The parent ends the living session in favour of the one that seems newer.
            link.cut(agenda);
            let noticed = agenda.between(0, 4_500);
            let parting = if agenda.chance(0.5) { Parting::Broken } else { Parting::Silent };
            agenda.after(noticed, Event::ParentNotices { child, session, parting });
        }
        self.hand_up(child, session, frame);
    }

    fn hand_up(&mut self, child: Who, session: u64, frame: UpFrame) {
        let is_hello = matches!(frame, UpFrame::ClusterHello(_) | UpFrame::WorkerHello(_));
        if is_hello {
            if let Some(former) = self.link(child).and_then(|link| link.above.session) {
                // A newer session replaces the older one.
                self.parent_notices(child, former, Parting::Broken);
            }
            if let Some((_, link)) = self.agenda_and_link(child) {
                link.opened(session);
            }
        }
        let agenda = &mut self.agenda;
        let mut attention = None;
        match child {
            Who::Cluster(index) => {
                let Some(side) = self.clusters.get(index) else { return };
                let id = side.id;
                self.root.call(agenda, |root, now, _| {
                    let result = match frame {
                        UpFrame::ClusterHello(hello) => {
                            root.cluster_opened(now, id, session, "192.0.2.200", hello)
                        }
                        UpFrame::ToRoot(message) => root.cluster_message(now, id, session, message),
                        UpFrame::WorkerHello(_) | UpFrame::ToCluster(_) => Ok(()),
                    };
                    attention = result.err();
                    None
                });
            }
            Who::Worker(index) => {
                let Some(side) = self.workers.get(index) else { return };
                let Some(cluster) = self.clusters.get_mut(side.cluster) else { return };
                cluster.node.call(agenda, |cluster, now, _| {
                    match frame {
                        UpFrame::WorkerHello(hello) => {
                            cluster.worker_opened(now, side.id, session, "192.0.2.1", hello);
                        }
                        UpFrame::ToCluster(message) => cluster.worker_message(now, side.id, session, message),
                        UpFrame::ClusterHello(_) | UpFrame::ToRoot(_) => {}
                    }
                    None
                });
            }
            Who::Root => {}
        }
        if let Some(attention) = attention {
            self.broken(Err((PROTOCOL, format!("{attention:?}"))));
        }
    }

    pub(crate) fn arrive_down(&mut self, child: Who, session: u64, frame: DownFrame) {
        let now = self.agenda.time;
        let Some((_, link)) = self.agenda_and_link(child) else { return };
        if link.carries(session) {
            link.landed(End::Child);
        } else if !link.reaches_child(session) {
            return;
        }
        let is_welcome = matches!(frame, DownFrame::ClusterWelcome(_) | DownFrame::WorkerWelcome(_));
        if is_welcome {
            let is_real = link.carries(session);
            if let Some((agenda, link)) = self.agenda_and_link(child).filter(|_| is_real) {
                link.welcomed(agenda, session);
            }
            let (what, place) = (back(child), self.place_of(child));
            self.metrics.timeline.follows(now, what, &place);
        }
        let agenda = &mut self.agenda;
        match child {
            Who::Cluster(index) => {
                let Some(side) = self.clusters.get_mut(index) else { return };
                side.node.call(agenda, |cluster, now, _| {
                    match frame {
                        DownFrame::ClusterWelcome(welcome) => cluster.root_welcome(now, welcome),
                        DownFrame::ToCluster(message) => cluster.root_message(now, message),
                        DownFrame::WorkerWelcome(_) | DownFrame::ToWorker(_) => {}
                    }
                    None
                });
            }
            Who::Worker(index) => {
                let Some(side) = self.workers.get_mut(index) else { return };
                if is_welcome {
                    side.in_touch_since = now;
                }
                side.node.call(agenda, |worker, now, _| {
                    match frame {
                        DownFrame::WorkerWelcome(welcome) => worker.welcome(now, welcome),
                        DownFrame::ToWorker(message) => worker.message(now, message),
                        DownFrame::ClusterWelcome(_) | DownFrame::ToCluster(_) => {}
                    }
                    None
                });
            }
            Who::Root => {}
        }
    }

    pub(crate) fn parent_notices(&mut self, child: Who, session: u64, parting: Parting) {
        let now = self.agenda.time;
        let Some((_, link)) = self.agenda_and_link(child) else { return };
        if link.above.session != Some(session) {
            return;
        }
        link.above = View::default();
        let (what, place) = (lost(child), self.place_of(child));
        self.metrics.timeline.follows(now, what, &place);
        match child {
            Who::Cluster(index) => {
                let Some(side) = self.clusters.get(index) else { return };
                let id = side.id;
                self.root.call(&mut self.agenda, |root, now, _| {
                    root.cluster_closed(now, id, session);
                    None
                });
            }
            Who::Worker(index) => {
                let Some(side) = self.workers.get(index) else { return };
                let Some(cluster) = self.clusters.get_mut(side.cluster) else { return };
                cluster.node.call(&mut self.agenda, |cluster, now, _| {
                    cluster.worker_closed(now, side.id, session, parting);
                    None
                });
            }
            Who::Root => {}
        }
    }

    pub(crate) fn child_notices(&mut self, child: Who, session: u64) {
        let Some((agenda, link)) = self.agenda_and_link(child) else { return };
        if link.below.session == Some(session) {
            link.below = View::default();
            let wait = link.next_wait(agenda);
            agenda.after(wait, Event::Dial { child });
        }
    }

    /// One end has heard nothing for three heartbeats: it gives the session up.
    pub(crate) fn silence(&mut self, child: Who, session: u64, end: End, block: u64) {
        let Some((agenda, link)) = self.agenda_and_link(child) else { return };
        if !link.is_silent(session, end, block) {
            return;
        }
        link.given_up(agenda, end);
        match end {
            End::Parent => self.parent_notices(child, session, Parting::Silent),
            End::Child => self.child_notices(child, session),
        }
    }

    pub(crate) fn heartbeats(&mut self, child: Who, session: u64) {
        let Some((agenda, link)) = self.agenda_and_link(child) else { return };
        if let Some(end) = link.heartbeats(agenda, session) {
            self.silence(child, session, end, 0);
        }
    }
}

const fn lost(child: Who) -> Consequence {
    match child {
        Who::Worker(_) => Consequence::WorkerLost,
        Who::Root | Who::Cluster(_) => Consequence::ClusterLost,
    }
}

const fn back(child: Who) -> Consequence {
    match child {
        Who::Worker(_) => Consequence::WorkerBack,
        Who::Root | Who::Cluster(_) => Consequence::ClusterBack,
    }
}
