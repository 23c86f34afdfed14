//! A machine with its disk. Steps reach the disk in order, some time after they were made; effects are carried out
//! only then. A crash loses everything that has not reached the disk.

use std::collections::{BTreeMap, VecDeque};

use oak_control::cluster::{self, Cluster};
use oak_control::root::{self, Root};
use oak_control::worker::{self, Worker};
use oak_control::{Entropy, Outbox, Row, Table};
use oak_model::{Moment, Now, WallTime};

use super::agenda::{Agenda, Event, Who};
use super::client::Answer;
use super::link::UpFrame;

/// What the world needs of a state machine.
pub trait Machine {
    type Effect;
    fn outbox(&mut self) -> Outbox<Self::Effect>;
    fn deadline(&self) -> Option<Moment>;
    fn due(&mut self, now: Now, random: &mut dyn Entropy);
}

macro_rules! machine {
    ($machine:ty, $effect:ty, $($argument:ident)?) => {
        impl Machine for $machine {
            type Effect = $effect;
            fn outbox(&mut self) -> Outbox<$effect> {
                self.take_outbox()
            }
            fn deadline(&self) -> Option<Moment> {
                self.next_deadline()
            }
            fn due(&mut self, now: Now, _random: &mut dyn Entropy) {
                self.tick(now, $({ let $argument = _random; $argument })?);
            }
        }
    };
}

machine!(Root, root::Effect,);
machine!(Cluster, cluster::Effect,);
machine!(Worker, worker::Effect, random);

/// What follows the commit of a step, besides its effects.
pub enum Reply {
    /// The user gets an answer.
    Client(Answer),
    /// The child says hello in this session.
    Hello { session: u64, frame: UpFrame },
}

pub struct Step<E> {
    pub rows: Vec<Row>,
    pub effects: Vec<E>,
    pub reply: Option<Reply>,
}

pub struct Node<M: Machine> {
    pub who: Who,
    /// `None` while it is crashed.
    pub machine: Option<M>,
    pub disk: BTreeMap<(Table, String), Vec<u8>>,
    /// Lives of this machine.
    pub epoch: u64,
    /// How wrong its clock is, milliseconds.
    pub skew: u64,
    pipeline: VecDeque<Step<M::Effect>>,
    last_commit: u64,
    tick_at: Option<u64>,
}

impl<M: Machine> Node<M> {
    pub fn new(who: Who, machine: M) -> Self {
        Self {
            who,
            machine: Some(machine),
            disk: BTreeMap::new(),
            epoch: 0,
            skew: 1_000_000_000,
            pipeline: VecDeque::new(),
            last_commit: 0,
            tick_at: None,
        }
    }

    pub fn now(&self, agenda: &Agenda) -> Now {
        Now { moment: Moment(agenda.time), wall: WallTime(agenda.time + self.skew) }
    }

    /// Calls the machine, if it is up; what it asks for is done when the step is on the disk.
    pub fn call(
        &mut self,
        agenda: &mut Agenda,
        function: impl FnOnce(&mut M, Now, &mut dyn Entropy) -> Option<Reply>,
    ) {
        let now = self.now(agenda);
        let Some(machine) = &mut self.machine else { return };
        let reply = function(machine, now, &mut agenda.random);
        self.submit(agenda, reply);
    }

    fn submit(&mut self, agenda: &mut Agenda, reply: Option<Reply>) {
        let Some(machine) = &mut self.machine else { return };
        let outbox = machine.outbox();
        let deadline = machine.deadline();
        if !outbox.is_empty() || reply.is_some() {
            let delay = agenda.between(0, 4);
            self.last_commit = self.last_commit.max(agenda.time + delay);
            self.pipeline.push_back(Step { rows: outbox.rows, effects: outbox.effects, reply });
            agenda.at(self.last_commit, Event::Commit { who: self.who, epoch: self.epoch });
        }
        if let Some(Moment(at)) = deadline
            && self.tick_at.is_none_or(|planned| planned > at)
        {
            self.tick_at = Some(at);
            agenda.at(at + 1, Event::Tick { who: self.who, epoch: self.epoch });
        }
    }

    pub fn tick(&mut self, agenda: &mut Agenda) {
        self.tick_at = None;
        self.call(agenda, |machine, now, random| {
            machine.due(now, random);
            None
        });
    }

    /// The oldest step is on the disk now; returns what follows.
    pub fn commit(&mut self) -> Option<Step<M::Effect>> {
        let mut step = self.pipeline.pop_front()?;
        let rows = std::mem::take(&mut step.rows);
        self.write(rows);
        Some(step)
    }

    fn write(&mut self, rows: Vec<Row>) {
        for row in rows {
            match row.document {
                Some(document) => {
                    self.disk.insert((row.table, row.key), document);
                }
                None => {
                    self.disk.remove(&(row.table, row.key));
                }
            }
        }
    }

    /// Kills the machine. Some of the steps under way may have reached the disk, but nobody heard of it.
    pub fn crash(&mut self, agenda: &mut Agenda) {
        self.machine = None;
        self.epoch += 1;
        self.tick_at = None;
        self.last_commit = agenda.time;
        let written = agenda.pick(self.pipeline.len() + 1);
        let steps: Vec<_> = self.pipeline.drain(..).take(written).collect();
        for step in steps {
            self.write(step.rows);
        }
    }

    pub fn rows(&self) -> Vec<Row> {
        self.disk
            .iter()
            .map(|((table, key), document)| Row {
                table: *table,
                key: key.clone(),
                document: Some(document.clone()),
            })
            .collect()
    }

    pub fn start(&mut self, agenda: &mut Agenda, machine: M) {
        self.machine = Some(machine);
        self.submit(agenda, None);
    }
}
