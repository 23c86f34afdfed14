//! Counts and durations, and the text in which Prometheus reads them.
//!
//! * [`Histogram`] takes durations from any thread without a lock.
//! * [`Exposition`] is one answer to a scrape: families of samples in the text format 0.0.4.
//!
//! Nothing here runs by itself, and nothing is registered anywhere: whoever owns a number keeps it and writes it when
//! it is asked. Names, units and labels are the owner's business; see `docs/operation.md`.
#![forbid(unsafe_code)]

mod exposition;
mod histogram;
mod process;

pub use exposition::{CONTENT_TYPE, Exposition, Kind};
pub use histogram::{Histogram, Snapshot};
pub use process::describe_process;
