//! Timestamps of initiations (TAI64N): to a receiver they only have to grow.
//!
//! Devices boot in 1970 until somebody tells them the time, and would then look like a replay of themselves. So the
//! newest timestamp is kept on disk once a day, and a clock that is behind it starts a day after it instead.

use std::time::Duration;

/// How often the newest timestamp is stored, and how far a clock that went back starts beyond the stored one.
const STORE_EVERY: Duration = Duration::from_secs(24 * 3600);
/// Seconds of TAI64 at 1970 and the leap seconds that were in force then.
const TAI64_EPOCH: u64 = (1 << 62) + 10;

/// Twelve bytes that grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Timestamp(pub(crate) [u8; 12]);

impl Timestamp {
    fn of(since_1970: Duration) -> Self {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&(TAI64_EPOCH + since_1970.as_secs()).to_be_bytes());
        bytes[8..].copy_from_slice(&since_1970.subsec_nanos().to_be_bytes());
        Self(bytes)
    }
}

/// Gives out timestamps that grow whatever the clock does.
#[derive(Debug)]
pub(crate) struct Timestamps {
    last: Duration,
    stored: Duration,
}

impl Timestamps {
    /// Continues after `stored`, the newest timestamp on disk (time since 1970).
    pub(crate) fn new(stored: Duration, wall: Duration) -> Self {
        let last = if wall > stored {
            stored
        } else {
            stored.saturating_add(STORE_EVERY + Duration::from_secs(3600))
        };
        Self { last, stored }
    }

    /// The next timestamp; `wall` is the time since 1970.
    pub(crate) fn next(&mut self, wall: Duration) -> Timestamp {
        // One millisecond: finer steps would tell strangers how busy this node is.
        let step = self.last.saturating_add(Duration::from_millis(1));
        self.last = Duration::from_millis(u64::try_from(wall.max(step).as_millis()).unwrap_or(u64::MAX));
        Timestamp::of(self.last)
    }

    /// What has to be stored now, if anything.
    pub(crate) fn take_due(&mut self) -> Option<Duration> {
        if self.last.saturating_sub(self.stored) < STORE_EVERY {
            return None;
        }
        self.stored = self.last;
        Some(self.stored)
    }

    /// The newest timestamp that was given out.
    pub(crate) fn newest(&self) -> Duration {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOVEMBER: Duration = Duration::from_secs(1_795_000_000);

    #[test]
    fn grow_although_the_clock_stands_or_goes_back() {
        let mut timestamps = Timestamps::new(Duration::ZERO, NOVEMBER);
        let mut last = Timestamp::default();
        for wall in [NOVEMBER, NOVEMBER, NOVEMBER - Duration::from_secs(9), Duration::ZERO, NOVEMBER] {
            let next = timestamps.next(wall);
            assert!(next > last);
            last = next;
        }
    }

    #[test]
    fn a_device_that_boots_in_1970_goes_on_after_what_it_sent_before() {
        let mut before = Timestamps::new(Duration::ZERO, NOVEMBER);
        before.next(NOVEMBER);
        let stored = before.take_due().unwrap();
        let last = before.next(NOVEMBER + STORE_EVERY - Duration::from_secs(1));
        assert_eq!(before.take_due(), None, "once a day is enough");
        let mut after = Timestamps::new(stored, Duration::from_secs(30));
        assert!(after.next(Duration::from_secs(31)) > last);
    }

    #[test]
    fn a_state_file_from_the_end_of_time_ends_nothing() {
        let mut timestamps = Timestamps::new(Duration::MAX, NOVEMBER);
        timestamps.next(NOVEMBER);
        timestamps.next(NOVEMBER);
    }
}
