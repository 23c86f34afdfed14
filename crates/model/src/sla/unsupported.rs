//! Fields of the descriptor this release cannot honour. An empty value asks for nothing and passes; anything else is
//! refused, because a field that is accepted and ignored is worse than one that is refused.

use serde_json::Value;

use super::errors::Findings;
use super::fields::{Fields, whole};

/// The type the schema gives a field.
#[derive(Clone, Copy, Debug)]
enum Form {
    Integer,
    Text,
    List,
}

/// A field that is refused when it asks for something.
#[derive(Debug)]
struct Unsupported {
    key: &'static str,
    form: Form,
    reason: &'static str,
    fix: &'static str,
}

const fn unsupported(key: &'static str, form: Form, reason: &'static str, fix: &'static str) -> Unsupported {
    Unsupported { key, form, reason, fix }
}

/// Fields of a microservice.
const SERVICE: &[Unsupported] = &[
    unsupported(
        "vtpus",
        Form::Integer,
        "this release does not assign TPUs to services",
        "set it to 0 or remove it",
    ),
    unsupported("bandwidth_in", Form::Integer, BANDWIDTH, "set it to 0 or remove it"),
    unsupported("bandwidth_out", Form::Integer, BANDWIDTH, "set it to 0 or remove it"),
    unsupported(
        "target_node",
        Form::Text,
        "this field was never evaluated",
        "use constraints: [{\"type\": \"direct\", \"node\": \"<worker>\"}]",
    ),
    unsupported(
        "sla_violation_strategy",
        Form::Text,
        "this release has one strategy: restart with back-off, re-place when the worker is lost",
        "remove it",
    ),
];

/// Fields of `addresses`.
const ADDRESSES: &[Unsupported] = &[unsupported(
    "instances",
    Form::List,
    "this release chooses the addresses of instances itself",
    "remove the list",
)];

const BANDWIDTH: &str = "this release neither reserves nor limits bandwidth";

/// Refuses fields of a microservice that ask for what is not there yet.
pub(super) fn check_service(fields: Fields<'_>, findings: &mut Findings) {
    check(fields, SERVICE, findings);
}

/// Refuses fields of `addresses` that ask for what is not there yet.
pub(super) fn check_addresses(fields: Fields<'_>, findings: &mut Findings) {
    check(fields, ADDRESSES, findings);
}

fn check(fields: Fields<'_>, table: &[Unsupported], findings: &mut Findings) {
    for rule in table {
        let Some(value) = fields.map.get(rule.key) else { continue };
        let path = fields.path.key(rule.key);
        let (allowed, has_form, asks) = match rule.form {
            Form::Integer => ("an integer", whole(value).is_some(), whole(value) != Some(0)),
            Form::Text => ("a text", value.is_string(), value.as_str() != Some("")),
            Form::List => ("a list", value.is_array(), !is_empty_list(value)),
        };
        if !has_form {
            findings.expected(path, allowed, value);
        } else if asks {
            findings.refused(path, rule.reason, value, rule.fix);
        }
    }
}

fn is_empty_list(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}
