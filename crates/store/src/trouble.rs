//! Why a write failed: what can pass and is tried again, and what cannot.

use std::io;
use std::path::Path;

use rusqlite::ErrorCode;

use crate::StoreError;

/// A write did not happen. Nothing of it is promised to be on disk, and it may be repeated.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// It may succeed later.
    Passing(Trouble),
    /// It will not.
    Fatal(StoreError),
}

/// What keeps a disk from taking a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// No room, or the quota is used up.
    Full,
    /// Mounted read-only, as the kernel does after errors.
    ReadOnly,
    /// The device or something else of this machine failed; the text of the operating system or of SQLite.
    Failing(String),
}

impl Trouble {
    /// One line for people: what, where, and what to do.
    pub(crate) fn describe(&self, place: &Path) -> String {
        let place = place.display();
        match self {
            Self::Full => format!(
                "the disk of {place} is full: make room there (`df -h {place}` shows it); it goes on by itself"
            ),
            Self::ReadOnly => format!(
                "the disk of {place} is read-only: look for errors with `dmesg`, then mount it writable again \
                 (`mount -o remount,rw`); it goes on by itself"
            ),
            Self::Failing(why) => format!(
                "the disk of {place} fails ({why}): look for errors with `dmesg`, and have a backup (`oak backup`); \
                 it is tried again until it works"
            ),
        }
    }
}

/// Sorts an error of SQLite.
pub(crate) fn of_sqlite(error: &rusqlite::Error, path: &Path) -> WriteError {
    let fatal = || WriteError::Fatal(StoreError::Write { path: path.to_owned(), detail: error.to_string() });
    let rusqlite::Error::SqliteFailure(code, _) = error else { return fatal() };
    match code.code {
        ErrorCode::DiskFull => WriteError::Passing(Trouble::Full),
        // Somebody moved or removed the file under the running program: what is written now would be lost.
        ErrorCode::ReadOnly if code.extended_code == rusqlite::ffi::SQLITE_READONLY_DBMOVED => fatal(),
        ErrorCode::ReadOnly => WriteError::Passing(Trouble::ReadOnly),
        ErrorCode::SystemIoFailure
        | ErrorCode::CannotOpen
        | ErrorCode::OutOfMemory
        | ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::OperationInterrupted
        | ErrorCode::FileLockingProtocolFailed => WriteError::Passing(Trouble::Failing(error.to_string())),
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
            WriteError::Fatal(StoreError::Damaged { path: path.to_owned(), detail: error.to_string() })
        }
        _ => fatal(),
    }
}

/// Sorts an error of the operating system.
pub(crate) fn of_files(error: io::Error, path: &Path) -> WriteError {
    match trouble(&error) {
        Some(trouble) => WriteError::Passing(trouble),
        None => WriteError::Fatal(StoreError::Files { path: path.to_owned(), source: error }),
    }
}

/// The trouble behind an error of the operating system, if it can pass.
pub(crate) fn trouble(error: &io::Error) -> Option<Trouble> {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => return Some(Trouble::Full),
        io::ErrorKind::ReadOnlyFilesystem => return Some(Trouble::ReadOnly),
        _ => {}
    }
    let errno = rustix::io::Errno::from_io_error(error)?;
    let can_pass = [
        rustix::io::Errno::IO,
        rustix::io::Errno::MFILE,
        rustix::io::Errno::NFILE,
        rustix::io::Errno::NOMEM,
        rustix::io::Errno::AGAIN,
        rustix::io::Errno::INTR,
        rustix::io::Errno::BUSY,
        rustix::io::Errno::TIMEDOUT,
        rustix::io::Errno::STALE,
        rustix::io::Errno::NOLCK,
    ];
    can_pass.contains(&errno).then(|| Trouble::Failing(error.to_string()))
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    fn sqlite(code: i32) -> WriteError {
        of_sqlite(&rusqlite::Error::SqliteFailure(ffi::Error::new(code), None), Path::new("/state.db"))
    }

    #[test]
    fn a_full_a_read_only_and_a_failing_disk_can_pass() {
        assert!(matches!(sqlite(ffi::SQLITE_FULL), WriteError::Passing(Trouble::Full)));
        assert!(matches!(sqlite(ffi::SQLITE_READONLY), WriteError::Passing(Trouble::ReadOnly)));
        assert!(matches!(sqlite(ffi::SQLITE_IOERR_WRITE), WriteError::Passing(Trouble::Failing(_))));
        assert!(matches!(sqlite(ffi::SQLITE_IOERR_FSYNC), WriteError::Passing(Trouble::Failing(_))));
        let files = |errno: rustix::io::Errno| of_files(errno.into(), Path::new("/workloads"));
        assert!(matches!(files(rustix::io::Errno::NOSPC), WriteError::Passing(Trouble::Full)));
        assert!(matches!(files(rustix::io::Errno::DQUOT), WriteError::Passing(Trouble::Full)));
        assert!(matches!(files(rustix::io::Errno::ROFS), WriteError::Passing(Trouble::ReadOnly)));
        assert!(matches!(files(rustix::io::Errno::IO), WriteError::Passing(Trouble::Failing(_))));
    }

    #[test]
    fn damage_and_a_file_that_was_moved_away_end_the_store() {
        for code in [ffi::SQLITE_CORRUPT, ffi::SQLITE_NOTADB] {
            assert!(matches!(sqlite(code), WriteError::Fatal(StoreError::Damaged { .. })));
        }
        assert!(matches!(sqlite(ffi::SQLITE_READONLY_DBMOVED), WriteError::Fatal(StoreError::Write { .. })));
        let denied = of_files(rustix::io::Errno::ACCESS.into(), Path::new("/workloads"));
        assert!(matches!(denied, WriteError::Fatal(StoreError::Files { .. })));
    }
}
