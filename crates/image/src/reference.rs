//! Names of images as people write them, parsed into a form that cannot be wrong.
//!
//! The grammar and the defaults are those of Docker (`distribution/reference`): `nginx` means
//! `docker.io/library/nginx:latest`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Registry that is meant when a reference names none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// Registry name of images that are built on this machine; it is never asked over the network.
pub const LOCAL_REGISTRY: &str = "oak.local";

/// Longest accepted reference: registry, repository, tag and digest at their own limits.
const LONGEST_REFERENCE: usize = 255 + 255 + 128 + 80;
const LONGEST_REGISTRY: usize = 255;
const LONGEST_REPOSITORY: usize = 255;
const LONGEST_TAG: usize = 128;

/// Reference to an image: registry, repository, and a tag, a digest or both.
///
/// Two spellings of the same image (`nginx`, `docker.io/library/nginx:latest`) are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageReference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A text that is not an image reference, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not an image reference: {reason}")]
pub struct InvalidReference {
    text: String,
    reason: &'static str,
}

impl ImageReference {
    /// Parses a reference as Docker would, filling in `docker.io`, `library/` and `:latest`.
    ///
    /// # Errors
    /// [`InvalidReference`] names the part that breaks the grammar or its length limit.
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        parse(text).map_err(|reason| InvalidReference { text: excerpt(text), reason })
    }

    /// Host and optional port of the registry, for example `docker.io` or `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path of the repository inside the registry, for example `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Tag; `None` when the reference has only a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Digest the image is pinned to.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Whether the image can only have been built on this machine (registry [`LOCAL_REGISTRY`]).
    pub fn is_local_only(&self) -> bool {
        self.registry == LOCAL_REGISTRY
    }

    /// The same repository, pinned to `digest` instead of a tag.
    pub(crate) fn pinned_to(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// What to ask the registry for: the digest when pinned, else the tag.
    pub(crate) fn manifest_selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(formatter, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for ImageReference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        Self::parse(text)
    }
}

impl TryFrom<String> for ImageReference {
    type Error = InvalidReference;

    fn try_from(text: String) -> Result<Self, InvalidReference> {
        Self::parse(&text)
    }
}

impl From<ImageReference> for String {
    fn from(reference: ImageReference) -> Self {
        reference.to_string()
    }
}

fn parse(text: &str) -> Result<ImageReference, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > LONGEST_REFERENCE {
        return Err("it is too long");
    }
    if text.contains("://") {
        return Err("it must not contain a scheme such as https://");
    }
    let (named, digest) = match text.split_once('@') {
        Some((named, digest)) => (named, Some(Digest::parse(digest).map_err(|error| error.reason())?)),
        None => (text, None),
    };
    let (name, tag) = split_tag(named);
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    if is_bare_identifier(name) {
        return Err("64 hexadecimal digits are an image id, not a name");
    }
    let (registry, path) = split_registry(name);
    check_registry(registry)?;
    let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
    let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
        format!("library/{path}")
    } else {
        path.to_owned()
    };
    check_repository(path, &repository)?;
    let tag = match (tag, &digest) {
        (Some(tag), _) => Some(tag.to_owned()),
        (None, Some(_)) => None,
        (None, None) => Some("latest".to_owned()),
    };
    Ok(ImageReference { registry: registry.to_owned(), repository, tag, digest })
}

/// Splits `name:tag`; a colon before the last slash belongs to a port.
fn split_tag(named: &str) -> (&str, Option<&str>) {
    match named.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') && !tag.ends_with(']') => (name, Some(tag)),
        _ => (named, None),
    }
}

/// The first component is a registry when it looks like a host: a dot, a port, `localhost`, or upper case.
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    }
}

fn is_bare_identifier(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Checks `host`, `host:port` or `[v6]:port`. Also used for the hosts of mirrors.
pub(crate) fn check_registry(registry: &str) -> Result<(), &'static str> {
    if registry.len() > LONGEST_REGISTRY {
        return Err("the registry name is longer than 255 characters");
    }
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let Some((address, after)) = rest.split_once(']') else {
                return Err("the registry address misses its closing bracket");
            };
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return Err("the registry is not a valid IPv6 address");
            }
            match after.strip_prefix(':') {
                Some(port) => (None, Some(port)),
                None if after.is_empty() => (None, None),
                None => return Err("the registry has text after its address"),
            }
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    if port.is_some_and(|port| !is_port(port)) {
        return Err("the registry port is not a number from 1 to 65535");
    }
    if host.is_some_and(|host| !host.split('.').all(is_host_label)) {
        return Err("the registry is not a host name");
    }
    Ok(())
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port != 0)
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn check_repository(written: &str, repository: &str) -> Result<(), &'static str> {
    if written.is_empty() {
        return Err("the repository is missing");
    }
    if repository.len() > LONGEST_REPOSITORY {
        return Err("the repository is longer than 255 characters");
    }
    if written.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("the repository must be lower case");
    }
    if !written.split('/').all(is_path_component) {
        return Err(
            "each part of the repository is lower-case letters and digits, joined by single '.', '_', '__' or '-'",
        );
    }
    Ok(())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let mut separator = String::new();
    let mut seen_word = false;
    for character in component.chars() {
        match character {
            'a'..='z' | '0'..='9' => {
                let follows_well = separator.is_empty() || (seen_word && is_separator(&separator));
                if !follows_well {
                    return false;
                }
                separator.clear();
                seen_word = true;
            }
            '.' | '_' | '-' => separator.push(character),
            _ => return false,
        }
    }
    seen_word && separator.is_empty()
}

fn is_separator(text: &str) -> bool {
    matches!(text, "." | "_" | "__") || text.bytes().all(|byte| byte == b'-')
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    if tag.is_empty() {
        return Err("the tag after ':' is missing");
    }
    if tag.len() > LONGEST_TAG {
        return Err("the tag is longer than 128 characters");
    }
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = tag.bytes();
    if !bytes.next().is_some_and(is_word) || !bytes.all(|byte| is_word(byte) || matches!(byte, b'.' | b'-')) {
        return Err("a tag is letters, digits, '_', '.' and '-', and starts with a letter, digit or '_'");
    }
    Ok(())
}

/// Keeps error messages short and printable whatever was given.
fn excerpt(text: &str) -> String {
    let mut shown: String = text.chars().filter(|character| !character.is_control()).take(120).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn fills_in_what_docker_fills_in() {
        let cases = [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("curlimages/curl:7.82.0", "docker.io/curlimages/curl:7.82.0"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/library/nginx", "docker.io/library/nginx:latest"),
            ("localhost/foo", "localhost/foo:latest"),
            ("localhost:5000/foo", "localhost:5000/foo:latest"),
            ("127.0.0.1:5000/a/b/c:x", "127.0.0.1:5000/a/b/c:x"),
            ("[::1]:5000/foo:1", "[::1]:5000/foo:1"),
            ("ghcr.io/Oakestra", ""),
            ("ghcr.io/oakestra/a__b---c.d", "ghcr.io/oakestra/a__b---c.d:latest"),
        ];
        for (text, expected) in cases {
            match ImageReference::parse(text) {
                Ok(reference) => assert_eq!(reference.to_string(), expected, "{text}"),
                Err(error) => assert!(expected.is_empty(), "{error}"),
            }
        }
    }

    #[test]
    fn a_digest_replaces_the_default_tag_and_keeps_a_given_one() {
        let pinned = ImageReference::parse(&format!("nginx@sha256:{HEX}")).unwrap();
        assert_eq!(pinned.to_string(), format!("docker.io/library/nginx@sha256:{HEX}"));
        assert_eq!(pinned.tag(), None);
        let both = ImageReference::parse(&format!("nginx:1@sha256:{HEX}")).unwrap();
        assert_eq!(both.tag(), Some("1"));
        assert_eq!(both.manifest_selector(), format!("sha256:{HEX}"));
    }

    #[test]
    fn refuses_what_is_not_a_reference_and_says_why() {
        let long_tag = format!("nginx:{}", "a".repeat(129));
        let long_path = "a/".repeat(140) + "a";
        let cases = [
            ("", "empty"),
            ("https://ghcr.io/a/b", "scheme"),
            ("Nginx", "lower case"),
            ("nginx:", "missing"),
            ("nginx:-1", "tag"),
            (&long_tag, "128"),
            (&long_path, "255"),
            ("a//b", "each part"),
            ("a/../b", "each part"),
            ("-a", "each part"),
            ("a..b", "each part"),
            ("a___b", "each part"),
            ("host.example:0/a", "port"),
            ("host.example:/a", "port"),
            ("host..example/a", "host name"),
            ("ghcr.io/", "missing"),
            ("nginx@md5:00", "sha256"),
            ("nginx@sha256:zz", "64"),
            ("a b", "each part"),
            ("a\u{0}b", "each part"),
            (HEX, "image id"),
        ];
        for (text, hint) in cases {
            let error = ImageReference::parse(text).expect_err(text).to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn travels_as_a_string() {
        let reference: ImageReference = serde_json::from_str("\"nginx\"").unwrap();
        assert_eq!(serde_json::to_string(&reference).unwrap(), "\"docker.io/library/nginx:latest\"");
        assert!(serde_json::from_str::<ImageReference>("\"UPPER\"").is_err());
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_is_idempotent(text in "\\PC{0,80}") {
            if let Ok(reference) = ImageReference::parse(&text) {
                prop_assert_eq!(ImageReference::parse(&reference.to_string()).unwrap(), reference);
            }
        }

        #[test]
        fn canonical_references_survive(
            registry in "([a-z][a-z0-9]{0,8}\\.){1,2}[a-z]{2,5}(:[1-9][0-9]{0,3})?",
            path in "[a-z0-9]{1,8}([._-][a-z0-9]{1,4})?(/[a-z0-9]{1,6}){1,3}",
            tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}",
        ) {
            let text = format!("{registry}/{path}:{tag}");
            let reference = ImageReference::parse(&text).unwrap();
            prop_assert_eq!(reference.to_string(), text);
            prop_assert_eq!(reference.repository(), path);
        }
    }
}
