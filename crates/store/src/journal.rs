//! What the engine needs of a store.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use oak_control::{CorruptRow, Row};
use oak_metrics::Histogram;
use tokio::sync::{oneshot, watch};

use crate::health::Health;

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
    #[error("the database {path} is damaged: {detail}; {}", way_out(.path))]
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
    /// The write failed for a reason that does not pass; nothing of this step is stored.
    #[error("cannot write to {path}: {detail}")]
    Write {
        /// File or directory.
        path: PathBuf,
        /// What SQLite or the operating system said.
        detail: String,
    },
}

impl StoreError {
    /// The error for a row of the database `path` that cannot be understood.
    #[must_use]
    pub fn damaged_row(path: &Path, row: &CorruptRow) -> Self {
        Self::Damaged { path: path.to_owned(), detail: format!("{row}: {}", row.source) }
    }

    /// Whether a full disk is the reason.
    pub(crate) fn is_full_disk(&self) -> bool {
        match self {
            Self::Open { source, .. } | Self::Migrate(source) | Self::Read(source) => {
                source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
                    // The index of the log could not grow.
                    || source.sqlite_error().is_some_and(|error| {
                        error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
                            || error.extended_code == rusqlite::ffi::SQLITE_IOERR_WRITE
                    })
            }
            Self::Files { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
            Self::Damaged { .. } | Self::TooNew { .. } | Self::WriterGone | Self::Write { .. } => false,
        }
    }
}

/// What helps when the database of a role is damaged. The role is told by the directory, `<data directory>/<role>`.
fn way_out(path: &Path) -> String {
    let role = path.parent().unwrap_or(Path::new("."));
    let data = role.parent().unwrap_or(Path::new(".")).display();
    let lost = match role.file_name().and_then(|name| name.to_str()) {
        Some("cluster") => "its workers then have to join again, each with a new token",
        _ => "users, tokens and everything that no cluster holds are then lost",
    };
    format!(
        "put the last backup back with `oak restore FILE --data-dir {data} --replace`, or, without one, move the \
         file away with `mv {path} {path}.damaged` to start empty: {lost}",
        path = path.display()
    )
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
        self.await
    }
}

/// Cancel-safe: polling it again later goes on waiting for the same commit.
impl Future for Committed {
    type Output = Result<(), StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|outcome| outcome.unwrap_or(Err(StoreError::WriterGone)))
    }
}

/// A place where rows are made durable, in the order they are submitted.
pub trait Journal: Send + Sync + 'static {
    /// Hands rows over. All of them are stored, or none.
    ///
    /// # Errors
    /// The store has stopped working.
    fn submit(&self, rows: Vec<Row>) -> Result<Committed, StoreError>;

    /// Whether the disk takes what is submitted.
    fn health(&self) -> watch::Receiver<Health>;

    /// How long commits took, if it counts them.
    fn commits(&self) -> Option<Arc<Histogram>> {
        None
    }
}

/// One store may serve several machines, as long as each keeps to its own tables.
impl<J: Journal> Journal for Arc<J> {
    fn submit(&self, rows: Vec<Row>) -> Result<Committed, StoreError> {
        J::submit(self, rows)
    }

    fn health(&self) -> watch::Receiver<Health> {
        J::health(self)
    }

    fn commits(&self) -> Option<Arc<Histogram>> {
        J::commits(self)
    }
}
