//! Sessions between children and parents: dialling, frames that arrive, ends that are noticed.

use oak_control::Table;
use oak_control::cluster::Parting;

use crate::agenda::{Event, Who};
use crate::invariants::PROTOCOL;
use crate::link::{DownFrame, End, UpFrame, View};
use crate::node::Reply;
use crate::timeline::Consequence;
use crate::world::World;

impl World {
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
                    let frame = Box::new(UpFrame::ClusterHello(machine.hello()));
                    Some(Reply::Hello { session, frame })
                });
            }
            Who::Worker(index) => {
                let Some(side) = self.workers.get_mut(index) else { return };
                let cluster =
                    self.clusters.get(side.cluster).and_then(|cluster| cluster.node.machine.as_ref());
                if !cluster.is_some_and(|cluster| cluster.knows_worker(side.id)) {
                    let id = side.id.to_string();
                    let parent = self.clusters.get(side.cluster);
                    if parent.is_some_and(|parent| parent.node.disk.contains(Table::Worker, id)) {
                        // Its removal is not stored yet: nobody is told before that.
                        self.agenda.after(100, Event::Dial { child });
                        return;
                    }
                    self.join_again(index);
                    return;
                }
                let session = side.link.dial(&mut self.agenda);
                // Another lease, or another network.
                if self.agenda.chance(0.02) {
                    let (third, last) = (self.agenda.pick(256), self.agenda.pick(254) + 1);
                    side.facts.address = format!("198.18.{third}.{last}");
                }
                let facts = side.facts.clone();
                side.node.call(&mut self.agenda, |machine, _, _| {
                    let frame = Box::new(UpFrame::WorkerHello(machine.hello(facts)));
                    Some(Reply::Hello { session, frame })
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
            if let Who::Worker(index) = child
                && let Some(side) = self.workers.get_mut(index)
            {
                side.node.call(&mut self.agenda, |machine, _, _| {
                    machine.cluster_closed();
                    None
                });
            }
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
