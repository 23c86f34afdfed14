//! Why a session ended, and how that crosses the wire as the final gRPC status.

use std::error::Error as _;
use std::fmt;

use tonic::{Code, Status};

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The child ended it in good order.
    Left,
    /// The connection broke; with the cause as text.
    Lost(String),
    /// Three heartbeats of the peer are missing.
    Silent,
    /// The same child opened a newer session.
    Superseded,
    /// The queue to the peer was full: it reads too slowly. The next session starts with the full state.
    Overflow,
    /// The parent does not accept the child; with the reason for people.
    Refused(String),
    /// The parent's shell ended it; with the reason for people.
    Ended(String),
    /// The peer broke the protocol; with what it did.
    Protocol(String),
    /// The parent shuts down; it may be back soon.
    Draining,
}

impl CloseReason {
    /// Returns the status with which a parent tells its child; `None` for a clean end.
    pub(crate) fn to_status(&self) -> Option<Status> {
        let code = match self {
            Self::Left => return None,
            Self::Lost(_) => Code::Aborted,
            Self::Silent => Code::DeadlineExceeded,
            Self::Superseded => Code::AlreadyExists,
            Self::Overflow => Code::ResourceExhausted,
            Self::Refused(_) => Code::PermissionDenied,
            Self::Ended(_) => Code::Cancelled,
            Self::Protocol(_) => Code::InvalidArgument,
            Self::Draining => Code::Unavailable,
        };
        let text = match self {
            Self::Refused(text) | Self::Ended(text) | Self::Protocol(text) | Self::Lost(text) => text.clone(),
            other => other.to_string(),
        };
        Some(Status::new(code, shorten(text)))
    }

    /// Reads what a status of the peer or of the transport means.
    pub(crate) fn from_status(status: &Status) -> Self {
        let text = shorten(status.message().to_owned());
        // The transport reports its own failures with a source, the peer's words come without.
        if status.source().is_some() {
            return Self::Lost(describe(status));
        }
        match status.code() {
            Code::AlreadyExists => Self::Superseded,
            Code::DeadlineExceeded => Self::Silent,
            Code::ResourceExhausted => Self::Overflow,
            Code::PermissionDenied | Code::Unauthenticated | Code::FailedPrecondition => Self::Refused(text),
            Code::Cancelled => Self::Ended(text),
            Code::InvalidArgument | Code::OutOfRange => Self::Protocol(text),
            Code::Unavailable => Self::Draining,
            _ => Self::Lost(text),
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Left => f.write_str("the child left"),
            Self::Lost(cause) => write!(f, "connection lost: {cause}"),
            Self::Silent => write!(f, "no sign of life for {} heartbeats", super::MISSED_HEARTBEATS),
            Self::Superseded => f.write_str("superseded by a newer session of the same child"),
            Self::Overflow => f.write_str("the peer reads too slowly, its queue is full"),
            Self::Refused(reason) => write!(f, "refused by the parent: {reason}"),
            Self::Ended(reason) => write!(f, "ended by the parent: {reason}"),
            Self::Protocol(problem) => write!(f, "protocol broken: {problem}"),
            Self::Draining => f.write_str("the parent shuts down"),
        }
    }
}

/// The innermost cause says most ("connection reset by peer"), the status itself often only "h2 protocol error".
fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    shorten(text)
}

/// Keeps texts of peers at a size that fits a log line and a header.
fn shorten(mut text: String) -> String {
    const LIMIT: usize = 512;
    if text.len() > LIMIT {
        let end = (0..=LIMIT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}
