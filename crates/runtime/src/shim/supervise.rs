//! What a shim does for the rest of its life: copy output, wait, record the end.

use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus, waitpid};

use crate::cgroup::ContainerCgroup;
use crate::exit::ExitStatus;
use crate::footprint;
use crate::lease::Lease;
use crate::logs::{LogStream, LogWriter};
use crate::process::ProcessHandle;
use crate::record::{ContainerDirectory, reserve_json, write_reserved_json};

/// How long a line may lack its end before what there is of it goes to the log.
const PENDING_LINE: Duration = Duration::from_millis(500);
/// How often it is tried to say in the log that output was lost, while nothing else is written.
const LOSS_REPORT: Duration = Duration::from_secs(10);
/// Read at once from the container; a pipe holds 64 KiB.
const BLOCK: usize = 32 << 10;
/// Blocks read after the end, at most: descriptors may have been passed to processes that live on and write.
const LAST_BLOCKS: usize = 64;

/// A running container.
#[derive(Debug)]
pub(super) struct Started {
    /// First process.
    pub(super) pid: u32,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    pub(super) log: LogWriter,
    pub(super) cgroup: ContainerCgroup,
    /// Until when it may run, if not for ever.
    pub(super) lease: Option<Lease>,
}

/// Copies output until the container ends and leaves `exit.json`.
pub(super) fn until_exit(started: Started, directory: &ContainerDirectory) -> ExitCode {
    let Started { pid, stdout, stderr, mut log, cgroup, mut lease } = started;
    // The end must be recorded on a full disk, too: without the record a task that is done would be done again.
    reserve_json(&directory.exit());
    footprint::shrink_alone();
    let status = match ProcessHandle::of_pid(pid) {
        Ok(handle) => {
            copy_output(&handle, (stdout, stderr), &mut log, &mut lease);
            wait_for(pid)
        }
        Err(_) => wait_for(pid),
    };
    let lease_ended = lease.is_some_and(|lease| lease.has_ended());
    let exit = ExitStatus { lease_ended, ..exit_status(status, &cgroup) };
    match write_reserved_json(&directory.exit(), &exit) {
        Ok(()) => ExitCode::SUCCESS,
        // the disk is gone; the worker sees an end without record
        Err(_) => ExitCode::FAILURE,
    }
}

fn copy_output(
    init: &ProcessHandle,
    (stdout, stderr): (OwnedFd, OwnedFd),
    log: &mut LogWriter,
    lease: &mut Option<Lease>,
) {
    let mut streams = [(LogStream::Stdout, Some(stdout)), (LogStream::Stderr, Some(stderr))];
    for (_, pipe) in &streams {
        let _ = pipe.as_ref().map_or(Ok(()), make_non_blocking);
    }
    let mut block = Vec::new();
    while !wait_for_output(init, &streams, log, lease.as_ref()) {
        if let Some(lease) = lease {
            lease.enforce(init);
        }
        for (stream, pipe) in &mut streams {
            if let Some(open) = pipe
                && copy_block(open, *stream, log, &mut block) == Copied::Closed
            {
                *pipe = None;
            }
        }
        if block.capacity() > 0 && !log.has_pending() {
            // idle containers should cost next to nothing
            block = Vec::new();
        }
    }
    for (stream, pipe) in &streams {
        for _ in 0..LAST_BLOCKS {
            let Some(open) = pipe else { break };
            if copy_block(open, *stream, log, &mut block) != Copied::Some {
                break;
            }
        }
    }
    log.flush_pending();
}

/// Waits for output; true when the container has ended.
fn wait_for_output(
    init: &ProcessHandle,
    streams: &[(LogStream, Option<OwnedFd>); 2],
    log: &mut LogWriter,
    lease: Option<&Lease>,
) -> bool {
    let mut events = vec![PollFd::new(init, PollFlags::IN)];
    let open = streams.iter().filter_map(|(_, pipe)| pipe.as_ref());
    events.extend(open.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
    events.extend(lease.map(|lease| PollFd::new(lease, PollFlags::IN)));
    let pending = log.has_pending().then_some(PENDING_LINE);
    let lost = log.has_lost().then_some(LOSS_REPORT);
    let timeout = pending.or(lost).into_iter().chain(lease.map(Lease::timeout)).min();
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match poll(&mut events, timeout.as_ref()) {
        Ok(0) => {
            log.flush_pending();
            log.report_loss();
        }
        Ok(_) | Err(Errno::INTR) => {}
        // cannot happen with valid descriptors; going on would spin
        Err(_) => return true,
    }
    events.first().is_some_and(|event| event.revents().contains(PollFlags::IN))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copied {
    Some,
    Nothing,
    Closed,
}

fn copy_block(pipe: &OwnedFd, stream: LogStream, log: &mut LogWriter, block: &mut Vec<u8>) -> Copied {
    block.resize(BLOCK, 0);
    match rustix::io::read(pipe, &mut **block) {
        Ok(0) => Copied::Closed,
        Ok(length) => {
            log.take(stream, block.get(..length).unwrap_or_default());
            Copied::Some
        }
        Err(Errno::AGAIN | Errno::INTR) => Copied::Nothing,
        Err(_) => Copied::Closed,
    }
}

fn make_non_blocking(pipe: &OwnedFd) -> io::Result<()> {
    fcntl_setfl(pipe, fcntl_getfl(pipe)? | OFlags::NONBLOCK)?;
    Ok(())
}

fn wait_for(pid: u32) -> Option<WaitStatus> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    loop {
        match waitpid(pid, WaitOptions::empty()) {
            Ok(Some((_, status))) => return Some(status),
            Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

fn exit_status(status: Option<WaitStatus>, cgroup: &ContainerCgroup) -> ExitStatus {
    let code = status.and_then(WaitStatus::exit_status);
    let signal = status.and_then(WaitStatus::terminating_signal);
    // a program that survived the loss of a helper and ended well did not fail for lack of memory
    let out_of_memory = code != Some(0) && cgroup.out_of_memory_kills() > 0;
    ExitStatus { code, signal, out_of_memory, lease_ended: false, finished_at: SystemTime::now() }
}
