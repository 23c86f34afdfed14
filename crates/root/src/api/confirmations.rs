//! Waiting until a cluster has confirmed that it can check a worker token.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<()>>>>;

/// Connects requests that wait for a token with the effect that reports it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct TokenConfirmations(Waiting);

/// A registered wait; forgotten when dropped.
#[derive(Debug)]
pub struct Confirmation {
    id: String,
    confirmed: oneshot::Receiver<()>,
    waiting: Waiting,
}

impl TokenConfirmations {
    /// Registers a wait. Call it before the token is created, so that no confirmation is missed.
    #[must_use]
    pub fn expect(&self, id: &str) -> Confirmation {
        let (sender, confirmed) = oneshot::channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), sender);
        Confirmation { id: id.to_owned(), confirmed, waiting: Arc::clone(&self.0) }
    }

    /// A cluster has stored the token (`Effect::TokenReady`). Does not block; nobody needs to wait.
    pub fn confirm(&self, id: &str) {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        if let Some(sender) = sender {
            // The request may have been given up in this moment.
            let _ = sender.send(());
        }
    }
}

impl Confirmation {
    /// Whether the confirmation came within `patience`.
    pub async fn wait(mut self, patience: Duration) -> bool {
        matches!(tokio::time::timeout(patience, &mut self.confirmed).await, Ok(Ok(())))
    }
}

impl Drop for Confirmation {
    fn drop(&mut self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}
