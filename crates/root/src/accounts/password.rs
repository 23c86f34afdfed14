//! Passwords: argon2id, and a memory of recent successes so that a command line that logs in for every command
//! does not pay for the hash each time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use ring::hmac;
use ring::rand::SystemRandom;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// 7 MiB, five passes, one lane: the smallest memory among the equivalent settings OWASP recommends for argon2id.
const MEMORY_KIB: u32 = 7 * 1024;
const PASSES: u32 = 5;
const LANES: u32 = 1;

/// Hashes computed at the same time.
const CONCURRENT: usize = 2;
/// Callers that wait or compute. Beyond that they are told to come back: each waits at most about a second.
const WAITING: usize = 64;

/// How long a success is remembered.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Users remembered.
const MAX_REMEMBERED: usize = 1024;

/// Why a password could not be hashed or checked.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Too many at the same time.
    #[error("too many logins at the same time: try again in a few seconds")]
    Busy,
    /// The system gives no randomness or memory, or a stored hash is damaged.
    #[error("cannot compute the hash of a password: {0}")]
    Hash(argon2::password_hash::Error),
    /// The computation was cancelled because the program ends.
    #[error("the computation of a password hash was cancelled")]
    Cancelled,
}

/// Hashes and checks passwords. Cheap to clone.
#[derive(Clone)]
pub struct Passwords(Arc<Inner>);

struct Inner {
    argon2: Argon2<'static>,
    computing: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// Key of the memory, different in every run.
    key: hmac::Key,
    memory: Mutex<HashMap<String, (hmac::Tag, Instant)>>,
    /// Checked for names that do not exist, so that they take as long as those that do.
    decoy: String,
}

/// The right to compute one hash.
pub(crate) struct Turn {
    _computing: OwnedSemaphorePermit,
    _waiting: OwnedSemaphorePermit,
}

impl Passwords {
    /// Prepares checking; computes one hash, so it takes some milliseconds.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn new() -> Result<Self, PasswordError> {
        let params = Params::new(MEMORY_KIB, PASSES, LANES, None)
            .map_err(|_| PasswordError::Hash(argon2::password_hash::Error::ParamsInvalid))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| PasswordError::Hash(argon2::password_hash::Error::Crypto))?;
        let decoy = hash_now(&argon2, "nobody has this password")?;
        Ok(Self(Arc::new(Inner {
            argon2,
            computing: Arc::new(Semaphore::new(CONCURRENT)),
            waiting: Arc::new(Semaphore::new(WAITING)),
            key,
            memory: Mutex::new(HashMap::new()),
            decoy,
        })))
    }

    /// Hashes a password on the calling thread; for start-up.
    ///
    /// # Errors
    /// The system gives no randomness or memory.
    pub fn hash_blocking(&self, password: &str) -> Result<String, PasswordError> {
        hash_now(&self.0.argon2, password)
    }

    /// Hashes a password.
    ///
    /// # Errors
    /// Too many callers, or the system gives no randomness or memory.
    pub async fn hash(&self, password: String) -> Result<String, PasswordError> {
        let turn = self.turn().await?;
        let inner = Arc::clone(&self.0);
        blocking(turn, move || hash_now(&inner.argon2, &password)).await?
    }

    /// Waits for the right to compute a hash.
    pub(crate) async fn turn(&self) -> Result<Turn, PasswordError> {
        let waiting = Arc::clone(&self.0.waiting).try_acquire_owned().map_err(|_| PasswordError::Busy)?;
        let computing =
            Arc::clone(&self.0.computing).acquire_owned().await.map_err(|_| PasswordError::Cancelled)?;
        Ok(Turn { _computing: computing, _waiting: waiting })
    }

    /// Whether this password was right for this hash a short time ago. Costs microseconds.
    pub(crate) fn remembers(&self, user: &str, password: &str, hash: &str) -> bool {
        let memory = self.0.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((tag, at)) = memory.get(user).copied() else { return false };
        drop(memory);
        at.elapsed() < REMEMBERED
            && hmac::verify(&self.0.key, &message(user, password, hash), tag.as_ref()).is_ok()
    }

    /// Checks a password; `None` stands for a user that does not exist and takes as long.
    pub(crate) async fn verify(
        &self,
        turn: Turn,
        user: &str,
        password: &str,
        hash: Option<&str>,
    ) -> Result<bool, PasswordError> {
        let inner = Arc::clone(&self.0);
        let exists = hash.is_some();
        let stored = hash.unwrap_or(&self.0.decoy).to_owned();
        let given = password.to_owned();
        let checked = blocking(turn, move || inner.argon2.verify_password(given.as_bytes(), stored.as_str()));
        let right = match checked.await? {
            Ok(()) => exists,
            Err(argon2::password_hash::Error::PasswordInvalid) => false,
            Err(error) => return Err(PasswordError::Hash(error)),
        };
        if let (true, Some(hash)) = (right, hash) {
            self.remember(user, password, hash);
        }
        Ok(right)
    }

    fn remember(&self, user: &str, password: &str, hash: &str) {
        let tag = hmac::sign(&self.0.key, &message(user, password, hash));
        let mut memory = self.0.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.len() >= MAX_REMEMBERED {
            memory.retain(|_, (_, at)| at.elapsed() < REMEMBERED);
        }
        if memory.len() >= MAX_REMEMBERED {
            memory.clear();
        }
        memory.insert(user.to_owned(), (tag, Instant::now()));
    }
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passwords").finish_non_exhaustive()
    }
}

/// The stored hash is part of what is remembered: a changed password makes the memory of the old one worthless.
fn message(user: &str, password: &str, hash: &str) -> Vec<u8> {
    let mut message = Vec::with_capacity(24 + user.len() + password.len() + hash.len());
    for part in [user, hash, password] {
        message.extend_from_slice(&(part.len() as u64).to_be_bytes());
        message.extend_from_slice(part.as_bytes());
    }
    message
}

fn hash_now(argon2: &Argon2<'_>, password: &str) -> Result<String, PasswordError> {
    let hash = argon2.hash_password(password.as_bytes()).map_err(PasswordError::Hash)?;
    Ok(hash.to_string())
}

async fn blocking<T: Send + 'static>(
    turn: Turn,
    compute: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PasswordError> {
    let task = tokio::task::spawn_blocking(move || {
        let value = compute();
        drop(turn);
        value
    });
    task.await.map_err(|_| PasswordError::Cancelled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_right_password_is_remembered_until_the_hash_changes() {
        let passwords = Passwords::new().unwrap();
        let hash = passwords.hash("secret".into()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=7168,t=5,p=1$"), "{hash}");
        assert!(!passwords.remembers("bob", "secret", &hash));
        let turn = passwords.turn().await.unwrap();
        assert!(passwords.verify(turn, "bob", "secret", Some(&hash)).await.unwrap());
        assert!(passwords.remembers("bob", "secret", &hash));
        assert!(!passwords.remembers("bob", "wrong", &hash));
        assert!(!passwords.remembers("bob", "secret", "another hash"));
        assert!(!passwords.remembers("eve", "secret", &hash));
    }

    #[tokio::test]
    async fn nobody_is_never_right() {
        let passwords = Passwords::new().unwrap();
        let turn = passwords.turn().await.unwrap();
        assert!(!passwords.verify(turn, "eve", "nobody has this password", None).await.unwrap());
        let turn = passwords.turn().await.unwrap();
        assert!(passwords.verify(turn, "eve", "x", Some("damaged")).await.is_err());
    }
}
