//! Starts a shim and waits for its report.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::timeout;

use super::OciRuntime;
use super::observe::{ProcessEnd, observe};
use crate::container::{ContainerId, ContainerRequest};
use crate::error::CreateError;
use crate::exit::ExitObserver;
use crate::process::ProcessHandle;
use crate::record::{ContainerDirectory, Failure, Report, write_json};
use crate::runtime::Started;
use crate::shim::SHIM_COMMAND;

/// Bound of a report; its message carries at most a few kilobytes of causes.
const REPORT_BYTES: u64 = 256 << 10;

pub(super) async fn create(
    runtime: &OciRuntime,
    request: ContainerRequest,
) -> Result<(Started, ExitObserver), CreateError> {
    request.check()?;
    let id = request.id.clone();
    let directory = runtime.directory(&id);
    let parents = runtime.parents.read().await;
    let shim = runtime.config.shim.clone();
    let place = directory.clone();
    let spawned = tokio::task::spawn_blocking(move || spawn_shim(&shim, &place, &request)).await;
    let spawned = spawned.unwrap_or_else(|panic| {
        Err(SpawnError { action: "run a blocking task", source: io::Error::other(panic) })
    });
    let outcome = match spawned {
        Ok((shim, report)) => await_start(runtime, &id, shim, report).await,
        Err(error) if error.is_existing() => return Err(CreateError::AlreadyExists { id }),
        Err(SpawnError { action, source }) => Err(CreateError::Prepare { id: id.clone(), action, source }),
    };
    drop(parents);
    match outcome {
        Ok((pid, end)) => Ok((Started { pid }, observe(end, directory))),
        Err(error) => {
            if let Err(left) = super::delete::delete(runtime, &id).await {
                tracing::warn!(container = %id, error = %left, "failed start left something behind");
            }
            Err(error)
        }
    }
}

struct SpawnError {
    action: &'static str,
    source: io::Error,
}

impl SpawnError {
    fn is_existing(&self) -> bool {
        self.action == CREATE_DIRECTORY && self.source.kind() == io::ErrorKind::AlreadyExists
    }
}

const CREATE_DIRECTORY: &str = "create the state directory";

fn spawn_shim(
    program: &std::path::Path,
    directory: &ContainerDirectory,
    request: &ContainerRequest,
) -> Result<(ProcessHandle, OwnedFd), SpawnError> {
    let doing = |action| move |source: io::Error| SpawnError { action, source };
    // for root only: requests carry secrets in their environment
    DirBuilder::new().mode(0o700).create(directory.path()).map_err(doing(CREATE_DIRECTORY))?;
    write_json(&directory.request(), request).map_err(doing("write request.json"))?;
    let log = File::create(directory.shim_log()).map_err(doing("create shim.log"))?;
    let (report, report_of_shim) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|errno| doing("make a pipe")(errno.into()))?;
    let child = Command::new(program)
        .arg0("oak-shim")
        .arg(SHIM_COMMAND)
        .arg(directory.path())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(report_of_shim)
        .stderr(log)
        .spawn()
        .map_err(doing("start the shim"))?;
    // the child is not waited for by its id: see `ProcessHandle::reap`
    let shim = ProcessHandle::of_pid(child.id()).map_err(doing("watch the shim"))?;
    Ok((shim, report))
}

async fn await_start(
    runtime: &OciRuntime,
    id: &ContainerId,
    shim: ProcessHandle,
    report: OwnedFd,
) -> Result<(u32, ProcessEnd), CreateError> {
    let unusable = |source| CreateError::Prepare { id: id.clone(), action: "watch the shim", source };
    let end = ProcessEnd::of(shim).map_err(unusable)?;
    let pipe = pipe::Receiver::from_owned_fd(report).map_err(unusable)?;
    let limit = runtime.config.start_timeout;
    let text = match timeout(limit, read_report(pipe, &end)).await {
        Ok(text) => text.map_err(unusable)?,
        Err(_) => {
            let problem = format!("did not answer within {} s", limit.as_secs());
            return Err(CreateError::Shim { id: id.clone(), problem });
        }
    };
    match serde_json::from_slice(&text) {
        Ok(Report::Started { pid }) => Ok((pid, end)),
        Ok(Report::Failed(Failure { kind, message })) => {
            Err(CreateError::Failed { id: id.clone(), kind, message })
        }
        Err(_) => {
            let place = runtime.directory(id);
            let last_words = fs::read_to_string(place.shim_log()).unwrap_or_default();
            let last_words: String = last_words.chars().take(500).collect();
            let problem = format!("ended without an answer; it said {last_words:?}");
            Err(CreateError::Shim { id: id.clone(), problem })
        }
    }
}

/// Reads to the end of the pipe, or until the shim ended: a half-made container may hold the pipe longer.
async fn read_report(pipe: pipe::Receiver, end: &ProcessEnd) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut pipe = pipe.take(REPORT_BYTES);
    loop {
        tokio::select! {
            biased;
            read = pipe.read_buf(&mut text) => if read? == 0 { return Ok(text) },
            () = end.reached() => return Ok(text),
        }
    }
}
