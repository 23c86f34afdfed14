//! Running another program inside a running container: what can be asked for, and what comes back.
//!
//! ```text
//!  worker ── Order, stdio ──► helper (`oak __shim exec`) ── fork ──► program in the container
//!     ▲                          │  joins cgroup, namespaces            │
//!     └── Started, Ended ◄───────┘◄────────── waits ────────────────────┘
//! ```
//!
//! The program gets what the container's first process has: namespaces, cgroup, user, capabilities, system call
//! filter, environment, working directory. The helper ends it when the [`Exec`] is dropped or the worker dies.

mod stream;
pub(crate) mod wire;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;

use crate::container::{ContainerId, InvalidRequest};
use crate::error::FailureKind;
use wire::{Answer, Control};

pub use stream::ExecStream;
pub(crate) use stream::window;

/// Bound of all texts of a request: they travel in one message.
const TEXT_BYTES: usize = 32 << 10;
/// After the program has ended, output of processes it left behind is waited for this long.
const LAST_OUTPUT: Duration = Duration::from_millis(100);

/// A program to run in a running container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Program and its arguments; the program is looked up in the `PATH` of the container.
    pub args: Vec<String>,
    /// `NAME=value` entries beside and stronger than those of the container.
    #[serde(default)]
    pub environment: Vec<String>,
    /// Absolute path in the container; `None`: that of the container.
    #[serde(default)]
    pub working_directory: Option<PathBuf>,
    /// With a terminal of this size instead of three pipes.
    #[serde(default)]
    pub terminal: Option<TerminalSize>,
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters per line.
    pub columns: u16,
}

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecStatus {
    /// Exit code, if it ended by itself.
    pub code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
}

impl ExecStatus {
    /// Whether it ended by itself with code 0.
    #[must_use]
    pub fn is_success(self) -> bool {
        self.code == Some(0)
    }
}

/// What the program reads and writes.
#[derive(Debug)]
pub enum ExecIo {
    /// Three pipes. Drop `stdin` to let the program see its end.
    Pipes {
        /// To the program.
        stdin: ExecStream,
        /// From the program.
        stdout: ExecStream,
        /// From the program.
        stderr: ExecStream,
    },
    /// The other side of the program's terminal, in both directions.
    Terminal(ExecStream),
}

/// What a program wrote and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    /// How it ended.
    pub status: ExecStatus,
    /// The beginning of its standard output and standard error, mixed.
    pub output: Vec<u8>,
}

/// A program that runs in a container.
#[derive(Debug)]
pub struct Exec {
    /// Its input and output.
    pub io: ExecIo,
    /// Its end.
    pub end: ExecEnd,
}

/// The end of a program. Dropping it kills the program and what it started in its session.
#[derive(Debug)]
pub struct ExecEnd {
    control: Control,
    id: ContainerId,
    ended: Option<ExecStatus>,
}

/// A program could not be run in a container.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The request cannot be carried out as it stands.
    #[error("invalid request for a program")]
    Invalid(#[from] InvalidRequest),
    /// There is no running container of that name.
    #[error("container {id} is not running")]
    NotRunning {
        /// Its name.
        id: ContainerId,
    },
    /// The container does not let it run.
    #[error("cannot run it in container {id}: {message}")]
    Failed {
        /// Name of the container.
        id: ContainerId,
        /// Class of the reason.
        kind: FailureKind,
        /// The reason for people, with its causes.
        message: String,
    },
    /// The helper ended or is silent.
    #[error("helper in container {id} {problem}")]
    Helper {
        /// Name of the container.
        id: ContainerId,
        /// What it did.
        problem: String,
    },
    /// The machine is out of something.
    #[error("cannot {action} to run a program in container {id}")]
    Prepare {
        /// Name of the container.
        id: ContainerId,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl ExecRequest {
    /// This program with these arguments, with pipes.
    #[must_use]
    pub fn new(args: Vec<String>) -> Self {
        Self { args, ..Self::default() }
    }

    /// Checks what can be judged without looking at the container.
    ///
    /// # Errors
    /// The first field that cannot be right.
    pub fn check(&self) -> Result<(), InvalidRequest> {
        let invalid = |field, problem: &str| Err(InvalidRequest { field, problem: problem.to_owned() });
        if self.args.first().is_none_or(String::is_empty) {
            return invalid("args", "name no program");
        }
        let texts = || self.args.iter().chain(&self.environment);
        if texts().any(|text| text.contains('\0')) {
            return invalid("request", "contains a NUL byte");
        }
        if texts().map(|text| text.len() + 1).sum::<usize>() > TEXT_BYTES {
            return invalid("request", "has more than 32 KiB of text");
        }
        if self.environment.iter().any(|entry| !entry.contains('=') || entry.starts_with('=')) {
            return invalid("environment", "must consist of NAME=value");
        }
        match &self.working_directory {
            Some(path) if !path.is_absolute() || path.as_os_str().len() > 4000 => {
                invalid("working_directory", "must be an absolute path")
            }
            _ => Ok(()),
        }
    }
}

impl ExecEnd {
    pub(crate) fn new(id: ContainerId, control: Control) -> Self {
        Self { control, id, ended: None }
    }

    /// Waits for the end of the program. The future may be dropped and asked for again.
    ///
    /// # Errors
    /// The helper was killed: nobody knows how the program ended.
    pub async fn wait(&mut self) -> Result<ExecStatus, ExecError> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        let id = || self.id.clone();
        match self.control.receive().await {
            Ok(Some((Answer::Ended(status), _))) => {
                self.ended = Some(status);
                Ok(status)
            }
            Ok(_) => Err(ExecError::Helper { id: id(), problem: "ended before its program".to_owned() }),
            Err(source) => Err(ExecError::Prepare { id: id(), action: "hear from the helper", source }),
        }
    }
}

impl Exec {
    /// Closes the input, collects output up to `most` bytes (more is read and dropped) and waits for the end. Bound it
    /// in time from outside: dropping the future kills the program.
    ///
    /// # Errors
    /// As [`ExecEnd::wait`].
    pub async fn collect(self, most: usize) -> Result<ExecOutput, ExecError> {
        let Self { io, mut end } = self;
        let (mut stdout, mut stderr) = match io {
            ExecIo::Pipes { stdin, stdout, stderr } => {
                drop(stdin);
                (stdout, Some(stderr))
            }
            ExecIo::Terminal(terminal) => (terminal, None),
        };
        let mut output = Vec::new();
        let status = {
            let mut read = std::pin::pin!(read_all(&mut stdout, stderr.as_mut(), &mut output, most));
            let mut is_read = false;
            let status = {
                let mut end = std::pin::pin!(end.wait());
                loop {
                    // Both futures are kept, so it does not matter where the other one is when one is ready.
                    tokio::select! {
                        () = &mut read, if !is_read => is_read = true,
                        status = &mut end => break status?,
                    }
                }
            };
            if !is_read {
                let _ = tokio::time::timeout(LAST_OUTPUT, read).await;
            }
            status
        };
        Ok(ExecOutput { status, output })
    }
}

/// Reads both until both are closed, in the order in which it comes.
async fn read_all(
    stdout: &mut ExecStream,
    stderr: Option<&mut ExecStream>,
    output: &mut Vec<u8>,
    most: usize,
) {
    let mut blocks = ([0; 4096], [0; 4096]);
    let mut closed = (false, stderr.is_none());
    let mut nothing = tokio::io::empty();
    let stderr: &mut (dyn tokio::io::AsyncRead + Unpin + Send) = match stderr {
        Some(stderr) => stderr,
        None => &mut nothing,
    };
    while !(closed.0 && closed.1) {
        // Reading is cancel-safe.
        let read = tokio::select! {
            read = stdout.read(&mut blocks.0), if !closed.0 => {
                closed.0 = matches!(read, Ok(0) | Err(_));
                blocks.0.get(..read.unwrap_or(0))
            }
            read = stderr.read(&mut blocks.1), if !closed.1 => {
                closed.1 = matches!(read, Ok(0) | Err(_));
                blocks.1.get(..read.unwrap_or(0))
            }
        };
        let room = most.saturating_sub(output.len());
        output.extend(read.unwrap_or_default().iter().take(room));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_without_program_or_with_too_much_text_are_refused() {
        let request = |args: &[&str]| ExecRequest::new(args.iter().map(|arg| (*arg).to_owned()).collect());
        assert_eq!(request(&["ls", "-l"]).check(), Ok(()));
        for bad in [request(&[]), request(&[""]), request(&["a\0b"]), request(&[&"x".repeat(TEXT_BYTES)])] {
            assert!(bad.check().is_err(), "{:?}", bad.args.first().map(String::len));
        }
        let relative = ExecRequest { working_directory: Some("tmp".into()), ..request(&["ls"]) };
        assert!(relative.check().is_err());
        let unnamed = ExecRequest { environment: vec!["=x".into()], ..request(&["ls"]) };
        assert!(unnamed.check().is_err());
    }
}
