//! A machine with its disk. Steps reach the disk in order, some time after they were made; effects are carried out
//! only then. A crash loses everything that has not reached the disk.

use std::collections::{BTreeMap, VecDeque};

use oak_control::{Entropy, Machine, Row, Table};
use oak_model::{Moment, Now, WallTime};

use crate::agenda::{Agenda, Event, Who};
use crate::client::Answer;
use crate::link::UpFrame;
use crate::scenario::{Clock, DiskModel};

/// The time by the wall clocks at the beginning: some day in 2026.
const BEGINNING_MS: u64 = 1_790_000_000_000;

/// What follows the commit of a step, besides its effects.
pub(crate) enum Reply {
    /// The user gets an answer.
    Client(Answer),
    /// The child says hello in this session.
    Hello { session: u64, frame: Box<UpFrame> },
}

pub(crate) struct Step<E> {
    pub(crate) rows: Vec<Row>,
    pub(crate) effects: Vec<E>,
    pub(crate) reply: Option<Reply>,
}

/// What is stored.
pub(crate) type Rows = BTreeMap<(Table, String), Vec<u8>>;

/// The disk of a machine.
pub(crate) struct Disk {
    rows: Rows,
    pub(crate) model: DiskModel,
    /// Full until then: no commit comes to its end before.
    pub(crate) full_until: u64,
}

impl Disk {
    /// What is stored.
    pub(crate) fn keys(&self) -> Vec<(Table, String)> {
        self.rows.keys().cloned().collect()
    }

    /// A copy of everything.
    pub(crate) fn copy(&self) -> Rows {
        self.rows.clone()
    }

    /// Whether it has a row, stored for good.
    pub(crate) fn contains(&self, table: Table, key: String) -> bool {
        self.rows.contains_key(&(table, key))
    }

    /// It holds something else now.
    pub(crate) fn replace(&mut self, rows: Rows) {
        self.rows = rows;
    }

    fn write(&mut self, rows: Vec<Row>) {
        for row in rows {
            match row.document {
                Some(document) => {
                    self.rows.insert((row.table, row.key), document);
                }
                None => {
                    self.rows.remove(&(row.table, row.key));
                }
            }
        }
    }
}

pub(crate) struct Node<M: Machine> {
    pub(crate) who: Who,
    /// `None` while it is crashed.
    pub(crate) machine: Option<M>,
    pub(crate) disk: Disk,
    /// Lives of this machine.
    pub(crate) epoch: u64,
    /// Without power until then.
    pub(crate) dark_until: u64,
    /// What its steps changed since the world last looked.
    pub(crate) changed: Vec<(Table, String)>,
    /// Its wall clock less the time of the world, milliseconds.
    wall_offset: u64,
    /// When its process started: its moments count from here, and mean nothing to anybody else.
    started: u64,
    /// When a step last reached the disk.
    pub(crate) committed: u64,
    pipeline: VecDeque<Step<M::Effect>>,
    last_commit: u64,
    tick_at: Option<u64>,
}

impl<M: Machine> Node<M> {
    pub(crate) fn new(who: Who, machine: M, model: DiskModel) -> Self {
        Self {
            who,
            machine: Some(machine),
            disk: Disk { rows: BTreeMap::new(), model, full_until: 0 },
            epoch: 0,
            dark_until: 0,
            changed: Vec::new(),
            wall_offset: BEGINNING_MS,
            started: 0,
            committed: 0,
            pipeline: VecDeque::new(),
            last_commit: 0,
            tick_at: None,
        }
    }

    pub(crate) fn now(&self, agenda: &Agenda) -> Now {
        let moment = Moment(agenda.time.saturating_sub(self.started));
        Now { moment, wall: WallTime(agenda.time.saturating_add(self.wall_offset)) }
    }

    /// When a moment of this machine comes, in the time of the world.
    pub(crate) const fn time_of(&self, moment: Moment) -> u64 {
        moment.0.saturating_add(self.started)
    }

    pub(crate) fn set_clock(&mut self, clock: Clock) {
        self.wall_offset = match clock {
            Clock::Epoch => 0,
            Clock::Ahead(by) => self.wall_offset.saturating_add(by.ms),
            Clock::Back(by) => self.wall_offset.saturating_sub(by.ms),
        };
    }

    /// Steps on their way to the disk.
    pub(crate) fn queued(&self) -> usize {
        self.pipeline.len()
    }

    /// Calls the machine, if it is up; what it asks for is done when the step is on the disk.
    pub(crate) fn call(
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
        let outbox = machine.take_outbox();
        let deadline = machine.next_deadline();
        agenda.touched.push(self.who);
        self.changed.extend(outbox.rows.iter().map(|row| (row.table, row.key.clone())));
        if !outbox.is_empty() || reply.is_some() {
            let delay = self.disk.model.commit.ms + agenda.between(0, self.disk.model.jitter.ms);
            self.last_commit = self.last_commit.max(agenda.time + delay).max(self.disk.full_until);
            self.pipeline.push_back(Step { rows: outbox.rows, effects: outbox.effects, reply });
            agenda.at(self.last_commit, Event::Commit { who: self.who, epoch: self.epoch });
        }
        if let Some(at) = deadline.map(|moment| self.time_of(moment))
            && self.tick_at.is_none_or(|planned| planned > at)
        {
            self.tick_at = Some(at);
            agenda.at(at + 1, Event::Tick { who: self.who, epoch: self.epoch });
        }
    }

    pub(crate) fn tick(&mut self, agenda: &mut Agenda) {
        // An earlier deadline may have come and gone since this one was put on the agenda.
        if self.tick_at.is_none_or(|at| at >= agenda.time) {
            return;
        }
        self.tick_at = None;
        self.call(agenda, |machine, now, random| {
            machine.tick(now, random);
            None
        });
    }

    /// The oldest step is on the disk now; returns what follows.
    pub(crate) fn commit(&mut self, agenda: &mut Agenda) -> Option<Step<M::Effect>> {
        if agenda.time < self.disk.full_until {
            // It was under way when the disk became full.
            agenda.at(self.disk.full_until, Event::Commit { who: self.who, epoch: self.epoch });
            return None;
        }
        let mut step = self.pipeline.pop_front()?;
        self.committed = agenda.time;
        let rows = std::mem::take(&mut step.rows);
        self.disk.write(rows);
        Some(step)
    }

    /// Kills the machine. Some of the steps under way may have reached the disk, but nobody heard of it.
    pub(crate) fn crash(&mut self, agenda: &mut Agenda) {
        self.machine = None;
        self.epoch += 1;
        self.tick_at = None;
        self.last_commit = agenda.time;
        self.changed.clear();
        let written =
            if agenda.time < self.disk.full_until { 0 } else { agenda.pick(self.pipeline.len() + 1) };
        let steps: Vec<_> = self.pipeline.drain(..).take(written).collect();
        for step in steps {
            self.disk.write(step.rows);
        }
    }

    /// Everything under way reaches the disk now. For what happened before the beginning.
    pub(crate) fn flush(&mut self) {
        for step in self.pipeline.drain(..) {
            self.disk.write(step.rows);
        }
    }

    /// A new process starts: its moments begin anew.
    pub(crate) const fn boot(&mut self, agenda: &Agenda) {
        self.started = agenda.time;
    }

    pub(crate) fn rows(&self) -> Vec<Row> {
        self.disk
            .rows
            .iter()
            .map(|((table, key), document)| Row {
                table: *table,
                key: key.clone(),
                document: Some(document.clone()),
            })
            .collect()
    }

    pub(crate) fn start(&mut self, agenda: &mut Agenda, machine: M) {
        self.machine = Some(machine);
        self.submit(agenda, None);
    }
}
