//! The `constraints` list: which clusters and workers may take a service.

use serde_json::Value;

use crate::TargetConstraints;

use super::errors::Findings;
use super::fields::{Fields, whole};
use super::path::Path;

/// Longest name of a cluster or worker, in bytes (a host name has at most 253).
const MAX_PLACE_NAME: usize = 255;

/// Reads `constraints`. Every constraint narrows: a place must satisfy all of them.
pub(super) fn read(fields: Fields<'_>, findings: &mut Findings) -> TargetConstraints {
    let list_path = fields.path.key("constraints");
    let mut clusters = Allowed::default();
    let mut workers = Allowed::default();
    for (position, item) in fields.list("constraints", findings).iter().enumerate() {
        let path = list_path.index(position);
        let Some(constraint) = Fields::of(item, &path, findings) else { continue };
        check_forms(constraint, findings);
        let Some(kind) = constraint.required_text("type", "direct or clusters", findings) else { continue };
        match kind {
            "direct" => {
                clusters.narrow(&constraint, "cluster", &split(constraint, "cluster"), findings);
                workers.narrow(&constraint, "node", &split(constraint, "node"), findings);
                warn_unused(constraint, &["type", "cluster", "node"], findings);
            }
            "clusters" => {
                clusters.narrow(&constraint, "allowed", &listed(constraint, "allowed"), findings);
                warn_unused(constraint, &["type", "allowed"], findings);
            }
            "addons" if listed(constraint, "needs").is_empty() => {}
            other => refuse_kind(other, path, findings),
        }
    }
    TargetConstraints { clusters: clusters.names, workers: workers.names }
}

fn refuse_kind(kind: &str, path: Path<'_>, findings: &mut Findings) {
    let reason = match kind {
        "addons" => "this release has no worker addons",
        "geo" => "this release does not place by distance",
        "latency" => "this release does not place by latency",
        _ => "is not a known kind of constraint: use direct or clusters",
    };
    let fix = "remove it, or name the place with {\"type\": \"direct\", \"cluster\": …, \"node\": …}";
    findings.refused(path.key("type"), reason, &kind.into(), fix);
}

/// The types the schema gives the keys of any constraint.
fn check_forms(constraint: Fields<'_>, findings: &mut Findings) {
    for key in ["area", "cluster", "node", "location"] {
        constraint.text(key, findings);
    }
    for key in ["needs", "allowed"] {
        constraint.texts(key, findings);
    }
    for key in ["threshold", "rigidness"] {
        if let Some(value) = constraint.map.get(key).filter(|value| !value.is_number()) {
            findings.expected(constraint.path.key(key), "a number", value);
        }
    }
    if let Some(value) = constraint.map.get("convergence_time").filter(|value| whole(value).is_none()) {
        findings.expected(constraint.path.key("convergence_time"), "an integer", value);
    }
}

fn warn_unused(constraint: Fields<'_>, used: &[&str], findings: &mut Findings) {
    for (key, value) in constraint.map {
        let empty = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Bool(true) => false,
            Value::Number(number) => number.as_f64() == Some(0.0),
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(members) => members.is_empty(),
        };
        if !empty && !used.contains(&key.as_str()) {
            findings.warn(constraint.path.key(key), "has no effect in this kind of constraint");
        }
    }
}

/// A `;`-separated list in one text, as the manual describes it for `direct`.
fn split<'a>(constraint: Fields<'a>, key: &str) -> Vec<&'a str> {
    let text = constraint.map.get(key).and_then(Value::as_str).unwrap_or_default();
    text.split(';').map(str::trim).filter(|name| !name.is_empty()).collect()
}

fn listed<'a>(constraint: Fields<'a>, key: &str) -> Vec<&'a str> {
    let items = constraint.map.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    items.iter().filter_map(Value::as_str).map(str::trim).filter(|name| !name.is_empty()).collect()
}

/// Places that satisfy all constraints read so far; empty means all places do.
#[derive(Debug, Default)]
struct Allowed {
    names: Vec<String>,
}

impl Allowed {
    fn narrow(&mut self, constraint: &Fields<'_>, key: &str, names: &[&str], findings: &mut Findings) {
        if names.is_empty() {
            return;
        }
        let path = constraint.path.key(key);
        let found = constraint.map.get(key).unwrap_or(&Value::Null);
        if names.iter().any(|name| name.len() > MAX_PLACE_NAME) {
            findings.expected(path, format_args!("names of at most {MAX_PLACE_NAME} bytes"), found);
            return;
        }
        if self.names.is_empty() {
            for name in names {
                if !self.names.iter().any(|other| other == name) {
                    self.names.push((*name).to_owned());
                }
            }
            return;
        }
        let common: Vec<String> =
            self.names.iter().filter(|name| names.contains(&name.as_str())).cloned().collect();
        if common.is_empty() {
            findings.refused(
                path,
                "leaves no place, because an earlier constraint allows others only",
                found,
                "name all allowed places in one constraint, separated by `;`",
            );
            return;
        }
        self.names = common;
    }
}
