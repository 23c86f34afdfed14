//! Clusters.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::decode::{or_default, text};

/// A cluster (client contract, 1.5).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cluster {
    /// 24 hexadecimal digits.
    #[serde(rename = "_id", deserialize_with = "or_default")]
    pub id: String,
    /// Name.
    #[serde(rename = "cluster_name", deserialize_with = "or_default")]
    pub name: String,
    /// Place, conventionally `latitude,longitude,radius in metres`.
    #[serde(rename = "cluster_location", deserialize_with = "or_default")]
    pub location: String,
    /// Address it connects from.
    #[serde(deserialize_with = "or_default")]
    pub ip: String,
    /// Port of its own API.
    #[serde(deserialize_with = "text")]
    pub port: String,
    /// Whether it is connected.
    #[serde(deserialize_with = "or_default")]
    pub active: bool,
    /// Connected workers.
    #[serde(deserialize_with = "or_default")]
    pub active_nodes: u64,
    /// Use of all cores, 0–100.
    #[serde(rename = "aggregated_cpu_percent", deserialize_with = "or_default")]
    pub cpu_percent: f64,
    /// Use of memory, 0–100.
    #[serde(deserialize_with = "or_default")]
    pub memory_percent: f64,
    /// Memory available on its workers, in MiB.
    #[serde(rename = "memory_in_mb", deserialize_with = "or_default")]
    pub memory_mib: f64,
    /// Cores of its workers.
    #[serde(rename = "total_cpu_cores", deserialize_with = "or_default")]
    pub cores: f64,
    /// Last sign of life, Unix seconds.
    #[serde(rename = "last_modified_timestamp", deserialize_with = "or_default")]
    pub last_seen: f64,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}
