//! Keys as people and files know them: 32 bytes in base64.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};
use x25519_dalek::StaticSecret;

/// A text that is not 32 bytes in base64.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a key is 32 bytes in base64 (44 characters)")]
pub struct InvalidKey;

fn decode(text: &str) -> Result<[u8; 32], InvalidKey> {
    STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(InvalidKey)
}

/// Public key of a node (Curve25519), as `wg pubkey` prints it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(pub [u8; 32]);

/// Private key of this node, as `wg genkey` prints it. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PrivateKey([u8; 32]);

/// A secret two peers share besides their keys, as `wg genpsk` prints it. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PresharedKey(pub(crate) [u8; 32]);

impl PrivateKey {
    /// Makes a key of 32 random bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Makes a key from the randomness of the system.
    pub fn generate() -> Self {
        let mut bytes = [0; 32];
        StdRng::from_os_rng().fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// The key in a file, which is made with mode 0600 if it is not there. A damaged one is replaced.
    pub fn open_or_make(path: &Path) -> io::Result<Self> {
        if let Some(key) = Self::read(path)? {
            return Ok(key);
        }
        let key = Self::generate();
        key.write(path)?;
        Ok(key)
    }

    /// The key in a file; none if it is not there, or damaged.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        match fs::read_to_string(path).map(|text| text.trim().parse()) {
            Ok(Ok(key)) => Ok(Some(key)),
            Ok(Err(_)) => {
                tracing::warn!(file = %path.display(), "the key is damaged and not used");
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes it the key in a file, which only its owner reads: wholly or not at all, whatever happens.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let fresh = path.with_extension("new");
        let _ = fs::remove_file(&fresh);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(String::from(self.clone()).as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        match path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }

    /// The key others know this node by.
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519_dalek::PublicKey::from(&self.secret()).to_bytes())
    }

    pub(crate) fn secret(&self) -> StaticSecret {
        StaticSecret::from(self.0)
    }
}

impl PresharedKey {
    /// Makes a key of 32 random bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

macro_rules! text_form {
    ($($key:ident),*) => {$(
        impl TryFrom<String> for $key {
            type Error = InvalidKey;
            fn try_from(text: String) -> Result<Self, InvalidKey> {
                decode(&text).map(Self)
            }
        }
        impl From<$key> for String {
            fn from(key: $key) -> Self {
                STANDARD.encode(key.0)
            }
        }
        impl std::str::FromStr for $key {
            type Err = InvalidKey;
            fn from_str(text: &str) -> Result<Self, InvalidKey> {
                decode(text).map(Self)
            }
        }
    )*};
}
text_form!(PublicKey, PrivateKey, PresharedKey);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 7748, section 6.1.
    #[test]
    fn public_key_is_that_of_the_standard() {
        let private = PrivateKey::from_bytes([
            0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2, 0x66, 0x45,
            0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9, 0x2c, 0x2a,
        ]);
        assert_eq!(private.public().0[..4], [0x85, 0x20, 0xf0, 0x09]);
        assert_eq!(format!("{private:?}"), "PrivateKey(…)");
    }

    #[test]
    fn the_key_is_made_once_and_only_its_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        let key = PrivateKey::open_or_make(&file).unwrap();
        assert!(PrivateKey::open_or_make(&file).unwrap() == key);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&file, "?").unwrap();
        let other = PrivateKey::open_or_make(&file).unwrap();
        assert!(other != key && PrivateKey::open_or_make(&file).unwrap() == other);
    }

    #[test]
    fn text_form_survives_a_round_trip_and_nothing_else_is_a_key() {
        let key = PrivateKey::from_bytes([9; 32]).public();
        assert_eq!(key.to_string().parse::<PublicKey>(), Ok(key));
        for wrong in ["", "abc", "AAAA", &"A".repeat(44), &"A".repeat(4096)] {
            assert_eq!(wrong.parse::<PublicKey>(), Err(InvalidKey), "{wrong}");
        }
    }
}
