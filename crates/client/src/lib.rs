//! Typed HTTP client of the root API, for the command line, tests and benches.
//!
//! One method per call of the API (client contract, 1.3). The client logs in by itself, again when its token has
//! expired, reads answers whether they are plain JSON or JSON in a JSON string, tolerates missing and unknown fields,
//! and bounds the size and time of every answer. It holds no rules of its own: what to call when is up to its user.
//!
//! ```no_run
//! # async fn example() -> Result<(), oak_client::ClientError> {
//! use oak_client::{Client, Credentials};
//!
//! let client = Client::new("http://127.0.0.1:10000", Credentials::new("Admin", "Admin"))?;
//! for service in client.services().await? {
//!     println!("{} {}", service.name, service.status);
//! }
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod calls;
mod client;
mod decode;
mod error;
mod events;
mod exec;
mod logs;
mod record;
mod secrets;
mod session;

pub use client::{Client, Credentials};
pub use error::{ClientError, ClientErrorKind};
pub use events::{Event, EventStream, Told};
pub use exec::{ExecReader, ExecWriter};
pub use logs::{LogOptions, LogStream};
pub use record::{
    Application, Cluster, ExplainedCluster, ExplainedWorker, Explanation, FailedService, Instance,
    InstanceOnWorker, JoinToken, Place, Plan, PlannedInstance, PlannedService, Reason, Rollout, Scaled,
    Service, ServicesCreated, Suggestion, TokenRole, Worker, WorkerDetails, WorkerFacts,
};
pub use secrets::Secret;
