//! Accounts: users, organisations and roles, passwords, tokens.
//!
//! [`Accounts`] is a state machine of its own on the store of the root; it keeps to the tables `User` and
//! `Organization`. Passwords and tokens are checked outside of it, because both cost time.

mod jwt;
mod password;
mod state;
mod throttle;
mod verified;

pub use jwt::{Claims, Signer, SignerError, TokenKind, TokenRejected};
pub use password::{PasswordError, Passwords};
pub use state::{
    AccountRefusal, Accounts, Credentials, DEFAULT_PASSWORD, DEFAULT_USER, MAX_PASSWORD_BYTES, Member,
    Organization, Principal, ROOT_ORGANIZATION, Role, User,
};
pub(crate) use throttle::{Throttle, Throttled};
