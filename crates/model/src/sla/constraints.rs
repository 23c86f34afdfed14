//! The `constraints` list: which clusters and workers may take a service. Every constraint narrows: a place must
//! satisfy all of them.

use serde_json::Value;

use crate::{AreaBound, TargetConstraints};

use super::bounds;
use super::errors::Findings;
use super::fields::{Fields, whole};
use super::path::Path;

/// Longest name of a cluster or worker, in bytes (a host name has at most 253).
const MAX_PLACE_NAME: usize = 255;

/// Most labels a service may ask for, and most bounds to areas: each is evaluated for each candidate.
const MAX_NEEDS: usize = 64;
const MAX_AREAS: usize = 16;
/// Longest label, in bytes.
const MAX_LABEL: usize = 255;

/// Reads `constraints`.
pub(super) fn read(fields: Fields<'_>, findings: &mut Findings) -> TargetConstraints {
    let list_path = fields.path.key("constraints");
    let mut clusters = Allowed::default();
    let mut workers = Allowed::default();
    let mut target = TargetConstraints::default();
    for (position, item) in fields.list("constraints", findings).iter().enumerate() {
        let path = list_path.index(position);
        let Some(constraint) = Fields::of(item, &path, findings) else { continue };
        check_forms(constraint, findings);
        let Some(kind) =
            constraint.required_text("type", "direct, clusters, addons, geo or latency", findings)
        else {
            continue;
        };
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
            "addons" => {
                read_needs(constraint, &mut target.needs, findings);
                warn_unused(constraint, &["type", "needs"], findings);
            }
            "geo" => {
                target.near.extend(read_distance(constraint, findings));
                warn_unused(constraint, &["type", "location", "threshold", RIGIDNESS, CONVERGENCE], findings);
            }
            "latency" => {
                target.near.extend(read_latency(constraint, findings));
                warn_unused(constraint, &["type", "area", "threshold", RIGIDNESS, CONVERGENCE], findings);
            }
            other => {
                let reason =
                    "is not a known kind of constraint: use direct, clusters, addons, geo or latency";
                let fix =
                    "remove it, or name the place with {\"type\": \"direct\", \"cluster\": …, \"node\": …}";
                findings.refused(path.key("type"), reason, &other.into(), fix);
            }
        }
    }
    check_number(list_path, target.needs.len(), MAX_NEEDS, "labels", fields, findings);
    check_number(list_path, target.near.len(), MAX_AREAS, "bounds of geo and latency", fields, findings);
    target.max_per_worker = read_max_per_worker(fields, findings);
    TargetConstraints { clusters: clusters.names, workers: workers.names, ..target }
}

const RIGIDNESS: &str = "rigidness";
const CONVERGENCE: &str = "convergence_time";

fn check_number(
    path: Path<'_>,
    number: usize,
    most: usize,
    what: &str,
    fields: Fields<'_>,
    findings: &mut Findings,
) {
    if number > most {
        let found = fields.map.get("constraints").unwrap_or(&Value::Null);
        findings.expected(path, format_args!("a list with at most {most} {what} together"), found);
    }
}

fn read_needs(constraint: Fields<'_>, needs: &mut Vec<String>, findings: &mut Findings) {
    for label in listed(constraint, "needs") {
        if label.len() > MAX_LABEL {
            let path = constraint.path.key("needs");
            findings.expected(path, format_args!("labels of at most {MAX_LABEL} bytes"), &label.into());
        } else if !needs.iter().any(|known| known == label) {
            needs.push(label.to_owned());
        }
    }
}

fn read_distance(constraint: Fields<'_>, findings: &mut Findings) -> Option<AreaBound> {
    let area = bounds::circle(constraint, "location", findings);
    let limit = bounds::distance(constraint, findings);
    let strictness = bounds::strictness(constraint, findings);
    Some(AreaBound { area: area?, limit: limit?, strictness })
}

fn read_latency(constraint: Fields<'_>, findings: &mut Findings) -> Option<AreaBound> {
    let area = bounds::area(constraint, "area", findings);
    let limit = bounds::round_trip(constraint, findings);
    let strictness = bounds::strictness(constraint, findings);
    Some(AreaBound { area: area?, limit: limit?, strictness })
}

/// `max_instances_per_node`; 0 and absent mean any number.
fn read_max_per_worker(fields: Fields<'_>, findings: &mut Findings) -> Option<u32> {
    let most = fields.integer("max_instances_per_node", 1_000_000, "instances; 0 for any number", findings);
    (most > 0).then_some(most)
}

/// The types the schema gives the keys of any constraint.
fn check_forms(constraint: Fields<'_>, findings: &mut Findings) {
    for key in ["area", "cluster", "node", "location"] {
        constraint.text(key, findings);
    }
    for key in ["needs", "allowed"] {
        constraint.texts(key, findings);
    }
    // Where they mean something they are read with their range instead.
    let is_bound = matches!(constraint.map.get("type").and_then(Value::as_str), Some("geo" | "latency"));
    for key in ["threshold", RIGIDNESS] {
        if let Some(value) = constraint.map.get(key).filter(|value| !is_bound && !value.is_number()) {
            findings.expected(constraint.path.key(key), "a number", value);
        }
    }
    if let Some(value) = constraint.map.get(CONVERGENCE).filter(|value| !is_bound && whole(value).is_none()) {
        findings.expected(constraint.path.key(CONVERGENCE), "an integer", value);
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
