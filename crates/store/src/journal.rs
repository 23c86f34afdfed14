//! What the engine needs of a store.

use std::path::PathBuf;
use std::sync::Arc;

use oak_control::Row;
use tokio::sync::oneshot;

/// Why the database does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened.
    #[error("cannot open the database {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The file is damaged.
    #[error("the database {path} is damaged: {detail}; restore a backup or remove the file to start empty")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite found.
        detail: String,
    },
    /// The schema cannot be brought up to date.
    #[error("cannot bring the database to the version of this program")]
    Migrate(#[source] rusqlite::Error),
    /// A newer program wrote the file.
    #[error("the database has version {found}, this program knows up to {known}: use a newer program")]
    TooNew {
        /// Version of the file.
        found: usize,
        /// Newest known version.
        known: usize,
    },
    /// Rows cannot be read.
    #[error("cannot read the database")]
    Read(#[source] rusqlite::Error),
    /// Files cannot be read or written.
    #[error("cannot read or write the files under {path}")]
    Files {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The writer ended, the reason is in the log.
    #[error("the database writer has stopped: the disk is full or broken, see the log")]
    WriterGone,
    /// The commit failed; nothing of this step is stored.
    #[error("cannot write to the database: {0}")]
    Write(String),
}

/// Resolves when a step is on disk.
#[derive(Debug)]
pub struct Committed(oneshot::Receiver<Result<(), StoreError>>);

impl Committed {
    /// A step that is not on disk yet, and the end that reports its fate.
    #[must_use]
    pub fn pending() -> (oneshot::Sender<Result<(), StoreError>>, Self) {
        let (done, committed) = oneshot::channel();
        (done, Self(committed))
    }

    /// Waits for the commit.
    ///
    /// # Errors
    /// The step is not stored.
    pub async fn wait(self) -> Result<(), StoreError> {
        self.0.await.unwrap_or(Err(StoreError::WriterGone))
    }
}

/// A place where rows are made durable, in the order they are submitted.
pub trait Journal: Send + Sync + 'static {
    /// Hands rows over. All of them are stored, or none.
    ///
    /// # Errors
    /// The store has stopped working.
    fn submit(&self, rows: Vec<Row>) -> Result<Committed, StoreError>;
}

/// One store may serve several machines, as long as each keeps to its own tables.
impl<J: Journal> Journal for Arc<J> {
    fn submit(&self, rows: Vec<Row>) -> Result<Committed, StoreError> {
        J::submit(self, rows)
    }
}
