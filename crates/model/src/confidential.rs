//! Values that only their users shall read: secrets and credentials of registries.
//!
//! ```text
//!  row ── sealed with the key of the node ──► shell opens ──► message, clear inside mutual TLS ──► shell seals ──► row
//! ```
//!
//! State machines only ever hold the sealed form. Neither form appears in `Debug` output.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Largest value, bytes: an environment variable has room for it, and a certificate chain fits in.
pub const MAX_CONFIDENTIAL_BYTES: usize = 48 << 10;

/// A value, base64.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidential {
    /// As it is: only in messages, inside mutual TLS.
    Clear(Box<str>),
    /// Encrypted with the key of the node that stores it.
    Sealed(Box<str>),
}

impl fmt::Debug for Confidential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[confidential]")
    }
}

/// Name of a secret: 1–63 characters `a-z A-Z 0-9 _ . -`, beginning with a letter or digit. It names files and rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretName(Box<str>);

/// A text is not the name of a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 63 of a-z A-Z 0-9 _ . - and begin with a letter or digit")]
pub struct InvalidSecretName;

impl SecretName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = InvalidSecretName;

    fn from_str(text: &str) -> Result<Self, InvalidSecretName> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let begins_well = text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric());
        if begins_well && text.len() <= 63 && text.bytes().all(is_plain) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidSecretName)
        }
    }
}

impl TryFrom<String> for SecretName {
    type Error = InvalidSecretName;

    fn try_from(text: String) -> Result<Self, InvalidSecretName> {
        text.parse()
    }
}

impl From<SecretName> for String {
    fn from(name: SecretName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Host of a registry as images name it, `registry.example:5000`: what stands before the first `/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RegistryHost(Box<str>);

/// A text is not the host of a registry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be the host of a registry as images name it, such as `docker.io` or `registry.example:5000`")]
pub struct InvalidRegistryHost;

/// The registry of images that name none.
const DEFAULT_REGISTRY: &str = "docker.io";

impl RegistryHost {
    /// The registry an image comes from.
    ///
    /// # Errors
    /// What stands before its first `/` is no host.
    pub fn of_image(image: &str) -> Result<Self, InvalidRegistryHost> {
        let first = image.split_once('/').map(|(first, _)| first);
        let is_host = |first: &&str| first.contains(['.', ':']) || *first == "localhost";
        first.filter(is_host).unwrap_or(DEFAULT_REGISTRY).parse()
    }

    /// The host as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RegistryHost {
    type Err = InvalidRegistryHost;

    fn from_str(text: &str) -> Result<Self, InvalidRegistryHost> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
        if text.is_empty() || text.len() > 255 || !text.bytes().all(is_plain) {
            return Err(InvalidRegistryHost);
        }
        let lower = text.to_ascii_lowercase();
        let one_name = match lower.as_str() {
            "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY,
            other => other,
        };
        Ok(Self(one_name.into()))
    }
}

impl TryFrom<String> for RegistryHost {
    type Error = InvalidRegistryHost;

    fn try_from(text: String) -> Result<Self, InvalidRegistryHost> {
        text.parse()
    }
}

impl From<RegistryHost> for String {
    fn from(host: RegistryHost) -> Self {
        host.0.into()
    }
}

impl fmt::Display for RegistryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a value is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// A secret of an organisation, for its services.
    Secret(SecretName),
    /// User name and password of a registry, for pulling images: JSON, see [`RegistryLogin`].
    Registry(RegistryHost),
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(name) => write!(f, "secret `{name}`"),
            Self::Registry(host) => write!(f, "credentials of registry `{host}`"),
        }
    }
}

/// A value that an instance needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Material {
    /// What it is for.
    pub purpose: Purpose,
    /// Grows with every change of the value.
    pub version: u64,
    /// The value.
    pub value: Confidential,
}

/// Sealing the same value twice gives different texts; purpose and version tell whether it is the same.
impl PartialEq for Material {
    fn eq(&self, other: &Self) -> bool {
        (&self.purpose, self.version) == (&other.purpose, other.version)
    }
}

impl Eq for Material {}

/// How to log in to a registry. `Debug` hides the password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryLogin {
    /// User name.
    pub username: String,
    /// Password or access token.
    pub password: String,
}

impl fmt::Debug for RegistryLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryLogin").field("username", &self.username).finish_non_exhaustive()
    }
}

/// A secret that a service uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretUse {
    /// Which one.
    pub name: SecretName,
    /// Where its programs find it.
    pub target: SecretTarget,
}

/// Where programs find a secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretTarget {
    /// In this environment variable.
    Env(String),
    /// In this file.
    File(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_of_an_image_is_what_stands_before_its_first_slash() {
        for (image, host) in [
            ("nginx", "docker.io"),
            ("library/nginx:1", "docker.io"),
            ("localhost/x", "localhost"),
            ("index.docker.io/library/nginx", "docker.io"),
            ("Registry.Example:5000/a/b@sha256:00", "registry.example:5000"),
        ] {
            assert_eq!(RegistryHost::of_image(image).map(String::from), Ok(host.to_owned()), "{image}");
        }
        assert!(RegistryHost::of_image("a b.c/x").is_err());
    }

    #[test]
    fn names_of_secrets_are_names_of_files() {
        for good in ["db-password", "A.b_c", "0"] {
            assert!(good.parse::<SecretName>().is_ok(), "{good}");
        }
        let long = "x".repeat(64);
        for bad in ["", ".", "..", "-a", "a/b", "a b", "ä", long.as_str()] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn values_are_never_shown() {
        let value = Confidential::Clear("aHVudGVyMg==".into());
        let material = Material { purpose: Purpose::Secret("a".parse().unwrap()), version: 1, value };
        assert!(!format!("{material:?}").contains("aHVu"));
        let login = RegistryLogin { username: "u".into(), password: "hunter2".into() };
        assert!(!format!("{login:?}").contains("hunter2"));
    }
}
