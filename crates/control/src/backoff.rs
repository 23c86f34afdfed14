//! Growing delays with jitter.

use std::time::Duration;

use crate::Entropy;

/// Delays that double from `min` to `max`, each shortened by up to a quarter so that many waiters spread out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// First delay.
    pub min: Duration,
    /// Longest delay.
    pub max: Duration,
}

impl Backoff {
    /// The delay before attempt `attempt`, counted from 0.
    pub fn delay(&self, attempt: u32, entropy: &mut dyn Entropy) -> Duration {
        let doubled = self.min.saturating_mul(2_u32.saturating_pow(attempt.min(30)));
        let full = doubled.min(self.max);
        let quarter = u64::try_from(full.as_millis() / 4).unwrap_or(u64::MAX).max(1);
        full.saturating_sub(Duration::from_millis(entropy.next_u64() % quarter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SeededEntropy;

    #[test]
    fn delays_double_up_to_the_maximum_and_never_shrink_below_three_quarters() {
        let backoff = Backoff { min: Duration::from_secs(1), max: Duration::from_secs(300) };
        let mut entropy = SeededEntropy::new(1);
        for (attempt, full) in [(0, 1), (1, 2), (2, 4), (8, 256), (9, 300), (u32::MAX, 300)] {
            let delay = backoff.delay(attempt, &mut entropy);
            assert!(delay <= Duration::from_secs(full), "{attempt}: {delay:?}");
            assert!(delay >= Duration::from_secs(full) * 3 / 4, "{attempt}: {delay:?}");
        }
    }
}
