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

/// The same for IPv6, where it is for all devices together: an answer from outside comes in by one that is not ours.
pub(crate) const FORWARD6: &str = "ipv6/conf/all/forwarding";

/// Whether this host has IPv6 and nobody has switched it off.
pub(crate) fn has_ipv6() -> bool {
    read("ipv6/conf/all/disable_ipv6").is_ok_and(|value| value == "0") && read(FORWARD6).is_ok()
}

/// Settings by which a device that learns its routes from a router would not do so any more when packets are forwarded.
pub(crate) fn router_settings() -> Vec<String> {
    let devices = fs::read_dir(path("ipv6/conf")).into_iter().flatten().flatten();
    let settings = devices.map(|device| format!("ipv6/conf/{}/accept_ra", device.file_name().display()));
    settings.filter(|setting| read(setting).is_ok_and(|value| value == "1")).collect()
}

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
