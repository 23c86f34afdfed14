//! Which worker takes an instance, or why none can.
//!
//! Pure: a [`Fleet`] holds what every worker has and what is reserved on it, [`Fleet::place`] answers a
//! [`Request`] with a worker or a [`Refusal`] that names every worker and the number that was missing.
//! Reserving is the caller's explicit step, so that probing never changes anything.
//!
//! Rules, in order: a worker must be able to run the service at all (connected, not cordoned, right name,
//! architecture, kind and labels), must be as large as the request, must have that much unreserved, must not have
//! too many instances of the service nor one of the host ports taken by another service, and must be within the
//! bounds that have to hold. Among those the one wins that breaks the fewest preferences, then the one with the
//! fewest instances of the same service, then the one least committed after its own measure (the larger share of
//! CPU or memory), then the one with the smallest id.
#![forbid(unsafe_code)]

mod change;
mod fleet;
mod problem;
mod reason;
mod verdict;

pub use change::{BoundRef, Change};
pub use fleet::Fleet;
pub use problem::{Request, WorkerState};
pub use reason::{Missing, Reason, Refusal};
pub use verdict::Verdict;
