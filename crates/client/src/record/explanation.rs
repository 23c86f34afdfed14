//! Explanations and plans.

use oak_model::Resources;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::decode::or_default;

/// What a descriptor would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// Whether every instance has a place.
    #[serde(deserialize_with = "or_default")]
    pub all_placed: bool,
    /// What was accepted but is probably a mistake.
    #[serde(deserialize_with = "or_default")]
    pub warnings: Vec<String>,
    /// The services in order.
    #[serde(deserialize_with = "or_default")]
    pub services: Vec<PlannedService>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A service of a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlannedService {
    /// `application.namespace.service.namespace`.
    #[serde(deserialize_with = "or_default")]
    pub job_name: String,
    /// Its instances in order.
    #[serde(deserialize_with = "or_default")]
    pub instances: Vec<PlannedInstance>,
}

/// An instance of a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlannedInstance {
    /// Its number.
    #[serde(rename = "instance_number", deserialize_with = "or_default")]
    pub number: u32,
    /// Where it would go.
    pub place: Option<Place>,
    /// Why it would go nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Explanation>,
}

/// A worker of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Place {
    /// Id of the cluster.
    #[serde(deserialize_with = "or_default")]
    pub cluster_id: String,
    /// Its name.
    #[serde(deserialize_with = "or_default")]
    pub cluster_name: String,
    /// Id of the worker.
    #[serde(deserialize_with = "or_default")]
    pub worker_id: String,
    /// Its name.
    #[serde(deserialize_with = "or_default")]
    pub worker_name: String,
}

/// Why an instance is where it is, or nowhere.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Explanation {
    /// `application.namespace.service.namespace`.
    #[serde(deserialize_with = "or_default")]
    pub job_name: String,
    /// Number of the instance; absent when it is about one more.
    #[serde(rename = "instance_number")]
    pub number: Option<u32>,
    /// Status word.
    #[serde(deserialize_with = "or_default")]
    pub status: String,
    /// One line for people.
    #[serde(deserialize_with = "or_default")]
    pub status_detail: String,
    /// Where it is, or would go.
    pub place: Option<Place>,
    /// What it needs.
    #[serde(deserialize_with = "or_default")]
    pub needs: Resources,
    /// All workers of all clusters.
    #[serde(deserialize_with = "or_default")]
    pub workers_total: u64,
    /// Those that can take it.
    #[serde(deserialize_with = "or_default")]
    pub workers_that_can_take_it: u64,
    /// The clusters, the chosen one first.
    #[serde(deserialize_with = "or_default")]
    pub clusters: Vec<ExplainedCluster>,
    /// What would let it be placed.
    pub suggestion: Option<Suggestion>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What a cluster says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExplainedCluster {
    /// Name.
    #[serde(deserialize_with = "or_default")]
    pub cluster_name: String,
    /// The instance is there.
    #[serde(deserialize_with = "or_default")]
    pub chosen: bool,
    /// Why none of its workers is asked.
    #[serde(deserialize_with = "or_default")]
    pub reasons: Vec<Reason>,
    /// All its workers.
    #[serde(deserialize_with = "or_default")]
    pub workers_total: u64,
    /// Reserved share, percent.
    #[serde(deserialize_with = "or_default")]
    pub commitment_percent: f64,
    /// The first of its workers.
    #[serde(deserialize_with = "or_default")]
    pub workers: Vec<ExplainedWorker>,
    /// How many more there are.
    #[serde(deserialize_with = "or_default")]
    pub workers_not_listed: u64,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What a worker says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExplainedWorker {
    /// Name.
    #[serde(deserialize_with = "or_default")]
    pub worker_name: String,
    /// The instance is there.
    #[serde(deserialize_with = "or_default")]
    pub chosen: bool,
    /// The rules it fails.
    #[serde(deserialize_with = "or_default")]
    pub reasons: Vec<Reason>,
    /// What is not reserved.
    #[serde(deserialize_with = "or_default")]
    pub free: Resources,
    /// All that may be reserved.
    #[serde(deserialize_with = "or_default")]
    pub capacity: Resources,
    /// Reserved share, percent.
    #[serde(deserialize_with = "or_default")]
    pub commitment_percent: f64,
    /// Instances of the service on it.
    #[serde(deserialize_with = "or_default")]
    pub instances_of_service: u32,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A rule that is not met.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reason {
    /// One word for the rule.
    #[serde(deserialize_with = "or_default")]
    pub rule: String,
    /// The rule with its numbers, for people.
    #[serde(deserialize_with = "or_default")]
    pub text: String,
    /// Its numbers.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Changes that, made together, let the instance be placed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Suggestion {
    /// All of them for people.
    #[serde(deserialize_with = "or_default")]
    pub text: String,
    /// Each with its `kind`, numbers and text.
    #[serde(deserialize_with = "or_default")]
    pub changes: Vec<Value>,
}
