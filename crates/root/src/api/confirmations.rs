//! Waiting until a cluster has confirmed what it was asked for.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oak_model::{Availability, WorkerId};
use tokio::sync::oneshot;

type Waiting<K> = Arc<Mutex<HashMap<K, Vec<oneshot::Sender<()>>>>>;

/// Connects requests that wait for something with the effect that reports it. Cheap to clone.
#[derive(Debug)]
pub struct Confirmations<K>(Waiting<K>);

/// Worker tokens by their public part (`Effect::TokenReady`).
pub type TokenConfirmations = Confirmations<String>;

/// Workers that were opened or closed (`Effect::AvailabilityConfirmed`).
pub type AvailabilityConfirmations = Confirmations<(WorkerId, Availability)>;

/// A registered wait; forgotten when dropped.
#[derive(Debug)]
pub struct Confirmation<K: Eq + Hash> {
    subject: K,
    confirmed: oneshot::Receiver<()>,
    waiting: Waiting<K>,
}

impl<K> Default for Confirmations<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K> Clone for Confirmations<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Eq + Hash + Clone> Confirmations<K> {
    /// Registers a wait. Call it before the cluster is asked, so that no confirmation is missed.
    #[must_use]
    pub fn expect(&self, subject: &K) -> Confirmation<K> {
        let (sender, confirmed) = oneshot::channel();
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(subject.clone())
            .or_default()
            .push(sender);
        Confirmation { subject: subject.clone(), confirmed, waiting: Arc::clone(&self.0) }
    }

    /// A cluster has done it. Does not block; nobody needs to wait.
    pub fn confirm(&self, subject: &K) {
        let senders = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(subject);
        for sender in senders.into_iter().flatten() {
            // The request may have been given up in this moment.
            let _ = sender.send(());
        }
    }
}

impl<K: Eq + Hash> Confirmation<K> {
    /// Whether the confirmation came within `patience`.
    pub async fn wait(mut self, patience: Duration) -> bool {
        matches!(tokio::time::timeout(patience, &mut self.confirmed).await, Ok(Ok(())))
    }
}

impl<K: Eq + Hash> Drop for Confirmation<K> {
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
