//! The open sessions of a parent, by number, for shells whose decisions name a session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::handle::PeerHandle;

/// A shared table of open sessions. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Sessions(Arc<Mutex<HashMap<u64, PeerHandle>>>);

impl Sessions {
    /// Adds a session that was opened.
    pub fn insert(&self, handle: PeerHandle) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(handle.session(), handle);
    }

    /// Forgets a session that ended.
    pub fn remove(&self, session: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&session);
    }

    /// Returns a session if it is open.
    pub fn get(&self, session: u64) -> Option<PeerHandle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&session).cloned()
    }

    /// Answers the hello of a session. One that has ended meanwhile is ignored: its successor says hello again.
    pub fn welcome(&self, session: u64, payload: Bytes) {
        if let Some(handle) = self.get(session)
            && let Err(error) = handle.welcome(payload)
        {
            tracing::debug!(peer = %handle.peer(), session, %error, "session ended before it was welcomed");
        }
    }

    /// Sends on a session. One that has ended meanwhile is ignored: its successor is told everything.
    pub fn send(&self, session: u64, payload: Bytes) {
        if let Some(handle) = self.get(session)
            && let Err(error) = handle.send(payload)
        {
            tracing::debug!(peer = %handle.peer(), session, %error, "message not sent, the session ends");
        }
    }
}
