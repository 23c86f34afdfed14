//! What drives a state machine needs to know of it: a shell in production, the simulator under virtual time.

use oak_model::{Moment, Now};

use crate::cluster::Cluster;
use crate::root::Root;
use crate::worker::Worker;
use crate::{Entropy, Outbox, cluster, root, worker};

/// A state machine. Besides these it has calls of its own; after each its outbox is taken.
pub trait Machine {
    /// What it asks to be done.
    type Effect;

    /// Takes what the last call asked for.
    fn take_outbox(&mut self) -> Outbox<Self::Effect>;

    /// When it wants to be called next.
    fn next_deadline(&self) -> Option<Moment>;

    /// Its deadline has come.
    fn tick(&mut self, now: Now, entropy: &mut dyn Entropy);
}

impl Machine for Root {
    type Effect = root::Effect;

    fn take_outbox(&mut self) -> Outbox<Self::Effect> {
        self.take_outbox()
    }

    fn next_deadline(&self) -> Option<Moment> {
        self.next_deadline()
    }

    fn tick(&mut self, now: Now, _entropy: &mut dyn Entropy) {
        self.tick(now);
    }
}

impl Machine for Cluster {
    type Effect = cluster::Effect;

    fn take_outbox(&mut self) -> Outbox<Self::Effect> {
        self.take_outbox()
    }

    fn next_deadline(&self) -> Option<Moment> {
        self.next_deadline()
    }

    fn tick(&mut self, now: Now, _entropy: &mut dyn Entropy) {
        self.tick(now);
    }
}

impl Machine for Worker {
    type Effect = worker::Effect;

    fn take_outbox(&mut self) -> Outbox<Self::Effect> {
        self.take_outbox()
    }

    fn next_deadline(&self) -> Option<Moment> {
        self.next_deadline()
    }

    fn tick(&mut self, now: Now, entropy: &mut dyn Entropy) {
        self.tick(now, entropy);
    }
}
