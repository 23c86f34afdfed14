//! Durable state, and the engine that runs a state machine on it.
//!
//! Rows are the durable copy of what a state machine holds in memory; they are read once, at start. Two stores
//! keep them: [`Store`], one SQLite file with a writer thread and group commit, for root and cluster;
//! [`FileStore`], one small file per row, for the worker. [`Engine`] owns a state machine, feeds it one call at a
//! time and carries out the effects of a step only after its rows are committed: *acknowledged means committed*.
//!
//! A disk that is full, read-only or failing stops nothing: steps wait for it in order, [`Health`] says so, reading
//! goes on. See `writer` (patience), `ballast` (room kept back), `complete` (what need not wait).
#![forbid(unsafe_code)]

pub mod backup;
mod ballast;
mod clock;
mod complete;
mod engine;
mod files;
mod health;
mod journal;
mod machine;
mod migration;
mod seal;
mod sqlite;
mod trouble;
mod writer;

pub use clock::SystemClock;
pub use engine::{Engine, EngineStopped};
pub use files::{FileStore, read_files};
pub use health::{Change, Health, Writes, stalled};
pub use journal::{Committed, Journal, StoreError};
pub use machine::{Concern, Hosted};
pub use seal::{SECRETS_KEY, SealError, Sealer, create_private};
pub use sqlite::Store;
