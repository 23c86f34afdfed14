//! Tokens whose signature was found good: clients send the same token with every request, and checking a signature costs
//! more than most requests.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::jwt::Claims;

/// Tokens remembered, less than 2 MiB. When there are more, all are forgotten: the next request checks again.
const REMEMBERED: usize = 1_024;

/// The content of a token and the version of the password it was issued under.
pub(super) type Content = (Claims, u64);

/// Remembers tokens by their whole text. That one is remembered says nothing about its age.
#[derive(Default)]
pub(super) struct Verified(Mutex<HashMap<Box<str>, Content>>);

impl std::fmt::Debug for Verified {
    /// Without the tokens.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verified").finish_non_exhaustive()
    }
}

impl Verified {
    pub(super) fn find(&self, token: &str) -> Option<Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }

    pub(super) fn insert(&self, token: &str, content: Content) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(token.into(), content);
    }
}
