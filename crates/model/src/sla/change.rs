//! What a service shall be from now on: a descriptor with exactly one application and one service, or the service
//! alone, in the form of a descriptor or of the record the API shows.

use serde_json::Value;

use crate::ServiceId;

use super::application::parse_value;
use super::document::ServiceChange;
use super::errors::{Findings, SlaErrorKind, SlaErrors, SlaProblem, shown};
use super::path::Path;
use super::{json, service};

/// Reads the change of service `id` from the bytes of a request body.
///
/// # Errors
/// Everything that is wrong with it; see [`SlaErrors::kind`].
pub fn parse_change(bytes: &[u8], id: ServiceId) -> Result<ServiceChange, SlaErrors> {
    let mut value = json::read(bytes)?;
    let is_document = value.get("applications").is_some() || value.get("sla_version").is_some();
    if is_document { of_document(value, id) } else { alone(&mut value, id) }
}

fn of_document(mut value: Value, id: ServiceId) -> Result<ServiceChange, SlaErrors> {
    const ONE: &str = "must hold exactly one application with exactly one service: the one that changes";
    const PLACE: &str = "applications[0].microservices[0]";
    if let Some(service) = value.pointer_mut("/applications/0/microservices/0") {
        forget_identity(service, id, PLACE)?;
    }
    let document = parse_value(&value)?;
    let mut applications = document.applications.into_iter();
    let (Some(application), None) = (applications.next(), applications.next()) else {
        return Err(problem("applications", ONE, None));
    };
    let mut services = application.services.into_iter();
    let (Some(service), None) = (services.next(), services.next()) else {
        return Err(problem("applications[0].microservices", ONE, None));
    };
    let names = (application.application_id, application.name, application.namespace);
    Ok(ServiceChange { application: Some(names), service, warnings: document.warnings })
}

fn alone(value: &mut Value, id: ServiceId) -> Result<ServiceChange, SlaErrors> {
    if !value.is_object() {
        let message = format!("the document must be a JSON object, found {}", shown(value));
        return Err(SlaErrors::whole(SlaErrorKind::NotAnObject, message, None));
    }
    forget_identity(value, id, "")?;
    let mut findings = Findings::default();
    let service = service::read(value, Path::Root, &mut findings);
    let (service, warnings) = findings.finish(service)?;
    let service = service.ok_or_else(|| problem("", "is not a service", None))?;
    Ok(ServiceChange { application: None, service, warnings })
}

/// Takes out what a record says about itself and a new service may not say. In a record `image` repeats `code`, and
/// whoever changes one of them means that one.
fn forget_identity(service: &mut Value, id: ServiceId, place: &str) -> Result<(), SlaErrors> {
    const KEY: &str = "microserviceID";
    let Some(fields) = service.as_object_mut() else { return Ok(()) };
    if fields.contains_key("job_name") && fields.contains_key("code") {
        fields.shift_remove("image");
    }
    let Some(sent) = fields.shift_remove(KEY) else { return Ok(()) };
    let own = id.to_string();
    if sent.as_str().is_some_and(|text| text.is_empty() || text == own) {
        return Ok(());
    }
    let path = if place.is_empty() { KEY.to_owned() } else { format!("{place}.{KEY}") };
    Err(problem(&path, "must be the id of the service that changes, or absent", Some(shown(&sent))))
}

fn problem(path: &str, message: &str, found: Option<String>) -> SlaErrors {
    let problem = SlaProblem { path: path.to_owned(), message: message.to_owned(), found, fix: None };
    SlaErrors::with_problem(SlaErrorKind::Schema, problem)
}
