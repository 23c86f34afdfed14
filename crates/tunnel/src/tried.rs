//! What the system refused, with what was tried.

use std::io;

/// The system refused something.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}")]
pub struct SystemError {
    what: String,
    source: io::Error,
}

pub(crate) trait Tried<T> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T, SystemError>;
}

impl<T> Tried<T> for io::Result<T> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T, SystemError> {
        self.map_err(|source| SystemError { what: what(), source })
    }
}
