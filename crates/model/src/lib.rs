//! The vocabulary of Oakestra: identifiers, names, resources, deployment descriptors, statuses and the
//! messages between tiers.
//!
//! Everything is parsed at the edge into types that cannot hold a wrong value. This crate has no behaviour
//! beyond parsing and rendering: rules live in `placement` and `control`.
#![forbid(unsafe_code)]

pub mod application;
pub mod balancing;
pub mod bound;
mod chain;
pub mod confidential;
pub mod container;
pub mod event;
pub mod exec;
pub mod ids;
pub mod ipv6;
mod load;
pub mod message;
pub mod name;
pub mod node;
pub mod overlay;
mod position;
pub mod resources;
pub mod service;
pub mod sla;
pub mod status;
pub mod time;
pub mod upkeep;

pub use application::{Application, Service};
pub use balancing::Balancing;
pub use bound::{Area, AreaBound, Limit, PeerBound, PeerPlace, ServiceBound, Strictness, Surroundings};
pub use chain::chain;
pub use confidential::{Confidential, Material, Purpose, RegistryHost, SecretName, SecretTarget, SecretUse};
pub use container::{AddedFile, HealthCheck, Probe, RestartPolicy, Volume};
pub use event::{Event, EventKind};
pub use ids::{
    ApplicationId, ClusterId, Generation, Incarnation, InstanceKey, OrganizationId, ServiceId, UserId,
    WorkerId,
};
pub use load::Load;
pub use name::{InvalidName, JobName, Name};
pub use node::{Architecture, Availability, Removal, WorkerFacts};
pub use position::{InvalidPosition, Position};
pub use resources::Resources;
pub use service::{PortMapping, Protocol, ServiceSpec, TargetConstraints};
pub use status::Status;
pub use time::{Moment, Now, WallTime};
pub use upkeep::{MAX_REPLICAS, Revision, Rollout, RolloutState, UpdateOrder, UpdatePolicy, Upkeep};
