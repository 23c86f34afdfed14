//! Configuration of the roles: defaults, then the file, then the environment, then flags; every value knows where it
//! came from.
//!
//! One table ([`settings::SETTINGS`]) names every setting, so that the file, the environment, `oak config show` and
//! the suggestions for misspelt keys cannot disagree. Reads only what it is given: no process environment, no flags.

mod error;
mod kinds;
mod load;
mod machine;
mod older;
mod settings;
#[cfg(test)]
mod tests;
mod types;
mod value;

pub(crate) use error::ConfigErrors;
pub(crate) use kinds::{Encryption, LogFormat, MailSecurity, Port, Secret};
pub(crate) use load::{Loaded, Override, Sources, load};
pub(crate) use types::{BackupConfig, Config};
