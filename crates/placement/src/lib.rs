//! Which worker takes an instance, or why none can.
//!
//! Pure: a [`Fleet`] holds what every worker has and what is reserved on it, [`Fleet::place`] answers a
//! [`Request`] with a worker or a [`Refusal`] that names every worker and the number that was missing.
//! Reserving is the caller's explicit step, so that probing never changes anything.
//!
//! Rules, in order: a worker must be able to run the service at all (connected, not cordoned, right name,
//! architecture and kind), must be as large as the request, must have that much unreserved, and must not have
//! one of the host ports taken by another service. Among those the one with the fewest instances of the same
//! service wins, then the one least committed after its own measure (the larger share of CPU or memory).
#![forbid(unsafe_code)]

mod fleet;
mod problem;
mod reason;

pub use fleet::Fleet;
pub use problem::{Request, WorkerState};
pub use reason::{Reason, Refusal};
