//! The containers of one worker. Processes survive the agent. Operations on one workload run one after the other, as
//! in the worker's shell: a pull is dropped when something newer comes, everything else comes to its end.

use std::collections::{BTreeMap, VecDeque};

use oak_control::worker::{Attempt, Exit, Found};
use oak_model::message::Assignment;
use oak_model::{InstanceKey, Moment};

use super::agenda::{Agenda, Event};

#[derive(Clone, Debug)]
pub enum Work {
    Prepare,
    Start(Box<Assignment>, Option<Moment>),
    Stop,
}

#[derive(Clone, Debug)]
pub struct Operation {
    pub number: u64,
    pub key: InstanceKey,
    pub attempt: Attempt,
    pub work: Work,
}

#[derive(Clone, Debug)]
pub struct Container {
    pub process: u64,
    pub assignment: Box<Assignment>,
    /// Under which attempt the agent watches it.
    pub watched: Option<Attempt>,
    pub ended: Option<Exit>,
    /// Until when it may run. The shim keeps this: it outlives the agent.
    pub lease: Option<Moment>,
}

/// How often things go wrong, percent.
#[derive(Clone, Copy)]
pub struct Luck {
    pub fails: u64,
    pub hangs: u64,
    pub dies: u64,
}

impl Luck {
    pub const BAD: Self = Self { fails: 15, hangs: 6, dies: 20 };
    pub const GOOD: Self = Self { fails: 0, hangs: 0, dies: 0 };
}

pub struct Runtime {
    worker: usize,
    pub containers: BTreeMap<InstanceKey, Container>,
    operations: BTreeMap<InstanceKey, VecDeque<Operation>>,
    /// The newest permissions, as the agent remembers them.
    leases: BTreeMap<InstanceKey, Moment>,
}

impl Runtime {
    pub const fn new(worker: usize) -> Self {
        Self { worker, containers: BTreeMap::new(), operations: BTreeMap::new(), leases: BTreeMap::new() }
    }

    /// Keys of the processes that run.
    pub fn running(&self) -> impl Iterator<Item = (&InstanceKey, &Container)> {
        self.containers.iter().filter(|(_, container)| container.ended.is_none())
    }

    pub fn begin(&mut self, agenda: &mut Agenda, epoch: u64, luck: Luck, operation: Operation) {
        let key = operation.key;
        let queue = self.operations.entry(key).or_default();
        if queue.back().is_some_and(|last| matches!(last.work, Work::Prepare)) {
            queue.pop_back();
        }
        queue.push_back(operation);
        if queue.len() == 1 {
            self.launch(agenda, epoch, luck, Some(key));
        }
    }

    fn launch(&self, agenda: &mut Agenda, epoch: u64, luck: Luck, key: Option<InstanceKey>) {
        let next = key.and_then(|key| self.operations.get(&key)).and_then(VecDeque::front);
        if let Some(operation) = next {
            let time = if agenda.chance(luck.hangs) {
                agenda.between(10_000, 60_000)
            } else {
                agenda.between(1, 800)
            };
            let event = Event::Operation { worker: self.worker, epoch, operation: operation.number };
            agenda.after(time, event);
        }
    }

    /// Takes the operation that came to its end, unless it was dropped, and begins the next one.
    pub fn finish(&mut self, agenda: &mut Agenda, epoch: u64, luck: Luck, number: u64) -> Option<Operation> {
        let queue = self.operations.values_mut().find(|q| q.front().is_some_and(|o| o.number == number))?;
        let operation = queue.pop_front()?;
        self.launch(agenda, epoch, luck, Some(operation.key));
        Some(operation)
    }

    /// Replaces whatever is there by a new process; false if its permission has ended already.
    pub fn create(
        &mut self,
        agenda: &mut Agenda,
        luck: Luck,
        key: InstanceKey,
        assignment: Box<Assignment>,
        lease: Option<Moment>,
    ) -> bool {
        let lease = lease.max(self.leases.get(&key).copied());
        if lease.is_some_and(|Moment(until)| until <= agenda.time) {
            return false;
        }
        let process = agenda.number();
        if assignment.desired.spec.one_shot || agenda.chance(luck.dies) {
            let life = agenda.between(0, 20_000);
            agenda.after(life, Event::Exit { worker: self.worker, process });
        }
        if let Some(Moment(until)) = lease {
            agenda.at(until, Event::LeaseEnds { worker: self.worker, process });
        }
        self.containers.insert(key, Container { process, assignment, watched: None, ended: None, lease });
        true
    }

    /// The agent passes on a permission.
    pub fn permit(&mut self, key: InstanceKey, until: Moment) {
        self.leases.insert(key, until);
        if let Some(container) = self.containers.get_mut(&key) {
            container.lease = container.lease.max(Some(until));
        }
    }

    /// Whether the permission of a process has ended; if it was renewed, the event comes again.
    pub fn lease_ends(&self, agenda: &mut Agenda, process: u64) -> bool {
        let running = self.running().map(|(_, container)| container).find(|c| c.process == process);
        let Some(Moment(until)) = running.and_then(|container| container.lease) else { return false };
        if until > agenda.time {
            agenda.at(until, Event::LeaseEnds { worker: self.worker, process });
        }
        until <= agenda.time
    }

    /// A process ends; returns whom to tell.
    pub fn exit(&mut self, process: u64, exit: Exit) -> Option<(InstanceKey, Attempt)> {
        let (key, container) =
            self.containers.iter_mut().find(|(_, container)| container.process == process)?;
        container.ended = Some(exit);
        Some((*key, container.watched?))
    }

    /// The agent dies. What it was doing may or may not have happened.
    pub fn agent_crashed(&mut self, agenda: &mut Agenda, luck: Luck) {
        for queue in std::mem::take(&mut self.operations).into_values() {
            match queue.front() {
                Some(Operation { key, work: Work::Start(assignment, lease), .. }) if agenda.chance(50) => {
                    self.create(agenda, luck, *key, assignment.clone(), *lease);
                }
                Some(Operation { key, work: Work::Stop, .. }) if agenda.chance(50) => {
                    self.containers.remove(key);
                }
                _ => {}
            }
        }
        self.leases.clear();
        for container in self.containers.values_mut() {
            container.watched = None;
        }
    }

    /// What a starting agent finds.
    pub fn found(&self) -> BTreeMap<InstanceKey, Found> {
        let state = |container: &Container| container.ended.map_or(Found::Running, Found::Exited);
        self.containers.iter().map(|(key, container)| (*key, state(container))).collect()
    }
}
