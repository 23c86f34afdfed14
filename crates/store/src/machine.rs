//! What the engine needs of a state machine.

use oak_control::Machine;

/// A state machine that an engine can run.
pub trait Hosted: Machine<Effect: Send + 'static> + Send + 'static {
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

impl Hosted for oak_control::root::Root {}

impl Hosted for oak_control::cluster::Cluster {}

impl Hosted for oak_control::worker::Worker {
    fn concern(effect: &Self::Effect) -> Concern {
        use oak_control::worker::Effect;
        use oak_model::RestartPolicy;
        use oak_model::message::WorkerToCluster;

        match effect {
            // Must not be done again after a crash, so it must be on disk that it was done.
            Effect::Start { key, assignment, .. }
                if assignment.desired.spec.restart == RestartPolicy::Never =>
            {
                Concern::News(key.to_string())
            }
            Effect::Prepare { key, .. } | Effect::Start { key, .. } | Effect::Stop { key, .. } => {
                Concern::Work(key.to_string())
            }
            // Carries its own number; the newest wins.
            Effect::Network { .. } | Effect::ReportUsage | Effect::Answered => Concern::Nothing,
            // A question; whoever answers too late is not heard.
            Effect::Probe { .. } => Concern::Nothing,
            // Its moment only moves on, and it must not come late.
            Effect::Lease { .. } => Concern::Nothing,
            Effect::ToCluster(message) => match message {
                WorkerToCluster::Workload(report) => Concern::News(report.key.to_string()),
                WorkerToCluster::Removed { key, .. } => Concern::News(key.to_string()),
                WorkerToCluster::Usage(_)
                | WorkerToCluster::RenewLeases { .. }
                | WorkerToCluster::Ask { .. }
                | WorkerToCluster::Seen(_)
                | WorkerToCluster::Keys(_) => Concern::Nothing,
            },
        }
    }
}
