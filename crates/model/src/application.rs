//! Applications and services as they are kept: by the root, and by every cluster for what it runs, so that a root
//! that lost its disk can be told again.

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{ApplicationId, JobName, Name, ServiceId, ServiceSpec};

/// A set of services of one owner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Application {
    /// Identity.
    pub id: ApplicationId,
    /// Name of the user it belongs to.
    pub owner: String,
    /// Name, unique with the namespace for one owner.
    pub name: Name,
    /// Namespace.
    pub namespace: Name,
    /// Free text.
    pub description: String,
    /// Further fields as sent.
    #[serde(default)]
    pub other: Map<String, Value>,
    /// Its services in order of creation.
    pub services: Vec<ServiceId>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Identity.
    pub id: ServiceId,
    /// Where it belongs.
    pub application: ApplicationId,
    /// Its four names.
    pub job_name: JobName,
    /// What to run.
    pub spec: Arc<ServiceSpec>,
    /// The descriptor as the API shows it.
    pub document: Map<String, Value>,
    /// Address balanced over its instances.
    pub address: Ipv4Addr,
    /// Number of the next instance.
    pub next_number: u32,
}
