//! Explanations and plans as the API shows them: bounded unless everything is asked for, each number with its text.

use oak_control::root::{
    ClusterExplanation, Explanation, PlannedInstance, PlannedService, WorkerExplanation,
};
use oak_placement::{Change, Reason};
use serde_json::{Value, json};

/// Workers of each cluster, and clusters, that are listed.
const LISTED: usize = 20;

/// How much is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) enum Extent {
    /// Sums, and the first ones.
    First,
    /// Everything.
    All,
}

impl Extent {
    fn most(self) -> usize {
        match self {
            Self::First => LISTED,
            Self::All => usize::MAX,
        }
    }
}

/// Renders an explanation.
pub(in crate::api) fn explanation(explained: &Explanation, extent: Extent) -> Value {
    let clusters = &explained.clusters;
    let workers: usize = clusters.iter().map(|cluster| cluster.workers.len()).sum();
    let can_take: usize = clusters.iter().map(can_take).sum();
    json!({
        "job_name": explained.job_name.to_string(),
        "instance_number": explained.number,
        "status": explained.status.as_str(),
        "status_detail": explained.detail,
        "place": place(explained),
        "needs": explained.needs,
        "clusters_total": clusters.len(),
        "workers_total": workers,
        "workers_that_can_take_it": can_take,
        "clusters": clusters.iter().take(extent.most()).map(|one| cluster(one, extent)).collect::<Vec<_>>(),
        "suggestion": suggestion(&explained.changes),
    })
}

/// Renders the plan of a descriptor.
pub(in crate::api) fn plan(services: &[PlannedService], warnings: &[String]) -> Value {
    let all_placed = services.iter().flat_map(|service| &service.instances).all(|i| i.outcome.is_ok());
    let render = |service: &PlannedService| {
        json!({
            "job_name": service.job_name.to_string(),
            "instances": service.instances.iter().map(planned).collect::<Vec<_>>(),
        })
    };
    json!({
        "dry_run": true,
        "all_placed": all_placed,
        "warnings": warnings,
        "services": services.iter().map(render).collect::<Vec<_>>(),
    })
}

fn planned(instance: &PlannedInstance) -> Value {
    match &instance.outcome {
        Ok(place) => json!({
            "instance_number": instance.number,
            "place": {
                "cluster_id": place.cluster,
                "cluster_name": place.cluster_name,
                "worker_id": place.worker,
                "worker_name": place.worker_name,
            },
        }),
        Err(explained) => json!({
            "instance_number": instance.number,
            "place": null,
            "explanation": explanation(explained, Extent::First),
        }),
    }
}

fn place(explained: &Explanation) -> Value {
    let Some((cluster, worker)) = explained.place else { return Value::Null };
    let found = explained.clusters.iter().find(|one| one.id == cluster);
    let name = found.and_then(|one| one.workers.iter().find(|known| known.verdict.id == worker));
    json!({
        "cluster_id": cluster,
        "cluster_name": found.map(|one| &one.name),
        "worker_id": worker,
        "worker_name": name.map(|worker| &worker.verdict.name),
    })
}

fn can_take(cluster: &ClusterExplanation) -> usize {
    if !cluster.reasons.is_empty() {
        return 0;
    }
    cluster.workers.iter().filter(|worker| worker.verdict.reasons.is_empty()).count()
}

fn cluster(cluster: &ClusterExplanation, extent: Extent) -> Value {
    let reasons: Vec<_> =
        cluster.reasons.iter().map(|reason| json!({ "rule": reason, "text": reason.as_str() })).collect();
    let listed = cluster.workers.len().min(extent.most());
    json!({
        "cluster_id": cluster.id,
        "cluster_name": cluster.name,
        "chosen": cluster.chosen,
        "reasons": reasons,
        "instances_of_service": cluster.of_service,
        "commitment_percent": percent(cluster.commitment),
        "workers_total": cluster.workers.len(),
        "workers_that_can_take_it": can_take(cluster),
        "refused_by": cluster.refused_by(),
        "workers": cluster.workers.iter().take(listed).map(worker).collect::<Vec<_>>(),
        "workers_not_listed": cluster.workers.len() - listed,
    })
}

fn worker(worker: &WorkerExplanation) -> Value {
    let verdict = &worker.verdict;
    json!({
        "worker_id": verdict.id,
        "worker_name": verdict.name,
        "chosen": worker.chosen,
        "reasons": verdict.reasons.iter().map(reason).collect::<Vec<_>>(),
        "free": verdict.free,
        "capacity": verdict.capacity,
        "instances": verdict.instances,
        "instances_of_service": verdict.of_service,
        "commitment_percent": percent(verdict.commitment),
        "broken_preferences": f64::from(verdict.penalty) / 1000.0,
    })
}

fn percent(thousandths: u32) -> f64 {
    f64::from(thousandths) / 10.0
}

fn reason(reason: &Reason) -> Value {
    with_text(json!(reason), reason.to_string())
}

fn suggestion(changes: &[Change]) -> Value {
    if changes.is_empty() {
        return Value::Null;
    }
    let text = changes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; and ");
    let changes: Vec<_> = changes.iter().map(|change| with_text(json!(change), change.to_string())).collect();
    json!({ "text": text, "changes": changes })
}

fn with_text(mut value: Value, text: String) -> Value {
    if let Some(fields) = value.as_object_mut() {
        fields.insert("text".to_owned(), Value::String(text));
    }
    value
}
