//! Why a call failed, typed by what the caller does about it.

use std::time::Duration;

/// Reaction classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientErrorKind {
    /// Nobody answers at that address, or the connection broke. Trying later may help.
    Unreachable,
    /// The login or the rights of the user do not suffice.
    Denied,
    /// The object does not exist.
    NotFound,
    /// The request is wrong; sending it again is pointless.
    Invalid,
    /// The request contradicts the present state, such as a name that is taken.
    Conflict,
    /// The server failed or answered something that cannot be read.
    Server,
}

/// A call to the root API failed. The text says what was tried.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server address is not a URL.
    #[error("`{address}` is not the address of a server: {reason}")]
    Address {
        /// As given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An identifier cannot be part of a path.
    #[error("`{id}` is not an identifier")]
    Id {
        /// As given, shortened.
        id: String,
    },
    /// The HTTP client could not be set up.
    #[error("cannot set up the HTTP client")]
    Setup {
        /// Cause.
        source: reqwest::Error,
    },
    /// No connection, or it broke.
    #[error("cannot {action}: {server} does not answer")]
    Unreachable {
        /// What was tried.
        action: String,
        /// Base address.
        server: String,
        /// Cause.
        source: reqwest::Error,
    },
    /// The server took too long.
    #[error("cannot {action}: {server} did not answer within {} s", limit.as_secs())]
    TimedOut {
        /// What was tried.
        action: String,
        /// Base address.
        server: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The server answered with an error status.
    #[error("cannot {action}: {message} (HTTP {status})")]
    Refused {
        /// What was tried.
        action: String,
        /// HTTP status.
        status: u16,
        /// Text of the server, or the name of the status.
        message: String,
    },
    /// The answer is larger than this client reads.
    #[error("cannot {action}: the answer is larger than {limit} bytes")]
    TooLarge {
        /// What was tried.
        action: String,
        /// Bytes.
        limit: usize,
    },
    /// The answer is not what the API promises.
    #[error("cannot {action}: the server's answer cannot be read")]
    Unreadable {
        /// What was tried.
        action: String,
        /// Cause.
        source: serde_json::Error,
    },
}

impl ClientError {
    /// How to react.
    #[must_use]
    pub fn kind(&self) -> ClientErrorKind {
        match self {
            Self::Address { .. } | Self::Id { .. } => ClientErrorKind::Invalid,
            Self::Unreachable { .. } | Self::TimedOut { .. } => ClientErrorKind::Unreachable,
            Self::Setup { .. } | Self::TooLarge { .. } | Self::Unreadable { .. } => ClientErrorKind::Server,
            Self::Refused { status, .. } => match status {
                401 | 403 => ClientErrorKind::Denied,
                404 => ClientErrorKind::NotFound,
                409 => ClientErrorKind::Conflict,
                400 | 405 | 411..=415 | 422 | 501 => ClientErrorKind::Invalid,
                _ => ClientErrorKind::Server,
            },
        }
    }

    /// The HTTP status, if the server gave one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::Address { .. }
            | Self::Id { .. }
            | Self::Setup { .. }
            | Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::TooLarge { .. }
            | Self::Unreadable { .. } => None,
        }
    }
}
