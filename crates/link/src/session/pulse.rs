//! How long a frame to the peer and back takes, measured with heartbeats: one carries a number, the peer sends a
//! heartbeat with the same number back at once. Peers that do not know this send nothing back and stay unmeasured.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// A smoothed value that differs less from the last one told is no news: microseconds, and share in percent.
const NEWS_US: u128 = 200;
const NEWS_PERCENT: u128 = 10;

/// The measurement of one session.
#[derive(Default)]
pub(crate) struct Pulse {
    state: Mutex<State>,
    /// Number the peer waits for; 0: none.
    asked: AtomicU64,
    wake: Notify,
}

#[derive(Default)]
struct State {
    number: u64,
    sent: Option<Instant>,
    smoothed: Option<Duration>,
    told: Option<Duration>,
}

impl Pulse {
    /// Starts a measurement; returns the number for the heartbeat. An earlier one without answer is forgotten.
    pub(crate) fn begin(&self) -> u64 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.number += 1;
        state.sent = Some(Instant::now());
        state.number
    }

    /// The peer sent a number back; returns the smoothed round trip if it is news.
    pub(crate) fn returned(&self, number: u64) -> Option<Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if number != state.number {
            return None;
        }
        let sample = state.sent.take()?.elapsed();
        // The weight of RFC 6298: one late frame among many good ones changes little.
        let smoothed = state.smoothed.map_or(sample, |smoothed| (smoothed * 7 + sample) / 8);
        state.smoothed = Some(smoothed);
        let is_news = state.told.is_none_or(|told| {
            let difference = told.abs_diff(smoothed).as_micros();
            difference >= NEWS_US && difference * 100 >= told.as_micros() * NEWS_PERCENT
        });
        if is_news {
            state.told = Some(smoothed);
        }
        is_news.then_some(smoothed)
    }

    /// The peer wants a number back.
    pub(crate) fn ask(&self, number: u64) {
        self.asked.store(number, Ordering::Release);
        self.wake.notify_one();
    }

    /// Resolves with the number the peer wants back. Cancel-safe.
    pub(crate) async fn asked(&self) -> u64 {
        loop {
            match self.asked.swap(0, Ordering::AcqRel) {
                0 => self.wake.notified().await,
                number => return number,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_round_trip_is_smoothed_and_told_only_when_it_changes() {
        let pulse = Pulse::default();
        let measure = async |ms: u64| {
            let number = pulse.begin();
            tokio::time::advance(Duration::from_millis(ms)).await;
            pulse.returned(number)
        };
        assert_eq!(measure(20).await, Some(Duration::from_millis(20)));
        assert_eq!(measure(21).await, None, "5 % of an eighth is no news");
        assert!(measure(100).await.is_some_and(|told| told < Duration::from_millis(31)), "one outlier");
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_last_number_counts_and_only_once() {
        let pulse = Pulse::default();
        let lost = pulse.begin();
        let number = pulse.begin();
        assert_eq!(pulse.returned(lost), None);
        assert!(pulse.returned(number).is_some());
        assert_eq!(pulse.returned(number), None);
    }

    #[tokio::test]
    async fn an_asked_number_is_answered_once() {
        let pulse = Pulse::default();
        pulse.ask(7);
        assert_eq!(pulse.asked().await, 7);
        pulse.ask(8);
        pulse.ask(9);
        assert_eq!(pulse.asked().await, 9);
    }
}
