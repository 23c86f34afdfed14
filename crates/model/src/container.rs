//! What a service asks of the worker beside resources: volumes, files, health checks, restarts.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// The volume driver that every worker has: a folder of the worker machine.
pub const HOSTPATH_DRIVER: &str = "csi.oakestra.io/hostpath";

/// Key of the configuration of [`HOSTPATH_DRIVER`] that names the folder.
pub const HOST_PATH: &str = "host_path";

/// A place that outlives the containers which use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Name of the volume.
    pub id: String,
    /// Who provides it; only workers with this driver take the service.
    pub driver: String,
    /// Absolute path inside the container.
    pub mount_path: String,
    /// For the driver.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
}

impl Volume {
    /// For [`HOSTPATH_DRIVER`]: the folder below the root of all such volumes.
    #[must_use]
    pub fn folder(&self) -> &str {
        self.config.get(HOST_PATH).filter(|path| !path.is_empty()).unwrap_or(&self.id)
    }
}

/// When a process that ended is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// However it ended.
    #[default]
    Always,
    /// If it ended with an error.
    OnFailure,
    /// Not at all.
    Never,
}

impl RestartPolicy {
    /// Every policy.
    pub const ALL: [Self; 3] = [Self::Always, Self::OnFailure, Self::Never];

    /// The word in descriptors.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::OnFailure => "on-failure",
            Self::Never => "never",
        }
    }

    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl FromStr for RestartPolicy {
    type Err = UnknownRestartPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownRestartPolicy> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == text).ok_or(UnknownRestartPolicy)
    }
}

/// A text is no restart policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not one of always, on-failure, never")]
pub struct UnknownRestartPolicy;

/// How a worker finds out whether an instance can serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is tried.
    pub probe: Probe,
    /// Seconds between two tries.
    pub interval_s: u32,
    /// Seconds after which a try has failed.
    pub timeout_s: u32,
    /// Failures in a row after which the instance is restarted.
    pub retries: u32,
    /// Seconds after the start in which failures do not count.
    pub start_period_s: u32,
}

/// One try of a health check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// A `GET` of this path is answered with 200 to 399.
    Http {
        /// Port of the instance.
        port: u16,
        /// Path and query.
        path: String,
    },
    /// A connection to this port is accepted.
    Tcp {
        /// Port of the instance.
        port: u16,
    },
    /// This program ends with code 0 inside the container.
    Command(Vec<String>),
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { port, path } => write!(f, "GET {path} from port {port}"),
            Self::Tcp { port } => write!(f, "connection to port {port}"),
            Self::Command(words) => {
                write!(f, "command {}", words.first().map_or("", String::as_str))
            }
        }
    }
}

/// A file that is shown inside the container: `/path=text`, or `/path=base64:…` for anything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddedFile {
    path: String,
    content: Vec<u8>,
}

/// What marks content that is not written as it is.
const ENCODED: &str = "base64:";

impl AddedFile {
    /// Absolute path inside the container.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is in it.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        &self.content
    }
}

/// A text is no added file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFile {
    /// There is no `=`, or no usable path before it.
    #[error("of the form `/path=text` or `/path=base64:…`, with an absolute path without `.`, `..` and `//`")]
    Form,
    /// It claims to be base64 and is not.
    #[error("valid base64 after `base64:` (RFC 4648, with padding)")]
    Encoding,
}

impl FromStr for AddedFile {
    type Err = InvalidFile;

    fn from_str(text: &str) -> Result<Self, InvalidFile> {
        let (path, content) = text.split_once('=').ok_or(InvalidFile::Form)?;
        if !is_plain_path(path) {
            return Err(InvalidFile::Form);
        }
        let content = match content.strip_prefix(ENCODED) {
            Some(encoded) => STANDARD.decode(encoded).map_err(|_| InvalidFile::Encoding)?,
            None => content.as_bytes().to_vec(),
        };
        Ok(Self { path: path.to_owned(), content })
    }
}

impl TryFrom<String> for AddedFile {
    type Error = InvalidFile;

    fn try_from(text: String) -> Result<Self, InvalidFile> {
        text.parse()
    }
}

impl From<AddedFile> for String {
    fn from(file: AddedFile) -> Self {
        match String::from_utf8(file.content) {
            Ok(text) if !text.starts_with(ENCODED) => format!("{}={text}", file.path),
            Ok(text) => format!("{}={ENCODED}{}", file.path, STANDARD.encode(text)),
            Err(bytes) => format!("{}={ENCODED}{}", file.path, STANDARD.encode(bytes.as_bytes())),
        }
    }
}

/// Longest path inside a container, bytes.
const MAX_PATH_BYTES: usize = 1024;
/// Longest name of a file, bytes (`NAME_MAX`).
const MAX_NAME_BYTES: usize = 255;

/// Whether a text is an absolute path below `/` in its shortest form, without control characters.
#[must_use]
pub fn is_plain_path(path: &str) -> bool {
    path.strip_prefix('/').is_some_and(is_plain_folder)
}

/// Whether a text is a relative path that goes only down, in its shortest form.
#[must_use]
pub fn is_plain_folder(path: &str) -> bool {
    path.len() <= MAX_PATH_BYTES
        && !path.chars().any(char::is_control)
        && path
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != ".." && part.len() <= MAX_NAME_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_as_text_or_encoded_and_come_back_the_same() {
        for (text, path, content) in [
            ("/etc/app.conf=a=b\n", "/etc/app.conf", &b"a=b\n"[..]),
            ("/x=", "/x", b""),
            ("/x=base64:AP8=", "/x", b"\x00\xff"),
            ("/x=base64:YmFzZTY0Ong=", "/x", b"base64:x"),
        ] {
            let file: AddedFile = text.parse().unwrap();
            assert_eq!((file.path(), file.content()), (path, content));
            let again = String::from(file.clone());
            assert_eq!(again, text);
            assert_eq!(
                serde_json::from_str::<AddedFile>(&serde_json::to_string(&file).unwrap()).unwrap(),
                file
            );
        }
        for bad in ["", "/x", "x=1", "/=1", "/a/../b=1", "/a//b=1", "/a/=1", "/./a=1", "/a\n=1"] {
            assert_eq!(bad.parse::<AddedFile>(), Err(InvalidFile::Form), "{bad:?}");
        }
        assert_eq!("/x=base64:***".parse::<AddedFile>(), Err(InvalidFile::Encoding));
    }

    #[test]
    fn the_folder_of_a_volume_is_named_by_its_configuration_or_its_id() {
        let mut volume = Volume {
            id: "data".into(),
            driver: HOSTPATH_DRIVER.into(),
            mount_path: "/data".into(),
            config: BTreeMap::new(),
        };
        assert_eq!(volume.folder(), "data");
        volume.config.insert(HOST_PATH.into(), "shop/data".into());
        assert_eq!(volume.folder(), "shop/data");
    }
}
