//! Removes every trace of a container, in whatever state it is. Never stops at the first error.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::RwLock;

use super::OciRuntime;
use crate::cgroup::{ContainerCgroup, pause};
use crate::container::{CgroupParent, ContainerId};
use crate::error::DeleteError;
use crate::record::{ContainerDirectory, State};
use crate::shim::SHIM_COMMAND;

/// How long a shim may take to record the end of its container: it waits for the disk.
const RECORDING: Duration = Duration::from_secs(10);
/// How long killed processes may take to die, and cgroups to become empty.
const DYING: Duration = Duration::from_secs(10);
/// How often and how long a parent that somebody uses is waited for.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

pub(super) async fn delete(runtime: &OciRuntime, id: &ContainerId) -> Result<(), DeleteError> {
    let directory = runtime.directory(id);
    let hierarchies = runtime.hierarchies.clone();
    let parents = runtime.parents.clone();
    let name = id.clone();
    let removed = tokio::task::spawn_blocking(move || {
        if !directory.path().exists() {
            // A worker that was killed in the middle may have left the parent.
            remove_parents(&parents, &hierarchies.container(&CgroupParent::default(), &name));
            return Vec::new();
        }
        let parent = directory.read_request().map(|request| request.cgroup_parent);
        let cgroup = hierarchies.container(&parent.unwrap_or_default(), &name);
        let problems = remove(&directory, &cgroup);
        remove_parents(&parents, &cgroup);
        problems
    });
    let problems = removed.await.unwrap_or_else(|panic| vec![panic.to_string()]);
    runtime.forget_stats(id);
    if problems.is_empty() { Ok(()) } else { Err(DeleteError { id: id.clone(), problems }) }
}

/// Somebody creating a container needs the parent; whoever deletes that one removes it. Somebody deleting another one
/// is done in a moment, and may have found this one still there.
pub(super) fn remove_parents(parents: &RwLock<()>, cgroup: &ContainerCgroup) {
    for _ in 0..ATTEMPTS {
        if let Ok(_alone) = parents.try_write() {
            cgroup.remove_empty_parents();
            return;
        }
        pause(PAUSE);
    }
}

fn remove(directory: &ContainerDirectory, cgroup: &ContainerCgroup) -> Vec<String> {
    let mut problems = Vec::new();
    let state = directory.read_state();
    if let Some(state) = &state {
        end_processes(state, &mut problems);
    }
    if state.is_none_or(|state| state.init.is_none()) {
        kill_unrecorded(directory);
    }
    problems.extend(cgroup.kill_all(DYING).err());
    problems.extend(cgroup.remove(DYING));
    if !problems.is_empty() {
        // what is left must stay recognisable, so that the next attempt finds it
        return problems;
    }
    match fs::remove_dir_all(directory.path()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            problems.push(format!("cannot remove {}: {error}", directory.path().display()));
        }
        _ => {}
    }
    problems
}

/// Kills the container, whose other processes the kernel kills with the first, and lets the shim finish.
fn end_processes(state: &State, problems: &mut Vec<String>) {
    let init = state.init.and_then(|init| init.open());
    if let Some(Err(error)) = init.as_ref().map(|init| init.signal(Signal::KILL)) {
        problems.push(format!("cannot kill the container: {error}"));
    }
    let Some(shim) = state.shim.open() else { return };
    if state.init.is_none() || !shim.wait(RECORDING) {
        if let Err(error) = shim.signal(Signal::KILL) {
            problems.push(format!("cannot kill the shim: {error}"));
        }
        if !shim.wait(DYING) {
            problems.push("the shim does not die".to_owned());
        }
    }
    shim.reap();
}

/// Kills what a shim had begun when it was killed itself: libcontainer's helpers are forks of the shim and
/// still have its command line.
fn kill_unrecorded(directory: &ContainerDirectory) {
    let mut wanted = format!("\0{SHIM_COMMAND}\0").into_bytes();
    wanted.extend_from_slice(directory.path().as_os_str().as_bytes());
    wanted.push(0);
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.ends_with(&wanted)
            && let Some(pid) = Pid::from_raw(pid)
        {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}
