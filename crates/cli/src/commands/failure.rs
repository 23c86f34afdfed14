//! How commands fail: one sentence, the causes, a hint, and an exit code scripts can rely on.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use oak_client::{ClientError, ClientErrorKind};
use oak_store::backup::BackupError;

use crate::output::clean;

/// Something went wrong that has no code of its own.
pub(crate) const EXIT_FAILURE: u8 = 1;
/// The arguments make no sense.
pub(crate) const EXIT_USAGE: u8 = 2;
const EXIT_NOT_FOUND: u8 = 3;
const EXIT_DENIED: u8 = 4;
const EXIT_UNREACHABLE: u8 = 5;

/// A command that did not do what it was asked for.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
    code: u8,
    closed_pipe: bool,
}

impl Failure {
    /// A failure with one of the codes above.
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { message: message.into(), causes: Vec::new(), hint: None, code, closed_pipe: false }
    }

    /// Ends with a code and says nothing: a program that was run has said what there is to say.
    pub(super) fn silent(code: u8) -> Self {
        Self::new(code, "")
    }

    /// The arguments make no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(EXIT_USAGE, message)
    }

    /// Something that was named does not exist.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(EXIT_NOT_FOUND, message)
    }

    /// Adds a line about why.
    pub(crate) fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Says what to do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn is_closed_pipe(&self) -> bool {
        self.closed_pipe
    }

    /// The exit code.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }

    /// The exit code as a number.
    #[cfg(test)]
    pub(super) fn code(&self) -> u8 {
        self.code
    }

    /// Writes the message for people.
    pub(crate) fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        if self.message.is_empty() {
            return Ok(());
        }
        writeln!(to, "error: {}", clean(&self.message))?;
        for cause in &self.causes {
            writeln!(to, "  {}", clean(cause))?;
        }
        match &self.hint {
            Some(hint) => writeln!(to, "hint: {}", clean(hint)),
            None => Ok(()),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let (code, hint) = match error.kind() {
            ClientErrorKind::Unreachable => (
                EXIT_UNREACHABLE,
                Some("check that the root runs, and name it with --server or OAK_SERVER (http://host:10000)"),
            ),
            ClientErrorKind::Denied => {
                (EXIT_DENIED, Some("name user and password with OAK_USER and OAK_PASSWORD"))
            }
            ClientErrorKind::NotFound => (EXIT_NOT_FOUND, None),
            ClientErrorKind::Invalid if matches!(error, ClientError::Address { .. }) => (EXIT_USAGE, None),
            ClientErrorKind::Invalid | ClientErrorKind::Conflict | ClientErrorKind::Server => {
                (EXIT_FAILURE, None)
            }
        };
        let mut failure = Self::new(code, error.to_string());
        // The layers between say "error sending request"; only the innermost knows what happened.
        let mut innermost = error.source();
        while let Some(cause) = innermost.and_then(Error::source) {
            innermost = Some(cause);
        }
        failure.causes.extend(innermost.map(ToString::to_string));
        failure.hint = hint.map(str::to_owned);
        failure
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        let hint = match &error {
            BackupError::Nothing { .. } => Some("name the directory of the roles with --data-dir"),
            BackupError::NotEmpty { .. } => {
                Some("choose another --data-dir, or have it moved aside with --replace")
            }
            BackupError::Damaged { .. } => Some("use an older backup; `oak backup --verify FILE` checks one"),
            BackupError::Rows { .. } | BackupError::State { .. } => {
                Some("the last good backup is the way back: `oak restore FILE --replace`")
            }
            BackupError::File { .. } | BackupError::Copy { .. } | BackupError::TooNew { .. } => None,
        };
        let mut failure = Self::new(EXIT_FAILURE, error.to_string());
        let mut source = error.source();
        while let Some(cause) = source {
            failure.causes.push(cause.to_string());
            source = cause.source();
        }
        failure.hint = hint.map(str::to_owned);
        failure
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let closed_pipe = super::is_closed_pipe(&error);
        Self { closed_pipe, ..Self::new(EXIT_FAILURE, format!("cannot write the output: {error}")) }
    }
}
