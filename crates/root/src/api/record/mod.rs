//! Records: the objects of the API with exactly the keys and types that old clients decode
//! (client contract, 1.4 and 1.5).

mod account;
mod cluster;
mod event;
mod explanation;
mod instance;
mod service;
mod worker;

pub(super) use account::{organization, user};
pub(super) use cluster::cluster;
pub(super) use event::event;
pub(super) use explanation::{Extent, explanation, plan};
pub(super) use service::{ServiceRecord, ServiceView};
pub(super) use worker::{InstanceOnWorker, WorkerDetails, worker, workers};

/// Two decimals are plenty for percentages and keep the records short.
fn rounded(percent: f64) -> f64 {
    if percent.is_finite() { (percent * 100.0).round() / 100.0 } else { 0.0 }
}
