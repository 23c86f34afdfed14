//! Machines that go down and come back.

use oak_control::cluster::{Cluster, Parting};
use oak_control::root::Root;
use oak_control::worker::{NetworkTable, TableVersion, Worker};

use crate::agenda::{Event, Who};
use crate::invariants::ROWS;
use crate::node::Rows;
use crate::sweep::TABLE_MS;
use crate::timeline::Consequence;
use crate::world::World;

/// How a root begins another life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reborn {
    /// From an empty disk.
    Empty,
    /// From a backup.
    Restored,
}

impl World {
    /// The root crashes; it is back after `down_ms` with what a backup holds, or with nothing.
    pub(crate) fn root_forgets(&mut self, backup: Option<Rows>, down_ms: u64) {
        self.crash(Who::Root, down_ms);
        self.reborn = Some(if backup.is_some() { Reborn::Restored } else { Reborn::Empty });
        self.root.disk.replace(backup.unwrap_or_default());
        let placed = self.clusters.iter().flat_map(|side| side.node.machine.iter().flat_map(Cluster::placed));
        let held: Vec<_> =
            placed.filter(|placed| !placed.removing).map(|placed| placed.desired.key).collect();
        self.client.root_forgot(held.into_iter());
    }

    /// The agent of a machine ends without warning and is back after `down_ms`. Containers go on.
    pub(crate) fn crash(&mut self, who: Who, down_ms: u64) {
        if !self.is_alive(who) {
            return;
        }
        let luck = self.luck;
        match who {
            Who::Root => self.root.crash(&mut self.agenda),
            Who::Cluster(index) => {
                if let Some(side) = self.clusters.get_mut(index) {
                    side.node.crash(&mut self.agenda);
                    side.relay.clear();
                }
            }
            Who::Worker(index) => {
                let users = &self.users;
                if let Some(side) = self.workers.get_mut(index) {
                    side.node.crash(&mut self.agenda);
                    side.runtime.agent_crashed(&mut self.agenda, |agenda, assignment| {
                        users.life_of(agenda, luck, assignment)
                    });
                }
            }
        }
        self.watch.crashed(who);
        // The kernel of the machine lives on and tells the other ends.
        for child in self.children_of(who) {
            if let Some((agenda, link)) = self.agenda_and_link(child) {
                link.parent_crashed(agenda);
            }
        }
        if let Some((agenda, link)) = self.agenda_and_link(who) {
            link.child_crashed(agenda);
        }
        self.agenda.after(down_ms, Event::Restart { who });
    }

    /// The agent of a machine says goodbye, ends in good order and is back after `down_ms`, as for an upgrade.
    pub(crate) fn shut_down(&mut self, who: Who, down_ms: u64) {
        if !self.is_alive(who) {
            return;
        }
        if let Some(link) = self.link(who)
            && let Some(session) = link.above.session.filter(|session| link.carries(*session))
            && !link.is_blocked()
        {
            self.agenda.after(1, Event::ParentNotices { child: who, session, parting: Parting::Left });
        }
        // What it had decided is on the disk when it ends.
        match who {
            Who::Root => self.root.flush(),
            Who::Cluster(index) => {
                if let Some(side) = self.clusters.get_mut(index) {
                    side.node.flush();
                }
            }
            Who::Worker(index) => {
                if let Some(side) = self.workers.get_mut(index) {
                    side.node.flush();
                }
            }
        }
        self.crash(who, down_ms);
    }

    /// A machine loses power for so long: nothing is left of its processes, and nobody is told. Then it boots.
    pub(crate) fn power_loss(&mut self, who: Who, dark_ms: u64) {
        let until = self.agenda.time.saturating_add(dark_ms);
        let place = self.place_of(who);
        match who {
            Who::Root => {
                self.root.dark_until = self.root.dark_until.max(until);
                self.root.crash(&mut self.agenda);
            }
            Who::Cluster(index) => {
                let Some(side) = self.clusters.get_mut(index) else { return };
                side.node.dark_until = side.node.dark_until.max(until);
                side.node.crash(&mut self.agenda);
                side.relay.clear();
            }
            Who::Worker(index) => {
                let Some(side) = self.workers.get_mut(index) else { return };
                side.node.dark_until = side.node.dark_until.max(until);
                side.node.crash(&mut self.agenda);
                let before = self.agenda.processes.len();
                side.runtime.power_lost(&mut self.agenda);
                side.network = NetworkTable::default();
                for _ in before..self.agenda.processes.len() {
                    self.metrics.timeline.follows(self.agenda.time, Consequence::Ended, &place);
                }
            }
        }
        self.watch.crashed(who);
        for child in self.children_of(who) {
            if let Some((agenda, link)) = self.agenda_and_link(child) {
                link.parent_vanished(agenda);
            }
        }
        if let Some((agenda, link)) = self.agenda_and_link(who) {
            link.child_vanished(agenda);
        }
        let boot = self.luck.times.boot.ms;
        let delay = dark_ms.saturating_add(self.agenda.between(boot, boot + boot / 2));
        self.agenda.after(delay, Event::Restart { who });
    }

    fn dark_until(&self, who: Who) -> u64 {
        match who {
            Who::Root => self.root.dark_until,
            Who::Cluster(index) => self.clusters.get(index).map_or(0, |side| side.node.dark_until),
            Who::Worker(index) => self.workers.get(index).map_or(0, |side| side.node.dark_until),
        }
    }

    /// A machine that was down starts its agent from its disk, unless it is up already or has no power.
    pub(crate) fn restart(&mut self, who: Who) {
        if self.is_alive(who) || self.agenda.time < self.dark_until(who) {
            return;
        }
        let started = match who {
            Who::Root => self.start_root(),
            Who::Cluster(index) => self.start_cluster(index),
            Who::Worker(index) => self.start_worker(index),
        };
        match started {
            Ok(()) => {
                let checked = self.check_restarted(who);
                self.broken(checked);
            }
            Err(error) => self.broken(Err((ROWS, format!("{}: {error}", self.names.of(who))))),
        }
        if who != Who::Root {
            self.agenda.after(1, Event::Dial { child: who });
        }
    }

    fn start_root(&mut self) -> Result<(), oak_control::CorruptRow> {
        self.root.boot(&self.agenda);
        let now = self.root.now(&self.agenda);
        let root = Root::load(self.root_settings(), now, &self.root.rows())?;
        self.root.start(&mut self.agenda, root);
        if let Some(reborn) = self.reborn.take() {
            self.root.call(&mut self.agenda, |root, now, random| {
                root.begin_life(now, random, reborn == Reborn::Restored);
                None
            });
            // An operator gives the clusters that are not known tokens; they keep who they are.
            for index in 0..self.clusters.len() {
                self.enrol_cluster(index);
            }
            self.root.flush();
        }
        Ok(())
    }

    fn start_cluster(&mut self, index: usize) -> Result<(), oak_control::CorruptRow> {
        let Some(side) = self.clusters.get(index) else { return Ok(()) };
        let settings = self.cluster_settings(&side.name);
        let Some(side) = self.clusters.get_mut(index) else { return Ok(()) };
        side.node.boot(&self.agenda);
        let now = side.node.now(&self.agenda);
        let cluster = Cluster::load(settings, now, &side.node.rows())?;
        side.node.start(&mut self.agenda, cluster);
        if self.scenario.random.as_ref().is_some_and(|random| self.agenda.time >= random.until_ms) {
            // It was down when the others were opened.
            self.open_all_workers(index);
        }
        Ok(())
    }

    fn start_worker(&mut self, index: usize) -> Result<(), oak_control::CorruptRow> {
        let settings = self.worker_settings();
        let Some(side) = self.workers.get_mut(index).filter(|side| !side.gone) else { return Ok(()) };
        side.node.boot(&self.agenda);
        let now = side.node.now(&self.agenda);
        let (worker, adopted) = Worker::load(settings, now, &side.node.rows(), &side.runtime.found())?;
        side.network_version = TableVersion::default();
        // What the agent does not know is nobody's: its shell removes it.
        let strays: Vec<_> =
            side.runtime.containers.keys().copied().filter(|key| worker.workload(*key).is_none()).collect();
        for key in strays {
            side.runtime.remove(&mut self.agenda, key);
        }
        for (key, attempt) in adopted {
            if let Some(container) = side.runtime.containers.get_mut(&key) {
                container.watched = Some(attempt);
            }
        }
        side.node.start(&mut self.agenda, worker);
        let epoch = side.node.epoch;
        self.agenda.after(TABLE_MS, Event::CheckTable { worker: index, epoch });
        Ok(())
    }
}
