//! Runs the containers of a worker.
//!
//! [`Runtime`] is what the worker needs from any engine; [`OciRuntime`] is the embedded engine. It must not
//! decide *what* runs (that is `oak-control`) and knows nothing of images beyond a list of layer directories.
//!
//! ```text
//!  worker ── create ──► OciRuntime ── exec ──► shim ── libcontainer ──► container
//!    ▲                      │ pidfd              │ stdout, stderr          │
//!    └──── ExitObserver ◄───┘                    └──► log, log.1           │
//!                                                └──► exit.json ◄── exits ─┘
//! ```
//!
//! libcontainer clones the calling process and goes on running Rust in the clone, which is only sound without
//! threads. So every container has its own single-threaded *shim*: the program itself, started again with
//! [`SHIM_COMMAND`] as first argument. The binary must call [`shim_main`] before it starts any thread.
//! A shim needs nothing from the worker once it reported: the worker may die, be upgraded and come back
//! ([`Runtime::adopt`]) while containers and their logs go on.
//!
//! Everything of a container is in `<state directory>/<id>/`; the files are described in [`OciRuntime`].
//! Its mounts exist only in the mount namespace of its shim, so the kernel removes them however the shim ends.

#![cfg(target_os = "linux")]

mod cgroup;
mod container;
mod error;
#[cfg(target_pointer_width = "64")]
mod exec;
mod exit;
mod footprint;
mod lease;
mod logs;
#[cfg(target_pointer_width = "64")]
mod oci;
mod process;
mod record;
mod runtime;
#[cfg(target_pointer_width = "64")]
mod seccomp;
#[cfg(target_pointer_width = "64")]
mod shim;
mod sys;

pub use container::{
    BindMount, CgroupParent, ContainerId, ContainerRequest, FolderMount, InvalidRequest, Limits, LogConfig,
    Signal,
};
pub use error::{AdoptError, CreateError, DeleteError, FailureKind, SignalError, StatsError};
#[cfg(target_pointer_width = "64")]
pub use exec::{
    Exec, ExecEnd, ExecError, ExecIo, ExecOutput, ExecRequest, ExecStatus, ExecStream, TerminalSize,
};
pub use exit::{ExitObserver, ExitStatus};
pub use footprint::{limit_heap, shrink_footprint};
pub use lease::{BootMoment, LEASE_GRACE};
pub use logs::{LogQuery, LogStream, log_tail, read_logs};
#[cfg(target_pointer_width = "64")]
pub use oci::{OciConfig, OciRuntime};
pub use runtime::{Adopted, AdoptedState, Runtime, Started, Stats};
#[cfg(target_pointer_width = "64")]
pub use shim::{SHIM_COMMAND, shim_main};
