//! The state machines of root, cluster and worker.
//!
//! Pure: each machine is a value, every method takes what happened and the time, changes the state and fills an
//! [`Outbox`] with rows to store and effects to carry out. No clock, no I/O, no randomness that is not passed in:
//! the shells run this code in production, the simulator runs it under virtual time.
//!
//! The rule that makes crashes harmless: a shell commits the rows of a step before it carries out the effects of
//! that step. Whatever another party has seen is therefore on disk.
//!
//! ```text
//!  root     wants instances, chooses the cluster        root::Root
//!  cluster  chooses the worker, counts incarnations     cluster::Cluster
//!  worker   pulls, starts, restarts, stops              worker::Worker
//! ```
#![forbid(unsafe_code)]

pub mod address;
pub mod backoff;
pub mod cluster;
mod counter;
mod entropy;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod listing;
mod machine;
mod outbox;
mod overlay;
pub mod root;
pub mod token;
mod waiting;
pub mod worker;

pub use entropy::{Entropy, SeededEntropy};
pub use machine::Machine;
pub use outbox::{CorruptRow, Outbox, Row, Table};
