//! What the engine needs of a state machine.

use oak_control::{Entropy, Outbox};
use oak_model::{Moment, Now};

/// A state machine as the engine drives it.
pub trait Machine: Send + 'static {
    /// What it asks to be done.
    type Effect: Send + 'static;

    /// Takes what the last call asked for.
    fn take_outbox(&mut self) -> Outbox<Self::Effect>;

    /// When it wants to be called next.
    fn next_deadline(&self) -> Option<Moment>;

    /// Its deadline has come.
    fn tick(&mut self, now: Now, entropy: &mut dyn Entropy);

    /// What an effect has to wait for while the disk takes nothing.
    fn concern(_effect: &Self::Effect) -> Concern {
        Concern::Everything
    }
}

/// What an effect depends on: decides whether it may overtake steps that wait for a stalled disk. It never overtakes
/// the rows of its own step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Concern {
    /// All that was decided before.
    Everything,
    /// Earlier work on the object with this key, not its rows: it is done on this machine, and done again after a
    /// crash.
    Work(String),
    /// Rows and work of the object with this key: others are told about it.
    News(String),
    /// Nothing.
    Nothing,
}

impl Machine for oak_control::root::Root {
    type Effect = oak_control::root::Effect;

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

impl Machine for oak_control::cluster::Cluster {
    type Effect = oak_control::cluster::Effect;

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

impl Machine for oak_control::worker::Worker {
    type Effect = oak_control::worker::Effect;

    fn take_outbox(&mut self) -> Outbox<Self::Effect> {
        self.take_outbox()
    }

    fn next_deadline(&self) -> Option<Moment> {
        self.next_deadline()
    }

    fn tick(&mut self, now: Now, entropy: &mut dyn Entropy) {
        self.tick(now, entropy);
    }

    fn concern(effect: &Self::Effect) -> Concern {
        use oak_control::worker::Effect;
        use oak_model::message::WorkerToCluster;

        match effect {
            Effect::Prepare { key, .. } | Effect::Start { key, .. } | Effect::Stop { key, .. } => {
                Concern::Work(key.to_string())
            }
            // Carries its own number; the newest wins.
            Effect::Network { .. } | Effect::ReportUsage => Concern::Nothing,
            // Its moment only moves on, and it must not come late.
            Effect::Lease { .. } => Concern::Nothing,
            Effect::ToCluster(message) => match message {
                WorkerToCluster::Workload(report) => Concern::News(report.key.to_string()),
                WorkerToCluster::Removed { key, .. } => Concern::News(key.to_string()),
                WorkerToCluster::Usage(_) | WorkerToCluster::RenewLeases { .. } => Concern::Nothing,
            },
        }
    }
}
