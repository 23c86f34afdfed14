//! The child's end: joins a parent, keeps a session to it for ever, renews its certificate, opens bulk streams.

mod backoff;
mod dial;
mod enroll;
mod gate;
mod join;
mod link;
mod offer;
mod removed;
mod renew;
mod session;

pub use backoff::{Backoff, BackoffPolicy};
pub use dial::ConnectError;
pub use enroll::{EnrollError, Enrolment, enroll};
pub use gate::SessionGate;
pub use join::{JoinError, Joining, join};
pub use link::{ChildConfig, ChildEvent, ChildHandle, ChildLink, ChildSender};
pub use offer::BulkOffer;
pub use removed::is_removed;

#[cfg(test)]
pub(crate) use dial::{Target, dial};
