//! The audit log: who did what, when, from where, and what came of it. A ring of rows in the store of the root, so its
//! size is fixed; changes and refusals have rings of their own, so that somebody who only knocks cannot push out what
//! was done.

mod entry;
mod log;

pub use entry::{Entry, Event};
pub use log::{AuditLog, Filter, Page};
