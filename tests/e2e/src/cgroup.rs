//! The cgroups of a played machine and its containers, seen from the real one; versions 1 and 2.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::{Host, pause};

const PREFIX: &str = "oak-e2e-";

/// Mount points of all hierarchies.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let point = |line: &str| {
        let mut fields = line.split(' ');
        let point = fields.nth(1)?;
        matches!(fields.next()?, "cgroup" | "cgroup2").then(|| PathBuf::from(point))
    };
    mounts.lines().filter_map(point).collect()
}

/// The hierarchy that has a controller: of version 1, else that of version 2.
fn hierarchy_with(controller: &str) -> anyhow::Result<PathBuf> {
    let all = hierarchies();
    let has = |point: &&PathBuf| {
        let name = point.file_name().unwrap_or_default().to_string_lossy();
        name.split(',').any(|part| part == controller)
    };
    let unified = all.iter().find(|point| is_version_2(point));
    all.iter().find(has).or(unified).cloned().context("no cgroups are mounted")
}

fn is_version_2(point: &Path) -> bool {
    point.join("cgroup.controllers").exists()
}

/// Name of the cgroup of a new machine. It tells whose it is, so that leftovers of a killed test can be recognised.
pub(crate) fn host_group(name: &str) -> String {
    format!("{PREFIX}{}-{name}", std::process::id())
}

/// Moves the process that waits for a machine to where its first process is: with version 2 a group with processes gives
/// no controllers to those below it.
pub(crate) fn clear_root(group: &str, process: u32) -> anyhow::Result<()> {
    let files = hierarchies().into_iter().map(|point| point.join(group).join("system/cgroup.procs"));
    // Machines with version 1 have no such group, though it may be mounted beside.
    for file in files.filter(|file| file.exists()) {
        fs::write(&file, process.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Removes what killed tests left.
pub(crate) fn remove_leftovers() {
    for hierarchy in hierarchies() {
        for entry in fs::read_dir(hierarchy).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(owner) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()) else {
                continue;
            };
            if !Path::new("/proc").join(owner).exists() {
                remove_tree(&entry.path());
            }
        }
    }
}

/// Removes the cgroups of a machine whose processes have ended.
pub(crate) fn remove(group: &str) {
    for hierarchy in hierarchies() {
        let path = hierarchy.join(group);
        let deadline = Instant::now() + Duration::from_secs(5);
        while path.exists() && !remove_tree(&path) && Instant::now() < deadline {
            pause();
        }
    }
}

fn remove_tree(path: &Path) -> bool {
    for child in children(path) {
        remove_tree(&child);
    }
    fs::remove_dir(path).is_ok()
}

fn children(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Paths of all cgroups of a machine below its own, relative to it.
pub(crate) fn all_below(host: &Host) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for hierarchy in hierarchies() {
        let root = hierarchy.join(host.cgroup());
        let mut open = children(&root);
        while let Some(path) = open.pop() {
            open.extend(children(&path));
            found.extend(path.strip_prefix(&root).map(|path| path.display().to_string()));
        }
    }
    found
}

/// Names of the containers of a machine that have at least one process.
///
/// # Errors
/// No cgroups are mounted.
pub fn container_cgroups(host: &Host) -> anyhow::Result<BTreeSet<String>> {
    let parent = hierarchy_with("pids")?.join(host.cgroup()).join("oak");
    let names = children(&parent).into_iter().filter(|path| !processes_in(path).is_empty());
    Ok(names.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
}

/// Containers of a machine that have at least one process, and their process ids, seen from the real machine.
///
/// # Errors
/// No cgroups are mounted.
pub fn containers(host: &Host) -> anyhow::Result<BTreeMap<String, BTreeSet<i32>>> {
    let parent = hierarchy_with("pids")?.join(host.cgroup()).join("oak");
    let all = children(&parent).into_iter().filter_map(|path| {
        let name = path.file_name()?.to_string_lossy().into_owned();
        Some((name, processes_in(&path))).filter(|(_, processes)| !processes.is_empty())
    });
    Ok(all.collect())
}

/// Process ids of a container, seen from the real machine.
///
/// # Errors
/// No cgroups are mounted.
pub fn processes_of(host: &Host, container: &str) -> anyhow::Result<BTreeSet<i32>> {
    Ok(processes_in(&hierarchy_with("pids")?.join(host.cgroup()).join("oak").join(container)))
}

fn processes_in(path: &Path) -> BTreeSet<i32> {
    let own = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    let mut found: BTreeSet<i32> = own.lines().filter_map(|line| line.parse().ok()).collect();
    for child in children(path) {
        found.extend(processes_in(&child));
    }
    found
}

/// Gives a machine precedence over everything else on the real one, for measuring what its own limits allow.
///
/// # Errors
/// The kernel does not take it.
pub fn favour(host: &Host) -> anyhow::Result<()> {
    let group = hierarchy_with("cpu")?.join(host.cgroup());
    // The largest values there are (version 1, version 2).
    let (file, value) = if is_version_2(&group) { ("cpu.weight", "10000") } else { ("cpu.shares", "262144") };
    let path = group.join(file);
    fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))
}

/// Processor time a container has used.
///
/// # Errors
/// It has no cgroup.
pub fn cpu_time(host: &Host, container: &str) -> anyhow::Result<Duration> {
    let group = |controller| {
        Ok::<_, anyhow::Error>(hierarchy_with(controller)?.join(host.cgroup()).join("oak").join(container))
    };
    let legacy = group("cpuacct")?.join("cpuacct.usage");
    if let Ok(text) = fs::read_to_string(&legacy) {
        return Ok(Duration::from_nanos(text.trim().parse()?));
    }
    let path = group("cpu")?.join("cpu.stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let used = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
    Ok(Duration::from_micros(used.context("no usage in cpu.stat")?.trim().parse()?))
}
