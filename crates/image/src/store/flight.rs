//! One running attempt per key, shared by everyone who wants its result.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};

type Running<T> = BoxFuture<'static, T>;
type UnderWay<P, T> = (Arc<P>, WeakShared<Running<T>>);

/// Attempts under way by key, each with a tracker `P` that tells how far it is.
///
/// An attempt is driven by whoever waits for it and is dropped with the last waiter.
pub(super) struct SingleFlight<K, P, T> {
    running: Mutex<HashMap<K, UnderWay<P, T>>>,
}

/// An attempt somebody waits for.
pub(super) struct Joined<P, T> {
    /// How far it is.
    pub(super) tracker: Arc<P>,
    /// Its result.
    pub(super) attempt: Shared<Running<T>>,
    /// Whether it began with this call.
    pub(super) is_new: bool,
}

impl<K, P, T> Default for SingleFlight<K, P, T> {
    fn default() -> Self {
        Self { running: Mutex::default() }
    }
}

impl<K: Eq + Hash, P, T: Clone> SingleFlight<K, P, T> {
    /// Joins the attempt for `key`, or starts one.
    pub(super) fn join<F>(
        &self,
        key: K,
        tracker: impl FnOnce() -> P,
        start: impl FnOnce(Arc<P>) -> F,
    ) -> Joined<P, T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((tracker, attempt)) = running.get(&key)
            && let Some(attempt) = attempt.upgrade()
            // A finished attempt is history: who comes now gets a new one.
            && attempt.peek().is_none()
        {
            return Joined { tracker: Arc::clone(tracker), attempt, is_new: false };
        }
        running.retain(|_, (_, attempt)| attempt.upgrade().is_some());
        let tracker = Arc::new(tracker());
        let attempt = start(Arc::clone(&tracker)).boxed().shared();
        if let Some(weak) = attempt.downgrade() {
            running.insert(key, (Arc::clone(&tracker), weak));
        }
        Joined { tracker, attempt, is_new: true }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn all_who_come_during_an_attempt_share_it_and_the_next_gets_a_new_one() {
        let flights: SingleFlight<&str, (), usize> = SingleFlight::default();
        let started = Arc::new(AtomicUsize::new(0));
        let go = Arc::new(Notify::new());
        let join = || {
            let (started, go) = (Arc::clone(&started), Arc::clone(&go));
            flights
                .join(
                    "key",
                    || (),
                    |_| async move {
                        let number = started.fetch_add(1, Ordering::SeqCst);
                        go.notified().await;
                        number
                    },
                )
                .attempt
        };
        let (first, second, third) = (join(), join(), join());
        let first = tokio::spawn(first);
        let second = tokio::spawn(second);
        // The first one drives the attempt, then is cancelled: the others go on.
        tokio::task::yield_now().await;
        first.abort();
        go.notify_one();
        assert_eq!(second.await.unwrap(), 0);
        assert_eq!(third.await, 0);
        go.notify_one();
        assert_eq!(join().await, 1);
    }

    #[tokio::test]
    async fn an_attempt_nobody_waits_for_is_dropped() {
        let flights: SingleFlight<&str, (), ()> = SingleFlight::default();
        let alive = Arc::new(());
        let held = Arc::clone(&alive);
        let joined = flights.join(
            "key",
            || (),
            |_| async move {
                let _held = held;
                std::future::pending::<()>().await;
            },
        );
        let waiter = tokio::spawn(joined.attempt);
        tokio::task::yield_now().await;
        waiter.abort();
        assert!(waiter.await.is_err());
        assert_eq!(Arc::strong_count(&alive), 1);
    }
}
