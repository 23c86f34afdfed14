//! The helper that runs another program in a running container; see [`crate::exec`].
//!
//! Single-threaded like the shim. It opens everything of the host that it needs, then joins the namespaces, then
//! forks: only the copy is a process of the container, and it does nothing but give up rights and execute.

use std::ffi::CString;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, openat};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, Resource, Rlimit, Signal, WaitOptions, WaitStatus};
use rustix::pty::OpenptFlags;
use rustix::thread::{CapabilitySet, CapabilitySets, ThreadNameSpaceType};
use serde::Deserialize;

use super::executor::{Plan, candidates};
use super::{launch, spec};
use crate::cgroup::Hierarchies;
use crate::error::FailureKind;
use crate::exec::wire::{self, Answer};
use crate::exec::{ExecRequest, ExecStatus, TerminalSize, window};
use crate::process::ProcessHandle;
use crate::record::{ContainerDirectory, Failure};
use crate::seccomp;
use crate::sys::{self, Fork};

/// Runs as helper. The worker's socket is standard input, the other two are `/dev/null`.
pub(super) fn run(directory: &ContainerDirectory) -> ExitCode {
    let Ok(control) = take_control() else { return ExitCode::FAILURE };
    let (child, terminal) = match start(directory, &control) {
        Ok(started) => started,
        Err(failure) => {
            let _ = wire::send(&control, &Answer::Failed(failure), &[]);
            return ExitCode::FAILURE;
        }
    };
    let beside: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
    let told = wire::send(&control, &Answer::Started, &beside);
    drop(beside);
    drop(terminal);
    if told.is_err() {
        kill(child);
    }
    let status = until_exit(child, &control);
    match wire::send(&control, &Answer::Ended(status), &[]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn take_control() -> Result<OwnedFd, Errno> {
    let control = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    rustix::stdio::dup2_stdin(rustix::stdio::stdout())?;
    Ok(control)
}

/// The part of `config.json` that says what a process of the container is.
#[derive(Debug, Deserialize)]
struct Configuration {
    process: Process,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    user: User,
    env: Vec<String>,
    cwd: String,
    capabilities: Capabilities,
    rlimits: Vec<Limit>,
    no_new_privileges: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct User {
    uid: u32,
    gid: u32,
    additional_gids: Vec<u32>,
}

#[derive(Debug, Deserialize)]
struct Capabilities {
    bounding: Vec<String>,
    effective: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Limit {
    soft: u64,
    hard: u64,
}

/// Everything the copy needs, opened before it exists.
struct Entry {
    process: Process,
    plan: Plan,
    doors: Vec<File>,
    streams: Vec<OwnedFd>,
    controls_terminal: bool,
}

fn failure(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Other, format!("{what}: {error}"))
}

fn start(directory: &ContainerDirectory, control: &OwnedFd) -> Result<(u32, Option<OwnedFd>), Failure> {
    let received = wire::receive::<ExecRequest>(control);
    let received = received.map_err(|error| failure("cannot read the request", &error))?;
    let (order, mut streams) =
        received.ok_or_else(|| Failure::new(FailureKind::Other, "the worker is gone"))?;
    let unreadable = || Failure::new(FailureKind::Other, "the files of the container cannot be read");
    let state = directory.read_state().ok_or_else(unreadable)?;
    let request = directory.read_request().ok_or_else(unreadable)?;
    let Configuration { process } = directory.read_configuration().ok_or_else(unreadable)?;
    let hierarchies = Hierarchies::detect().map_err(|error| failure("cannot find cgroups", &error))?;
    let cgroup = hierarchies.container(&request.cgroup_parent, &request.id);
    let doors = cgroup.open_doors().map_err(|error| failure("cannot open the cgroup", &error))?;
    let (failures, failures_inside) = launch::new_pipe()?;
    let plan = plan(&order, &process, request.privileged, failures_inside)?;
    let init = state.init.and_then(|init| init.open());
    let init = init.ok_or_else(|| Failure::new(FailureKind::Other, "the container has ended"))?;
    // What the copy inherits: not to be killed before the programs of the container, not to be looked into by them.
    let _ = std::fs::write("/proc/self/oom_score_adj", "0");
    join(&init)?;
    let terminal = order.terminal.map(open_terminal).transpose()?;
    let master = match terminal {
        Some((master, slave)) => {
            let copy = |slave: &OwnedFd| {
                slave.try_clone().map_err(|error| failure("cannot copy the terminal", &error))
            };
            streams = vec![copy(&slave)?, copy(&slave)?, slave];
            Some(master)
        }
        None => None,
    };
    let entry = Entry { process, plan, doors, streams, controls_terminal: master.is_some() };
    match sys::fork().map_err(|error| failure("cannot make a process in the container", &error))? {
        Fork::Child => {
            let failure = entry.enter(order.working_directory.as_deref());
            if let Ok(text) = serde_json::to_vec(&failure) {
                let _ = rustix::io::write(&entry.plan, &text);
            }
            sys::exit_now(127)
        }
        Fork::Parent(child) => {
            // Our copies of the streams and of the pipe: others must see their ends.
            drop(entry);
            let executed = launch::await_execution(failures);
            if executed.is_err() {
                wait(child);
            }
            executed.map(|()| (child, master))
        }
    }
}

fn plan(
    order: &ExecRequest,
    process: &Process,
    privileged: bool,
    failures: OwnedFd,
) -> Result<Plan, Failure> {
    let filter = if privileged {
        None
    } else {
        let program = seccomp::program();
        Some(program.map_err(|error| failure("cannot build system call filter", &error))?)
    };
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut environment = process.env.clone();
    for entry in &order.environment {
        environment.retain(|earlier| name(earlier) != name(entry));
        environment.push(entry.clone());
    }
    let programs = order.args.first().map(|program| candidates(program, &environment));
    let texts = |texts: Vec<String>| -> Result<Vec<CString>, Failure> { launch::c_strings(texts) };
    Ok(Plan {
        args: texts(order.args.clone())?,
        programs: texts(programs.unwrap_or_default())?,
        environment: texts(environment)?,
        filter,
        failures,
        run_until: None,
    })
}

/// Joins the namespaces of the container; the root directory becomes its root directory. The process namespace
/// counts for processes made from now on.
fn join(init: &ProcessHandle) -> Result<(), Failure> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|errno| failure("cannot hide from the container", &errno))?;
    let mut kinds = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::NETWORK;
    if Path::new("/proc/self/ns/cgroup").exists() {
        kinds |= ThreadNameSpaceType::CONTROL_GROUP;
    }
    rustix::thread::move_into_thread_name_spaces(init.as_fd(), kinds)
        .map_err(|errno| failure("cannot join the namespaces of the container", &errno))
}

/// A new terminal of the container: both sides.
fn open_terminal(size: TerminalSize) -> Result<(OwnedFd, OwnedFd), Failure> {
    let open = || -> Result<(OwnedFd, OwnedFd), Errno> {
        // Non-blocking: what the container may have put there instead must not hold us up.
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let master = openat(CWD, "/dev/ptmx", flags, Mode::empty())?;
        rustix::pty::unlockpt(&master)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        rustix::termios::tcsetwinsize(&slave, window(size))?;
        Ok((master, slave))
    };
    open().map_err(|errno| failure("cannot open a terminal in the container", &errno))
}

impl Entry {
    /// The copy: becomes a process of the container. Returns only with the reason why not.
    fn enter(&self, working_directory: Option<&Path>) -> Failure {
        let prepared =
            self.take_streams().and_then(|()| self.join_cgroup()).and_then(|()| self.give_up_rights());
        if let Err((what, errno)) = prepared {
            return failure(what, &errno);
        }
        let directory = working_directory.unwrap_or_else(|| Path::new(&self.process.cwd));
        if let Err(errno) = rustix::process::chdir(directory) {
            let message = format!("cannot use working directory {}: {errno}", directory.display());
            return Failure::new(FailureKind::WorkingDirectory, message);
        }
        self.plan.run()
    }

    fn take_streams(&self) -> Result<(), (&'static str, Errno)> {
        let taking = |errno| ("cannot take over the streams", errno);
        rustix::process::setsid().map_err(taking)?;
        let [stdin, stdout, stderr] = self.streams.as_slice() else { return Err(taking(Errno::INVAL)) };
        rustix::stdio::dup2_stdin(stdin).map_err(taking)?;
        rustix::stdio::dup2_stdout(stdout).map_err(taking)?;
        rustix::stdio::dup2_stderr(stderr).map_err(taking)?;
        if self.controls_terminal {
            rustix::process::ioctl_tiocsctty(stdin)
                .map_err(|errno| ("cannot take over the terminal", errno))?;
        }
        Ok(())
    }

    fn join_cgroup(&self) -> Result<(), (&'static str, Errno)> {
        for mut door in &self.doors {
            door.write_all(b"0").map_err(|error| {
                ("cannot join the cgroup", Errno::from_io_error(&error).unwrap_or(Errno::IO))
            })?;
        }
        Ok(())
    }

    fn give_up_rights(&self) -> Result<(), (&'static str, Errno)> {
        use rustix::thread;
        let Process { user, capabilities, rlimits, no_new_privileges, .. } = &self.process;
        for limit in rlimits {
            let limit = Rlimit { current: Some(limit.soft), maximum: Some(limit.hard) };
            rustix::process::setrlimit(Resource::Nofile, limit)
                .map_err(|errno| ("cannot limit open files", errno))?;
        }
        let bounding = spec::capability_mask(&capabilities.bounding);
        for number in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << number);
            // Numbers that this kernel does not know are refused.
            if bounding >> number & 1 == 0 && thread::capability_is_in_bounding_set(one) == Ok(true) {
                thread::remove_capability_from_bounding_set(one)
                    .map_err(|errno| ("cannot give up capabilities", errno))?;
            }
        }
        let groups: Vec<Gid> = user.additional_gids.iter().map(|gid| Gid::from_raw(*gid)).collect();
        let becoming = |errno| ("cannot become the user of the container", errno);
        thread::set_thread_groups(&groups).map_err(becoming)?;
        let gid = Gid::from_raw(user.gid);
        thread::set_thread_res_gid(gid, gid, gid).map_err(becoming)?;
        let uid = Uid::from_raw(user.uid);
        thread::set_thread_res_uid(uid, uid, uid).map_err(becoming)?;
        let own = CapabilitySet::from_bits_retain(spec::capability_mask(&capabilities.effective));
        let sets = CapabilitySets { effective: own, permitted: own, inheritable: CapabilitySet::empty() };
        thread::set_capabilities(None, sets).map_err(|errno| ("cannot give up capabilities", errno))?;
        if *no_new_privileges {
            thread::set_no_new_privs(true).map_err(|errno| ("cannot give up privileges", errno))?;
        }
        Ok(())
    }
}

/// Waits for the program; ends it when the worker is gone.
fn until_exit(child: u32, control: &OwnedFd) -> ExecStatus {
    let Ok(process) = ProcessHandle::of_pid(child) else { return wait(child) };
    loop {
        let mut events =
            [PollFd::new(&process, PollFlags::IN), PollFd::new(control, PollFlags::IN | PollFlags::RDHUP)];
        let waited = poll(&mut events, None);
        let [program, worker] = events.map(|event| !event.revents().is_empty());
        match waited {
            Err(Errno::INTR) => {}
            Ok(_) if !program && !worker => {}
            Ok(_) if program => return wait(child),
            Ok(_) | Err(_) => {
                kill(child);
                return wait(child);
            }
        }
    }
}

/// The program and what it started in its session.
fn kill(child: u32) {
    if let Some(pid) = i32::try_from(child).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

fn wait(child: u32) -> ExecStatus {
    let pid = i32::try_from(child).ok().and_then(Pid::from_raw);
    let status = loop {
        match rustix::process::waitpid(pid, WaitOptions::empty()) {
            Ok(Some((_, status))) => break Some(status),
            Err(Errno::INTR) => {}
            Ok(None) | Err(_) => break None,
        }
    };
    ExecStatus {
        code: status.and_then(WaitStatus::exit_status),
        signal: status.and_then(WaitStatus::terminating_signal),
    }
}
