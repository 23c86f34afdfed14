//! The `connectivity` list: how far a service may be from others.

use crate::ServiceBound;

use super::bounds;
use super::errors::Findings;
use super::fields::Fields;

/// Most bounds of one service: each is evaluated for each candidate.
const MAX_BOUNDS: usize = 64;

/// Reads `connectivity`.
pub(super) fn read(fields: Fields<'_>, findings: &mut Findings) -> Vec<ServiceBound> {
    const KEY: &str = "connectivity";
    const TARGET: &str = "target_microservice_id";
    let list_path = fields.path.key(KEY);
    let mut found = Vec::new();
    for (position, item) in fields.list(KEY, findings).iter().enumerate() {
        let path = list_path.index(position);
        let Some(entry) = Fields::of(item, &path, findings) else { continue };
        let meaning = "the id of a service, its full name, or its name within this application";
        let target = entry.required_text(TARGET, meaning, findings);
        if target.is_some_and(|target| target.is_empty() || target.len() > 255) {
            findings.expected(path.key(TARGET), format_args!("a text: {meaning}"), &target.into());
        }
        if !entry.map.contains_key("con_constraints") {
            findings.missing(path.key("con_constraints"), "a list of bounds");
        }
        let bounds_path = path.key("con_constraints");
        for (number, item) in entry.list("con_constraints", findings).iter().enumerate() {
            let path = bounds_path.index(number);
            let Some(constraint) = Fields::of(item, &path, findings) else { continue };
            let bound = read_bound(constraint, target.unwrap_or_default(), findings);
            found.extend(bound);
        }
    }
    if found.len() > MAX_BOUNDS {
        let value = fields.map.get(KEY).cloned().unwrap_or_default();
        findings.expected(
            list_path,
            format_args!("a list with at most {MAX_BOUNDS} bounds together"),
            &value,
        );
    }
    found
}

fn read_bound(constraint: Fields<'_>, target: &str, findings: &mut Findings) -> Option<ServiceBound> {
    let kind = constraint.required_text("type", "latency or geo", findings)?;
    let limit = match kind {
        "latency" => bounds::round_trip(constraint, findings),
        "geo" => bounds::distance(constraint, findings),
        "bandwidth" => {
            findings.refused(
                constraint.path.key("type"),
                "this release neither measures nor reserves bandwidth between services",
                &kind.into(),
                "remove it, or bound the latency",
            );
            None
        }
        _ => {
            findings.expected(constraint.path.key("type"), "latency or geo", &kind.into());
            None
        }
    };
    let strictness = bounds::strictness(constraint, findings);
    Some(ServiceBound { target: target.to_owned(), limit: limit?, strictness })
}
