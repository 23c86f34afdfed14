//! Processes named in a way that survives the reuse of process ids.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, waitid};
use serde::{Deserialize, Serialize};

/// A process by id and start time in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessRef {
    /// Process id in the namespace of the worker.
    pub(crate) pid: u32,
    /// When it started.
    pub(crate) start_time: u64,
}

impl ProcessRef {
    /// Names a process that exists now.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let start_time = start_time(pid)?;
        Ok(Self { pid, start_time })
    }

    /// Opens exactly this process; `None` if it is gone. A dead process that nobody waited for can be opened.
    pub(crate) fn open(self) -> Option<ProcessHandle> {
        let raw = i32::try_from(self.pid).ok()?;
        let handle = pidfd_open(Pid::from_raw(raw)?, PidfdFlags::empty()).ok()?;
        // asked after opening: the handle keeps the id from meaning another process than the one seen here
        (start_time(self.pid).ok()? == self.start_time).then_some(ProcessHandle(handle))
    }
}

/// A process file descriptor.
#[derive(Debug)]
pub(crate) struct ProcessHandle(OwnedFd);

impl ProcessHandle {
    /// Opens a child or other process whose id cannot have been reused.
    pub(crate) fn of_pid(pid: u32) -> io::Result<Self> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = raw.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self(pidfd_open(pid, PidfdFlags::empty())?))
    }

    /// Sends a signal; a process that has ended is not an error.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.0, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.wait(Duration::ZERO)
    }

    /// Waits for its end; false if it takes longer than `limit`.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        let limit = Timespec::try_from(limit).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        let mut events = [PollFd::new(&self.0, PollFlags::IN)];
        matches!(poll(&mut events, Some(&limit)), Ok(ready) if ready > 0)
    }

    /// See [`reap`].
    pub(crate) fn reap(&self) {
        reap(&self.0);
    }

    /// The descriptor, readable once the process has ended.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0
    }
}

/// Removes a dead process from the process table if it is our child; otherwise its parent does.
pub(crate) fn reap(process: &OwnedFd) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    // ECHILD: not ours (adopted after a restart of the worker) or waited for already
    let _ = waitid(WaitId::PidFd(process.as_fd()), options);
}

impl AsFd for ProcessHandle {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Identity of this boot; process ids and start times mean nothing in another.
pub(crate) fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

fn start_time(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_start_time(&stat).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The name, field 2, may contain spaces and parentheses: count from the last one.
fn parse_start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_start_time() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 12345 9 9";
        assert_eq!(parse_start_time(stat), Some(12345));
        assert_eq!(parse_start_time("7 (a"), None);
    }

    #[test]
    fn a_process_with_another_start_time_is_not_opened() {
        let own = ProcessRef::of(std::process::id()).unwrap();
        assert!(own.open().is_some());
        let earlier = ProcessRef { start_time: own.start_time.wrapping_sub(1), ..own };
        assert!(earlier.open().is_none());
    }
}
