//! The API through its real router, on a real store in a temporary directory. Clusters are played by the tests: they
//! speak to the root's state machine as the link would.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test they are called from")]

mod accounts;
mod applications;
mod audit;
mod client;
mod clusters;
mod dashboard;
mod disk;
mod events;
mod exec;
mod explain;
mod http;
mod instances;
mod logs;
mod members;
mod metrics;
mod network;
mod openapi;
mod organizations;
mod permissions;
mod quotas;
mod records;
mod removal;
mod reset;
mod secrets;
mod services;
mod standing;
mod tenants;
mod tokens;
mod updates;
mod workers;
mod world;
