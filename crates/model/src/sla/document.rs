//! A descriptor that was understood, and how it is written back.

use serde_json::{Map, Value};

use crate::{ApplicationId, JobName, Name, ServiceSpec, UpdatePolicy};

use super::errors::SlaWarning;

/// The only version of descriptors that is understood.
pub(super) const SLA_VERSION: &str = "v2.0";

/// A complete descriptor.
#[derive(Clone, Debug, PartialEq)]
pub struct SlaDocument {
    /// `customerID`: informational, never compared with the caller.
    pub customer_id: String,
    /// The applications, in the order of the document; may be empty.
    pub applications: Vec<ApplicationRequest>,
    /// Top-level fields that are neither of the above, as sent.
    pub other: Map<String, Value>,
    /// What was accepted but is probably a mistake.
    pub warnings: Vec<SlaWarning>,
}

/// An application a descriptor asks for, or adds services to.
#[derive(Clone, Debug, PartialEq)]
pub struct ApplicationRequest {
    /// `applicationID`; absent for a new application.
    pub application_id: Option<ApplicationId>,
    /// `application_name`.
    pub name: Name,
    /// `application_namespace`.
    pub namespace: Name,
    /// `application_desc`; empty when absent.
    pub description: String,
    /// The services, in the order of the document; may be empty.
    pub services: Vec<ServiceRequest>,
    /// Fields of the application that are none of the above, as sent.
    pub other: Map<String, Value>,
}

/// A service a descriptor asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceRequest {
    /// `microservice_name`.
    pub name: Name,
    /// `microservice_namespace`.
    pub namespace: Name,
    /// What placement and workers act on.
    pub spec: ServiceSpec,
    /// Instances the service shall keep by itself.
    pub replicas: Option<u32>,
    /// How its instances are replaced when it changes.
    pub update: UpdatePolicy,
    /// The microservice object as sent, in today's spelling: `vcpus`, `environment`, `code`, `virtualization` is
    /// `docker`, whole numbers are integers, fields owned by the server are absent. This is what the API stores and
    /// shows, unknown fields included.
    pub document: Map<String, Value>,
}

impl ServiceRequest {
    /// The four names of the service in an application.
    #[must_use]
    pub fn job_name(&self, application: &Name, namespace: &Name) -> JobName {
        JobName {
            application: application.clone(),
            application_namespace: namespace.clone(),
            service: self.name.clone(),
            service_namespace: self.namespace.clone(),
        }
    }
}

/// What a service shall be from now on.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceChange {
    /// Application the document puts it into: identifier if given, name, namespace. Absent for a service alone.
    pub application: Option<(Option<ApplicationId>, Name, Name)>,
    /// The service.
    pub service: ServiceRequest,
    /// What was accepted but is probably a mistake.
    pub warnings: Vec<SlaWarning>,
}

/// A list of services without an application around it (`{"microservices": […]}`, the file form of the dashboard).
#[derive(Clone, Debug, PartialEq)]
pub struct SlaServices {
    /// The services, in the order of the document.
    pub services: Vec<ServiceRequest>,
    /// What was accepted but is probably a mistake.
    pub warnings: Vec<SlaWarning>,
}

impl SlaDocument {
    /// Writes the descriptor in today's spelling. Parsing the result gives the same document without the warnings.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("sla_version".to_owned(), Value::from(SLA_VERSION));
        fields.insert("customerID".to_owned(), Value::from(self.customer_id.as_str()));
        fields.insert(
            "applications".to_owned(),
            self.applications.iter().map(ApplicationRequest::to_value).collect(),
        );
        fields.extend(self.other.clone());
        Value::Object(fields)
    }
}

impl ApplicationRequest {
    /// Writes the application in today's spelling.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut fields = Map::new();
        let id = self.application_id.map(|id| id.to_string()).unwrap_or_default();
        fields.insert("applicationID".to_owned(), Value::from(id));
        fields.insert("application_name".to_owned(), Value::from(self.name.as_str()));
        fields.insert("application_namespace".to_owned(), Value::from(self.namespace.as_str()));
        fields.insert("application_desc".to_owned(), Value::from(self.description.as_str()));
        let services = self.services.iter().map(|service| Value::Object(service.document.clone())).collect();
        fields.insert("microservices".to_owned(), services);
        fields.extend(self.other.clone());
        Value::Object(fields)
    }
}
