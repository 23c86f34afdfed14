//! The embedded engine: one shim per container, libcontainer inside.

mod adopt;
mod create;
mod delete;
mod exec;
mod observe;
mod stats;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::RwLock;

use crate::cgroup::Hierarchies;
use crate::container::{ContainerId, ContainerRequest, Signal};
use crate::error::{AdoptError, CreateError, DeleteError, SignalError, StatsError};
use crate::exec::{Exec, ExecError, ExecRequest};
use crate::exit::ExitObserver;
use crate::lease::BootMoment;
use crate::record::ContainerDirectory;
use crate::runtime::{Adopted, Runtime, Started, Stats};
use stats::StatsCache;

/// Where the engine keeps its things.
#[derive(Clone, Debug)]
pub struct OciConfig {
    /// One directory per container. On a file system that can hold the writable layer of overlayfs
    /// (ext4, xfs, btrfs, tmpfs; not another overlay).
    pub state_directory: PathBuf,
    /// Program that calls [`crate::shim_main`]; by default this program itself.
    pub shim: PathBuf,
    /// How long a container may take to start.
    pub start_timeout: Duration,
}

impl OciConfig {
    /// The usual: shims are this program, a start may take a minute.
    #[must_use]
    pub fn new(state_directory: PathBuf) -> Self {
        Self {
            state_directory,
            shim: PathBuf::from("/proc/self/exe"),
            start_timeout: Duration::from_secs(60),
        }
    }
}

/// Runs OCI containers without any other engine installed. Needs root, overlayfs and Linux 5.12.
///
/// Files of `<state directory>/<id>/`:
///
/// | file | written by | what |
/// |---|---|---|
/// | `request.json` | worker | the request, before anything else exists |
/// | `state.json` | shim | its process; with the container's process once that runs |
/// | `exit.json` | shim | how the container ended; the last thing written |
/// | `config.json`, `oci/` | shim | OCI configuration, files of libcontainer |
/// | `upper/`, `work/`, `l/` | kernel, shim | writable layer, links to the image's layers |
/// | `rootfs/` | shim | mount point; a mount only in the mount namespace of the shim |
/// | `volumes/` | shim | mount points of folders that outlive the container |
/// | `lease.sock` | shim | renewals of a container that may run only until some moment |
/// | `shim.log` | shim | errors of the shim and of libcontainer |
///
/// The worker may die between any two of these. No `state.json` of this boot with a living shim and no
/// `exit.json` means debris. The engine keeps nothing in memory that is not on disk.
#[derive(Clone, Debug)]
pub struct OciRuntime {
    config: Arc<OciConfig>,
    hierarchies: Hierarchies,
    /// Read-locked while a container is created, write-locked to remove cgroups that may be its parents.
    parents: Arc<RwLock<()>>,
    cache: Arc<Mutex<StatsCache>>,
}

impl OciRuntime {
    /// Prepares the engine; containers of an earlier worker are left alone until [`Runtime::adopt`].
    ///
    /// # Errors
    /// The state directory cannot be created or `/proc` not be read.
    pub fn open(config: OciConfig) -> io::Result<Self> {
        std::fs::create_dir_all(&config.state_directory)?;
        // links in the path would make the mount point unrecognisable for libcontainer
        let state_directory = config.state_directory.canonicalize()?;
        Ok(Self {
            config: Arc::new(OciConfig { state_directory, ..config }),
            hierarchies: Hierarchies::detect()?,
            parents: Arc::default(),
            cache: Arc::default(),
        })
    }

    fn directory(&self, id: &ContainerId) -> ContainerDirectory {
        ContainerDirectory::new(self.config.state_directory.join(id.as_str()))
    }
}

impl Runtime for OciRuntime {
    fn adopt(&self) -> BoxFuture<'_, Result<Vec<Adopted>, AdoptError>> {
        adopt::adopt(self).boxed()
    }

    fn create(
        &self,
        request: ContainerRequest,
    ) -> BoxFuture<'_, Result<(Started, ExitObserver), CreateError>> {
        create::create(self, request).boxed()
    }

    fn signal<'a>(&'a self, id: &'a ContainerId, signal: Signal) -> BoxFuture<'a, Result<(), SignalError>> {
        async move { self.send_signal(id, signal) }.boxed()
    }

    fn renew<'a>(&'a self, id: &'a ContainerId, until: BootMoment) -> BoxFuture<'a, Result<(), SignalError>> {
        let sent = crate::lease::renew(&self.directory(id), until);
        async move { sent.map_err(|source| SignalError::Send { id: id.clone(), source }) }.boxed()
    }

    fn exec<'a>(
        &'a self,
        id: &'a ContainerId,
        request: ExecRequest,
    ) -> BoxFuture<'a, Result<Exec, ExecError>> {
        exec::exec(self, id, request).boxed()
    }

    fn delete<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<(), DeleteError>> {
        delete::delete(self, id).boxed()
    }

    fn stats<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<Stats, StatsError>> {
        stats::stats(self, id).boxed()
    }
}

impl OciRuntime {
    fn send_signal(&self, id: &ContainerId, signal: Signal) -> Result<(), SignalError> {
        let init = self.directory(id).read_state().and_then(|state| state.init);
        let process = init.and_then(|init| init.open()).filter(|process| !process.has_ended());
        let Some(process) = process else {
            return Err(SignalError::NotRunning { id: id.clone() });
        };
        let sent = process.signal(signal.kernel());
        sent.map_err(|source| SignalError::Send { id: id.clone(), source })
    }
}
