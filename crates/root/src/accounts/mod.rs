//! Accounts: users, organisations and roles, passwords, tokens.
//!
//! [`Accounts`] is a state machine of its own on the store of the root; it keeps to the tables `User` and
//! `Organization`. Passwords and tokens are checked outside of it, because both cost time.

mod jwt;
mod organizations;
mod password;
mod reset;
mod state;
mod throttle;
mod types;
mod users;
mod werkzeug;

pub use jwt::{Claims, Signer, SignerError, TokenKind, TokenRejected};
pub use password::{PasswordError, Passwords};
pub use reset::{MAX_RESET_TOKEN_BYTES, ResetToken};
pub use state::{AccountRefusal, Accounts};
pub(crate) use throttle::{Throttle, Throttled};
pub use types::{
    Credentials, DEFAULT_PASSWORD, DEFAULT_USER, MAX_PASSWORD_BYTES, Member, Organization, Principal,
    Profile, ROOT_ORGANIZATION, Role, User,
};
pub use users::UserChange;
