//! Rows for people, and what stands in them.

use std::time::Duration;

/// Samples of one duration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    pub(crate) fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// The sample below which `share` (0–1) of all lie, by nearest rank; zero without samples.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).or(sorted.last()).copied().unwrap_or_default()
    }

    /// `name  p50  p90  p99  worst` in milliseconds.
    pub(crate) fn row(&self, name: &str) -> String {
        let [p50, p90, p99, worst] = [0.5, 0.9, 0.99, 1.0].map(|share| milliseconds(self.quantile(share)));
        format!("{name:<58} {p50:>9.2} {p90:>9.2} {p99:>9.2} {worst:>9.2}  ({} samples)", self.0.len())
    }
}

/// A heading for rows of [`Samples::row`].
pub(crate) fn heading(title: &str) {
    println!("\n{title:<58} {:>9} {:>9} {:>9} {:>9}", "p50 ms", "p90 ms", "p99 ms", "worst ms");
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// `within` or `over`.
pub(crate) fn verdict(is_within: bool) -> &'static str {
    if is_within { "within" } else { "OVER" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples_that_were_taken() {
        let mut samples = Samples::default();
        assert_eq!(samples.quantile(0.5), Duration::ZERO);
        for n in (1..=100).rev() {
            samples.push(Duration::from_millis(n));
        }
        let quantile = |share| samples.quantile(share).as_millis();
        assert_eq!((quantile(0.5), quantile(0.99), quantile(1.0)), (50, 99, 100));
    }
}
