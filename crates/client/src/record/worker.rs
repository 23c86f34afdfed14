//! Workers of a cluster.

use oak_model::Resources;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::decode::or_default;

/// A worker as the root sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Worker {
    /// 24 hexadecimal digits.
    #[serde(alias = "_id", deserialize_with = "or_default")]
    pub id: String,
    /// What it said about itself.
    #[serde(deserialize_with = "or_default")]
    pub facts: WorkerFacts,
    /// Reserved by instances placed on it.
    #[serde(deserialize_with = "or_default")]
    pub reserved: Resources,
    /// Instances placed on it.
    #[serde(deserialize_with = "or_default")]
    pub instances: u32,
    /// Whether its link is up.
    #[serde(deserialize_with = "or_default")]
    pub connected: bool,
    /// `open`, `cordoned` or `draining`; empty if the server does not say.
    #[serde(deserialize_with = "or_default")]
    pub availability: String,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// One worker with its cluster and what is on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerDetails {
    /// Id of its cluster.
    #[serde(deserialize_with = "or_default")]
    pub cluster_id: String,
    /// Name of its cluster.
    #[serde(deserialize_with = "or_default")]
    pub cluster_name: String,
    /// Those of its instances that the caller may see, without completed ones.
    #[serde(rename = "instance_list", deserialize_with = "or_default")]
    pub instance_list: Vec<InstanceOnWorker>,
    /// The worker.
    #[serde(flatten)]
    pub worker: Worker,
}

/// An instance in the list of its worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceOnWorker {
    /// Id of its service.
    #[serde(rename = "microserviceID", deserialize_with = "or_default")]
    pub service_id: String,
    /// `application.namespace.service.namespace`.
    #[serde(deserialize_with = "or_default")]
    pub job_name: String,
    /// Progressive number within the service.
    #[serde(rename = "instance_number", deserialize_with = "or_default")]
    pub number: u32,
    /// Status word.
    #[serde(deserialize_with = "or_default")]
    pub status: String,
    /// One line for people.
    #[serde(deserialize_with = "or_default")]
    pub status_detail: String,
    /// Whether it ends by itself.
    #[serde(deserialize_with = "or_default")]
    pub one_shot: bool,
}

/// What a worker says about itself; the tolerant form of [`oak_model::WorkerFacts`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerFacts {
    /// Name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Address other machines reach it at.
    #[serde(deserialize_with = "or_default")]
    pub address: String,
    /// Architecture as images spell it.
    #[serde(deserialize_with = "or_default")]
    pub architecture: String,
    /// What services may use.
    #[serde(deserialize_with = "or_default")]
    pub capacity: Resources,
    /// Version of its software.
    #[serde(deserialize_with = "or_default")]
    pub version: String,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}
