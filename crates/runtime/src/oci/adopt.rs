//! Finds the containers of an earlier worker.

use std::fs;
use std::io;
use std::path::Path;

use super::OciRuntime;
use super::observe::{ProcessEnd, observe};
use crate::container::{CgroupParent, ContainerId};
use crate::error::AdoptError;
use crate::exit::ExitStatus;
use crate::process::ProcessHandle;
use crate::record::ContainerDirectory;
use crate::runtime::{Adopted, AdoptedState};

pub(super) async fn adopt(runtime: &OciRuntime) -> Result<Vec<Adopted>, AdoptError> {
    let config = runtime.config.clone();
    let failed = |source| AdoptError { directory: config.state_directory.clone(), source };
    let place = config.state_directory.clone();
    let found = tokio::task::spawn_blocking(move || find_all(&place)).await;
    let found = found.map_err(|panic| failed(io::Error::other(panic)))?.map_err(failed)?;
    if found.is_empty()
        && let Ok(nobody) = "none".parse()
    {
        // A worker that was killed after its last container was removed may have left the parent of all.
        let parent = runtime.hierarchies.container(&CgroupParent::default(), &nobody);
        super::delete::remove_parents(&runtime.parents, &parent);
    }
    Ok(found.into_iter().map(|(id, directory, remains)| adopted(id, directory, remains)).collect())
}

enum Remains {
    Running { pid: u32, shim: ProcessHandle },
    Exited(ExitStatus),
    Debris,
}

fn find_all(place: &Path) -> io::Result<Vec<(ContainerId, ContainerDirectory, Remains)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(place)? {
        let name = entry?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<ContainerId>().ok()) else {
            tracing::warn!(?name, "ignoring an entry of the state directory that is no container");
            continue;
        };
        let directory = ContainerDirectory::new(place.join(id.as_str()));
        let remains = examine(&directory);
        found.push((id, directory, remains));
    }
    Ok(found)
}

fn examine(directory: &ContainerDirectory) -> Remains {
    // written just before the shim ends: one that still lives has nothing more to say
    if let Some(status) = directory.read_exit() {
        return Remains::Exited(status);
    }
    let state = directory.read_state();
    if let Some(state) = state
        && let Some(init) = state.init
        && let Some(shim) = state.shim.open()
        && !shim.has_ended()
    {
        return Remains::Running { pid: init.pid, shim };
    }
    // it may have ended since the first look
    match directory.read_exit() {
        Some(status) => Remains::Exited(status),
        None => Remains::Debris,
    }
}

fn adopted(id: ContainerId, directory: ContainerDirectory, remains: Remains) -> Adopted {
    let labels = directory.read_request().map(|request| request.labels).unwrap_or_default();
    let state = match remains {
        Remains::Running { pid, shim } => match ProcessEnd::of(shim) {
            Ok(end) => AdoptedState::Running { pid, observer: observe(end, directory) },
            Err(error) => {
                tracing::warn!(container = %id, %error, "cannot watch a running container");
                AdoptedState::Debris
            }
        },
        Remains::Exited(status) => AdoptedState::Exited(status),
        Remains::Debris => AdoptedState::Debris,
    };
    Adopted { id, labels, state }
}
