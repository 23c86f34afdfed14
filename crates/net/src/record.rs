//! What is remembered on disk: the settings, and one small file per attached instance, written before
//! its devices are made. So whatever a crash leaves in the kernel has a record that names it.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use rustix::event::{Timespec, poll};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::NetworkConfig;
use crate::error::{NetworkError, Tried};
use crate::names::is_short_id;
use crate::sysctl::ChangedSetting;

/// Records are a few hundred bytes.
const MAX_RECORD: u64 = 16 * 1024;
/// Tries to get the lock, 5 ms apart.
const LOCK_TRIES: u32 = 100;

/// The network as a whole, as made by the last `open`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    pub(crate) config: NetworkConfig,
    /// Settings are only put back in the boot in which they were changed.
    pub(crate) boot: String,
    pub(crate) changed_settings: Vec<ChangedSetting>,
    /// Which rules were loaded: [`crate::ruleset::VERSION`] of the agent that did.
    #[serde(default)]
    pub(crate) rules: u32,
}

/// One attached instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AttachmentRecord {
    pub(crate) id: String,
    pub(crate) address: Ipv4Addr,
}

/// The files of the state directory.
#[derive(Clone, Debug)]
pub(crate) struct StateDirectory {
    root: PathBuf,
}

impl StateDirectory {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Makes the directories.
    pub(crate) fn create(&self) -> Result<(), NetworkError> {
        let directory = self.namespaces();
        fs::create_dir_all(&directory).tried(|| format!("make {}", directory.display()))
    }

    /// Takes the directory for this process until the file is closed.
    ///
    /// Somebody who let go of it just now may have been starting a program, which has the file until it runs.
    pub(crate) fn lock(&self) -> Result<File, NetworkError> {
        let path = self.root.join("lock");
        let what = || format!("lock {}", path.display());
        let file = File::create(&path).tried(what)?;
        for _ in 0..LOCK_TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error).tried(what),
            }
            let moment = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
            let _ = poll(&mut [], Some(&moment));
        }
        Err(NetworkError::Busy { state_directory: self.root.clone() })
    }

    /// File that keeps an instance's namespace alive.
    pub(crate) fn namespace(&self, short_id: &str) -> PathBuf {
        self.namespaces().join(short_id)
    }

    /// The settings of the last `open`; none if there was none or the file is damaged.
    pub(crate) fn network(&self) -> Option<NetworkRecord> {
        read(&self.network_path())
    }

    pub(crate) fn write_network(&self, record: &NetworkRecord) -> Result<(), NetworkError> {
        write(&self.network_path(), record)
    }

    pub(crate) fn attachment(&self, short_id: &str) -> Option<AttachmentRecord> {
        read(&self.attachment_path(short_id))
    }

    pub(crate) fn write_attachment(
        &self,
        short_id: &str,
        record: &AttachmentRecord,
    ) -> Result<(), NetworkError> {
        write(&self.attachment_path(short_id), record)
    }

    pub(crate) fn remove_attachment(&self, short_id: &str) -> Result<(), NetworkError> {
        remove_file(&self.attachment_path(short_id))
    }

    /// Short ids of everything that left a namespace file or a record, whole or not.
    pub(crate) fn short_ids(&self) -> Result<Vec<String>, NetworkError> {
        let directory = self.namespaces();
        let what = || format!("list {}", directory.display());
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.tried(what)?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.tried(what)?.file_name();
            let name = name.to_string_lossy();
            let stem = name.split('.').next().unwrap_or_default();
            if is_short_id(stem) {
                found.push(stem.to_owned());
            }
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// Removes what `create`, `lock` and the records left, and the directory if nothing else is in it.
    pub(crate) fn remove(&self) -> Result<(), NetworkError> {
        for short_id in self.short_ids()? {
            self.remove_attachment(&short_id)?;
            remove_file(&temporary(&self.attachment_path(&short_id)))?;
        }
        remove_file(&self.network_path())?;
        remove_file(&temporary(&self.network_path()))?;
        remove_file(&self.root.join("lock"))?;
        for directory in [self.namespaces(), self.root.clone()] {
            match fs::remove_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Somebody keeps something else here; it is not ours to judge.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                outcome => outcome.tried(|| format!("remove {}", directory.display()))?,
            }
        }
        Ok(())
    }

    /// Whether there is anything to tear down.
    pub(crate) fn exists(&self) -> bool {
        self.root.is_dir()
    }

    fn namespaces(&self) -> PathBuf {
        self.root.join("ns")
    }

    fn network_path(&self) -> PathBuf {
        self.root.join("network.json")
    }

    fn attachment_path(&self, short_id: &str) -> PathBuf {
        self.namespaces().join(format!("{short_id}.json"))
    }
}

/// Identity of the running boot.
pub(crate) fn current_boot() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim_end().to_owned()
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.take(MAX_RECORD).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// Replaces the file as a whole. Not synced: after a power cut the kernel objects are gone as well.
fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), NetworkError> {
    let replace = || -> io::Result<()> {
        let temporary = temporary(path);
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(value)?)?;
        fs::rename(&temporary, path)
    };
    replace().tried(|| format!("write {}", path.display()))
}

fn temporary(path: &Path) -> PathBuf {
    path.with_extension("json.new")
}

fn remove_file(path: &Path) -> Result<(), NetworkError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.tried(|| format!("remove {}", path.display())),
    }
}
