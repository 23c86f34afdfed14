//! The process that owns one container. Single-threaded from its first instruction to its last.
//!
//! 1. own session, own mount namespace; `state.json` with its own process, so that it can be found;
//! 2. root file system, user, working directory, `config.json`; then libcontainer creates the container, whose
//!    first process executes the program (`executor`);
//! 3. `state.json` with the container's process, and the report to the worker on stdout;
//! 4. copies output to the log until the container ends; writes `exit.json`; ends.
//!
//! Only then does the worker, which watches the process, look at `exit.json`.

mod exec;
mod executor;
mod launch;
mod overlay;
mod recorder;
mod report;
mod rootfs;
mod spec;
mod supervise;
mod user;
mod volumes;

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use rustix::fs::Mode;
use rustix::mount::{MountPropagationFlags, mount_change};

use crate::cgroup::Hierarchies;
use crate::error::FailureKind;
use crate::lease::Lease;
use crate::process::{ProcessRef, boot_id};
use crate::record::{ContainerDirectory, Failure, Report, State, write_json};
use crate::sys;
use report::ReportPipe;

/// First argument with which the binary is started as a shim.
pub const SHIM_COMMAND: &str = "__shim";

/// Second argument of the helper that runs another program in a container; see [`crate::Exec`].
pub(crate) const EXEC_ARGUMENT: &str = "exec";

/// Badness of the shim for the out-of-memory killer, -1000 to 1000: containers go first.
const OOM_SCORE: &str = "-998";

/// Runs as shim. The binary calls this before anything else, above all before it starts a thread, if its first
/// argument is [`SHIM_COMMAND`]; `arguments` are those after it. Returns the exit code of the process.
pub fn shim_main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let (directory, executes) = match (arguments.next(), arguments.next(), arguments.next()) {
        (Some(directory), None, None) => (directory, false),
        (Some(first), Some(directory), None) if first == EXEC_ARGUMENT => (directory, true),
        _ => return ExitCode::from(2),
    };
    sys::close_inherited_descriptors();
    sys::ignore_stop_signals();
    let _ = rustix::process::setsid();
    rustix::process::umask(Mode::from_raw_mode(0o022));
    if executes {
        return exec::run(&ContainerDirectory::new(PathBuf::from(directory)));
    }
    recorder::install();
    let Ok(report) = ReportPipe::take_stdout() else { return ExitCode::FAILURE };
    let directory = ContainerDirectory::new(PathBuf::from(directory));
    let started = match start(&directory) {
        Ok(started) => started,
        Err(failure) => {
            report.send(&Report::Failed(failure));
            return ExitCode::FAILURE;
        }
    };
    report.send(&Report::Started { pid: started.pid });
    supervise::until_exit(started, &directory)
}

fn start(directory: &ContainerDirectory) -> Result<supervise::Started, Failure> {
    let other = |what: &str, error: &dyn std::error::Error| {
        let message = format!("{what}: {}", crate::error::chain(error));
        Failure::new(FailureKind::Other, message)
    };
    let own =
        ProcessRef::of(std::process::id()).map_err(|error| other("cannot read own start time", &error))?;
    let mut state = State { boot_id: boot_id(), shim: own, init: None };
    write_json(&directory.state(), &state).map_err(|error| other("cannot write state", &error))?;
    std::env::set_current_dir(directory.path())
        .map_err(|error| other("cannot enter container directory", &error))?;
    own_mounts().map_err(|error| other("cannot make a mount namespace", &error))?;
    let request = directory
        .read_request()
        .ok_or_else(|| Failure::new(FailureKind::Other, "request.json is missing or unreadable"))?;
    let lease = request.run_until.map(|until| Lease::bind(until, request.stop_signal.kernel())).transpose();
    let lease = lease.map_err(|error| other("cannot listen for renewals of its lease", &error))?;
    let hierarchies = Hierarchies::detect().map_err(|error| other("cannot find cgroups", &error))?;
    let mut started = launch::launch(directory, &request, &hierarchies)?;
    started.lease = lease;
    let init = ProcessRef::of(started.pid)
        .map_err(|error| other("container ended before it could be recorded", &error))?;
    state.init = Some(init);
    write_json(&directory.state(), &state).map_err(|error| other("cannot write state", &error))?;
    // the container has inherited the value that its configuration asks for
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    Ok(started)
}

/// Mounts made from now on are seen by nobody else and vanish with the last process here; unmounts of the host
/// still arrive, so that a shim does not keep its disks busy.
fn own_mounts() -> std::io::Result<()> {
    sys::unshare_mounts()?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    Ok(())
}
