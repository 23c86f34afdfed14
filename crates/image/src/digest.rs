//! Content digests. Only SHA-256 is accepted: it is what every registry uses, and a second algorithm would be a
//! second way to name the same bytes.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// SHA-256 digest of a blob, written `sha256:<64 lower-case hexadecimal digits>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// A text that is not a supported digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidDigest(&'static str);

impl InvalidDigest {
    pub(crate) fn reason(&self) -> &'static str {
        self.0
    }
}

impl Digest {
    /// Parses `sha256:<hex>`.
    ///
    /// # Errors
    /// Any other algorithm, length or spelling.
    pub fn parse(text: &str) -> Result<Self, InvalidDigest> {
        let Some(hex) = text.strip_prefix("sha256:") else {
            return Err(InvalidDigest("only sha256 digests are supported"));
        };
        if hex.len() != 64 || !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(InvalidDigest("a sha256 digest is 64 lower-case hexadecimal digits"));
        }
        Ok(Self(hex.to_owned()))
    }

    /// Digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The 64 hexadecimal digits, safe as a file name.
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "sha256:{}", self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Running SHA-256 over a stream.
#[derive(Clone, Default)]
pub(crate) struct Hasher(sha2::Sha256);

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        use fmt::Write as _;
        let mut hex = String::with_capacity(64);
        for byte in self.0.finalize() {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
        }
        Digest(hex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_digest_is_the_known_one() {
        let digest = Digest::of(b"");
        assert_eq!(
            digest.to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(Digest::parse(&digest.to_string()), Ok(digest));
    }

    #[test]
    fn refuses_other_spellings() {
        for text in ["", "sha256:", "sha512:00", "sha256:../../etc", &format!("sha256:{}", "A".repeat(64))] {
            assert!(Digest::parse(text).is_err(), "{text}");
        }
    }
}
