//! Durable state, and the engine that runs a state machine on it.
//!
//! Rows are the durable copy of what a state machine holds in memory; they are read once, at start. Two stores
//! keep them: [`Store`], one SQLite file with a writer thread and group commit, for root and cluster;
//! [`FileStore`], one small file per row, for the worker. [`Engine`] owns a state machine, feeds it one call at a
//! time and carries out the effects of a step only after its rows are committed: *acknowledged means committed*.
#![forbid(unsafe_code)]

mod clock;
mod engine;
mod files;
mod journal;
mod migration;
mod sqlite;

pub use clock::SystemClock;
pub use engine::{Engine, EngineStopped, Machine};
pub use files::FileStore;
pub use journal::{Committed, Journal, StoreError};
pub use sqlite::Store;
