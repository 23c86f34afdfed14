//! `GET /metrics` of a cluster: numbers for Prometheus, open to everybody, therefore without any name.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use oak_control::cluster::Cluster;
use oak_metrics::{CONTENT_TYPE, Exposition, Kind, describe_process};
use oak_model::Status;
use oak_store::Health;

use super::Shared;
use super::answer::Answer;

/// How many there are of everything.
struct Census {
    instances: BTreeMap<&'static str, u64>,
    /// Connected, and not.
    workers: [u64; 2],
}

impl Census {
    fn of(cluster: &Cluster) -> Self {
        // All of them, so that a series does not begin in the middle of an incident.
        let mut instances: BTreeMap<_, _> = Status::ALL.iter().map(|status| (status.as_str(), 0)).collect();
        for placed in cluster.placed() {
            *instances.entry(placed.status.as_str()).or_default() += 1;
        }
        let mut workers = [0, 0];
        for worker in cluster.summaries() {
            workers[usize::from(!worker.connected)] += 1;
        }
        Self { instances, workers }
    }

    fn describe(&self, exposition: &mut Exposition) {
        exposition.family(Kind::Gauge, "oakestra_cluster_instances", "Instances by status.");
        for (status, count) in &self.instances {
            exposition.sample(&[("status", status)], count);
        }
        exposition.family(Kind::Gauge, "oakestra_cluster_workers", "Workers that have joined.");
        for (state, count) in ["connected", "away"].iter().zip(self.workers) {
            exposition.sample(&[("state", state)], count);
        }
        exposition
            .family(Kind::Gauge, "oakestra_cluster_link_sessions", "Open link sessions of workers.")
            .sample(&[], self.workers[0]);
    }
}

/// `GET /metrics`. Looked up when it is asked for: a cluster nobody watches does no work for it.
pub(super) async fn show(State(local): State<Shared>) -> Answer {
    let census = local.engine.call(|cluster, _, _| Census::of(cluster)).await?;
    let mut exposition = Exposition::default();
    exposition
        .family(Kind::Gauge, "oakestra_build_info", "Version of the program; always 1.")
        .sample(&[("version", env!("CARGO_PKG_VERSION")), ("role", "cluster")], 1);
    census.describe(&mut exposition);
    let name = "oakestra_cluster_store_commit_duration_seconds";
    if let Some(commits) = local.engine.commits() {
        exposition
            .family(Kind::Histogram, name, "Time of a commit to the database, of one or of many steps.")
            .histogram(&[], &commits.snapshot());
    }
    let degraded = !matches!(*local.engine.health().borrow(), Health::Ok);
    exposition
        .family(
            Kind::Gauge,
            "oakestra_cluster_store_degraded",
            "1 while the disk does not take every change.",
        )
        .sample(&[], u8::from(degraded));
    describe_process(&mut exposition);
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], exposition.finish()).into_response())
}
