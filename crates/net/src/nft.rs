//! Runs the `nft` program with one transaction.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::{NetworkError, Tried};

/// A transaction of thousands of entries takes tens of milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// How much of a complaint is worth showing.
const MAX_MESSAGE: u64 = 2_000;

/// Has the kernel take `rules` as a whole or not at all; `what` names the purpose in errors.
pub(crate) fn run(rules: &str, what: &'static str) -> Result<(), NetworkError> {
    // Files in memory instead of pipes: neither side can block the other, however long the text.
    let input = in_memory(rules).tried(|| "prepare the input of nft".to_owned())?;
    let mut complaints = in_memory("").tried(|| "prepare the output of nft".to_owned())?;
    let output = complaints.try_clone().tried(|| "prepare the output of nft".to_owned())?;
    let spawned = command().stdin(input).stderr(output).spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(NetworkError::NftMissing);
        }
        Err(error) => return Err(error).tried(|| "start nft".to_owned()),
    };
    let status = wait(&mut child).tried(|| format!("wait for nft to {what}"))?;
    if status.success() {
        return Ok(());
    }
    let message = read_back(&mut complaints).unwrap_or_default();
    Err(NetworkError::Nft { what, message: if message.is_empty() { status.to_string() } else { message } })
}

/// What the kernel has, as `nft` writes it; `question` is one command that changes nothing.
pub(crate) fn list(question: &str) -> Result<String, NetworkError> {
    let input = in_memory(question).tried(|| "prepare the input of nft".to_owned())?;
    let output = command().stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    let output = match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(NetworkError::NftMissing),
        output => output.tried(|| "start nft".to_owned())?,
    };
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(NetworkError::Nft { what: "list the table", message });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn command() -> Command {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdout(Stdio::null());
    // A service manager's PATH often lacks the directories of administration programs.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<_> = std::env::split_paths(&path).collect();
    directories.extend(["/usr/sbin", "/sbin"].map(Into::into));
    if let Ok(path) = std::env::join_paths(directories) {
        command.env("PATH", path);
    }
    command
}

fn in_memory(text: &str) -> io::Result<File> {
    let mut file = File::from(memfd_create("nft", MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// Waits for the child, and ends it when it takes too long.
fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("child has no process id"))?;
    // Kernels before 5.3 have no pidfd; there we trust nft to end.
    let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else {
        return child.wait();
    };
    let limit = Timespec::try_from(PATIENCE).ok();
    let mut watched = [PollFd::new(&descriptor, PollFlags::IN)];
    let ended = loop {
        match poll(&mut watched, limit.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            outcome => break outcome?,
        }
    };
    if ended == 0 {
        child.kill()?;
        child.wait()?;
        return Err(io::ErrorKind::TimedOut.into());
    }
    child.wait()
}

fn read_back(file: &mut File) -> io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.take(MAX_MESSAGE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}
