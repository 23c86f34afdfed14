//! Virtual time: what happens when, and the randomness of the world.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fmt;

use oak_control::cluster::Parting;
use oak_control::worker::{Attempt, NetworkTable, TableVersion};
use oak_control::{Entropy, SeededEntropy};
use oak_model::InstanceKey;

use crate::link::{DownFrame, End, UpFrame};

/// A machine of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Who {
    Root,
    Cluster(usize),
    Worker(usize),
}

/// Something that happens at a time. Events of a process carry its epoch: those of an earlier life are void.
#[derive(Clone, Debug)]
pub(crate) enum Event {
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
    /// A frame of a session that is dead by now arrives at the parent all the same.
    LateUp { child: Who, session: u64, frame: Box<UpFrame> },
    /// A frame arrives at `child`.
    Down { child: Who, session: u64, frame: Box<DownFrame> },
    /// The parent notices that a session is dead.
    ParentNotices { child: Who, session: u64, parting: Parting },
    /// The child notices that a session is dead.
    ChildNotices { child: Who, session: u64 },
    /// One end has heard nothing of a session for three heartbeats, if the way to it is still blocked.
    Silence { child: Who, session: u64, end: End, block: u64 },
    /// The heartbeats of a session on a bad line may all get lost.
    Heartbeats { child: Who, session: u64 },
    /// A partition ends.
    Heal { child: Who, up: bool, down: bool },
    /// An operation of a worker comes to its end.
    Operation { worker: usize, epoch: u64, operation: u64 },
    /// The kernel of a worker takes a network table.
    Table { worker: usize, epoch: u64, version: TableVersion, table: Box<NetworkTable> },
    /// A try of a health check ends.
    Probed { worker: usize, epoch: u64, key: InstanceKey, attempt: Attempt },
    /// By now the network table of a worker must be what runs there.
    CheckTable { worker: usize, epoch: u64 },
    /// The permission of a process ends, unless it was renewed meanwhile.
    LeaseEnds { worker: usize, process: u64 },
    /// A process ends by itself.
    Exit { worker: usize, process: u64 },
    /// A fault of the timeline begins.
    Fault { index: usize },
    /// A fault of the timeline ends.
    FaultEnds { index: usize },
    /// A backup of the root is made, for a fault of the timeline.
    Backup { index: usize },
    /// A random fault.
    Chaos,
    /// A disk is as it was.
    DiskHeals { who: Who },
    /// A link is as it was.
    LinkHeals { child: Who },
    /// A worker joins.
    Join { worker: usize },
    /// The user changes something at random.
    Churn,
    /// The user brings a workload closer to what is wanted of it.
    Deploy { workload: usize },
    /// Another second has gone by: samples, and rules that need no closer look.
    Pulse,
}

struct Entry {
    time: u64,
    number: u64,
    event: Event,
}

// A heap gives its largest entry: the earliest one is the largest.
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.time, other.number).cmp(&(self.time, self.number))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}

/// A process began or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessChange {
    pub(crate) worker: usize,
    pub(crate) key: InstanceKey,
    pub(crate) process: u64,
    pub(crate) what: ProcessEvent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProcessEvent {
    Began,
    /// It ended well and for good.
    Completed,
    /// It ended by itself.
    Exited,
    /// It was ended: with its machine, or by its agent.
    Taken,
}

/// The agenda of the world.
pub(crate) struct Agenda {
    /// Milliseconds since the beginning.
    pub(crate) time: u64,
    pub(crate) random: SeededEntropy,
    /// Machines that were called since the world last looked.
    pub(crate) touched: Vec<Who>,
    /// Processes that came and went since the world last looked.
    pub(crate) processes: Vec<ProcessChange>,
    numbers: u64,
    events: BinaryHeap<Entry>,
}

impl Agenda {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            time: 0,
            random: SeededEntropy::new(seed),
            touched: Vec::new(),
            processes: Vec::new(),
            numbers: 0,
            events: BinaryHeap::new(),
        }
    }

    /// A number that was never given before.
    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// A random number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.random.next_u64() % (high.saturating_sub(low) + 1)
    }

    /// Whether something with this probability, 0 to 1, happens. Draws nothing when it cannot.
    pub(crate) fn chance(&mut self, share: f64) -> bool {
        if share <= 0.0 {
            return false;
        }
        // 53 bits are what a double holds exactly.
        #[allow(clippy::cast_precision_loss, reason = "a number below 2^53 fits exactly")]
        let drawn = (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        drawn < share
    }

    /// An index into something of that length, which is not empty.
    pub(crate) fn pick(&mut self, length: usize) -> usize {
        usize::try_from(self.random.next_u64() % (length.max(1) as u64)).unwrap_or(0)
    }

    /// One of several kinds, in proportion to their weights, of which at least one is not zero.
    pub(crate) fn weighted(&mut self, weights: &[u64]) -> usize {
        let sum: u64 = weights.iter().sum();
        let mut drawn = self.between(1, sum.max(1));
        for (index, weight) in weights.iter().enumerate() {
            if drawn <= *weight {
                return index;
            }
            drawn -= weight;
        }
        0
    }

    pub(crate) fn at(&mut self, time: u64, event: Event) {
        let number = self.number();
        self.events.push(Entry { time: time.max(self.time), number, event });
    }

    pub(crate) fn after(&mut self, delay: u64, event: Event) {
        self.at(self.time.saturating_add(delay), event);
    }

    /// Events that are to come.
    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    /// The next event up to `end`; time moves to it, or to `end` when there is none.
    pub(crate) fn next(&mut self, end: u64) -> Option<Event> {
        if self.events.peek().is_none_or(|entry| entry.time > end) {
            self.time = end;
            return None;
        }
        let entry = self.events.pop()?;
        self.time = entry.time;
        Some(entry.event)
    }
}

impl fmt::Debug for Agenda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agenda").field("time", &self.time).field("events", &self.events.len()).finish()
    }
}
