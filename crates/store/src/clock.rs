//! The clocks of this machine.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use oak_model::{Moment, Now, WallTime};

/// Reads both clocks; moments count from the creation of the value.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose moments start now.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// The present.
    #[must_use]
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            moment: Moment(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)),
            wall: WallTime(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// When a moment comes.
    #[must_use]
    pub fn instant(&self, moment: Moment) -> Instant {
        self.start + std::time::Duration::from_millis(moment.0)
    }
}
