//! The phases of a workload and their deadlines.

use oak_model::Moment;

/// Where a workload is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The image is being fetched.
    Preparing {
        /// Without progress until then the pull counts as failed.
        deadline: Moment,
    },
    /// At most one may run: it waits for the permission of its cluster, and asks again and again.
    AwaitingLease,
    /// Network and container are being created.
    Starting {
        /// After this it counts as failed.
        deadline: Moment,
    },
    /// The process runs.
    Running {
        /// Since when.
        since: Moment,
    },
    /// It is being taken down, to be removed or replaced.
    Stopping {
        /// After this the stop is tried again.
        deadline: Moment,
        /// Its process ran, and may finish the connections it has.
        finishes: bool,
    },
    /// It failed or ended and waits for the next attempt.
    Waiting {
        /// When it is tried again.
        until: Moment,
    },
    /// It has ended and is not started again. Final.
    Completed,
}

impl Phase {
    /// When something must happen at the latest.
    #[must_use]
    pub const fn deadline(&self) -> Option<Moment> {
        match self {
            Self::Preparing { deadline } | Self::Starting { deadline } | Self::Stopping { deadline, .. } => {
                Some(*deadline)
            }
            Self::Waiting { until } => Some(*until),
            Self::AwaitingLease | Self::Running { .. } | Self::Completed => None,
        }
    }
}
