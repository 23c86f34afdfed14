//! What the shells do: frames become calls, effects become frames and operations.

use oak_control::cluster;
use oak_control::root;
use oak_control::worker::{self, Attempt, Exit, NetworkTable, TableVersion};
use oak_model::InstanceKey;

use crate::agenda::{Event, Who};
use crate::link::{DownFrame, UpFrame};
use crate::node::Reply;
use crate::runtime::{Operation, Work};
use crate::sweep::TABLE_MS;
use crate::trace;
use crate::updates::BROKEN;
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
                    link.hello(agenda, session, *frame);
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
            root::Effect::TokenReady { .. }
            | root::Effect::AvailabilityConfirmed { .. }
            | root::Effect::WorkerRemoval { .. }
            | root::Effect::Events(_) => {}
            root::Effect::Dismiss { cluster, session } => {
                if let Some(index) = self.cluster_by_id.get(&cluster) {
                    self.dismiss(Who::Cluster(*index), session);
                }
            }
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
            cluster::Effect::Dismiss { worker, session } => {
                if let Some(worker) = self.worker_by_id.get(&worker) {
                    self.dismiss(Who::Worker(*worker), session);
                }
            }
            cluster::Effect::Relay { worker, keys, peers } => {
                if let Some(side) = self.clusters.get_mut(index) {
                    side.relay.insert(worker, (keys, peers));
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

    /// A parent ends a session.
    fn dismiss(&mut self, child: Who, session: u64) {
        if let Some((agenda, link)) = self.agenda_and_link(child).filter(|(_, link)| link.carries(session)) {
            link.cut(agenda);
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
            worker::Effect::Probe { key, attempt, .. } => {
                let epoch = side.node.epoch;
                let delay = self.agenda.between(1, 50);
                self.agenda.after(delay, Event::Probed { worker: index, epoch, key, attempt });
                return;
            }
            worker::Effect::Network { version, table } => {
                let epoch = side.node.epoch;
                let delay = self.agenda.between(1, 20);
                self.agenda.after(delay, Event::Table { worker: index, epoch, version, table });
                return;
            }
            // Measurements decide nothing.
            worker::Effect::ReportUsage | worker::Effect::Answered => return,
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
            Work::Start(assignment, _) if fails || assignment.desired.spec.image.ends_with(BROKEN) => {
                side.node.call(&mut self.agenda, |worker, now, random| {
                    worker.failed(now, random, key, attempt, "no such command");
                    None
                });
            }
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

    /// A try of a health check ends. It fails now and then, as everything does.
    pub(crate) fn probe_ends(&mut self, index: usize, epoch: u64, key: InstanceKey, attempt: Attempt) {
        let fails = self.luck.fails;
        let Some(side) = self.workers.get_mut(index).filter(|side| side.node.epoch == epoch) else { return };
        let outcome = if self.agenda.chance(fails) { Err("no answer".to_owned()) } else { Ok(()) };
        side.node.call(&mut self.agenda, |worker, now, random| {
            worker.probed(now, random, key, attempt, outcome);
            None
        });
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
}
