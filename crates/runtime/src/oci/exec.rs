//! Starts the helper that runs another program in a container.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::Interest;
use tokio::time::timeout;

use super::OciRuntime;
use super::observe::ProcessEnd;
use crate::container::ContainerId;
use crate::exec::wire::{self, Answer, Control};
use crate::exec::{Exec, ExecEnd, ExecError, ExecIo, ExecRequest, ExecStream};
use crate::process::ProcessHandle;
use crate::record::{ContainerDirectory, Failure, State};
use crate::shim::{EXEC_ARGUMENT, SHIM_COMMAND};

/// Longest time until the program is executed. The helper needs milliseconds, a frozen container takes for ever.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Our ends of the program's standard streams; `None` with a terminal, which comes from the helper.
type Pipes = Option<[OwnedFd; 3]>;

struct Helper {
    process: ProcessHandle,
    control: OwnedFd,
    pipes: Pipes,
}

pub(super) async fn exec(
    runtime: &OciRuntime,
    id: &ContainerId,
    request: ExecRequest,
) -> Result<Exec, ExecError> {
    request.check()?;
    let directory = runtime.directory(id);
    let running = directory.read_state().filter(|state| state.init.is_some());
    let Some(state) = running else { return Err(ExecError::NotRunning { id: id.clone() }) };
    let spawned = tokio::task::spawn_blocking(move || spawn(&directory, &state, &request)).await;
    let spawned = spawned.unwrap_or_else(|panic| Err(("run a blocking task", io::Error::other(panic))));
    let prepare = |(action, source)| ExecError::Prepare { id: id.clone(), action, source };
    let Some(Helper { process, control, pipes }) = spawned.map_err(prepare)? else {
        return Err(ExecError::NotRunning { id: id.clone() });
    };
    reap_later(process).map_err(|source| prepare(("watch the helper", source)))?;
    let control = Control::new(control).map_err(|source| prepare(("watch the helper", source)))?;
    let terminal = await_start(&control, id).await?;
    let io = streams(pipes, terminal).map_err(|source| prepare(("use the streams", source)))?;
    let Some(io) = io else {
        return Err(ExecError::Helper { id: id.clone(), problem: "gave no terminal".to_owned() });
    };
    Ok(Exec { io, end: ExecEnd::new(id.clone(), control) })
}

/// The helper is the program of the shim, not ours: an image may make the kernel execute the helper's program in the
/// container (`#!/proc/self/exe`), which must not get hold of a file that it can change later. That of the shim is
/// executed, and so cannot be written to, as long as the container lives.
fn spawn(
    directory: &ContainerDirectory,
    state: &State,
    request: &ExecRequest,
) -> Result<Option<Helper>, (&'static str, io::Error)> {
    let doing = |action| move |source: io::Error| (action, source);
    let Some(shim) = state.shim.open() else { return Ok(None) };
    let path = format!("/proc/{}/exe", state.shim.pid);
    let program = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    if shim.has_ended() {
        return Ok(None);
    }
    let program = program.map_err(|errno| doing("find the program of the shim")(errno.into()))?;
    let (control, control_inside) = wire::pair().map_err(doing("make a socket"))?;
    let (pipes, inside) = match request.terminal {
        Some(_) => (None, Vec::new()),
        None => new_pipes().map_err(doing("make pipes"))?,
    };
    let borrowed: Vec<_> = inside.iter().map(AsFd::as_fd).collect();
    wire::send(&control, request, &borrowed).map_err(doing("hand over the request"))?;
    let child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .arg0("oak-exec")
        .arg(SHIM_COMMAND)
        .arg(EXEC_ARGUMENT)
        .arg(directory.path())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(control_inside))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(doing("start the helper"))?;
    let process = ProcessHandle::of_pid(child.id()).map_err(doing("watch the helper"))?;
    Ok(Some(Helper { process, control, pipes }))
}

fn new_pipes() -> io::Result<(Pipes, Vec<OwnedFd>)> {
    let new = || pipe_with(PipeFlags::CLOEXEC);
    let (stdin_inside, stdin) = new()?;
    let (stdout, stdout_inside) = new()?;
    let (stderr, stderr_inside) = new()?;
    Ok((Some([stdin, stdout, stderr]), vec![stdin_inside, stdout_inside, stderr_inside]))
}

/// Whatever becomes of the caller, a helper that has ended does not stay in the process table.
fn reap_later(process: ProcessHandle) -> io::Result<()> {
    let end = ProcessEnd::of(process)?;
    tokio::spawn(async move {
        end.reached().await;
        end.reap();
    });
    Ok(())
}

async fn await_start(control: &Control, id: &ContainerId) -> Result<Option<OwnedFd>, ExecError> {
    let helper = |problem: String| ExecError::Helper { id: id.clone(), problem };
    let answer = timeout(START_LIMIT, control.receive())
        .await
        .map_err(|_| helper(format!("did not answer within {} s", START_LIMIT.as_secs())))?;
    match answer {
        Ok(Some((Answer::Started, descriptors))) => Ok(descriptors.into_iter().next()),
        Ok(Some((Answer::Failed(Failure { kind, message }), _))) => {
            Err(ExecError::Failed { id: id.clone(), kind, message })
        }
        Ok(Some((Answer::Ended(_), _)) | None) => Err(helper(
            "ended without an answer (was the container started by a release that cannot do this?)"
                .to_owned(),
        )),
        Err(source) => Err(ExecError::Prepare { id: id.clone(), action: "hear from the helper", source }),
    }
}

fn streams(pipes: Pipes, terminal: Option<OwnedFd>) -> io::Result<Option<ExecIo>> {
    let read = |descriptor| ExecStream::new(descriptor, Interest::READABLE);
    match (pipes, terminal) {
        (Some([stdin, stdout, stderr]), _) => Ok(Some(ExecIo::Pipes {
            stdin: ExecStream::new(stdin, Interest::WRITABLE)?,
            stdout: read(stdout)?,
            stderr: read(stderr)?,
        })),
        (None, Some(terminal)) => {
            let both = Interest::READABLE | Interest::WRITABLE;
            Ok(Some(ExecIo::Terminal(ExecStream::new(terminal, both)?)))
        }
        (None, None) => Ok(None),
    }
}
