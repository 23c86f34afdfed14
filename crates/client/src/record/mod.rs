//! What the API tells about its objects. Missing and null fields become empty; unknown ones are kept in `other`.

mod application;
mod cluster;
mod explanation;
mod service;
mod token;
mod worker;

pub use application::Application;
pub use cluster::Cluster;
pub use explanation::{
    ExplainedCluster, ExplainedWorker, Explanation, Place, Plan, PlannedInstance, PlannedService, Reason,
    Suggestion,
};
pub use service::{FailedService, Instance, Rollout, Scaled, Service, ServicesCreated};
pub use token::{JoinToken, TokenRole};
pub use worker::{InstanceOnWorker, Worker, WorkerDetails, WorkerFacts};
