//! Waits for shims without polling.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

use crate::exit::{ExitObserver, ExitStatus};
use crate::process::{ProcessHandle, reap};
use crate::record::ContainerDirectory;
use crate::sys::watch_readable;

/// The end of a process as an event.
#[derive(Debug)]
pub(super) struct ProcessEnd(AsyncFd<OwnedFd>);

impl ProcessEnd {
    pub(super) fn of(process: ProcessHandle) -> io::Result<Self> {
        Ok(Self(watch_readable(process.into_fd())?))
    }

    /// Resolves when the process has ended, at once if it had before.
    pub(super) async fn reached(&self) {
        // an error here means that the tokio runtime is shutting down: then nobody will ask again
        if self.0.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Removes the process from the process table once it has ended.
    pub(super) fn reap(&self) {
        reap(self.0.get_ref());
    }
}

/// The end of a container as its shim recorded it.
pub(super) fn observe(shim: ProcessEnd, directory: ContainerDirectory) -> ExitObserver {
    ExitObserver::new(async move {
        shim.reached().await;
        shim.reap();
        // a small file that was just written: not worth a thread
        match directory.read_exit() {
            Some(status) => status,
            // deleted, which kills, before anybody asked
            None if !directory.path().exists() => {
                ExitStatus { signal: Some(libc::SIGKILL), ..ExitStatus::unknown() }
            }
            None => ExitStatus::unknown(),
        }
    })
}
