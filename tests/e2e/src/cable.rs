//! A cable of a played machine with the properties of a bad line: delay, jitter, loss, a rate, cuts.
//!
//! ```text
//!  machine                    this process                     switch
//!  eth0 (TAP) ── frames ──► lane: outgoing ── when due ──► (TAP) port of the bridge
//!             ◄── when due ── lane: incoming ◄── frames ──
//! ```
//!
//! Each cable is a thread that waits for frames on both ends and for the next frame that is due. Conditions can be
//! changed at any time. Everything is user space, because a kernel may be without `netem`. A cable carries about as
//! much as one core can copy; the delay it adds by itself is two wake-ups.

mod conditions;
mod lane;
mod reset;
mod tap;
mod wire;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use conditions::{Conditions, Counters, Passage};
pub(crate) use tap::Tap;
use wire::Wire;

/// Seen from the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the machine to the switch.
    Outgoing,
    /// From the switch to the machine.
    Incoming,
}

impl Direction {
    const BOTH: [Self; 2] = [Self::Outgoing, Self::Incoming];
}

/// The cable of a machine. Its conditions stay when the machine is switched off and on.
#[derive(Debug)]
pub struct Cable {
    shared: Arc<Shared>,
    /// Seed of the decisions about loss and jitter.
    seed: u64,
    wire: Mutex<Option<Wire>>,
}

/// What the cable and its thread both look at.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    outgoing: (Conditions, Counters),
    incoming: (Conditions, Counters),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    const fn of(&mut self, direction: Direction) -> &mut (Conditions, Counters) {
        match direction {
            Direction::Outgoing => &mut self.outgoing,
            Direction::Incoming => &mut self.incoming,
        }
    }
}

impl Cable {
    /// A perfect cable that is not plugged in.
    pub(crate) fn new(seed: u64) -> Self {
        Self { shared: Arc::default(), seed, wire: Mutex::new(None) }
    }

    /// Connects two devices; what was connected before is not any more.
    pub(crate) fn plug(&self, machine: Tap, switch: Tap) -> anyhow::Result<()> {
        let mut wire = self.wire.lock().unwrap_or_else(PoisonError::into_inner);
        // First, so that one thread at a time counts.
        drop(wire.take());
        *wire = Some(Wire::start(machine, switch, Arc::clone(&self.shared), self.seed)?);
        Ok(())
    }

    /// Sets the conditions of both directions.
    pub fn set(&self, conditions: Conditions) {
        for direction in Direction::BOTH {
            self.set_one(direction, conditions);
        }
    }

    /// Sets the conditions of one direction.
    pub fn set_one(&self, direction: Direction, conditions: Conditions) {
        self.shared.lock().of(direction).0 = conditions;
    }

    /// Everything vanishes from now on, frames under way included, and nobody is told.
    pub fn cut(&self) {
        self.set(Conditions { passage: Passage::Silent, ..Conditions::default() });
    }

    /// A perfect cable again.
    pub fn mend(&self) {
        self.set(Conditions::default());
    }

    /// The conditions of a direction.
    pub fn conditions(&self, direction: Direction) -> Conditions {
        self.shared.lock().of(direction).0
    }

    /// What happened to the frames of a direction since the cable was made.
    pub fn counters(&self, direction: Direction) -> Counters {
        self.shared.lock().of(direction).1
    }
}
