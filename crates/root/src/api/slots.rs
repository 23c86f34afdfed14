//! Places for what stays open for long: limited in total, and per user, so that one user cannot take them all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::StatusCode;
use oak_model::UserId;

use super::caller::Caller;
use super::error::ApiError;

/// The places of one kind. Clones are the same places.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    taken: Arc<Mutex<BTreeMap<UserId, usize>>>,
    total: usize,
    per_user: usize,
    /// What takes a place, in the plural.
    what: &'static str,
}

impl Slots {
    /// `total` places, at most `per_user` of them for each user.
    pub(super) fn new(what: &'static str, total: usize, per_user: usize) -> Self {
        Self { taken: Arc::default(), total, per_user, what }
    }

    /// A place for this user until it is dropped: 429 if the user has all it can have, 503 if there is none.
    pub(super) fn take(&self, caller: &Caller) -> Result<Slot, ApiError> {
        let user = caller.0.user;
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_user = taken.get(&user).copied().unwrap_or_default();
        let (what, per_user) = (self.what, self.per_user);
        if of_user >= per_user {
            let message = format!("you have {per_user} {what} already: end one and try again");
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, message));
        }
        if taken.values().sum::<usize>() >= self.total {
            return Err(ApiError::unavailable(format!("there are too many {what}: try again later")));
        }
        taken.insert(user, of_user + 1);
        drop(taken);
        Ok(Slot { taken: Arc::clone(&self.taken), user })
    }
}

/// A taken place.
#[derive(Debug)]
pub(super) struct Slot {
    taken: Arc<Mutex<BTreeMap<UserId, usize>>>,
    user: UserId,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_user) = taken.get_mut(&self.user) {
            *of_user = of_user.saturating_sub(1);
            if *of_user == 0 {
                taken.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use oak_model::OrganizationId;

    use super::*;
    use crate::accounts::Principal;

    fn user(number: u64) -> Caller {
        Caller(Principal {
            user: UserId::from_parts(1, number),
            name: number.to_string(),
            organization: OrganizationId::from_parts(1, 1),
            in_root: true,
            roles: Vec::new(),
            password_version: 0,
        })
    }

    #[test]
    fn one_user_cannot_take_all_places() {
        let slots = Slots::new("things", 5, 2);
        let status = |user| slots.take(&user).unwrap_err().into_response().status();
        let mut first = vec![slots.take(&user(1)).unwrap(), slots.take(&user(1)).unwrap()];
        assert_eq!(status(user(1)), StatusCode::TOO_MANY_REQUESTS);
        let _others = [2, 2, 3].map(|number| slots.take(&user(number)).unwrap());
        assert_eq!(status(user(3)), StatusCode::SERVICE_UNAVAILABLE);
        first.pop();
        let _again = slots.take(&user(3)).unwrap();
        assert_eq!(status(user(1)), StatusCode::SERVICE_UNAVAILABLE);
        drop(first);
        assert!(slots.take(&user(1)).is_ok());
    }
}
