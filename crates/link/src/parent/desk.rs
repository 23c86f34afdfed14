//! Where asked-for bulk streams wait until the child opens them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rand::Rng;
use tokio::sync::oneshot;

use crate::bulk::{BulkError, BulkStream};
use crate::identity::Identity;

type Reply = oneshot::Sender<Result<BulkStream, BulkError>>;

/// Bulk streams that were asked for and are not open yet, by id.
#[derive(Default)]
pub(crate) struct BulkDesk {
    waiting: Mutex<HashMap<u64, (Identity, Reply)>>,
}

impl BulkDesk {
    /// Registers a wish; it is withdrawn when the ticket is dropped.
    pub(crate) fn register(self: &Arc<Self>, peer: &Identity) -> Ticket {
        let (reply, answer) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bulk = 0;
        while bulk == 0 || waiting.contains_key(&bulk) {
            bulk = crate::entropy::os_rng().random();
        }
        waiting.insert(bulk, (peer.clone(), reply));
        Ticket { desk: Arc::clone(self), bulk, answer }
    }

    /// Takes the waiting party for a stream that `peer` opens or refuses; only the asked child finds it.
    pub(crate) fn take(&self, bulk: u64, peer: &Identity) -> Option<Reply> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.get(&bulk).is_some_and(|(asked, _)| asked == peer) {
            return waiting.remove(&bulk).map(|(_, reply)| reply);
        }
        None
    }
}

/// A registered wish.
pub(crate) struct Ticket {
    desk: Arc<BulkDesk>,
    pub bulk: u64,
    pub answer: oneshot::Receiver<Result<BulkStream, BulkError>>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.desk.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.bulk);
    }
}
