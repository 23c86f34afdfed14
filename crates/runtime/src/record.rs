//! The files of one container directory that shim and worker exchange, and how they are read and written.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::container::ContainerRequest;
use crate::error::FailureKind;
use crate::exit::ExitStatus;
use crate::process::{ProcessRef, boot_id};

/// No record is larger; a request has at most 1 MiB of text, which JSON may blow up by escapes.
const RECORD_BYTES: u64 = 8 << 20;

/// The processes of a container (`state.json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Boot in which the process ids are valid.
    pub(crate) boot_id: String,
    /// The shim.
    pub(crate) shim: ProcessRef,
    /// First process of the container; absent until its program was executed.
    pub(crate) init: Option<ProcessRef>,
}

/// What the shim tells the worker, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// The program of the container was executed.
    Started {
        /// Process id in the namespace of the worker.
        pid: u32,
    },
    /// It was not.
    Failed(Failure),
}

/// Why the shim could not start a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    /// Class of the reason.
    pub(crate) kind: FailureKind,
    /// For people, with its causes.
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// Paths inside the directory of one container.
#[derive(Clone, Debug)]
pub(crate) struct ContainerDirectory(PathBuf);

impl ContainerDirectory {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// What the caller asked for.
    pub(crate) fn request(&self) -> PathBuf {
        self.0.join("request.json")
    }

    /// The OCI configuration that the container was created with.
    pub(crate) fn configuration(&self) -> PathBuf {
        self.0.join("config.json")
    }

    /// What the shim says besides its report: panics and details of errors.
    pub(crate) fn shim_log(&self) -> PathBuf {
        self.0.join("shim.log")
    }

    /// Files the container wrote.
    pub(crate) fn upper(&self) -> PathBuf {
        self.0.join("upper")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }

    pub(crate) fn exit(&self) -> PathBuf {
        self.0.join("exit.json")
    }

    pub(crate) fn read_request(&self) -> Option<ContainerRequest> {
        read_json(&self.request())
    }

    /// The processes, if they are of this boot.
    pub(crate) fn read_state(&self) -> Option<State> {
        read_json::<State>(&self.state()).filter(|state| state.boot_id == boot_id())
    }

    /// A part of the configuration.
    pub(crate) fn read_configuration<T: DeserializeOwned>(&self) -> Option<T> {
        read_json(&self.configuration())
    }

    pub(crate) fn read_exit(&self) -> Option<ExitStatus> {
        read_json(&self.exit())
    }
}

/// Reads a record. One that is missing, cut off or foreign counts as absent: the container is then debris.
fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let file = File::open(path).ok()?;
    let mut text = Vec::new();
    file.take(RECORD_BYTES).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Replaces a file in one step: readers see the old or the new one whenever a process dies.
///
/// Nothing is forced to disk. After a loss of power no container runs, and one whose record is missing or
/// cut off is debris that is created again; waiting for a slow disk would delay every start and restart.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    fs::rename(&temporary, path)
}

/// Room kept for a small record, bytes.
const RESERVED_BYTES: u64 = 4096;

/// Keeps room for a small record that [`write_reserved_json`] writes later, when the disk may be full. Where the file
/// system cannot do that, the record needs room then, as any other.
pub(crate) fn reserve_json(path: &Path) {
    let reserved = File::create(path.with_extension("new")).and_then(|file| {
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, RESERVED_BYTES)?;
        Ok(())
    });
    if let Err(error) = reserved {
        tracing::debug!(path = %path.display(), %error, "cannot keep room for a record");
    }
}

/// Like [`write_json`], into the room that [`reserve_json`] kept.
pub(crate) fn write_reserved_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let text = serde_json::to_vec(value)?;
    let mut file = File::options().write(true).create(true).truncate(false).open(&temporary)?;
    file.write_all(&text)?;
    file.set_len(text.len() as u64)?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_fits_into_the_room_that_was_kept() {
        let directory = tempfile::tempdir().unwrap();
        let container = ContainerDirectory::new(directory.path().to_owned());
        reserve_json(&container.exit());
        assert_eq!(container.read_exit(), None, "room is no record");
        let status = ExitStatus { code: Some(3), ..ExitStatus::unknown() };
        write_reserved_json(&container.exit(), &status).unwrap();
        assert_eq!(container.read_exit().and_then(|exit| exit.code), Some(3));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_state_of_another_boot_is_absent() {
        let directory = tempfile::tempdir().unwrap();
        let container = ContainerDirectory::new(directory.path().to_owned());
        let shim = ProcessRef { pid: 1, start_time: 2 };
        let mut state = State { boot_id: boot_id(), shim, init: None };
        write_json(&container.state(), &state).unwrap();
        assert_eq!(container.read_state(), Some(state.clone()));
        state.boot_id = "another".into();
        write_json(&container.state(), &state).unwrap();
        assert_eq!(container.read_state(), None);
    }

    #[test]
    fn a_cut_off_record_is_absent() {
        let directory = tempfile::tempdir().unwrap();
        let container = ContainerDirectory::new(directory.path().to_owned());
        fs::write(container.exit(), br#"{"code":0,"sig"#).unwrap();
        assert_eq!(container.read_exit(), None);
    }
}
