//! Backups: one file with everything of a data directory that cannot be had elsewhere.
//!
//! The file is a tar archive: first `manifest.json`, then the files under their paths in the data directory, each with
//! size and SHA-256 in the manifest. Databases are copied by SQLite from one moment's state, so a backup can be made
//! while the roles run. A backup counts only once it was read back and its rows were understood; so does a restore
//! before it touches anything.
//!
//! | role | what |
//! |---|---|
//! | root | `root/state.db`, `root/jwt-key`, `root/identity/` |
//! | cluster | `cluster/state.db`, `cluster/access-key`, `cluster/identity/` |
//! | worker | `worker/state/`, `worker/workloads/`, `worker/identity/` |

mod archive;
mod collect;
mod create;
mod manifest;
mod restore;
mod scratch;

use std::io;
use std::path::{Path, PathBuf};

use oak_control::Row;

pub use create::{create, verify};
pub use manifest::{Manifest, Role, RoleSummary};
pub use restore::{Existing, RESTORED, Restored, restore};

use crate::StoreError;

/// Tells whether the rows of a role can be understood; the text says which cannot.
pub type Check<'a> = &'a dyn Fn(Role, &[Row]) -> Result<(), String>;

/// Why a backup was not made or not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is nothing to save.
    #[error("there is no state of root, cluster or worker in {directory}")]
    Nothing {
        /// The data directory.
        directory: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A database cannot be copied.
    #[error("cannot copy the database {path}")]
    Copy {
        /// The database.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// A database cannot be read.
    #[error("the state of the {role} cannot be read")]
    State {
        /// Whose.
        role: Role,
        /// Why.
        source: StoreError,
    },
    /// A row cannot be understood.
    #[error("the state of the {role} cannot be understood: {reason}")]
    Rows {
        /// Whose.
        role: Role,
        /// Which row, and why.
        reason: String,
    },
    /// The file is no backup, or damaged.
    #[error("{path} is no usable backup: {reason}")]
    Damaged {
        /// The backup.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A newer program made it.
    #[error("{path} has form {found} of backups, this program knows up to {known}: use a newer program")]
    TooNew {
        /// The backup.
        path: PathBuf,
        /// Its form.
        found: u32,
        /// The newest known.
        known: u32,
    },
    /// The directory is in use.
    #[error("{directory} is not empty: it has {found}")]
    NotEmpty {
        /// The data directory.
        directory: PathBuf,
        /// One of the things in it.
        found: String,
    },
}

impl BackupError {
    fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }
}
