//! Kernel settings under `/proc/sys/net`, which belong to the network namespace of the calling thread.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{NetworkError, Tried};

/// A host-wide setting this crate changed, and what it was before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChangedSetting {
    /// Below `/proc/sys/net`.
    pub(crate) name: String,
    pub(crate) before: String,
    pub(crate) ours: String,
}

/// Forwarding between instances and the world: the only setting that is not of a device of ours.
pub(crate) const IP_FORWARD: &str = "ipv4/ip_forward";

/// The current value, without the line end.
pub(crate) fn read(name: &str) -> Result<String, NetworkError> {
    let path = path(name);
    let text = fs::read_to_string(&path).tried(|| format!("read {}", path.display()))?;
    Ok(text.trim_end().to_owned())
}

/// Sets a value.
pub(crate) fn write(name: &str, value: &str) -> Result<(), NetworkError> {
    let path = path(name);
    fs::write(&path, value).tried(|| format!("set {} to {value}", path.display()))
}

/// Puts a setting back, unless somebody else has changed it since.
pub(crate) fn restore(setting: &ChangedSetting) -> Result<(), NetworkError> {
    if read(&setting.name)? == setting.ours {
        write(&setting.name, &setting.before)?;
    }
    Ok(())
}

fn path(name: &str) -> PathBuf {
    Path::new("/proc/sys/net").join(name)
}
