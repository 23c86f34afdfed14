//! How busy an instance is, coarsely: this travels to everybody who calls it, so it must not change all the time.

use serde::{Deserialize, Serialize};

/// Share of its processors that an instance uses, in sixteenths, rounded down: 0 (idle) to 15.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub struct Load(u8);

impl Load {
    const LEVELS: f32 = 16.0;
    const HIGHEST: u8 = 15;

    /// Whether it is the lowest one.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.0 == 0
    }

    /// How many of a row of connections an instance gets, compared with others: 16 when idle, 1 when busy.
    #[must_use]
    pub const fn weight(self) -> u16 {
        16 - self.0 as u16
    }

    /// The load after another measurement: `percent` of one processor, of the `millis` thousandths of one that it may
    /// use. It stays what it was until the measurement is half a level beyond its limits.
    #[must_use]
    pub fn after(self, percent: f32, millis: u32) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "a number of processors is small")]
        let share = percent * 10.0 / millis.max(1) as f32 * Self::LEVELS;
        let low = f32::from(self.0);
        let stays = if self.0 == Self::HIGHEST {
            share >= low - 0.5
        } else {
            (low - 0.5..low + 1.5).contains(&share)
        };
        if stays { self } else { Self::from(whole(share)) }
    }
}

/// Rounded down, 0–255.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within the range")]
fn whole(number: f32) -> u8 {
    if number.is_finite() { number.clamp(0.0, 255.0) as u8 } else { 0 }
}

impl From<u8> for Load {
    fn from(level: u8) -> Self {
        Self(level.min(Self::HIGHEST))
    }
}

impl From<Load> for u8 {
    fn from(load: Load) -> Self {
        load.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_follows_what_is_measured_and_does_not_flutter() {
        let idle = Load::default();
        assert_eq!(idle.after(5.0, 1000), idle);
        let half = idle.after(50.0, 1000);
        assert_eq!((u8::from(half), half.weight()), (8, 8));
        // Two processors of which one is used.
        assert_eq!(idle.after(100.0, 2000), half);
        for percent in [47.0, 50.0, 56.5, 59.0] {
            assert_eq!(half.after(percent, 1000), half, "{percent}");
        }
        assert_eq!(u8::from(half.after(60.0, 1000)), 9);
        assert_eq!(u8::from(half.after(46.0, 1000)), 7);
        let busy = half.after(400.0, 1000);
        assert_eq!((u8::from(busy), busy.weight()), (15, 1));
        assert_eq!(busy.after(100.0, 1000), busy);
        assert_eq!(busy.after(0.0, 1000), idle);
        assert_eq!(idle.after(f32::NAN, 0), idle);
    }
}
