//! The small trait every container engine implements.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::container::{ContainerId, ContainerRequest, Signal};
use crate::error::{AdoptError, CreateError, DeleteError, SignalError, StatsError};
#[cfg(target_pointer_width = "64")]
use crate::exec::{Exec, ExecError, ExecRequest};
use crate::exit::{ExitObserver, ExitStatus};
use crate::lease::BootMoment;

/// A container that was found when the worker started.
#[derive(Debug)]
pub struct Adopted {
    /// Its name.
    pub id: ContainerId,
    /// Labels of the request; empty for debris whose request cannot be read.
    pub labels: BTreeMap<String, String>,
    /// What is left of it.
    pub state: AdoptedState,
}

/// What a found container is.
#[derive(Debug)]
pub enum AdoptedState {
    /// It runs undisturbed.
    Running {
        /// First process, in the process namespace of the worker.
        pid: u32,
        /// Resolves when it ends.
        observer: ExitObserver,
    },
    /// It ended while nobody watched.
    Exited(ExitStatus),
    /// Half-created, orphaned or from before a reboot: nothing can be done but [`Runtime::delete`].
    Debris,
}

/// Facts of a container that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// First process, in the process namespace of the worker.
    pub pid: u32,
}

/// What a container uses at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processor time used since the start, all processors together.
    pub cpu: Duration,
    /// Memory in bytes without file pages that can be dropped at once.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes on disk that the container wrote to its own root; at most 30 s old (4 s in a container with
    /// such a limit, unless counting takes long), `None` if not known.
    pub disk_bytes: Option<u64>,
}

/// A container engine. Object safe: the worker holds an `Arc<dyn Runtime>`.
///
/// All futures may be dropped; what they started is then finished in the background or left for `delete`.
pub trait Runtime: Send + Sync {
    /// Lists the containers that exist, running or not. Called once, before anything else.
    fn adopt(&self) -> BoxFuture<'_, Result<Vec<Adopted>, AdoptError>>;

    /// Creates and starts a container; resolves when its program was executed or could not be.
    /// After an error nothing is left behind, except for `AlreadyExists`, which touches nothing.
    fn create(
        &self,
        request: ContainerRequest,
    ) -> BoxFuture<'_, Result<(Started, ExitObserver), CreateError>>;

    /// Sends a signal to the first process of a container.
    fn signal<'a>(&'a self, id: &'a ContainerId, signal: Signal) -> BoxFuture<'a, Result<(), SignalError>>;

    /// Moves the moment on at which a container with [`ContainerRequest::run_until`] is ended.
    fn renew<'a>(&'a self, id: &'a ContainerId, until: BootMoment) -> BoxFuture<'a, Result<(), SignalError>>;

    /// Runs another program in a running container; resolves when it was executed or could not be.
    #[cfg(target_pointer_width = "64")]
    fn exec<'a>(
        &'a self,
        id: &'a ContainerId,
        request: ExecRequest,
    ) -> BoxFuture<'a, Result<Exec, ExecError>>;

    /// Kills everything of a container, waits for it and removes every trace but its logs.
    /// A container that does not exist is deleted successfully.
    fn delete<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<(), DeleteError>>;

    /// Measures a running container.
    fn stats<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<Stats, StatsError>>;
}
