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
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
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
