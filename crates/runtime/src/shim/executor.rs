//! The last steps inside a container before its program takes over.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use seccompiler::BpfProgram;

use crate::error::FailureKind;
use crate::lease::BootMoment;
use crate::record::Failure;
use crate::sys;

/// What is executed and how, prepared in the shim so that little is left to do inside.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) args: Vec<CString>,
    pub(super) environment: Vec<CString>,
    /// Candidates for the program, in the order of `PATH`.
    pub(super) programs: Vec<CString>,
    /// Absent in privileged containers.
    pub(super) filter: Option<BpfProgram>,
    /// Takes a [`Failure`]; closes by itself when the program is executed.
    pub(super) failures: OwnedFd,
    /// Not executed when this is closer than the time a program has to stop.
    pub(super) run_until: Option<BootMoment>,
}

/// Carries out a [`Plan`] as the first process of the container.
#[derive(Clone, Debug)]
pub(super) struct PlannedExecutor(pub(super) Rc<Plan>);

impl Executor for PlannedExecutor {
    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        let failure = self.0.run();
        if let Ok(text) = serde_json::to_vec(&failure) {
            let _ = rustix::io::write(&self.0.failures, &text);
        }
        // nobody listens to libcontainer's own error any more
        sys::exit_now(127)
    }

    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }

    /// The environment is handed over by `execve`.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }
}

impl Plan {
    /// Returns only if the program cannot be executed.
    pub(super) fn run(&self) -> Failure {
        sys::reset_signals();
        // a shim that is killed takes its container along: nobody would read its output or record its end
        let death = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        if let Err(errno) = death {
            return Failure::new(FailureKind::Other, format!("cannot bind to the shim: {errno}"));
        }
        if self.shim_is_gone() {
            sys::exit_now(1);
        }
        // It would be asked to stop at once.
        if self.run_until.is_some_and(|until| BootMoment::now() >= until.with_grace()) {
            let message = "it took so long that its permission to run has ended";
            return Failure::new(FailureKind::Other, message);
        }
        if let Some(filter) = &self.filter
            && let Err(error) = seccompiler::apply_filter(filter)
        {
            let message = format!("cannot install system call filter: {}", crate::error::chain(&error));
            return Failure::new(FailureKind::Other, message);
        }
        self.execute()
    }

    /// It could have died before the signal was asked for. It is the only reader of the pipe.
    fn shim_is_gone(&self) -> bool {
        let mut events = [PollFd::new(&self.failures, PollFlags::empty())];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let _ = poll(&mut events, Some(&at_once));
        events.iter().any(|event| event.revents().contains(PollFlags::ERR))
    }

    fn execute(&self) -> Failure {
        let mut reason = io::Error::from_raw_os_error(libc::ENOENT);
        for program in &self.programs {
            let error = sys::execute(program, &self.args, &self.environment);
            match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                // go on looking, but remember that there was something
                Some(libc::EACCES) => reason = error,
                _ => {
                    reason = error;
                    break;
                }
            }
        }
        let name = self.args.first().map(|name| name.to_string_lossy()).unwrap_or_default();
        match reason.raw_os_error() {
            Some(libc::ENOENT) => Failure::new(
                FailureKind::CommandNotFound,
                format!("command {name:?} not found in the image (or the interpreter it asks for)"),
            ),
            Some(libc::ENOEXEC) => Failure::new(
                FailureKind::CommandNotExecutable,
                format!(
                    "command {name:?} is not a program for this machine (built for another architecture?)"
                ),
            ),
            _ => Failure::new(
                FailureKind::CommandNotExecutable,
                format!("command {name:?} cannot be executed: {reason}"),
            ),
        }
    }
}

impl AsFd for Plan {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.failures.as_fd()
    }
}

/// Where a program may be: itself if it names a path, else in each directory of `PATH`.
pub(super) fn candidates(program: &str, environment: &[String]) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let path = environment.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or("");
    path.split(':')
        .map(|directory| match directory {
            "" => format!("./{program}"),
            directory => format!("{directory}/{program}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_for_along_the_last_path() {
        let environment = ["PATH=/x".to_owned(), "PATH=/a::/b".to_owned()];
        assert_eq!(candidates("sh", &environment), ["/a/sh", "./sh", "/b/sh"]);
        assert_eq!(candidates("./sh", &environment), ["./sh"]);
    }
}
