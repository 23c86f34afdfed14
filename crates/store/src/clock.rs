//! The clocks of this machine.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use oak_model::{Moment, Now, WallTime};
use rustix::time::{ClockId, clock_gettime};

/// Reads both clocks; moments count from the creation of the value and go on while the machine is suspended: what
/// others were promised ends in their time, too.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Duration,
}

fn boot_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}

impl SystemClock {
    /// A clock whose moments start now.
    #[must_use]
    pub fn start() -> Self {
        Self { start: boot_time() }
    }

    /// The present.
    #[must_use]
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            moment: Moment(milliseconds(boot_time().saturating_sub(self.start))),
            wall: WallTime(milliseconds(wall)),
        }
    }

    /// When a moment comes.
    #[must_use]
    pub fn instant(&self, moment: Moment) -> Instant {
        let ahead = Duration::from_millis(moment.0).saturating_sub(boot_time().saturating_sub(self.start));
        Instant::now() + ahead
    }

    /// A moment in milliseconds since the boot of this machine, as the kernel counts (`CLOCK_BOOTTIME`).
    #[must_use]
    pub fn since_boot(&self, moment: Moment) -> u64 {
        milliseconds(self.start).saturating_add(moment.0)
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
