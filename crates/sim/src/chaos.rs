//! What networks, disks and power supplies do to the system at random.

use oak_model::Availability;

use crate::agenda::{Event, Who};
use crate::runtime::Luck;
use crate::scenario::{Clock, Direction, LinkModel, RandomFaults, Share, Span};
use crate::world::World;

impl World {
    /// One thing is done to the system.
    pub(crate) fn chaos(&mut self) {
        let Some(random) = self.scenario.random.clone() else { return };
        if self.agenda.time >= random.until_ms {
            self.luck = Luck::good(self.scenario.runtime);
            (0..self.clusters.len()).for_each(|index| self.open_all_workers(index));
            return;
        }
        self.luck = Luck {
            fails: random.operations_fail,
            hangs: random.operations_hang,
            dies: random.processes_die,
            times: self.scenario.runtime,
        };
        let weights = random.weights;
        let all = [
            weights.cut,
            weights.partition,
            weights.one_way,
            weights.crash,
            weights.power,
            weights.clock,
            weights.slow_disk,
            weights.full_disk,
            weights.lossy,
            weights.restart,
            weights.availability,
            weights.removal,
        ];
        let kind = self.agenda.weighted(&all);
        let name = self.random_fault(&random, kind);
        *self.metrics.random_faults.entry(name).or_default() += 1;
        let left = random.until_ms - self.agenda.time;
        // Storms and lulls: in a storm nothing gets done, in a lull there is something to lose.
        let spell = 1 << self.agenda.pick(4);
        let pause = self.agenda.between(1, random.every_ms * spell / 2).min(left);
        self.agenda.after(pause, Event::Chaos);
    }

    fn random_fault(&mut self, random: &RandomFaults, kind: usize) -> &'static str {
        // Faults end with the time of faults.
        let longest = random.longest_ms.min(random.until_ms - self.agenda.time).max(1);
        let lasts = self.agenda.between(500.min(longest), longest);
        match kind {
            0 => {
                let child = self.some_child();
                self.cut(child);
                "session cut"
            }
            1 => {
                let child = self.some_child();
                self.partition(child, Direction::Both, lasts);
                "partition"
            }
            2 => {
                let child = self.some_child();
                let direction = if self.agenda.chance(0.5) { Direction::Up } else { Direction::Down };
                self.partition(child, direction, lasts);
                "one-way partition"
            }
            3 => {
                let who = self.some_machine();
                let down = self.agenda.between(10, 10_000);
                self.crash(who, down);
                "crash"
            }
            4 => {
                let who = self.some_machine();
                self.power_loss(who, lasts);
                "power loss"
            }
            5 => {
                let who = self.some_machine();
                let clock = match self.agenda.pick(3) {
                    0 => Clock::Epoch,
                    1 => Clock::Ahead(Span::of_ms(self.agenda.between(0, 2_000_000_000))),
                    _ => Clock::Back(Span::of_ms(self.agenda.between(0, 2_000_000_000))),
                };
                self.set_clock(who, clock);
                "clock jump"
            }
            6 => {
                let who = self.some_machine();
                let commit = Span::of_ms(self.agenda.between(50, 2_000));
                self.slow_disk(who, commit, lasts);
                "slow disk"
            }
            7 => {
                let who = self.some_machine();
                self.full_disk(who, lasts);
                "full disk"
            }
            8 => {
                let child = self.some_child();
                let loss =
                    Share::try_from([0.05, 0.2, 0.5, 0.8].get(self.agenda.pick(4)).copied().unwrap_or(0.2));
                let model = LinkModel {
                    delay: Span::of_ms(self.agenda.between(1, 300)),
                    jitter: Span::of_ms(self.agenda.between(0, 300)),
                    loss: loss.unwrap_or_default(),
                };
                self.degrade(child, model, lasts);
                "lossy link"
            }
            9 => {
                let who = self.some_machine();
                let down = self.agenda.between(200, 5_000);
                self.shut_down(who, down);
                "restart"
            }
            11 => {
                let worker = self.agenda.pick(self.workers.len());
                let forced = self.agenda.chance(0.5);
                if self.remove_worker(worker, forced) { "worker removed" } else { "worker kept" }
            }
            _ => {
                let worker = self.agenda.pick(self.workers.len());
                let all = [Availability::Open, Availability::Cordoned, Availability::Draining];
                let place = self.agenda.pick(all.len());
                self.set_availability(worker, all.get(place).copied().unwrap_or_default());
                "worker cordoned, drained or opened"
            }
        }
    }

    /// An operator opens or closes a worker.
    pub(crate) fn set_availability(&mut self, worker: usize, availability: Availability) {
        let Some((id, cluster)) = self.workers.get(worker).map(|side| (side.id, side.cluster)) else {
            return;
        };
        let Some(side) = self.clusters.get_mut(cluster) else { return };
        side.node.call(&mut self.agenda, |machine, now, _| {
            machine.set_availability(now, id, availability);
            None
        });
    }

    /// An operator opens every worker of a cluster that is closed.
    pub(crate) fn open_all_workers(&mut self, cluster: usize) {
        let Some(side) = self.clusters.get_mut(cluster) else { return };
        side.node.call(&mut self.agenda, |machine, now, _| {
            let closed = machine.workers().filter(|worker| worker.availability != Availability::Open);
            let closed: Vec<_> = closed.map(|worker| worker.id).collect();
            for worker in closed {
                machine.set_availability(now, worker, Availability::Open);
            }
            None
        });
    }

    fn some_machine(&mut self) -> Who {
        if self.agenda.chance(0.2) { Who::Root } else { self.some_child() }
    }

    fn some_child(&mut self) -> Who {
        let chosen = self.agenda.pick(self.clusters.len() + self.workers.len());
        if chosen < self.clusters.len() {
            Who::Cluster(chosen)
        } else {
            Who::Worker(chosen - self.clusters.len())
        }
    }
}
