//! Reads, empties and removes the cgroups of containers, version 1 and 2. Limits are applied by libcontainer;
//! it leaves the parent directory behind and knows nothing of out-of-memory kills, hence this module.
//!
//! Files: `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/` of the kernel.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::container::{CgroupParent, ContainerId};

const MOUNT: &str = "/sys/fs/cgroup";
/// Pause between attempts to empty or remove a cgroup: processes need a moment to die.
const RETRY: Duration = Duration::from_millis(2);

/// How the machine has its controllers mounted.
#[derive(Clone, Debug)]
pub(crate) enum Hierarchies {
    /// One tree with all controllers.
    Unified(PathBuf),
    /// A tree per controller or group of controllers: names and mount points.
    Legacy(Vec<(Vec<String>, PathBuf)>),
}

/// What a cgroup says about its use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    pub(crate) memory_bytes: u64,
    pub(crate) pids: u64,
}

impl Hierarchies {
    /// Looks at the mounts of this process. The same decision as libcontainer takes: unified if
    /// `/sys/fs/cgroup` is of version 2, else version 1 even if an empty version 2 tree is mounted below it.
    pub(crate) fn detect() -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        match Self::from_mounts(&mounts) {
            Self::Legacy(mounts) if mounts.is_empty() => Err(io::Error::other(
                "no cgroups are mounted below /sys/fs/cgroup (`ip netns exec` hides them: use `nsenter --net=`)",
            )),
            found => Ok(found),
        }
    }

    fn from_mounts(mounts: &str) -> Self {
        let mut legacy = Vec::new();
        let mut unified = false;
        for line in mounts.lines() {
            let Some((point, kind, super_options)) = parse_mount(line) else { continue };
            match kind {
                "cgroup2" => unified |= point == MOUNT,
                "cgroup" if Path::new(point).starts_with(MOUNT) => {
                    legacy.push((super_options.split(',').map(str::to_owned).collect(), point.into()));
                }
                _ => {}
            }
        }
        if unified { Self::Unified(MOUNT.into()) } else { Self::Legacy(legacy) }
    }

    /// The cgroups of one container.
    pub(crate) fn container(&self, parent: &CgroupParent, id: &ContainerId) -> ContainerCgroup {
        ContainerCgroup {
            hierarchies: self.clone(),
            parent: parent.as_str().into(),
            name: id.as_str().into(),
        }
    }

    fn roots(&self) -> Vec<&Path> {
        match self {
            Self::Unified(root) => vec![root],
            Self::Legacy(mounts) => mounts.iter().map(|(_, mount)| mount.as_path()).collect(),
        }
    }

    /// Whether a limit on swap can be set; on version 1 it is an option of the kernel.
    pub(crate) fn accounts_swap(&self) -> bool {
        match self {
            Self::Unified(_) => Path::new("/proc/swaps").exists(),
            Self::Legacy(_) => {
                self.legacy("memory").is_some_and(|mount| mount.join("memory.memsw.usage_in_bytes").exists())
            }
        }
    }

    /// Whether libcontainer can limit which devices are opened: version 2 would need a BPF program.
    pub(crate) fn limits_devices(&self) -> bool {
        self.legacy("devices").is_some()
    }

    /// Cgroups of a container that its programs look at to learn their limits, by controller; version 1 only.
    pub(crate) fn legacy_views(
        &self,
        parent: &CgroupParent,
        id: &ContainerId,
    ) -> Vec<(&'static str, PathBuf)> {
        let cgroup = self.container(parent, id);
        ["blkio", "cpu", "cpuacct", "cpuset", "memory", "pids"]
            .into_iter()
            .filter_map(|controller| Some((controller, cgroup.legacy(controller).ok()?)))
            .collect()
    }

    fn legacy(&self, controller: &str) -> Option<&Path> {
        let Self::Legacy(mounts) = self else { return None };
        mounts
            .iter()
            .find(|(controllers, _)| controllers.iter().any(|name| name == controller))
            .map(|(_, mount)| mount.as_path())
    }
}

/// Mount point, type and super block options of a line of `mountinfo` (proc_pid_mountinfo(5)).
fn parse_mount(line: &str) -> Option<(&str, &str, &str)> {
    let (left, right) = line.split_once(" - ")?;
    let point = left.split(' ').nth(4)?;
    let mut right = right.split(' ');
    let kind = right.next()?;
    Some((point, kind, right.nth(1).unwrap_or("")))
}

/// The cgroups of one container, existing or not.
#[derive(Clone, Debug)]
pub(crate) struct ContainerCgroup {
    hierarchies: Hierarchies,
    parent: PathBuf,
    name: PathBuf,
}

impl ContainerCgroup {
    fn directories(&self) -> Vec<PathBuf> {
        let roots = self.hierarchies.roots().into_iter();
        roots.map(|root| root.join(&self.parent).join(&self.name)).collect()
    }

    fn legacy(&self, controller: &str) -> io::Result<PathBuf> {
        let mount = self.hierarchies.legacy(controller).ok_or(io::ErrorKind::Unsupported)?;
        Ok(mount.join(&self.parent).join(&self.name))
    }

    /// The files into which a process writes `0` to join.
    pub(crate) fn open_doors(&self) -> io::Result<Vec<fs::File>> {
        let mut doors = Vec::new();
        for directory in self.directories() {
            // Version 1: a hierarchy in which libcontainer has made none for this container.
            if directory.is_dir() {
                doors.push(fs::File::options().write(true).open(directory.join("cgroup.procs"))?);
            }
        }
        Ok(doors)
    }

    /// How often the kernel killed one of its processes for lack of memory.
    pub(crate) fn out_of_memory_kills(&self) -> u64 {
        let (directory, file) = match &self.hierarchies {
            Hierarchies::Unified(root) => (root.join(&self.parent).join(&self.name), "memory.events"),
            Hierarchies::Legacy(_) => match self.legacy("memory") {
                Ok(directory) => (directory, "memory.oom_control"),
                Err(_) => return 0,
            },
        };
        let text = fs::read_to_string(directory.join(file)).unwrap_or_default();
        keyed(&text, "oom_kill").unwrap_or(0)
    }

    /// Reads the counters.
    pub(crate) fn usage(&self) -> io::Result<Usage> {
        match &self.hierarchies {
            Hierarchies::Unified(root) => {
                let directory = root.join(&self.parent).join(&self.name);
                let cpu = fs::read_to_string(directory.join("cpu.stat"))?;
                let statistics = fs::read_to_string(directory.join("memory.stat")).unwrap_or_default();
                let current = number(&directory.join("memory.current")).unwrap_or(0);
                let droppable = keyed(&statistics, "inactive_file").unwrap_or(0);
                Ok(Usage {
                    cpu: Duration::from_micros(keyed(&cpu, "usage_usec").unwrap_or(0)),
                    memory_bytes: current.saturating_sub(droppable),
                    pids: number(&directory.join("pids.current")).unwrap_or(0),
                })
            }
            Hierarchies::Legacy(_) => {
                let cpu = number(&self.legacy("cpuacct")?.join("cpuacct.usage"))?;
                let memory = self.legacy("memory")?;
                let statistics = fs::read_to_string(memory.join("memory.stat"))?;
                let droppable = keyed(&statistics, "total_inactive_file").unwrap_or(0);
                let used = number(&memory.join("memory.usage_in_bytes"))?;
                let pids = self.legacy("pids").and_then(|path| number(&path.join("pids.current")));
                Ok(Usage {
                    cpu: Duration::from_nanos(cpu),
                    memory_bytes: used.saturating_sub(droppable),
                    pids: pids.unwrap_or(0),
                })
            }
        }
    }

    /// Kills every process in it, again and again until there is none. Blocks up to `limit`.
    pub(crate) fn kill_all(&self, limit: Duration) -> Result<(), String> {
        let deadline = Instant::now() + limit;
        loop {
            let mut left = Vec::new();
            for directory in self.directories() {
                // one write instead of a race with forks; absent on version 1 and before Linux 5.14
                let _ = fs::write(directory.join("cgroup.kill"), "1");
                left.extend(processes_below(&directory, 0));
            }
            left.sort_unstable();
            left.dedup();
            if left.is_empty() {
                return Ok(());
            }
            for pid in &left {
                if let Some(pid) = Pid::from_raw(*pid) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            if Instant::now() >= deadline {
                return Err(format!("processes {left:?} do not die"));
            }
            pause(RETRY);
        }
    }

    /// Removes the cgroups, and those the container made below. Blocks up to `limit`.
    pub(crate) fn remove(&self, limit: Duration) -> Vec<String> {
        let deadline = Instant::now() + limit;
        let mut problems = Vec::new();
        for directory in self.directories() {
            while let Err(error) = remove_tree(&directory, 0) {
                if Instant::now() >= deadline {
                    problems.push(format!("cannot remove cgroup {}: {error}", directory.display()));
                    break;
                }
                pause(RETRY);
            }
        }
        problems
    }

    /// Removes the parent where it is empty, and its parents. Not while a container is being created.
    pub(crate) fn remove_empty_parents(&self) {
        for root in self.hierarchies.roots() {
            for parent in self.parent.ancestors().take_while(|part| !part.as_os_str().is_empty()) {
                if fs::remove_dir(root.join(parent)).is_err() {
                    break;
                }
            }
        }
    }
}

/// A container may nest cgroups; deeper than this it is not believed.
const DEPTH: u32 = 32;

fn processes_below(directory: &Path, depth: u32) -> Vec<i32> {
    let own = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<i32> = own.lines().filter_map(|line| line.parse().ok()).collect();
    if depth < DEPTH {
        for child in subdirectories(directory) {
            found.extend(processes_below(&child, depth + 1));
        }
    }
    found
}

fn remove_tree(directory: &Path, depth: u32) -> io::Result<()> {
    match fs::remove_dir(directory) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if depth >= DEPTH => return Err(error),
        Err(_) => {}
    }
    for child in subdirectories(directory) {
        remove_tree(&child, depth + 1)?;
    }
    fs::remove_dir(directory)
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn number(path: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The number after `key` in a file of `key number` lines.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[allow(
    clippy::disallowed_methods,
    reason = "bounded retry on a blocking thread; cgroups offer no event for this"
)]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEGACY: &str = "\
24 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
25 24 0:23 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
26 24 0:24 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
27 24 0:25 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";

    #[test]
    fn controllers_mounted_together_are_found_by_either_name() {
        let hierarchies = Hierarchies::from_mounts(LEGACY);
        let both = Some(Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(hierarchies.legacy("cpu"), both);
        assert_eq!(hierarchies.legacy("cpuacct"), both);
        assert_eq!(hierarchies.legacy("memory"), Some(Path::new("/sys/fs/cgroup/memory")));
        assert_eq!(hierarchies.legacy("pids"), None);
    }

    #[test]
    fn version_two_counts_only_at_the_top() {
        assert!(matches!(Hierarchies::from_mounts(LEGACY), Hierarchies::Legacy(_)));
        let unified = "25 1 0:23 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate";
        assert!(matches!(Hierarchies::from_mounts(unified), Hierarchies::Unified(_)));
    }

    #[test]
    fn keyed_numbers_are_not_confused_by_longer_keys() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(keyed(text, "oom_kill"), Some(3));
        assert_eq!(keyed(text, "oom"), None);
    }
}
