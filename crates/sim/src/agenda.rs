//! Virtual time: what happens when, and the randomness of the world.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use oak_control::worker::{NetworkTable, TableVersion};
use oak_control::{Entropy, SeededEntropy};

use super::link::{DownFrame, UpFrame};

/// A machine of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    Root,
    Cluster(usize),
    Worker(usize),
}

/// Something that happens at a time. Events of a process carry its epoch: those of an earlier life are void.
#[derive(Clone, Debug)]
pub enum Event {
    /// The oldest step in the pipeline of a machine reaches its disk.
    Commit { who: Who, epoch: u64 },
    /// The deadline of a machine.
    Tick { who: Who, epoch: u64 },
    /// A crashed machine comes back.
    Restart { who: Who },
    /// A child tries to reach its parent.
    Dial { child: Who },
    /// A frame arrives at the parent of `child`.
    Up { child: Who, session: u64, frame: Box<UpFrame> },
    /// A frame arrives at `child`.
    Down { child: Who, session: u64, frame: Box<DownFrame> },
    /// The parent notices that a session is dead.
    ParentNotices { child: Who, session: u64 },
    /// The child notices that a session is dead.
    ChildNotices { child: Who, session: u64 },
    /// A partition ends.
    Heal { child: Who },
    /// An operation of a worker comes to its end.
    Operation { worker: usize, epoch: u64, operation: u64 },
    /// The kernel of a worker takes a network table.
    Table { worker: usize, epoch: u64, version: TableVersion, table: NetworkTable },
    /// The permission of a process ends, unless it was renewed meanwhile.
    LeaseEnds { worker: usize, process: u64 },
    /// A process ends by itself.
    Exit { worker: usize, process: u64 },
    /// Something is done to the system.
    Chaos,
}

/// Which machines an event may change; only those are checked after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched {
    Nothing,
    Root,
    Below,
    Everything,
}

impl Event {
    pub const fn touches(&self) -> Touched {
        match self {
            Self::Commit { who: Who::Root, .. } => Touched::Root,
            Self::Commit { .. } | Self::Heal { .. } | Self::Dial { .. } => Touched::Nothing,
            Self::Tick { who: Who::Root, .. }
            | Self::Restart { who: Who::Root }
            | Self::Up { child: Who::Cluster(_), .. }
            | Self::ParentNotices { child: Who::Cluster(_), .. } => Touched::Root,
            Self::Tick { .. }
            | Self::Restart { .. }
            | Self::Up { .. }
            | Self::Down { .. }
            | Self::ParentNotices { .. }
            | Self::ChildNotices { .. }
            | Self::Operation { .. }
            | Self::Table { .. }
            | Self::LeaseEnds { .. }
            | Self::Exit { .. } => Touched::Below,
            Self::Chaos => Touched::Everything,
        }
    }
}

/// The agenda of the world.
pub struct Agenda {
    /// Milliseconds since the beginning.
    pub time: u64,
    pub random: SeededEntropy,
    numbers: u64,
    order: BinaryHeap<Reverse<(u64, u64)>>,
    events: HashMap<u64, Event>,
}

impl Agenda {
    pub fn new(seed: u64) -> Self {
        Self {
            time: 0,
            random: SeededEntropy::new(seed),
            numbers: 0,
            order: BinaryHeap::new(),
            events: HashMap::new(),
        }
    }

    /// A number that was never given before.
    pub fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// A random number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.random.next_u64() % (high - low + 1)
    }

    /// Whether something with a probability of `percent` happens.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.between(1, 100) <= percent
    }

    /// An index into something of that length, which is not empty.
    pub fn pick(&mut self, length: usize) -> usize {
        usize::try_from(self.random.next_u64() % length as u64).unwrap_or(0)
    }

    pub fn at(&mut self, time: u64, event: Event) {
        let number = self.number();
        self.order.push(Reverse((time.max(self.time), number)));
        self.events.insert(number, event);
    }

    pub fn after(&mut self, delay: u64, event: Event) {
        self.at(self.time + delay, event);
    }

    /// The next event up to `end`; time moves to it, or to `end` when there is none.
    pub fn next(&mut self, end: u64) -> Option<Event> {
        match self.order.peek() {
            Some(Reverse((time, number))) if *time <= end => {
                let number = *number;
                self.time = *time;
                self.order.pop();
                self.events.remove(&number)
            }
            _ => {
                self.time = end;
                None
            }
        }
    }
}
