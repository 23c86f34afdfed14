//! One process per data directory: a locked file that also tells which process it is.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::commands::{EXIT_FAILURE, Failure};

/// The lock, held while the value lives.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _file: File,
}

fn open(directory: &Path) -> std::io::Result<File> {
    std::fs::create_dir_all(directory)?;
    // Keys, tokens and the state of all tenants are in there.
    std::fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(directory.join("oak.pid"))
}

fn failed(directory: &Path, error: &std::io::Error) -> Failure {
    Failure::new(EXIT_FAILURE, format!("cannot use the data directory {}", directory.display()))
        .cause(error.to_string())
        .hint("run as root, or choose another directory with --data-dir")
}

impl DirectoryLock {
    /// Takes the directory for this process.
    pub(crate) fn take(directory: &Path) -> Result<Self, Failure> {
        let mut file = open(directory).map_err(|error| failed(directory, &error))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let holder = read_pid(&mut file).map(|pid| format!(" (process {pid})")).unwrap_or_default();
            let text =
                format!("oak is already running with the data directory {}{holder}", directory.display());
            return Err(Failure::new(EXIT_FAILURE, text)
                .hint("stop it with `oak down`, or choose another --data-dir"));
        }
        match note_pid(&mut file) {
            // What runs here must be able to start again on a full disk. The lock is what counts.
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {}
            result => result.map_err(|error| failed(directory, &error))?,
        }
        Ok(Self { _file: file })
    }

    /// The process that holds the directory, if one does.
    pub(crate) fn holder(directory: &Path) -> Result<Option<rustix::process::Pid>, Failure> {
        let mut file = open(directory).map_err(|error| failed(directory, &error))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok(None);
        }
        Ok(read_pid(&mut file).and_then(rustix::process::Pid::from_raw))
    }
}

/// Overwrites what is there before it is cut: that needs no room.
fn note_pid(file: &mut File) -> std::io::Result<()> {
    let text = format!("{}\n", std::process::id());
    file.seek(SeekFrom::Start(0))?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

fn read_pid(file: &mut File) -> Option<i32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
