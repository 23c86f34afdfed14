//! Services and their instances.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::decode::{or_default, text};

/// A service (client contract, 1.4).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// 24 hexadecimal digits.
    #[serde(rename = "microserviceID", deserialize_with = "or_default")]
    pub id: String,
    /// `application.namespace.service.namespace`.
    #[serde(deserialize_with = "or_default")]
    pub job_name: String,
    /// Id of its application.
    #[serde(rename = "applicationID", deserialize_with = "or_default")]
    pub application_id: String,
    /// Name of its application.
    #[serde(rename = "app_name", deserialize_with = "or_default")]
    pub application_name: String,
    /// Namespace of its application.
    #[serde(rename = "app_ns", deserialize_with = "or_default")]
    pub application_namespace: String,
    /// Name.
    #[serde(rename = "microservice_name", deserialize_with = "or_default")]
    pub name: String,
    /// Namespace.
    #[serde(rename = "microservice_namespace", deserialize_with = "or_default")]
    pub namespace: String,
    /// Image.
    #[serde(rename = "code", deserialize_with = "or_default")]
    pub image: String,
    /// Host ports, `80:8080/tcp;…`.
    #[serde(deserialize_with = "text")]
    pub port: String,
    /// Service address (IPv4), empty if none was asked for.
    #[serde(rename = "RR_ip", deserialize_with = "or_default")]
    pub address: String,
    /// Status word; empty before the first deployment.
    #[serde(deserialize_with = "text")]
    pub status: String,
    /// One line for people.
    #[serde(deserialize_with = "or_default")]
    pub status_detail: String,
    /// Revision it has now.
    #[serde(deserialize_with = "or_default")]
    pub revision: u32,
    /// The update under way, or the last one.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "or_default")]
    pub rollout: Option<Rollout>,
    /// Its instances.
    #[serde(rename = "instance_list", deserialize_with = "or_default")]
    pub instances: Vec<Instance>,
    /// Everything else, descriptor fields included.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// How far the update of a service is, or how the last one ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rollout {
    /// `running`, `rolling-back`, `done` or `rolled-back`.
    pub state: String,
    /// Revision it leads to, or has come to.
    pub revision: u32,
    /// Revision it comes from.
    pub from_revision: Option<u32>,
    /// Instances of that revision that run.
    pub updated: u32,
    /// Instances there shall be.
    pub total: u32,
    /// One line for people.
    pub detail: String,
    /// Why it was rolled back.
    pub reason: String,
}

/// What scaling did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scaled {
    /// Instances the service keeps from now on.
    pub replicas: u32,
    /// Numbers of the instances that were created.
    pub created: Vec<u32>,
    /// Numbers of the instances that were taken down.
    pub removed: Vec<u32>,
}

/// One instance of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Instance {
    /// Progressive number within the service.
    #[serde(rename = "instance_number", deserialize_with = "or_default")]
    pub number: u32,
    /// Status word.
    #[serde(deserialize_with = "text")]
    pub status: String,
    /// One line for people.
    #[serde(deserialize_with = "or_default")]
    pub status_detail: String,
    /// Cluster it is on.
    #[serde(deserialize_with = "or_default")]
    pub cluster_id: String,
    /// Worker it is on.
    #[serde(deserialize_with = "or_default")]
    pub worker_id: String,
    /// Address of that worker.
    #[serde(deserialize_with = "or_default")]
    pub host_ip: String,
    /// Use of one core, in percent.
    #[serde(deserialize_with = "text")]
    pub cpu_percent: String,
    /// Memory in bytes, in spite of the name.
    #[serde(deserialize_with = "text")]
    pub memory_percent: String,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Answer to adding services.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServicesCreated {
    /// Id of the last service that was processed.
    #[serde(deserialize_with = "or_default")]
    pub job_id: String,
    /// Services that could not be stored.
    #[serde(deserialize_with = "or_default")]
    pub failed_services: Vec<FailedService>,
}

/// A service that could not be stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailedService {
    /// Its name.
    #[serde(deserialize_with = "or_default")]
    pub service_name: String,
    /// Why.
    #[serde(deserialize_with = "or_default")]
    pub message: String,
}
