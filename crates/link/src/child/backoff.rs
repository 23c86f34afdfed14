//! How long a child waits before it dials again. Pure: time and randomness are passed in.

use std::time::Duration;

use rand::Rng;

/// How a child waits between attempts.
#[derive(Clone, Copy, Debug)]
pub struct BackoffPolicy {
    /// Upper bound of the first wait; doubles with each attempt. Default 100 ms.
    pub min: Duration,
    /// Upper bound in the first part of an outage, so that a restarted parent is found within about this time.
    /// Default 1 s.
    pub quick_max: Duration,
    /// Length of that first part. Default 60 s.
    pub quick_for: Duration,
    /// Upper bound later. Default 30 s.
    pub max: Duration,
    /// A session that lived this long was good: the next loss starts from `min` again. Default 10 s.
    pub stable_after: Duration,
}

impl Default for BackoffPolicy {
    fn default() -> Self {
        Self {
            min: Duration::from_millis(100),
            quick_max: Duration::from_secs(1),
            quick_for: Duration::from_secs(60),
            max: Duration::from_secs(30),
            stable_after: Duration::from_secs(10),
        }
    }
}

/// State of one child's back-off: exponential bounds with full jitter, so that many children of a restarted parent
/// come back spread over time.
#[derive(Clone, Debug)]
pub struct Backoff {
    policy: BackoffPolicy,
    attempts: u32,
    waited: Duration,
}

impl Backoff {
    /// Starts without any failure.
    pub fn new(policy: BackoffPolicy) -> Self {
        Self { policy, attempts: 0, waited: Duration::ZERO }
    }

    /// Returns the wait after a failed attempt that took `attempt`, or after the loss of a session that lived
    /// `session` long.
    pub fn next_wait(
        &mut self,
        attempt: Duration,
        session: Option<Duration>,
        rng: &mut impl Rng,
    ) -> Duration {
        match session {
            Some(lived) if lived >= self.policy.stable_after => *self = Self::new(self.policy),
            _ => self.waited = self.waited.saturating_add(attempt),
        }
        let is_early = self.waited < self.policy.quick_for;
        let limit = if is_early { self.policy.quick_max.min(self.policy.max) } else { self.policy.max };
        let bound = self.policy.min.saturating_mul(2_u32.saturating_pow(self.attempts)).min(limit);
        self.attempts = self.attempts.saturating_add(1);
        // Full jitter, but never a hot loop.
        let wait = bound.mul_f64(rng.random_range(0.0..1.0)).max(self.policy.min / 5);
        self.waited = self.waited.saturating_add(wait);
        wait
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    proptest! {
        #[test]
        fn stays_within_its_bounds(seed: u64, failures in 1_usize..200) {
            let policy = BackoffPolicy::default();
            let mut backoff = Backoff::new(policy);
            let mut rng = StdRng::seed_from_u64(seed);
            let mut waited = Duration::ZERO;
            for _ in 0..failures {
                let limit = if waited < policy.quick_for { policy.quick_max } else { policy.max };
                let wait = backoff.next_wait(Duration::ZERO, None, &mut rng);
                prop_assert!(wait <= limit && wait >= policy.min / 5);
                waited += wait;
            }
        }

        #[test]
        fn the_first_retry_after_a_good_session_is_quick(seed: u64, failures in 0_usize..100) {
            let policy = BackoffPolicy::default();
            let mut backoff = Backoff::new(policy);
            let mut rng = StdRng::seed_from_u64(seed);
            for _ in 0..failures {
                backoff.next_wait(Duration::from_secs(1), None, &mut rng);
            }
            let wait = backoff.next_wait(Duration::ZERO, Some(policy.stable_after), &mut rng);
            prop_assert!(wait <= policy.min);
        }
    }

    #[test]
    fn short_sessions_do_not_reset_it() {
        let mut backoff = Backoff::new(BackoffPolicy::default());
        let mut rng = StdRng::seed_from_u64(1);
        let total: Duration =
            (0..100).map(|_| backoff.next_wait(Duration::ZERO, Some(Duration::from_secs(1)), &mut rng)).sum();
        // Had each of them started from `min`, it would be 10 s at most.
        assert!(total > Duration::from_secs(30), "{total:?}");
    }
}
