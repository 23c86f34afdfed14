//! Whether the disk below a store takes what it is given, for everybody who has to know.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::watch;
use tracing::{info, warn};

/// What the disk of a store can do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Everything is written at once.
    #[default]
    Ok,
    /// The disk does not take everything.
    Degraded {
        /// Since when, by the clock of this machine.
        since: SystemTime,
        /// What does not work, where, and what to do about it; one line for people.
        reason: Arc<str>,
        /// Which steps are still written.
        writes: Writes,
    },
}

/// What a degraded disk still takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// Small ones, in the room the ballast gave: what is reported and what is removed. Nothing new should be begun.
    Small,
    /// None: steps wait, in order, and nothing of them is visible outside.
    Stalled,
}

impl Health {
    /// Whether everything is written.
    #[must_use]
    pub const fn is_ok(&self) -> bool {
        matches!(self, Self::Ok)
    }

    /// What does not work, if anything does not.
    fn reason(&self) -> Option<Arc<str>> {
        match self {
            Self::Ok => None,
            Self::Degraded { reason, .. } => Some(Arc::clone(reason)),
        }
    }

    /// Whether steps wait for the disk.
    #[must_use]
    pub const fn is_stalled(&self) -> bool {
        matches!(self, Self::Degraded { writes: Writes::Stalled, .. })
    }
}

/// A kind of change that somebody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Something is new or different.
    Write,
    /// Something goes. That may be what makes room.
    Removal,
}

impl Health {
    /// Why a change must not be begun now, for the one who asks for it; none if it may.
    #[must_use]
    pub fn refusal(&self, change: Change) -> Option<String> {
        match (self, change) {
            (Self::Ok, _) | (Self::Degraded { writes: Writes::Small, .. }, Change::Removal) => None,
            (Self::Degraded { reason, .. }, _) => Some(format!("nothing was changed: {reason}")),
        }
    }
}

/// Resolves when the disk takes nothing any more, with what to say to somebody whose change is under way.
pub async fn stalled(health: &mut watch::Receiver<Health>) -> String {
    let reason = health.wait_for(Health::is_stalled).await.ok().and_then(|health| health.reason());
    match reason {
        Some(reason) => format!("the change waits for the disk and may still take effect: {reason}"),
        // The store has ended, and with it the change will.
        None => std::future::pending().await,
    }
}

/// The end that publishes; says each change once in the log.
#[derive(Debug)]
pub(crate) struct HealthSender {
    store: String,
    health: watch::Sender<Health>,
    degraded_at: Option<Instant>,
}

impl HealthSender {
    /// `store` names the file or directory in the log.
    pub(crate) fn new(store: String) -> Self {
        Self { store, health: watch::Sender::default(), degraded_at: None }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    pub(crate) fn is_ok(&self) -> bool {
        self.health.borrow().is_ok()
    }

    /// Says that not everything can be written. The reason of a trouble that goes on is kept up to date.
    pub(crate) fn degrade(&mut self, reason: &str, writes: Writes) {
        let now = Health::Degraded { since: SystemTime::now(), reason: reason.into(), writes };
        if self.degraded_at.is_none() {
            self.degraded_at = Some(Instant::now());
            warn!(store = self.store, reason, "the disk does not take everything; it is tried until it does");
        }
        self.health.send_if_modified(|health| match (&*health, now) {
            (
                Health::Degraded { since, reason, writes },
                Health::Degraded { reason: news, writes: left, .. },
            ) => {
                let differs = *reason != news || *writes != left;
                *health = Health::Degraded { since: *since, reason: news, writes: left };
                differs
            }
            (_, now) => {
                *health = now;
                true
            }
        });
    }

    /// Says that everything can be written again.
    pub(crate) fn recover(&mut self) {
        if let Some(since) = self.degraded_at.take() {
            info!(store = self.store, seconds = since.elapsed().as_secs(), "the disk takes everything again");
            self.health.send_replace(Health::Ok);
        }
    }
}
