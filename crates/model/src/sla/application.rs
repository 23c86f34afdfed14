//! The outer levels of a descriptor: version, customer, applications and their lists of services.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::{ApplicationId, Name};

use super::document::{ApplicationRequest, SLA_VERSION, ServiceRequest, SlaDocument, SlaServices};
use super::errors::{Findings, SlaErrorKind, SlaErrors, SlaProblem, shown};
use super::fields::Fields;
use super::json;
use super::path::Path;
use super::service::{self, NAME_RULE};
use super::spelling::Vocabulary;

/// Most applications of one document, and most services of one application.
const MAX_REQUESTS: usize = 1000;

const DOCUMENT: Vocabulary = Vocabulary {
    known: &["sla_version", "customerID", "applications", "args"],
    older: &[],
    owned_by_server: &[],
};

const APPLICATION: Vocabulary = Vocabulary {
    known: &[
        "applicationID",
        "application_name",
        "application_namespace",
        "application_desc",
        "microservices",
    ],
    older: &[],
    owned_by_server: &["_id", "userId", "action"],
};

/// Reads a descriptor from the bytes of a file or a request body.
///
/// # Errors
/// Everything that is wrong with it; see [`SlaErrors::kind`].
pub fn parse(bytes: &[u8]) -> Result<SlaDocument, SlaErrors> {
    read_document(&json::read(bytes)?)
}

/// Reads a descriptor that is already JSON.
///
/// # Errors
/// Everything that is wrong with it; see [`SlaErrors::kind`].
pub fn parse_value(value: &Value) -> Result<SlaDocument, SlaErrors> {
    json::check(value)?;
    read_document(value)
}

/// Reads the older file form of the dashboard: `{"microservices": […]}` without an application around it.
///
/// # Errors
/// Everything that is wrong with it; see [`SlaErrors::kind`].
pub fn parse_services(bytes: &[u8]) -> Result<SlaServices, SlaErrors> {
    let value = json::read(bytes)?;
    let map = object(&value)?;
    let mut findings = Findings::default();
    let services = read_services(Fields { map, path: &Path::Root }, &mut findings);
    let (services, warnings) = findings.finish(services)?;
    Ok(SlaServices { services, warnings })
}

fn read_document(value: &Value) -> Result<SlaDocument, SlaErrors> {
    let map = object(value)?;
    check_version(map)?;
    let mut findings = Findings::default();
    let mut other = DOCUMENT.normalise(map, Path::Root, &mut findings);
    let fields = Fields { map, path: &Path::Root };
    let customer_id = fields.required_text("customerID", "the customer, such as Admin", &mut findings);
    fields.texts("args", &mut findings);
    let applications = read_applications(fields, &mut findings);
    for key in ["sla_version", "customerID", "applications"] {
        other.shift_remove(key);
    }
    let customer_id = customer_id.unwrap_or_default().to_owned();
    let (applications, warnings) = findings.finish(applications)?;
    Ok(SlaDocument { customer_id, applications, other, warnings })
}

fn object(value: &Value) -> Result<&Map<String, Value>, SlaErrors> {
    value.as_object().ok_or_else(|| {
        let message = format!("the document must be a JSON object, found {}", shown(value));
        SlaErrors::whole(SlaErrorKind::NotAnObject, message, None)
    })
}

/// The version decides how everything else is read, so a wrong one is the only problem reported.
fn check_version(map: &Map<String, Value>) -> Result<(), SlaErrors> {
    const KEY: &str = "sla_version";
    let version = map.get(KEY);
    let (message, fix) = match version.map(Value::as_str) {
        Some(Some(SLA_VERSION)) => return Ok(()),
        Some(Some("v1.0")) => {
            ("version v1.0 is no longer understood; it must be \"v2.0\"", "rewrite it as v2.0")
        }
        Some(_) => ("must be \"v2.0\"", "correct the version"),
        None => ("is required and must be \"v2.0\"", "add \"sla_version\": \"v2.0\""),
    };
    let problem = SlaProblem {
        path: KEY.to_owned(),
        message: message.to_owned(),
        found: version.map(shown),
        fix: Some(fix.to_owned()),
    };
    Err(SlaErrors::with_problem(SlaErrorKind::Version, problem))
}

fn read_applications(fields: Fields<'_>, findings: &mut Findings) -> Vec<ApplicationRequest> {
    let mut applications = Vec::new();
    let path = fields.path.key("applications");
    for (position, item) in bounded_list(fields, "applications", findings).iter().enumerate() {
        applications.extend(read_application(item, path.index(position), findings));
    }
    applications
}

fn read_application(value: &Value, path: Path<'_>, findings: &mut Findings) -> Option<ApplicationRequest> {
    let sent = Fields::of(value, &path, findings)?;
    let mut other = APPLICATION.normalise(sent.map, path, findings);
    let fields = Fields { map: &other, path: &path };
    let application_id = read_application_id(fields, findings);
    let name = fields.required_parsed::<Name>("application_name", NAME_RULE, findings);
    let namespace = fields.required_parsed::<Name>("application_namespace", NAME_RULE, findings);
    let description = fields.text("application_desc", findings).unwrap_or_default().to_owned();
    let services = read_services(fields, findings);
    for key in APPLICATION.known {
        other.shift_remove(*key);
    }
    Some(ApplicationRequest {
        application_id,
        name: name?,
        namespace: namespace?,
        description,
        services,
        other,
    })
}

fn read_application_id(fields: Fields<'_>, findings: &mut Findings) -> Option<ApplicationId> {
    const KEY: &str = "applicationID";
    let text = fields.text(KEY, findings).filter(|text| !text.is_empty())?;
    let id = text.parse().ok();
    if id.is_none() {
        let allowed = "\"\" for a new application, or the 24 hexadecimal digits of an existing one";
        findings.expected(fields.path.key(KEY), allowed, &text.into());
    }
    id
}

fn read_services(fields: Fields<'_>, findings: &mut Findings) -> Vec<ServiceRequest> {
    const KEY: &str = "microservices";
    let list_path = fields.path.key(KEY);
    let mut services = Vec::new();
    let mut seen = BTreeMap::new();
    for (position, item) in bounded_list(fields, KEY, findings).iter().enumerate() {
        let path = list_path.index(position);
        let Some(service) = service::read(item, path, findings) else { continue };
        let key = (service.name.clone(), service.namespace.clone());
        if let Some(earlier) = seen.insert(key, position) {
            findings.refused(
                path.key("microservice_name"),
                format_args!("microservices[{earlier}] already has this name and namespace"),
                &service.name.as_str().into(),
                "give it another name; more copies of one service are more instances",
            );
        }
        services.push(service);
    }
    services
}

/// A required list of at most [`MAX_REQUESTS`] elements.
fn bounded_list<'a>(fields: Fields<'a>, key: &str, findings: &mut Findings) -> &'a [Value] {
    let path = fields.path.key(key);
    let Some(value) = fields.map.get(key) else {
        findings.missing(path, "a list (it may be empty)");
        return &[];
    };
    let items = fields.list(key, findings);
    if items.len() > MAX_REQUESTS {
        findings.expected(path, format_args!("a list of at most {MAX_REQUESTS}"), value);
        return &[];
    }
    items
}
