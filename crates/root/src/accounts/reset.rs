//! Forgotten passwords: links that work once, for three hours, and of which only a hash is kept.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oak_control::Table;
use oak_model::{Now, WallTime};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};

use super::state::{AccountRefusal, Accounts, set_password};
use super::types::{Reset, User};

/// Life of a link, milliseconds.
const LIFE_MS: u64 = 3 * 3600 * 1000;
/// Least time between two links for one user, milliseconds: nobody's mailbox is filled.
const PAUSE_MS: u64 = 60 * 1000;
/// Longest token that is looked at, bytes; ours have 43.
pub const MAX_RESET_TOKEN_BYTES: usize = 128;

/// A random token for a link.
pub struct ResetToken(String);

impl ResetToken {
    /// A new one; `None` if the system gives no randomness.
    #[must_use]
    pub fn generate() -> Option<Self> {
        let mut bytes = [0_u8; 32];
        SystemRandom::new().fill(&mut bytes).ok()?;
        Some(Self(URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// One that somebody presents.
    #[must_use]
    pub fn presented(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The secret itself, for the mail.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    fn hash(&self) -> String {
        let bytes = digest(&SHA256, self.0.as_bytes());
        bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Accounts {
    /// Stores a link for a user and returns its mail address. `None` if there is nothing to send: no such user, no
    /// address, or a link was made a moment ago.
    pub fn begin_reset(&mut self, now: Now, name: &str, token: &ResetToken) -> Option<String> {
        let user = self.names.get(name).and_then(|id| self.users.get_mut(id))?;
        if user.email.is_empty() {
            return None;
        }
        let made = user.reset.as_ref().map(|reset| reset.expires.0.saturating_sub(LIFE_MS));
        if made.is_some_and(|made| now.wall.0.saturating_sub(made) < PAUSE_MS) {
            return None;
        }
        let expires = WallTime(now.wall.0.saturating_add(LIFE_MS));
        user.reset = Some(Reset { hash: token.hash(), expires });
        self.outbox.put(Table::User, user.id, user);
        Some(user.email.clone())
    }

    /// The user a link belongs to.
    ///
    /// # Errors
    /// The link is unknown, used or too old.
    pub fn check_reset(&self, now: Now, token: &ResetToken) -> Result<&User, AccountRefusal> {
        let hash = token.hash();
        let matches = |user: &&User| user.reset.as_ref().is_some_and(|reset| reset.hash == hash);
        let user = self.users.values().find(matches).ok_or(AccountRefusal::UnknownLink)?;
        match &user.reset {
            Some(reset) if now.wall < reset.expires => Ok(user),
            _ => Err(AccountRefusal::ExpiredLink),
        }
    }

    /// Stores a new password and uses the link up.
    ///
    /// # Errors
    /// The link is unknown, used or too old.
    pub fn finish_reset(
        &mut self,
        now: Now,
        token: &ResetToken,
        password: String,
        is_default: bool,
    ) -> Result<(), AccountRefusal> {
        let id = self.check_reset(now, token)?.id;
        if let Some(user) = self.users.get_mut(&id) {
            set_password(user, password, is_default);
            self.outbox.put(Table::User, id, user);
        }
        Ok(())
    }

    /// Replaces the form of a stored hash; the password stays the same. Nothing happens if it was changed meanwhile.
    pub fn replace_hash(&mut self, name: &str, former: &str, hash: String) {
        let user = self.names.get(name).and_then(|id| self.users.get_mut(id));
        if let Some(user) = user.filter(|user| user.password == former) {
            user.password = hash;
            self.outbox.put(Table::User, user.id, user);
        }
    }
}

#[cfg(test)]
mod tests {
    use oak_control::{Machine, SeededEntropy};

    use super::super::users::UserChange;
    use super::*;

    fn at(seconds: u64) -> Now {
        Now { wall: WallTime(1_000_000 + seconds * 1000), ..Now::default() }
    }

    #[test]
    fn a_link_works_once_and_for_three_hours() {
        let mut accounts = Accounts::default();
        accounts.seed(at(0), &mut SeededEntropy::new(1), "hash".into());
        let first = ResetToken::generate().unwrap();
        assert_eq!(accounts.begin_reset(at(0), "Admin", &first), None, "there is no address");
        let email = UserChange { email: Some("a@example.org".into()), ..UserChange::default() };
        accounts.change_user("Admin", email).unwrap();
        assert_eq!(accounts.begin_reset(at(0), "nobody", &first), None);
        assert_eq!(accounts.begin_reset(at(0), "Admin", &first).as_deref(), Some("a@example.org"));
        let rows = accounts.take_outbox().rows;
        let stored = String::from_utf8(rows.last().unwrap().document.clone().unwrap()).unwrap();
        assert!(!stored.contains(first.expose()), "only a hash is kept");
        let second = ResetToken::generate().unwrap();
        assert_eq!(accounts.begin_reset(at(59), "Admin", &second), None, "not so soon");
        assert!(accounts.begin_reset(at(60), "Admin", &second).is_some());
        assert_eq!(accounts.check_reset(at(61), &first).map(|_| ()), Err(AccountRefusal::UnknownLink));
        let late = at(60 + 3 * 3600);
        let refused = accounts.finish_reset(late, &second, "new".into(), false);
        assert_eq!(refused, Err(AccountRefusal::ExpiredLink));
        let version = accounts.credentials("Admin").unwrap().password_version;
        accounts.finish_reset(at(100), &second, "new".into(), false).unwrap();
        let credentials = accounts.credentials("Admin").unwrap();
        assert_eq!((credentials.password.as_str(), credentials.password_version), ("new", version + 1));
        let again = accounts.finish_reset(at(101), &second, "newer".into(), false);
        assert_eq!(again, Err(AccountRefusal::UnknownLink));
    }

    #[test]
    fn another_change_of_the_password_ends_the_link() {
        let mut accounts = Accounts::default();
        accounts.seed(at(0), &mut SeededEntropy::new(1), "hash".into());
        let change = UserChange { email: Some("a@example.org".into()), ..UserChange::default() };
        accounts.change_user("Admin", change).unwrap();
        let token = ResetToken::generate().unwrap();
        accounts.begin_reset(at(0), "Admin", &token).unwrap();
        let version = accounts.credentials("Admin").unwrap().password_version;
        accounts.change_password("Admin", version, "changed".into(), false).unwrap();
        let refused = accounts.finish_reset(at(1), &token, "new".into(), false);
        assert_eq!(refused, Err(AccountRefusal::UnknownLink));
    }
}
