//! What a cable does to frames, and what it did.

use std::fmt;
use std::time::Duration;

/// Properties of one direction of a cable; by default those of a perfect one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Conditions {
    /// How long every frame is under way.
    pub delay: Duration,
    /// A random time up to this is added to the delay. Frames stay in order.
    pub jitter: Duration,
    /// Share of frames that get lost, 0–1.
    pub loss: f64,
    /// Bits per second; `None`: as fast as it goes. A frame that would wait longer than half a second for its turn is
    /// dropped.
    pub rate: Option<u64>,
    /// Whether anything passes at all.
    pub passage: Passage,
}

/// Whether frames pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Passage {
    /// They do.
    #[default]
    Open,
    /// They vanish, as on a cut cable or behind a dead router.
    Silent,
    /// TCP connections are reset at both ends as soon as they send anything, as a firewall does that has forgotten
    /// them; other IP packets vanish.
    Reset,
}

impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.passage {
            Passage::Silent => return f.write_str("cut"),
            Passage::Reset => return f.write_str("reset"),
            Passage::Open => {}
        }
        let (delay, jitter) = (self.delay.as_secs_f64() * 1e3, self.jitter.as_secs_f64() * 1e3);
        write!(f, "delay {delay:.0}+{jitter:.0} ms, loss {:.1} %", self.loss * 100.0)?;
        self.rate.map_or(Ok(()), |rate| write!(f, ", {:.2} Mbit/s", rate as f64 / 1e6))
    }
}

/// What happened to the frames of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Came in at one end.
    pub accepted: u64,
    /// Came out at the other.
    pub delivered: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Dropped because too many waited for their turn at the rate, or because the other end took no more.
    pub dropped: u64,
    /// Vanished in a cut.
    pub vanished: u64,
    /// TCP connections reset.
    pub reset: u64,
}
