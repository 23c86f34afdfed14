//! What a caller asks for: the description of one container, checked at the edge.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::lease::BootMoment;

/// Longest [`ContainerId`] in bytes.
const ID_BYTES: usize = 64;
/// Overlayfs accepts at most this many lower directories.
const LAYERS: usize = 500;
/// Bound of the strings of one request (arguments, environment, labels …), as for `execve`.
const TEXT_BYTES: usize = 1 << 20;
/// Bound of device nodes of one container.
const DEVICES: usize = 512;
/// Bound of bind mounts of one container.
const MOUNTS: usize = 256;

/// A request that cannot be carried out as it stands.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field} {problem}")]
pub struct InvalidRequest {
    /// Field of the request.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl InvalidRequest {
    fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self { field, problem: problem.into() }
    }
}

/// Name of a container: 1–64 characters `A-Z a-z 0-9 _ . -`, starting with a letter or digit.
///
/// It names a directory and a cgroup, therefore the narrow alphabet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(Box<str>);

impl ContainerId {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ContainerId {
    type Error = InvalidRequest;

    fn try_from(text: String) -> Result<Self, InvalidRequest> {
        if !is_plain_name(&text) || text.len() > ID_BYTES {
            return Err(InvalidRequest::new(
                "id",
                "must be 1-64 of A-Z a-z 0-9 _ . - and start with a letter or digit",
            ));
        }
        Ok(Self(text.into()))
    }
}

impl FromStr for ContainerId {
    type Err = InvalidRequest;

    fn from_str(text: &str) -> Result<Self, InvalidRequest> {
        Self::try_from(text.to_owned())
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0.into()
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Cgroup below which containers get theirs, relative to the top of each hierarchy: `oak` or `oak/worker-1`.
///
/// The top and not the cgroup of the worker: a service manager that stops or restarts the worker's own
/// cgroup must not take the containers with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CgroupParent(Box<str>);

impl CgroupParent {
    /// The path as text, without leading slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for CgroupParent {
    fn default() -> Self {
        Self("oak".into())
    }
}

impl TryFrom<String> for CgroupParent {
    type Error = InvalidRequest;

    fn try_from(text: String) -> Result<Self, InvalidRequest> {
        let parts = text.trim_start_matches('/');
        let depth = parts.split('/').count();
        if depth > 4 || parts.len() > 200 || !parts.split('/').all(is_plain_name) {
            return Err(InvalidRequest::new(
                "cgroup_parent",
                "must be one to four plain names separated by /",
            ));
        }
        Ok(Self(parts.into()))
    }
}

impl FromStr for CgroupParent {
    type Err = InvalidRequest;

    fn from_str(text: &str) -> Result<Self, InvalidRequest> {
        Self::try_from(text.to_owned())
    }
}

impl From<CgroupParent> for String {
    fn from(parent: CgroupParent) -> Self {
        parent.0.into()
    }
}

fn is_plain_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// A signal by number (1–31) as the kernel of this machine counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub struct Signal(rustix::process::Signal);

impl Signal {
    /// Asks a process to end.
    pub const TERM: Self = Self(rustix::process::Signal::TERM);
    /// Ends a process at once.
    pub const KILL: Self = Self(rustix::process::Signal::KILL);
    /// Interrupt, as from a terminal.
    pub const INT: Self = Self(rustix::process::Signal::INT);
    /// Hang-up, by custom "read your configuration again".
    pub const HUP: Self = Self(rustix::process::Signal::HUP);

    const NAMES: [(&'static str, Self); 9] = [
        ("TERM", Self::TERM),
        ("KILL", Self::KILL),
        ("INT", Self::INT),
        ("HUP", Self::HUP),
        ("QUIT", Self(rustix::process::Signal::QUIT)),
        ("USR1", Self(rustix::process::Signal::USR1)),
        ("USR2", Self(rustix::process::Signal::USR2)),
        ("STOP", Self(rustix::process::Signal::STOP)),
        ("WINCH", Self(rustix::process::Signal::WINCH)),
    ];

    pub(crate) fn kernel(self) -> rustix::process::Signal {
        self.0
    }
}

impl Default for Signal {
    fn default() -> Self {
        Self::TERM
    }
}

impl TryFrom<i32> for Signal {
    type Error = InvalidRequest;

    fn try_from(number: i32) -> Result<Self, InvalidRequest> {
        rustix::process::Signal::from_named_raw(number)
            .map(Self)
            .ok_or_else(|| InvalidRequest::new("signal", format!("{number} does not exist")))
    }
}

impl From<Signal> for i32 {
    fn from(signal: Signal) -> Self {
        signal.0.as_raw()
    }
}

/// Reads `15`, `TERM` and `SIGTERM`, as images write their stop signal.
impl FromStr for Signal {
    type Err = InvalidRequest;

    fn from_str(text: &str) -> Result<Self, InvalidRequest> {
        if let Ok(number) = text.parse::<i32>() {
            return Self::try_from(number);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        Self::NAMES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, signal)| *signal)
            .ok_or_else(|| InvalidRequest::new("signal", "is not a name or number known here"))
    }
}

/// What a container may use at most; `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in bytes, swap included: there is no swap beyond it.
    pub memory_bytes: Option<u64>,
    /// Thousandths of one processor, enforced per period of 100 ms; below 10 counts as 10.
    pub cpu_millis: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Bytes written to its own root. Not enforced by the runtime: [`crate::Runtime::stats`] looks more often.
    #[serde(default)]
    pub storage_bytes: Option<u64>,
}

/// A folder of the host that outlives the container, shown inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderMount {
    /// Absolute path of the place of all such folders; made if missing.
    pub root: PathBuf,
    /// The folder below it: a relative path that goes only down. No link in it is followed, whoever put it there. Made
    /// if missing, for the user of the container.
    pub folder: PathBuf,
    /// Absolute path in the container; created if missing.
    pub target: PathBuf,
}

/// A file or directory of the host shown inside the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindMount {
    /// Absolute path on the host; must exist.
    pub source: PathBuf,
    /// Absolute path in the container; created if missing, links in the image do not lead outside.
    pub target: PathBuf,
    /// Whether the container cannot write to it.
    pub read_only: bool,
}

/// Where stdout and stderr go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// Directory of `log` and `log.1`, created if missing. Deleting the container keeps it, and a
    /// container created again with the same directory goes on writing there.
    pub directory: PathBuf,
    /// Size in bytes at which `log` becomes `log.1`; at least 4096 is used.
    pub max_bytes: u64,
}

impl LogConfig {
    /// The usual 10 MiB per file in `directory`.
    #[must_use]
    pub fn in_directory(directory: PathBuf) -> Self {
        Self { directory, max_bytes: 10 << 20 }
    }
}

/// One container to create.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerRequest {
    /// Name; one container per name and state directory.
    pub id: ContainerId,
    /// Free facts of the caller, returned by [`crate::Runtime::adopt`].
    pub labels: BTreeMap<String, String>,
    /// Unpacked layers as absolute paths, lowest first; at least one.
    pub layers: Vec<PathBuf>,
    /// Program and its arguments; the program is looked up in `PATH` of `environment`.
    pub args: Vec<String>,
    /// `NAME=value` entries; of doubled names the last counts.
    pub environment: Vec<String>,
    /// Absolute path in the container, created if missing; `/` if empty.
    pub working_directory: PathBuf,
    /// ``, `uid`, `uid:gid`, `name`, `name:group` … as in images; empty is root.
    pub user: String,
    /// Host name inside; empty takes the id.
    pub hostname: String,
    /// Path of a network namespace to join; `None` is a new one with nothing but an unconfigured loopback.
    pub network_namespace: Option<PathBuf>,
    /// Upper bounds.
    pub limits: Limits,
    /// Host paths to show inside.
    pub mounts: Vec<BindMount>,
    /// Folders to show inside, mounted before `mounts`.
    #[serde(default)]
    pub folders: Vec<FolderMount>,
    /// Whether the container gets all capabilities and devices, writable `/sys` and no system call filter.
    pub privileged: bool,
    /// Device nodes of the host that a container without privileges gets, at the same path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<PathBuf>,
    /// What asks this program to stop; kept for the caller, the runtime sends nothing by itself.
    pub stop_signal: Signal,
    /// Where output goes.
    pub log: LogConfig,
    /// Cgroup of all containers of this worker.
    pub cgroup_parent: CgroupParent,
    /// The shim ends the container then, unless [`crate::Runtime::renew`] moved the moment on; `None`: never.
    #[serde(default)]
    pub run_until: Option<BootMoment>,
    /// File of the host with more `NAME=value` entries, each ended by a NUL, stronger than those of `environment`. Read
    /// once, at the start; what is in it is written down nowhere.
    #[serde(default)]
    pub environment_file: Option<PathBuf>,
    /// Files of the host that are given to the user of the container before it starts.
    #[serde(default)]
    pub files_for_user: Vec<PathBuf>,
}

impl ContainerRequest {
    /// A container with defaults for everything but its name, layers, program and log directory.
    #[must_use]
    pub fn new(id: ContainerId, layers: Vec<PathBuf>, args: Vec<String>, log: LogConfig) -> Self {
        Self {
            id,
            labels: BTreeMap::new(),
            layers,
            args,
            environment: Vec::new(),
            working_directory: PathBuf::from("/"),
            user: String::new(),
            hostname: String::new(),
            network_namespace: None,
            limits: Limits::default(),
            mounts: Vec::new(),
            folders: Vec::new(),
            privileged: false,
            devices: Vec::new(),
            stop_signal: Signal::TERM,
            log,
            cgroup_parent: CgroupParent::default(),
            run_until: None,
            environment_file: None,
            files_for_user: Vec::new(),
        }
    }

    /// Checks what can be judged without looking at the machine.
    ///
    /// # Errors
    /// The first field that cannot be right.
    pub fn check(&self) -> Result<(), InvalidRequest> {
        if self.layers.is_empty() || self.layers.len() > LAYERS {
            return Err(InvalidRequest::new("layers", format!("must be 1 to {LAYERS}")));
        }
        if self.args.first().is_none_or(String::is_empty) {
            return Err(InvalidRequest::new("args", "name no program"));
        }
        if self.files_for_user.len() > MOUNTS {
            return Err(InvalidRequest::new("files_for_user", format!("are more than {MOUNTS}")));
        }
        if self.mounts.len() + self.folders.len() > MOUNTS {
            return Err(InvalidRequest::new("mounts", format!("are more than {MOUNTS}")));
        }
        if self.devices.len() > DEVICES || !self.devices.iter().all(|path| path.starts_with("/dev")) {
            return Err(InvalidRequest::new("devices", format!("must be at most {DEVICES}, all below /dev")));
        }
        if self.hostname.len() > 63 {
            return Err(InvalidRequest::new("hostname", "is longer than 63 bytes"));
        }
        self.check_texts()?;
        self.check_paths()
    }

    fn check_texts(&self) -> Result<(), InvalidRequest> {
        let labels = self.labels.iter().flat_map(|(name, value)| [name, value]);
        let all = self.args.iter().chain(&self.environment).chain(labels);
        let mut bytes = 0_usize;
        for text in all.chain([&self.user, &self.hostname]) {
            if text.contains('\0') {
                return Err(InvalidRequest::new("request", "contains a NUL byte"));
            }
            bytes = bytes.saturating_add(text.len());
        }
        if bytes > TEXT_BYTES {
            return Err(InvalidRequest::new("request", "has more than 1 MiB of text"));
        }
        match self.environment.iter().find(|entry| !entry.contains('=') || entry.starts_with('=')) {
            Some(entry) => {
                let name: String = entry.chars().take(40).collect();
                Err(InvalidRequest::new("environment", format!("entry {name:?} is not NAME=value")))
            }
            None => Ok(()),
        }
    }

    fn check_paths(&self) -> Result<(), InvalidRequest> {
        let mounts = self.mounts.iter();
        let host = mounts.clone().map(|mount| ("mounts.source", mount.source.as_path()));
        let host = host.chain(self.layers.iter().map(|layer| ("layers", layer.as_path())));
        let host =
            host.chain(self.network_namespace.iter().map(|path| ("network_namespace", path.as_path())));
        let host = host.chain([("log.directory", self.log.directory.as_path())]);
        let host = host.chain(self.folders.iter().map(|folder| ("folders.root", folder.root.as_path())));
        let host = host.chain(self.environment_file.iter().map(|path| ("environment_file", path.as_path())));
        let host = host.chain(self.files_for_user.iter().map(|path| ("files_for_user", path.as_path())));
        for (field, path) in host {
            check_path(field, path)?;
        }
        let targets = mounts.map(|mount| &mount.target);
        for target in targets.chain(self.folders.iter().map(|folder| &folder.target)) {
            check_path("mounts.target", target)?;
            if target.components().any(|part| part == Component::ParentDir) || target == Path::new("/") {
                return Err(InvalidRequest::new("mounts.target", "must be below / and without .."));
            }
        }
        for FolderMount { folder, .. } in &self.folders {
            let goes_down = folder.components().all(|part| matches!(part, Component::Normal(_)));
            if !goes_down || folder.as_os_str().is_empty() {
                return Err(InvalidRequest::new("folders.folder", "must be relative and only go down"));
            }
        }
        if self.working_directory.as_os_str().is_empty() {
            return Ok(());
        }
        check_path("working_directory", &self.working_directory)
    }
}

fn check_path(field: &'static str, path: &Path) -> Result<(), InvalidRequest> {
    let text = path.to_str().ok_or_else(|| InvalidRequest::new(field, "is not UTF-8"))?;
    if !path.is_absolute() || text.len() > 4000 || text.contains('\0') {
        return Err(InvalidRequest::new(field, format!("{text:?} is not an absolute path")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_name_a_directory_and_nothing_else() {
        for good in ["a", "web-1.app_2", "0"] {
            assert!(good.parse::<ContainerId>().is_ok(), "{good}");
        }
        let long = "x".repeat(65);
        for bad in ["", ".", "..", "-a", "a/b", "a b", "ä", long.as_str()] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn cgroup_parents_cannot_climb() {
        assert_eq!("/oak/w1".parse::<CgroupParent>().map(String::from), Ok("oak/w1".to_owned()));
        for bad in ["", "/", "..", "oak/..", "oak//x", "a/b/c/d/e"] {
            assert!(bad.parse::<CgroupParent>().is_err(), "{bad}");
        }
    }

    #[test]
    fn signals_are_read_by_name_and_number() {
        assert_eq!("SIGTERM".parse(), Ok(Signal::TERM));
        assert_eq!("kill".parse(), Ok(Signal::KILL));
        assert_eq!("15".parse(), Ok(Signal::TERM));
        assert!("99".parse::<Signal>().is_err());
        assert!("SIGNOPE".parse::<Signal>().is_err());
    }

    #[test]
    fn requests_with_relative_paths_or_nul_are_refused() {
        let request = |layer: &str, arg: &str| {
            let id = "a".parse().unwrap();
            let log = LogConfig::in_directory("/log".into());
            ContainerRequest::new(id, vec![layer.into()], vec![arg.into()], log)
        };
        assert_eq!(request("/layer", "sh").check(), Ok(()));
        assert!(request("layer", "sh").check().is_err());
        assert!(request("/layer", "s\0h").check().is_err());
        assert!(request("/layer", "").check().is_err());
        let mut climbing = request("/layer", "sh");
        climbing.mounts =
            vec![BindMount { source: "/tmp".into(), target: "/a/../..".into(), read_only: true }];
        assert!(climbing.check().is_err());
    }
}
