//! A whole system in one process under virtual time: one root, clusters, workers, their disks, their links, processes
//! that come and go, users that change their minds. Everything follows from a scenario and a seed.
//!
//! Every decision is made by the state machines of `oak-control`, the very code that runs in production; this crate
//! is their world. It holds no rule of its own but the invariants, which it checks after every event.
//!
//! ```text
//!  scenario ─► world ─┬─ agenda      virtual time: what happens next
//!     TOML            ├─ node        a machine with its disk: rows before effects, crashes lose the rest
//!                     ├─ link        sessions over a bad network
//!                     ├─ runtime     containers of a worker
//!                     ├─ sessions    frames to calls, delivery: effects to frames, as the shells do
//!                     ├─ user        deploys, scales, deletes; churn: at random; client: what was acknowledged
//!                     ├─ faults      what goes wrong by plan, chaos: at random, power: machines down and up,
//!                     │              removal: workers that join anew
//!                     ├─ invariants  after every event, from what watch remembers; sweep: over everything; settled: at rest
//!                     └─ metrics ──► report
//! ```
#![forbid(unsafe_code)]

mod agenda;
mod chaos;
mod churn;
mod client;
mod delivery;
mod faults;
mod frames;
mod invariants;
mod link;
mod metrics;
mod node;
mod overlay;
mod population;
mod power;
mod removal;
mod report;
mod run;
mod runtime;
pub mod scenario;
mod sessions;
mod settled;
mod sweep;
mod timeline;
mod trace;
mod updates;
mod user;
mod watch;
mod world;

pub use invariants::Violation;
pub use metrics::Sample;
pub use report::{Report, SiteUse, Times, Unplaced};
pub use run::{Outcome, Sum, run, run_seeds};
pub use scenario::{Scenario, ScenarioError};
pub use timeline::Moment;
