//! Why an image could not be had. Public errors are typed by what the caller can do about them.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::reference::{ImageReference, InvalidReference};

/// Why an image is not available. The text is fit to be shown to the user who deployed it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// The name cannot be parsed.
    #[error(transparent)]
    InvalidReference(#[from] InvalidReference),
    /// The registry does not have it.
    #[error("image {image} not found at registry {registry}")]
    NotFound {
        /// The image asked for.
        image: ImageReference,
        /// The registry that was asked.
        registry: String,
    },
    /// Its registry name says it was built on this machine, but it was not.
    #[error("image {image} is a local image and is not installed on this node")]
    NotInstalled {
        /// The image asked for.
        image: ImageReference,
    },
    /// The registry wants other credentials, or hides that the image does not exist.
    #[error("registry {registry} denies access to image {image}: {reason}")]
    Denied {
        /// The image asked for.
        image: ImageReference,
        /// The registry that was asked.
        registry: String,
        /// What the registry said.
        reason: String,
    },
    /// No (usable) answer; trying later may help.
    #[error("registry {registry} did not deliver image {image}: {reason}")]
    Unreachable {
        /// The image asked for.
        image: ImageReference,
        /// The registry that was asked.
        registry: String,
        /// What happened.
        reason: String,
    },
    /// There is no variant for this machine.
    #[error("image {image} is built for {built_for}, this node is {node}")]
    WrongArchitecture {
        /// The image asked for.
        image: ImageReference,
        /// Platforms it exists for.
        built_for: String,
        /// Architecture of this machine.
        node: String,
    },
    /// The bytes are not what their digest promises, or not what the formats allow.
    #[error("image {image} is damaged: {reason}")]
    Corrupt {
        /// The image asked for.
        image: ImageReference,
        /// What is wrong.
        reason: String,
    },
    /// The disk of this node is full.
    #[error("no space left on this node for image {image}: {reason}")]
    DiskFull {
        /// The image asked for.
        image: ImageReference,
        /// What did not fit.
        reason: String,
    },
    /// The image exceeds the limits of this node.
    #[error("image {image} is too large: {reason}")]
    TooLarge {
        /// The image asked for.
        image: ImageReference,
        /// The limit and the size.
        reason: String,
    },
    /// It is not a container image this node can run.
    #[error("image {image} cannot be used: {reason}")]
    Unsupported {
        /// The image asked for.
        image: ImageReference,
        /// What it is.
        reason: String,
    },
    /// Reading or writing the store failed.
    #[error("cannot {action} for image {image}")]
    Disk {
        /// The image asked for.
        image: ImageReference,
        /// What was tried.
        action: String,
        /// Answer of the operating system.
        source: Arc<io::Error>,
    },
}

/// What a caller can do about a [`PullError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PullErrorKind {
    /// The image does not exist; wait for someone to push it.
    NotFound,
    /// Credentials are missing or wrong, or the image does not exist.
    Denied,
    /// Retry later.
    Unreachable,
    /// Place it on another node.
    WrongArchitecture,
    /// The content is broken; it has to be pushed again.
    Corrupt,
    /// Collect garbage, or place it on another node.
    DiskFull,
    /// Over the limits of this node.
    TooLarge,
    /// The name has to be corrected.
    InvalidReference,
    /// Everything else.
    Other,
}

impl PullError {
    /// The class of the error, for deciding what to do next.
    pub fn kind(&self) -> PullErrorKind {
        match self {
            Self::InvalidReference(_) => PullErrorKind::InvalidReference,
            Self::NotFound { .. } | Self::NotInstalled { .. } => PullErrorKind::NotFound,
            Self::Denied { .. } => PullErrorKind::Denied,
            Self::Unreachable { .. } => PullErrorKind::Unreachable,
            Self::WrongArchitecture { .. } => PullErrorKind::WrongArchitecture,
            Self::Corrupt { .. } => PullErrorKind::Corrupt,
            Self::DiskFull { .. } => PullErrorKind::DiskFull,
            Self::TooLarge { .. } => PullErrorKind::TooLarge,
            Self::Unsupported { .. } | Self::Disk { .. } => PullErrorKind::Other,
        }
    }
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it.
    #[error("image store {} is in use by another process", .directory.display())]
    InUse {
        /// Directory of the store.
        directory: PathBuf,
    },
    /// A mirror or plain-HTTP entry cannot be parsed.
    #[error("setting \"{setting}\" of the image store: \"{value}\" is not usable: {reason}")]
    Setting {
        /// Name of the setting.
        setting: &'static str,
        /// The offending value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The HTTP client cannot be built.
    #[error("cannot set up the registry client: {reason}")]
    Client {
        /// What is missing.
        reason: String,
    },
    /// Reading or writing its directory failed.
    #[error("cannot {action}")]
    Disk {
        /// What was tried.
        action: String,
        /// Answer of the operating system.
        source: io::Error,
    },
}

/// A failure below the level of an image: of a registry, a blob or a layer, which several images may share.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    NotFound { registry: String },
    Denied { registry: String, reason: String },
    Unreachable { registry: String, reason: String },
    WrongArchitecture { built_for: String, node: String },
    Corrupt { reason: String },
    DiskFull { reason: String },
    TooLarge { reason: String },
    Unsupported { reason: String },
    Disk { action: String, source: Arc<io::Error> },
}

impl Failure {
    pub(crate) fn corrupt(reason: impl Into<String>) -> Self {
        Self::Corrupt { reason: reason.into() }
    }

    pub(crate) fn unsupported(reason: impl Into<String>) -> Self {
        Self::Unsupported { reason: reason.into() }
    }

    /// Classifies an error of the filesystem met while trying to `action`.
    pub(crate) fn disk(action: impl Into<String>, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        let action = action.into();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { reason: format!("could not {action}") }
            }
            _ => Self::Disk { action, source: Arc::new(error) },
        }
    }

    /// Classifies an error met while reading an archive: without an error number it is about the content.
    pub(crate) fn archive(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::FileTooLarge => Self::TooLarge { reason: error.to_string() },
            io::ErrorKind::StorageFull => Self::DiskFull { reason: error.to_string() },
            _ if error.raw_os_error().is_some() => Self::disk("read a downloaded layer", error),
            _ => Self::Corrupt { reason: format!("a layer cannot be unpacked: {error}") },
        }
    }

    /// A blocking task ended without a result: it panicked, or the runtime is shutting down.
    pub(crate) fn lost_task(error: &tokio::task::JoinError) -> Self {
        Self::Unsupported { reason: format!("the task that handled it ended unexpectedly ({error})") }
    }

    /// A few words, for telling about a mirror that failed as well.
    pub(crate) fn brief(&self) -> &str {
        match self {
            Self::NotFound { .. } => "not found",
            Self::WrongArchitecture { .. } => "for other machines only",
            Self::Denied { reason, .. }
            | Self::Unreachable { reason, .. }
            | Self::Corrupt { reason }
            | Self::DiskFull { reason }
            | Self::TooLarge { reason }
            | Self::Unsupported { reason } => reason,
            Self::Disk { action, .. } => action,
        }
    }

    /// Adds what went wrong before, where there is room for it.
    pub(crate) fn with_note(mut self, note: &str) -> Self {
        if let Self::Denied { reason, .. } | Self::Unreachable { reason, .. } = &mut self {
            reason.push_str(note);
        }
        self
    }

    pub(crate) fn for_image(self, image: &ImageReference) -> PullError {
        let image = image.clone();
        match self {
            Self::NotFound { registry } => PullError::NotFound { image, registry },
            Self::Denied { registry, reason } => PullError::Denied { image, registry, reason },
            Self::Unreachable { registry, reason } => PullError::Unreachable { image, registry, reason },
            Self::WrongArchitecture { built_for, node } => {
                PullError::WrongArchitecture { image, built_for, node }
            }
            Self::Corrupt { reason } => PullError::Corrupt { image, reason },
            Self::DiskFull { reason } => PullError::DiskFull { image, reason },
            Self::TooLarge { reason } => PullError::TooLarge { image, reason },
            Self::Unsupported { reason } => PullError::Unsupported { image, reason },
            Self::Disk { action, source } => PullError::Disk { image, action, source },
        }
    }
}
