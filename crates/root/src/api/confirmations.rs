//! Waiting until a cluster has confirmed what it was asked for.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oak_model::{Availability, WorkerId};
use tokio::sync::oneshot;

type Waiting<K, V> = Arc<Mutex<HashMap<K, Vec<oneshot::Sender<V>>>>>;

/// Connects requests that wait for something with the effect that reports it, and what it says. Cheap to clone.
#[derive(Debug)]
pub struct Confirmations<K, V = ()>(Waiting<K, V>);

/// Worker tokens by their public part (`Effect::TokenReady`).
pub type TokenConfirmations = Confirmations<String>;

/// Workers that were opened or closed (`Effect::AvailabilityConfirmed`).
pub type AvailabilityConfirmations = Confirmations<(WorkerId, Availability)>;

/// Workers that were removed, or the reason why not (`Effect::WorkerRemoval`).
pub type RemovalConfirmations = Confirmations<WorkerId, Option<String>>;

/// A registered wait; forgotten when dropped.
#[derive(Debug)]
pub struct Confirmation<K: Eq + Hash, V = ()> {
    subject: K,
    confirmed: oneshot::Receiver<V>,
    waiting: Waiting<K, V>,
}

impl<K, V> Default for Confirmations<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K, V> Clone for Confirmations<K, V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Confirmations<K, V> {
    /// Registers a wait. Call it before the cluster is asked, so that no confirmation is missed.
    #[must_use]
    pub fn expect(&self, subject: &K) -> Confirmation<K, V> {
        let (sender, confirmed) = oneshot::channel();
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(subject.clone())
            .or_default()
            .push(sender);
        Confirmation { subject: subject.clone(), confirmed, waiting: Arc::clone(&self.0) }
    }

    /// A cluster has answered. Does not block; nobody needs to wait.
    pub fn answer(&self, subject: &K, answer: &V) {
        let senders = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(subject);
        for sender in senders.into_iter().flatten() {
            // The request may have been given up in this moment.
            let _ = sender.send(answer.clone());
        }
    }
}

impl<K: Eq + Hash + Clone> Confirmations<K> {
    /// A cluster has done it.
    pub fn confirm(&self, subject: &K) {
        self.answer(subject, &());
    }
}

impl<K: Eq + Hash, V> Confirmation<K, V> {
    /// The answer, if it comes within `patience`.
    pub async fn answer(mut self, patience: Duration) -> Option<V> {
        tokio::time::timeout(patience, &mut self.confirmed).await.ok()?.ok()
    }
}

impl<K: Eq + Hash> Confirmation<K> {
    /// Whether the confirmation came within `patience`.
    pub async fn wait(self, patience: Duration) -> bool {
        self.answer(patience).await.is_some()
    }
}

impl<K: Eq + Hash, V> Drop for Confirmation<K, V> {
    fn drop(&mut self) {
        self.confirmed.close();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(senders) = waiting.get_mut(&self.subject) {
            senders.retain(|sender| !sender.is_closed());
            if senders.is_empty() {
                waiting.remove(&self.subject);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everybody_who_waits_for_the_same_is_told_and_nothing_is_left_behind() {
        let confirmations = TokenConfirmations::default();
        let subject = "token".to_owned();
        let (first, second) = (confirmations.expect(&subject), confirmations.expect(&subject));
        let other = confirmations.expect(&"other".to_owned());
        drop(confirmations.expect(&subject));
        confirmations.confirm(&subject);
        assert!(first.wait(Duration::from_secs(5)).await);
        assert!(second.wait(Duration::from_secs(5)).await);
        assert!(!other.wait(Duration::ZERO).await);
        assert!(confirmations.0.lock().unwrap().is_empty());
    }
}
