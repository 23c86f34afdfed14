//! Values that lie on disk only encrypted: ChaCha20-Poly1305 with a key in a file of its own that only its owner can
//! read.
//!
//! This protects copies of the state (a database that is sent to somebody, a disk image without the key, logs), and
//! rows that are looked at. It does not protect against somebody who reads files of this machine as root: the key is
//! one of them.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use oak_model::message::DesiredInstance;
use oak_model::{Confidential, Purpose};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

/// Name of the key file in the directory of a role.
pub const SECRETS_KEY: &str = "secrets-key";

const KEY_BYTES: usize = 32;

/// Why a key or a value is not usable.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key file cannot be read or written.
    #[error("cannot read or create the key of secrets {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no key.
    #[error(
        "the key of secrets {path} is damaged: put it back from a backup, or move it away and store all secrets again"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The system gives no randomness.
    #[error("the system gives no randomness")]
    NoRandomness,
    /// The value was sealed with another key, or changed.
    #[error("the {0} cannot be opened with the key of this node: store it again")]
    Sealed(Purpose),
}

/// Encrypts and decrypts values with the key of this node.
pub struct Sealer {
    key: LessSafeKey,
    random: SystemRandom,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").finish_non_exhaustive()
    }
}

impl Sealer {
    /// Opens the key in the directory of a role, or makes one.
    ///
    /// # Errors
    /// The file is not usable.
    pub fn open(directory: &Path) -> Result<Self, SealError> {
        let path = directory.join(SECRETS_KEY);
        let failed = |source| SealError::File { path: path.clone(), source };
        let random = SystemRandom::new();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut bytes = [0; KEY_BYTES];
                random.fill(&mut bytes).map_err(|_| SealError::NoRandomness)?;
                create_private(&path, &bytes).map_err(failed)?;
                bytes.to_vec()
            }
            Err(error) => return Err(failed(error)),
        };
        fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes);
        let key = key.map_err(|_| SealError::Damaged { path: path.clone() })?;
        Ok(Self { key: LessSafeKey::new(key), random })
    }

    /// Encrypts a value for what it is for; it opens for nothing else.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn seal(&self, purpose: &Purpose, value: &[u8]) -> Result<Confidential, SealError> {
        // 96 random bits: with one key for at most some million values a repetition is out of reach.
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| SealError::NoRandomness)?;
        let mut bytes = value.to_vec();
        let label = Aad::from(purpose.to_string().into_bytes());
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), label, &mut bytes)
            .map_err(|_| SealError::NoRandomness)?;
        let sealed = [&nonce[..], &bytes].concat();
        Ok(Confidential::Sealed(BASE64.encode(sealed).into()))
    }

    /// Decrypts a value; one that is clear is only decoded.
    ///
    /// # Errors
    /// It was sealed with another key or for something else.
    pub fn open_value(&self, purpose: &Purpose, value: &Confidential) -> Result<Vec<u8>, SealError> {
        let refused = || SealError::Sealed(purpose.clone());
        match value {
            Confidential::Clear(text) => BASE64.decode(&**text).map_err(|_| refused()),
            Confidential::Sealed(text) => {
                let bytes = BASE64.decode(&**text).map_err(|_| refused())?;
                let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>().ok_or_else(refused)?;
                let mut sealed = sealed.to_vec();
                let label = Aad::from(purpose.to_string().into_bytes());
                let nonce = Nonce::assume_unique_for_key(*nonce);
                let opened = self.key.open_in_place(nonce, label, &mut sealed).map_err(|_| refused())?;
                Ok(opened.to_vec())
            }
        }
    }

    /// Makes the values of a wish clear, for a message. What cannot be opened is left out and told.
    pub fn reveal(&self, wish: &mut DesiredInstance) {
        wish.material.retain_mut(|material| match self.open_value(&material.purpose, &material.value) {
            Ok(value) => {
                material.value = Confidential::Clear(BASE64.encode(value).into());
                true
            }
            Err(error) => {
                tracing::warn!(instance = %wish.key, %error, "a secret is not passed on");
                false
            }
        });
    }

    /// Seals the values of a wish that came in a message, before anything stores it.
    pub fn protect(&self, wish: &mut DesiredInstance) {
        wish.material.retain_mut(|material| {
            // A sealed one would be sealed with the key of its sender.
            let Confidential::Clear(text) = &material.value else { return false };
            let sealed = BASE64.decode(&**text).ok().and_then(|value| {
                let sealed = self.seal(&material.purpose, &value);
                sealed.inspect_err(|error| tracing::warn!(%error, "a secret is not kept")).ok()
            });
            match sealed {
                Some(sealed) => {
                    material.value = sealed;
                    true
                }
                None => false,
            }
        });
    }
}

/// Makes a file that only its owner can read, with its directory. Written beside, synced and renamed, so that a crash
/// leaves no half a key.
///
/// # Errors
/// It cannot be written; there is the former file, if there was one.
pub fn create_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let fresh = path.with_extension("new");
    let _ = fs::remove_file(&fresh);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purpose(name: &str) -> Purpose {
        Purpose::Secret(name.parse().unwrap())
    }

    #[test]
    fn a_value_opens_with_the_same_key_and_for_the_same_purpose_only() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let sealed = Sealer::open(here.path()).unwrap().seal(&purpose("a"), b"hunter2").unwrap();
        let again = Sealer::open(here.path()).unwrap();
        assert_eq!(again.open_value(&purpose("a"), &sealed).unwrap(), b"hunter2");
        assert!(again.open_value(&purpose("b"), &sealed).is_err());
        let other = Sealer::open(there.path()).unwrap();
        assert!(other.open_value(&purpose("a"), &sealed).is_err());
        for bad in ["", "AAAA", "not base64!", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
            assert!(again.open_value(&purpose("a"), &Confidential::Sealed(bad.into())).is_err());
        }
    }

    #[test]
    fn the_key_is_for_its_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(SECRETS_KEY);
        Sealer::open(directory.path()).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        Sealer::open(directory.path()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, b"short").unwrap();
        assert!(matches!(Sealer::open(directory.path()), Err(SealError::Damaged { .. })));
    }
}
