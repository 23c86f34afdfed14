//! From the state machine to everybody who listens: events that are stored go out in order, once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oak_control::root::Occurrence;
use tokio::sync::broadcast;

/// Steps that a listener may be behind. Whoever falls further behind is cut and can resume from the history.
const BEHIND: usize = 1_024;

/// Events of one step, in order.
pub type Batch = Arc<[Arc<Occurrence>]>;

/// Where events go after their commit. Clones lead to the same listeners.
#[derive(Clone, Debug)]
pub struct EventHub {
    listeners: broadcast::Sender<Batch>,
    /// The newest number that went out.
    newest: Arc<AtomicU64>,
}

impl EventHub {
    /// A hub for a state machine whose newest event has this number.
    #[must_use]
    pub fn new(newest: u64) -> Self {
        Self { listeners: broadcast::channel(BEHIND).0, newest: Arc::new(AtomicU64::new(newest)) }
    }

    /// Tells everybody.
    pub fn publish(&self, events: Vec<Arc<Occurrence>>) {
        let Some(last) = events.last().map(|occurrence| occurrence.event.sequence) else { return };
        // Nobody listening is fine. Sent before the number is raised: whoever reads the number has them, or gets them.
        let _ = self.listeners.send(events.into());
        self.newest.store(last, Ordering::Release);
    }

    /// Listens from now on.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<Batch> {
        self.listeners.subscribe()
    }

    /// The newest number that went out.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.newest.load(Ordering::Acquire)
    }
}
