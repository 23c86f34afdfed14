//! A whole system in one process under virtual time: one root, clusters, workers, their disks, lossy links, processes
//! that come and go. Everything follows from one seed.
//!
//! Every decision is made by the state machines of `oak-control`, the very code that runs in production; this crate
//! is their world. It holds no rule of its own but the invariants.
#![forbid(unsafe_code)]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    reason = "so far a panic is how a broken invariant is reported"
)]

pub mod agenda;
pub mod chaos;
pub mod client;
pub mod delivery;
pub mod invariants;
pub mod link;
pub mod node;
pub mod runtime;
pub mod settled;
pub mod world;
