//! Errors of the runtime, by what the caller can do about them.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::container::{ContainerId, InvalidRequest};

/// Why a container could not be started, as far as the shim can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The program does not exist in the image.
    CommandNotFound,
    /// The program exists but cannot be executed (permission, wrong architecture).
    CommandNotExecutable,
    /// The user or group is not known in the image.
    UnknownUser,
    /// The working directory cannot be made or entered.
    WorkingDirectory,
    /// The root file system cannot be mounted.
    RootFilesystem,
    /// A bind mount has no source.
    Mount,
    /// The network namespace cannot be joined.
    NetworkNamespace,
    /// Anything else.
    Other,
}

impl FailureKind {
    /// Whether trying the same again on this machine can help.
    #[must_use]
    pub fn is_permanent(self) -> bool {
        match self {
            Self::CommandNotFound | Self::CommandNotExecutable | Self::UnknownUser => true,
            Self::WorkingDirectory
            | Self::RootFilesystem
            | Self::Mount
            | Self::NetworkNamespace
            | Self::Other => false,
        }
    }
}

/// A container could not be created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The request cannot be carried out as it stands.
    #[error("invalid container request")]
    Invalid(#[from] InvalidRequest),
    /// There is one of that name, running or not.
    #[error("container {id} exists already")]
    AlreadyExists {
        /// Its name.
        id: ContainerId,
    },
    /// The shim tells why.
    #[error("cannot start container {id}: {message}")]
    Failed {
        /// Name of the container.
        id: ContainerId,
        /// Class of the reason.
        kind: FailureKind,
        /// The reason for people, with its causes.
        message: String,
    },
    /// The shim ended without an answer or did not answer in time.
    #[error("shim of container {id} {problem}")]
    Shim {
        /// Name of the container.
        id: ContainerId,
        /// What it did.
        problem: String,
    },
    /// The state directory or the shim cannot be used.
    #[error("cannot {action} for container {id}")]
    Prepare {
        /// Name of the container.
        id: ContainerId,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl CreateError {
    /// Whether trying the same again on this machine can help.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Invalid(_) | Self::AlreadyExists { .. } => true,
            Self::Failed { kind, .. } => kind.is_permanent(),
            Self::Shim { .. } | Self::Prepare { .. } => false,
        }
    }
}

/// The state directory cannot be listed.
#[derive(Debug, thiserror::Error)]
#[error("cannot list containers in {}", directory.display())]
pub struct AdoptError {
    /// The state directory.
    pub directory: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// A signal was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// There is no running container of that name.
    #[error("container {id} is not running")]
    NotRunning {
        /// Its name.
        id: ContainerId,
    },
    /// The kernel refused.
    #[error("cannot signal container {id}")]
    Send {
        /// Its name.
        id: ContainerId,
        /// Why.
        source: io::Error,
    },
}

/// Something of a container could not be removed; everything else was. Deleting again tries again.
#[derive(Debug, thiserror::Error)]
#[error("cannot delete container {id} completely: {}", problems.join("; "))]
pub struct DeleteError {
    /// Its name.
    pub id: ContainerId,
    /// What is left and why.
    pub problems: Vec<String>,
}

/// A container could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// There is no container of that name.
    #[error("container {id} does not exist")]
    NotFound {
        /// Its name.
        id: ContainerId,
    },
    /// Its cgroup cannot be read.
    #[error("cannot read cgroup of container {id}")]
    Read {
        /// Its name.
        id: ContainerId,
        /// Why.
        source: io::Error,
    },
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        // transparent wrappers repeat their cause
        if !text.ends_with(&next_text) {
            text.push_str(": ");
            text.push_str(&next_text);
        }
        cause = next.source();
    }
    text
}
