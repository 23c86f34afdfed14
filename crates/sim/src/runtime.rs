//! The containers of one worker. Processes survive the agent. Operations on one workload run one after the other, as
//! in the worker's shell: a pull is dropped when something newer comes, everything else comes to its end.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use oak_control::worker::{Attempt, Exit, Found};
use oak_model::InstanceKey;
use oak_model::message::Assignment;

use crate::agenda::{Agenda, Event, ProcessChange, ProcessEvent};
use crate::scenario::RuntimeModel;

#[derive(Clone, Debug)]
pub(crate) enum Work {
    Prepare {
        image: String,
    },
    /// With the time until which it may run, if at most one may.
    Start(Box<Assignment>, Option<u64>),
    Stop,
}

#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) number: u64,
    pub(crate) key: InstanceKey,
    pub(crate) attempt: Attempt,
    pub(crate) work: Work,
}

#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub(crate) process: u64,
    pub(crate) assignment: Box<Assignment>,
    /// Under which attempt the agent watches it.
    pub(crate) watched: Option<Attempt>,
    pub(crate) ended: Option<Exit>,
    /// Until when it may run. The shim keeps this: it outlives the agent.
    lease: Option<u64>,
}

/// How often things go wrong, 0 to 1, and how long they take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Luck {
    /// Operations that fail.
    pub(crate) fails: f64,
    /// Operations that take far too long.
    pub(crate) hangs: f64,
    /// Processes that end by themselves soon.
    pub(crate) dies: f64,
    pub(crate) times: RuntimeModel,
}

impl Luck {
    pub(crate) const fn good(times: RuntimeModel) -> Self {
        Self { fails: 0.0, hangs: 0.0, dies: 0.0, times }
    }
}

pub(crate) struct Runtime {
    worker: usize,
    pub(crate) containers: BTreeMap<InstanceKey, Container>,
    operations: BTreeMap<InstanceKey, VecDeque<Operation>>,
    images: HashSet<String>,
    /// When a process of a workload last came or went.
    changed: HashMap<InstanceKey, u64>,
    /// The newest permissions, as the agent remembers them.
    leases: HashMap<InstanceKey, u64>,
}

impl Runtime {
    pub(crate) fn new(worker: usize) -> Self {
        Self {
            worker,
            containers: BTreeMap::new(),
            operations: BTreeMap::new(),
            images: HashSet::new(),
            changed: HashMap::new(),
            leases: HashMap::new(),
        }
    }

    /// Keys of the processes that run.
    pub(crate) fn running(&self) -> impl Iterator<Item = (&InstanceKey, &Container)> {
        self.containers.iter().filter(|(_, container)| container.ended.is_none())
    }

    /// Whether an operation on a workload is under way.
    pub(crate) fn is_busy_with(&self, key: InstanceKey) -> bool {
        self.operations.contains_key(&key)
    }

    /// When a process of a workload last came or went.
    pub(crate) fn last_change(&self, key: InstanceKey) -> u64 {
        self.changed.get(&key).copied().unwrap_or(0)
    }

    /// Operations under way or waiting.
    pub(crate) fn queued(&self) -> usize {
        self.operations.values().map(VecDeque::len).sum()
    }

    pub(crate) fn begin(&mut self, agenda: &mut Agenda, epoch: u64, luck: Luck, operation: Operation) {
        let key = operation.key;
        let queue = self.operations.entry(key).or_default();
        if queue.back().is_some_and(|last| matches!(last.work, Work::Prepare { .. })) {
            queue.pop_back();
        }
        queue.push_back(operation);
        if queue.len() == 1 {
            self.launch(agenda, epoch, luck, key);
        }
    }

    fn launch(&self, agenda: &mut Agenda, epoch: u64, luck: Luck, key: InstanceKey) {
        let Some(operation) = self.operations.get(&key).and_then(VecDeque::front) else { return };
        let longest = match &operation.work {
            Work::Prepare { image } if self.images.contains(image) => 2,
            Work::Prepare { .. } => luck.times.pull.ms,
            Work::Start(..) => luck.times.start.ms,
            Work::Stop => luck.times.stop.ms,
        };
        let time = if agenda.chance(luck.hangs) {
            agenda.between(10_000, 60_000)
        } else {
            agenda.between((longest / 2).max(1), longest.max(1))
        };
        let event = Event::Operation { worker: self.worker, epoch, operation: operation.number };
        agenda.after(time, event);
    }

    /// Takes the operation that came to its end, unless it was dropped, and begins the next one.
    pub(crate) fn finish(
        &mut self,
        agenda: &mut Agenda,
        epoch: u64,
        luck: Luck,
        number: u64,
    ) -> Option<Operation> {
        let queue = self.operations.values_mut().find(|q| q.front().is_some_and(|o| o.number == number))?;
        let operation = queue.pop_front()?;
        if queue.is_empty() {
            self.operations.remove(&operation.key);
        } else {
            self.launch(agenda, epoch, luck, operation.key);
        }
        Some(operation)
    }

    /// An image is here now.
    pub(crate) fn has_image(&mut self, image: String) {
        self.images.insert(image);
    }

    /// Replaces whatever is there by a new process, which ends by itself after `life` if that is given. False if its
    /// permission has ended already.
    pub(crate) fn create(
        &mut self,
        agenda: &mut Agenda,
        key: InstanceKey,
        assignment: Box<Assignment>,
        lease: Option<u64>,
        life: Option<u64>,
    ) -> bool {
        self.remove(agenda, key);
        let lease = lease.max(self.leases.get(&key).copied());
        if lease.is_some_and(|until| until <= agenda.time) {
            return false;
        }
        let process = agenda.number();
        if let Some(life) = life {
            agenda.after(life, Event::Exit { worker: self.worker, process });
        }
        if let Some(until) = lease {
            agenda.at(until, Event::LeaseEnds { worker: self.worker, process });
        }
        self.containers.insert(key, Container { process, assignment, watched: None, ended: None, lease });
        self.note(agenda, key, process, ProcessEvent::Began);
        true
    }

    /// The permission with which the next process starts; an older one means nothing any more.
    pub(crate) fn set_lease(&mut self, key: InstanceKey, until: Option<u64>) {
        match until {
            Some(until) => self.leases.insert(key, until),
            None => self.leases.remove(&key),
        };
    }

    /// The agent passes on a permission.
    pub(crate) fn permit(&mut self, key: InstanceKey, until: u64) {
        self.leases.insert(key, until);
        if let Some(container) = self.containers.get_mut(&key) {
            container.lease = container.lease.max(Some(until));
        }
    }

    /// Whether the permission of a process has ended; if it was renewed, the event comes again.
    pub(crate) fn lease_ends(&self, agenda: &mut Agenda, process: u64) -> bool {
        let running = self.running().map(|(_, container)| container).find(|c| c.process == process);
        let Some(until) = running.and_then(|container| container.lease) else { return false };
        if until > agenda.time {
            agenda.at(until, Event::LeaseEnds { worker: self.worker, process });
        }
        until <= agenda.time
    }

    /// Nothing of a container is left.
    pub(crate) fn remove(&mut self, agenda: &mut Agenda, key: InstanceKey) {
        if let Some(container) = self.containers.remove(&key)
            && container.ended.is_none()
        {
            self.note(agenda, key, container.process, ProcessEvent::Taken);
        }
    }

    /// A process ends; returns whom to tell.
    pub(crate) fn exit(
        &mut self,
        agenda: &mut Agenda,
        process: u64,
        exit: Exit,
    ) -> Option<(InstanceKey, Attempt)> {
        let (key, container) =
            self.containers.iter_mut().find(|(_, c)| c.process == process && c.ended.is_none())?;
        let (key, watched) = (*key, container.watched);
        container.ended = Some(exit);
        let for_good = container.assignment.desired.spec.one_shot && exit.code == Some(0);
        let what = match (for_good, exit.lease_ended) {
            (true, _) => ProcessEvent::Completed,
            (false, true) => ProcessEvent::Taken,
            (false, false) => ProcessEvent::Exited,
        };
        self.note(agenda, key, process, what);
        Some((key, watched?))
    }

    fn note(&mut self, agenda: &mut Agenda, key: InstanceKey, process: u64, what: ProcessEvent) {
        self.changed.insert(key, agenda.time);
        agenda.processes.push(ProcessChange { worker: self.worker, key, process, what });
    }

    /// The agent dies. What it was doing may or may not have happened; `life` tells how long a new process lives.
    pub(crate) fn agent_crashed(
        &mut self,
        agenda: &mut Agenda,
        life: impl Fn(&mut Agenda, &Assignment) -> Option<u64>,
    ) {
        for queue in std::mem::take(&mut self.operations).into_values() {
            match queue.front() {
                Some(Operation { key, work: Work::Start(assignment, lease), .. }) if agenda.chance(0.5) => {
                    let life = life(agenda, assignment);
                    self.create(agenda, *key, assignment.clone(), *lease, life);
                }
                Some(Operation { key, work: Work::Stop, .. }) if agenda.chance(0.5) => {
                    self.remove(agenda, *key);
                }
                _ => {}
            }
        }
        self.leases.clear();
        for container in self.containers.values_mut() {
            container.watched = None;
        }
    }

    /// The machine loses power: no process is left. Images are on the disk.
    pub(crate) fn power_lost(&mut self, agenda: &mut Agenda) {
        self.operations.clear();
        self.leases.clear();
        for key in self.containers.keys().copied().collect::<Vec<_>>() {
            self.remove(agenda, key);
        }
    }

    /// What a starting agent finds.
    pub(crate) fn found(&self) -> BTreeMap<InstanceKey, Found> {
        let state = |container: &Container| container.ended.map_or(Found::Running, Found::Exited);
        self.containers.iter().map(|(key, container)| (*key, state(container))).collect()
    }
}
