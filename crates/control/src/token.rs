//! One-time join tokens as the parent that checks them keeps them.
//!
//! A token is used up by the first key that presents it. The same key may present it again until it expires,
//! because the answer may have been lost on the way.

use oak_model::{ClusterId, WallTime};
use serde::{Deserialize, Serialize};

/// What a token lets its bearer become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenRole {
    /// A cluster of this root.
    Cluster,
    /// A worker of this cluster.
    Worker(ClusterId),
}

/// A stored token. The secret itself is never stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Public part.
    pub id: String,
    /// SHA-256 of the secret, hexadecimal.
    pub secret_hash: String,
    /// What it is for.
    pub role: TokenRole,
    /// End of validity by the clock of the machine that checks it.
    pub expires: WallTime,
    /// Who used it.
    pub used_by: Option<TokenUse>,
}

/// Who used a token up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUse {
    /// Fingerprint of the public key.
    pub key_fingerprint: String,
    /// Identity that was given.
    pub identity: String,
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// No such token, or a wrong secret.
    #[error("the token is not known here: create one with `oak token create`")]
    Unknown,
    /// Too late.
    #[error("the token has expired: create a new one with `oak token create`")]
    Expired,
    /// Somebody else was faster.
    #[error("the token was already used by another machine: tokens work once, create a new one")]
    Used,
    /// The machine joined with it before, and was removed.
    #[error(
        "the token was used up before this machine was removed: create a new one with `oak token create`"
    )]
    Removed,
    /// A connected cluster has that name.
    #[error("a connected cluster has that name already: choose another with --name")]
    NameInUse,
    /// A worker token at the root, or a cluster token at a cluster.
    #[error("the token is for another role: check whether it is a worker or a cluster token")]
    WrongRole,
}

/// How long an expired token is remembered, so that its bearer is told that it is too late, not that it never was.
const REMEMBERED_MS: u64 = 24 * 3600 * 1000;

impl Token {
    /// Whether the token expired so long ago that it can be forgotten.
    #[must_use]
    pub fn is_history(&self, now: WallTime) -> bool {
        self.expires.0.saturating_add(REMEMBERED_MS) <= now.0
    }

    /// Decides whether the bearer may enrol; `Ok(Some)` repeats an earlier enrolment of the same key.
    ///
    /// # Errors
    /// The reason of a refusal.
    pub fn check(
        &self,
        secret_hash: &str,
        key_fingerprint: &str,
        now: WallTime,
    ) -> Result<Option<&TokenUse>, TokenRefused> {
        if !equal_in_constant_time(&self.secret_hash, secret_hash) {
            return Err(TokenRefused::Unknown);
        }
        if now >= self.expires {
            return Err(TokenRefused::Expired);
        }
        match &self.used_by {
            Some(user) if user.key_fingerprint == key_fingerprint => Ok(Some(user)),
            Some(_) => Err(TokenRefused::Used),
            None => Ok(None),
        }
    }
}

fn equal_in_constant_time(left: &str, right: &str) -> bool {
    left.len() == right.len() && left.bytes().zip(right.bytes()).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token {
            id: "id".into(),
            secret_hash: "aa".into(),
            role: TokenRole::Cluster,
            expires: WallTime(1000),
            used_by: None,
        }
    }

    #[test]
    fn a_token_works_once_but_again_for_the_same_key() {
        let mut token = token();
        assert_eq!(token.check("aa", "key1", WallTime(1)), Ok(None));
        let first = TokenUse { key_fingerprint: "key1".into(), identity: "x".into() };
        token.used_by = Some(first.clone());
        assert_eq!(token.check("aa", "key1", WallTime(2)), Ok(Some(&first)));
        assert_eq!(token.check("aa", "key2", WallTime(2)), Err(TokenRefused::Used));
    }

    #[test]
    fn a_wrong_secret_tells_nothing_and_a_late_one_is_refused() {
        assert_eq!(token().check("ab", "k", WallTime(1)), Err(TokenRefused::Unknown));
        assert_eq!(token().check("ab", "k", WallTime(5000)), Err(TokenRefused::Unknown));
        assert_eq!(token().check("aa", "k", WallTime(1000)), Err(TokenRefused::Expired));
    }
}
