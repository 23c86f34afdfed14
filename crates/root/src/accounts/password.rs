//! Passwords: argon2id, and a memory of recent successes so that a command line that logs in for every command
//! does not pay for the hash each time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use argon2::password_hash::phc::{self, Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::werkzeug::WerkzeugHash;

/// Work memory of one hash, ten passes over it, one lane: about 20 ms. The memory is kept from the first hash on and
/// used again: aligned blocks of this size that come and go fragment the heap of the C library, which then grows
/// with every login. So it has to be small.
const MEMORY_KIB: u32 = 4 * 1024;
const PASSES: u32 = 10;
const LANES: u32 = 1;
/// Largest work memory a stored hash may ask for.
const MAX_MEMORY_KIB: u32 = 64 * 1024;
const SALT_BYTES: usize = 16;

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
    /// The system gives no randomness.
    #[error("the system gives no randomness for passwords")]
    Random,
    /// The computation is not possible.
    #[error("cannot compute the hash of a password")]
    Compute(#[source] argon2::Error),
    /// A hash cannot be written, or a stored one is damaged.
    #[error("cannot write or read the hash of a password")]
    Form(#[source] phc::Error),
    /// A stored hash is of another kind, or asks for too much memory.
    #[error("a stored hash of a password is of an unknown kind")]
    Unknown,
    /// The computation was cancelled because the program ends.
    #[error("the computation of a password hash was cancelled")]
    Cancelled,
}

/// Hashes and checks passwords. Cheap to clone.
#[derive(Clone)]
pub struct Passwords(Arc<Inner>);

struct Inner {
    params: Params,
    random: SystemRandom,
    /// Work memory between two uses.
    spare: Mutex<Vec<Vec<Block>>>,
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
        let random = SystemRandom::new();
        let mut inner = Inner {
            params: Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(PasswordError::Compute)?,
            spare: Mutex::new(Vec::new()),
            computing: Arc::new(Semaphore::new(CONCURRENT)),
            waiting: Arc::new(Semaphore::new(WAITING)),
            key: hmac::Key::generate(hmac::HMAC_SHA256, &random).map_err(|_| PasswordError::Random)?,
            memory: Mutex::new(HashMap::new()),
            decoy: String::new(),
            random,
        };
        inner.decoy = inner.hash("nobody has this password")?;
        Ok(Self(Arc::new(inner)))
    }

    /// Hashes a password on the calling thread; for start-up.
    ///
    /// # Errors
    /// The system gives no randomness or memory.
    pub fn hash_blocking(&self, password: &str) -> Result<String, PasswordError> {
        self.0.hash(password)
    }

    /// Hashes a password.
    ///
    /// # Errors
    /// Too many callers, or the system gives no randomness or memory.
    pub async fn hash(&self, password: String) -> Result<String, PasswordError> {
        let turn = self.turn().await?;
        let inner = Arc::clone(&self.0);
        blocking(turn, move || inner.hash(&password)).await?
    }

    /// Whether a stored hash was made by the original and should be replaced by one of ours when the password is known.
    pub(crate) fn is_outdated(hash: &str) -> bool {
        WerkzeugHash::is_meant(hash)
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
        let right = blocking(turn, move || inner.matches(&given, &stored)).await?? && exists;
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

impl Inner {
    fn hash(&self, password: &str) -> Result<String, PasswordError> {
        let mut salt = [0_u8; SALT_BYTES];
        self.random.fill(&mut salt).map_err(|_| PasswordError::Random)?;
        let output = self.compute(&self.params, password, &salt, Params::DEFAULT_OUTPUT_LEN)?;
        let hash = PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(&self.params).map_err(|_| PasswordError::Unknown)?,
            salt: Some(Salt::new(&salt).map_err(PasswordError::Form)?),
            hash: Some(output),
        };
        Ok(hash.to_string())
    }

    fn matches(&self, password: &str, stored: &str) -> Result<bool, PasswordError> {
        if WerkzeugHash::is_meant(stored) {
            let hash = WerkzeugHash::parse(stored).ok_or(PasswordError::Unknown)?;
            return Ok(hash.matches(password));
        }
        let stored = PasswordHash::new(stored).map_err(PasswordError::Form)?;
        let params = Params::try_from(&stored).map_err(|_| PasswordError::Unknown)?;
        let is_known = stored.algorithm == Algorithm::Argon2id.ident()
            && stored.version == Some(Version::V0x13.into())
            && params.m_cost() <= MAX_MEMORY_KIB;
        let (Some(salt), Some(expected), true) = (&stored.salt, &stored.hash, is_known) else {
            return Err(PasswordError::Unknown);
        };
        // The comparison takes the same time wherever the two differ.
        Ok(self.compute(&params, password, salt, expected.len())? == *expected)
    }

    fn compute(
        &self,
        params: &Params,
        password: &str,
        salt: &[u8],
        length: usize,
    ) -> Result<Output, PasswordError> {
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
        let (own, needed) = (self.params.block_count(), params.block_count());
        let mut blocks = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        if blocks.len() < needed.max(own) {
            blocks.resize(needed.max(own), Block::new());
        }
        let mut buffer = [0_u8; Output::MAX_LENGTH];
        let output = buffer.get_mut(..length).ok_or(PasswordError::Unknown)?;
        let memory = blocks.get_mut(..needed).unwrap_or_default();
        let computed = argon2.hash_password_into_with_memory(password.as_bytes(), salt, output, memory);
        blocks.truncate(own);
        blocks.shrink_to_fit();
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(blocks);
        computed.map_err(PasswordError::Compute)?;
        Output::new(output).map_err(PasswordError::Form)
    }
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
        assert!(hash.starts_with("$argon2id$v=19$m=4096,t=10,p=1$"), "{hash}");
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

    #[tokio::test]
    async fn a_stored_hash_decides_about_its_own_costs_within_bounds() {
        // Computed by the reference implementation: argon2 somesalt -id -t 2 -m 16 -p 1 (the known answer of its
        // test suite for the password `password`).
        let known = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        let passwords = Passwords::new().unwrap();
        let turn = passwords.turn().await.unwrap();
        assert!(passwords.verify(turn, "bob", "password", Some(known)).await.unwrap());
        let turn = passwords.turn().await.unwrap();
        assert!(!passwords.verify(turn, "bob", "differentpassword", Some(known)).await.unwrap());
        for refused in [known.replace("65536", "65537"), known.replace("argon2id", "argon2i")] {
            let turn = passwords.turn().await.unwrap();
            let result = passwords.verify(turn, "bob", "password", Some(&refused)).await;
            assert!(matches!(result, Err(PasswordError::Unknown)));
        }
    }
}
