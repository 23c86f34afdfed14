//! Time as the pure code sees it: passed in, never read.
//!
//! Deadlines use [`Moment`] (monotonic, meaningful only within one process run); [`WallTime`] is for people and
//! never decides anything, because clocks of edge devices jump.

use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds of a monotonic clock of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Add<Duration> for Moment {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Moment {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Milliseconds since 1970-01-01 UTC as the local clock believes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallTime(pub u64);

impl WallTime {
    /// Whole seconds since 1970, the first part of new object ids.
    #[must_use]
    pub fn unix_seconds(self) -> u32 {
        u32::try_from(self.0 / 1000).unwrap_or(u32::MAX)
    }

    /// Seconds since 1970 with fraction, as the API shows timestamps.
    #[must_use]
    #[allow(
        clippy::cast_precision_loss,
        reason = "milliseconds since 1970 fit an f64 exactly until the year 287396"
    )]
    pub fn as_seconds(self) -> f64 {
        self.0 as f64 / 1000.0
    }
}

/// Both clocks at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic clock.
    pub moment: Moment,
    /// Wall clock.
    pub wall: WallTime,
}
