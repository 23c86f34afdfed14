//! Faults of the timeline: how they begin, and how they end.

use crate::agenda::{Event, Who};
use crate::scenario::{Action, Direction, Span, Target};
use crate::updates::Quality;
use crate::world::World;

/// A crashed agent is started again by its supervisor after this time, if nothing else is said, milliseconds.
const SUPERVISOR_MS: u64 = 2_000;

impl World {
    /// Puts everything on the agenda that follows from the scenario and not from events.
    pub(crate) fn plan(&mut self) {
        self.plan_users();
        for (index, fault) in self.scenario.faults.iter().enumerate() {
            if let Action::RestoreRoot(age) = fault.action {
                self.agenda.at(fault.at_ms.saturating_sub(age.ms), Event::Backup { index });
            }
            self.agenda.at(fault.at_ms, Event::Fault { index });
        }
        if let Some(random) = &self.scenario.random {
            self.agenda.at(random.from_ms.max(2_000), Event::Chaos);
        }
        self.agenda.at(1_000, Event::Pulse);
    }

    /// The machines a target means now.
    fn machines(&self, target: &Target) -> Vec<Who> {
        let clusters = |wanted: &dyn Fn(usize) -> bool| -> Vec<Who> {
            (0..self.clusters.len()).filter(|index| wanted(*index)).map(Who::Cluster).collect()
        };
        let workers = |wanted: &dyn Fn(usize) -> bool| -> Vec<Who> {
            let there = |index: &usize| self.workers.get(*index).is_some_and(|side| !side.gone);
            (0..self.workers.len()).filter(there).filter(|index| wanted(*index)).map(Who::Worker).collect()
        };
        let cluster_is = |index: usize, name: &str| self.clusters.get(index).is_some_and(|c| c.name == name);
        match target {
            Target::Root => vec![Who::Root],
            Target::All => {
                let mut all = vec![Who::Root];
                all.extend(clusters(&|_| true));
                all.extend(workers(&|_| true));
                all
            }
            Target::Clusters => clusters(&|_| true),
            Target::Workers => workers(&|_| true),
            Target::Cluster(name) => clusters(&|index| cluster_is(index, name)),
            Target::WorkersOf(name) => {
                workers(&|index| self.workers.get(index).is_some_and(|side| cluster_is(side.cluster, name)))
            }
            Target::Worker(name) => {
                workers(&|index| self.workers.get(index).is_some_and(|side| side.facts.name == *name))
            }
            Target::Site(name) => {
                let mut all = clusters(&|index| self.clusters.get(index).is_some_and(|c| c.site == *name));
                all.extend(workers(&|index| self.workers.get(index).is_some_and(|w| w.site == *name)));
                all
            }
        }
    }

    /// A fault of the timeline begins.
    pub(crate) fn fault(&mut self, index: usize) {
        let Some(fault) = self.scenario.faults.get(index).cloned() else { return };
        let now = self.agenda.time;
        let lasts = fault.lasts_ms.unwrap_or(SUPERVISOR_MS);
        let mut text = fault.action.to_string();
        if let Some(lasts) = fault.lasts_ms {
            text.push_str(&format!(", for {}", Span::of_ms(lasts)));
        }
        self.trace.note(now, &text);
        self.metrics.timeline.fault(now, text);
        match fault.action {
            Action::PowerLoss(target) => {
                for who in self.machines(&target) {
                    self.power_loss(who, lasts);
                }
            }
            Action::Crash(target) => {
                for who in self.machines(&target) {
                    self.crash(who, lasts);
                }
            }
            Action::Restart(target) => {
                for who in self.machines(&target) {
                    self.shut_down(who, lasts);
                }
            }
            Action::SetAvailability(target, availability) => {
                for who in self.machines(&target) {
                    if let Who::Worker(index) = who {
                        self.set_availability(index, availability);
                    }
                }
            }
            Action::Partition(target, direction) => {
                for child in self.machines(&target) {
                    self.partition(child, direction, lasts);
                }
            }
            Action::Cut(target) => {
                for child in self.machines(&target) {
                    self.cut(child);
                }
            }
            Action::Degrade(target, model) => {
                for child in self.machines(&target) {
                    self.degrade(child, model, lasts);
                }
            }
            Action::SlowDisk(target, commit) => {
                for who in self.machines(&target) {
                    self.slow_disk(who, commit, lasts);
                }
            }
            Action::FullDisk(target) => {
                for who in self.machines(&target) {
                    self.full_disk(who, lasts);
                }
            }
            Action::LoseRootDisk => self.root_forgets(None, lasts),
            Action::RestoreRoot(_) => {
                let backup = self.backups.remove(&index).unwrap_or_default();
                self.root_forgets(Some(backup), lasts);
            }
            Action::SetClock(target, clock) => {
                for who in self.machines(&target) {
                    self.set_clock(who, clock);
                }
            }
            Action::AddWorkers(cluster, group) => {
                let found = self.clusters.iter().position(|side| side.name == cluster);
                if let Some(cluster) = found {
                    self.join_workers(cluster, &group);
                }
            }
            Action::RemoveWorkers(target) => {
                for who in self.machines(&target) {
                    self.power_loss(who, u64::MAX);
                    if let Who::Worker(index) = who
                        && let Some(side) = self.workers.get_mut(index)
                    {
                        side.gone = true;
                    }
                }
            }
            Action::Scale(workload, instances) => self.wish(&workload, Some(instances)),
            Action::Update(workload) => self.update_workload(&workload, Quality::Good),
            Action::Break(workload) => self.update_workload(&workload, Quality::Broken),
            Action::Delete(workload) => self.wish(&workload, None),
        }
        if fault.lasts_ms.is_some() {
            self.agenda.after(lasts, Event::FaultEnds { index });
        }
    }

    /// A fault of the timeline is over. What has to end with it has an event of its own.
    pub(crate) fn fault_ends(&mut self, index: usize) {
        let Some(fault) = self.scenario.faults.get(index) else { return };
        let text = fault.action.to_string();
        self.metrics.timeline.over(self.agenda.time, &text);
    }

    pub(crate) fn partition(&mut self, child: Who, direction: Direction, lasts_ms: u64) {
        let (up, down) = match direction {
            Direction::Both => (true, true),
            Direction::Up => (true, false),
            Direction::Down => (false, true),
        };
        let Some((agenda, link)) = self.agenda_and_link(child) else { return };
        link.block(agenda, up, down);
        agenda.after(lasts_ms, Event::Heal { child, up, down });
    }

    pub(crate) fn cut(&mut self, child: Who) {
        if let Some((agenda, link)) = self.agenda_and_link(child) {
            link.cut(agenda);
        }
    }

    pub(crate) fn degrade(&mut self, child: Who, model: crate::scenario::LinkModel, lasts_ms: u64) {
        let Some((agenda, link)) = self.agenda_and_link(child) else { return };
        link.degrade(agenda, model);
        agenda.after(lasts_ms, Event::LinkHeals { child });
    }

    pub(crate) fn link_heals(&mut self, child: Who) {
        let model = match child {
            Who::Worker(_) => self.scenario.links.worker,
            Who::Root | Who::Cluster(_) => self.scenario.links.cluster,
        };
        if let Some((_, link)) = self.agenda_and_link(child) {
            link.model = model;
        }
    }

    pub(crate) fn slow_disk(&mut self, who: Who, commit: Span, lasts_ms: u64) {
        if let Some(disk) = self.disk(who) {
            disk.model.jitter = commit;
            self.agenda.after(lasts_ms, Event::DiskHeals { who });
        }
    }

    pub(crate) fn full_disk(&mut self, who: Who, lasts_ms: u64) {
        let until = self.agenda.time.saturating_add(lasts_ms);
        if let Some(disk) = self.disk(who) {
            disk.full_until = disk.full_until.max(until);
        }
    }

    pub(crate) fn disk_heals(&mut self, who: Who) {
        let disks = self.scenario.disks;
        if let Some(disk) = self.disk(who) {
            disk.model = match who {
                Who::Root => disks.root,
                Who::Cluster(_) => disks.cluster,
                Who::Worker(_) => disks.worker,
            };
        }
    }

    fn disk(&mut self, who: Who) -> Option<&mut crate::node::Disk> {
        match who {
            Who::Root => Some(&mut self.root.disk),
            Who::Cluster(index) => self.clusters.get_mut(index).map(|side| &mut side.node.disk),
            Who::Worker(index) => self.workers.get_mut(index).map(|side| &mut side.node.disk),
        }
    }

    pub(crate) fn set_clock(&mut self, who: Who, clock: crate::scenario::Clock) {
        match who {
            Who::Root => self.root.set_clock(clock),
            Who::Cluster(index) => {
                if let Some(side) = self.clusters.get_mut(index) {
                    side.node.set_clock(clock);
                }
            }
            Who::Worker(index) => {
                if let Some(side) = self.workers.get_mut(index) {
                    side.node.set_clock(clock);
                }
            }
        }
    }
}
