//! Durations in buckets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets in microseconds: from a commit to memory to a request that was given up.
const BOUNDS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000,
    30_000_000,
];

/// How often something took how long. Observing takes two atomic additions.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One more than there are bounds: the last one has no limit.
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// What a histogram held at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Upper bound in seconds, and how many observations were at most that long.
    pub cumulative: Vec<(f64, u64)>,
    /// All observations.
    pub count: u64,
    /// Their sum in seconds.
    pub sum: f64,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let place = BOUNDS_US.partition_point(|bound| *bound < micros);
        if let Some(bucket) = self.buckets.get(place) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_us.fetch_add(micros, Ordering::Relaxed);
    }

    /// What was counted so far.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "rounding is of no importance for statistics")]
    pub fn snapshot(&self) -> Snapshot {
        let mut count = 0;
        let counts = self.buckets.iter().map(|bucket| {
            count += bucket.load(Ordering::Relaxed);
            count
        });
        let seconds = BOUNDS_US.iter().map(|bound| *bound as f64 / 1e6);
        // The last bucket, which has no bound, is only in the count.
        let counts: Vec<u64> = counts.collect();
        let cumulative = seconds.zip(counts).collect();
        Snapshot { cumulative, count, sum: self.sum_us.load(Ordering::Relaxed) as f64 / 1e6 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bucket_counts_what_is_at_most_as_long() {
        let histogram = Histogram::default();
        for micros in [0, 100, 101, 30_000_000, 30_000_001, u64::MAX >> 20] {
            histogram.observe(Duration::from_micros(micros));
        }
        let snapshot = histogram.snapshot();
        let of = |seconds: f64| snapshot.cumulative.iter().find(|(bound, _)| *bound == seconds).unwrap().1;
        assert_eq!((of(0.0001), of(0.00025), of(5.0), of(30.0), snapshot.count), (2, 3, 3, 4, 6));
        assert!(snapshot.cumulative.is_sorted_by_key(|(_, count)| *count));
    }
}
