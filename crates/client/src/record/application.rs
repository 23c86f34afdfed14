//! Applications.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::decode::or_default;

/// An application (client contract, 1.3).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Application {
    /// 24 hexadecimal digits.
    #[serde(rename = "applicationID", deserialize_with = "or_default")]
    pub id: String,
    /// Name.
    #[serde(rename = "application_name", deserialize_with = "or_default")]
    pub name: String,
    /// Namespace.
    #[serde(rename = "application_namespace", deserialize_with = "or_default")]
    pub namespace: String,
    /// Free text.
    #[serde(rename = "application_desc", deserialize_with = "or_default")]
    pub description: String,
    /// User name of the owner.
    #[serde(rename = "userId", deserialize_with = "or_default")]
    pub owner: String,
    /// Ids of its services.
    #[serde(rename = "microservices", deserialize_with = "or_default")]
    pub services: Vec<String>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}
