//! `replicas` and `update`: how many instances a service keeps, and how they are replaced when it changes.

use crate::{MAX_REPLICAS, UpdateOrder, UpdatePolicy};

use super::errors::Findings;
use super::fields::Fields;

const SETTINGS: [&str; 4] = ["order", "parallel", "min_ready_s", "deadline_s"];

const HOUR_S: u32 = 3_600;
const DAY_S: u32 = 86_400;

pub(super) fn read_replicas(fields: Fields<'_>, findings: &mut Findings) -> Option<u32> {
    fields.integer_within("replicas", 0..=MAX_REPLICAS, "instances", findings)
}

/// Reads `update`. Of what may run at most once the old one must go first; asking for the other order is refused.
pub(super) fn read_policy(fields: Fields<'_>, at_most_one: bool, findings: &mut Findings) -> UpdatePolicy {
    const KEY: &str = "update";
    let order = if at_most_one { UpdateOrder::StopFirst } else { UpdateOrder::StartFirst };
    let default = UpdatePolicy { order, ..UpdatePolicy::default() };
    let Some(value) = fields.map.get(KEY) else { return default };
    let path = fields.path.key(KEY);
    let Some(sent) = Fields::of(value, &path, findings) else { return default };
    // An unknown field here would be a setting without effect.
    for (key, value) in sent.map.iter().filter(|(key, _)| !SETTINGS.contains(&key.as_str())) {
        let fix = "use order, parallel, min_ready_s and deadline_s";
        findings.refused(path.key(key), "is not a setting of an update", value, fix);
    }
    UpdatePolicy {
        order: read_order(sent, at_most_one, findings).unwrap_or(order),
        parallel: sent
            .integer_within("parallel", 1..=MAX_REPLICAS, "instances", findings)
            .unwrap_or(default.parallel),
        min_ready_s: sent
            .integer_within("min_ready_s", 0..=HOUR_S, "seconds", findings)
            .unwrap_or(default.min_ready_s),
        deadline_s: sent
            .integer_within("deadline_s", 1..=DAY_S, "seconds", findings)
            .unwrap_or(default.deadline_s),
    }
}

fn read_order(update: Fields<'_>, at_most_one: bool, findings: &mut Findings) -> Option<UpdateOrder> {
    const KEY: &str = "order";
    let text = update.text(KEY, findings)?;
    let orders = [UpdateOrder::StartFirst, UpdateOrder::StopFirst];
    let order = orders.into_iter().find(|order| order.as_str() == text);
    match order {
        None => findings.expected(update.path.key(KEY), "\"start-first\" or \"stop-first\"", &text.into()),
        Some(UpdateOrder::StartFirst) if at_most_one => findings.refused(
            update.path.key(KEY),
            "would run two at the same time of a service of which at most one may run",
            &text.into(),
            "set it to \"stop-first\" or leave it out",
        ),
        Some(_) => {}
    }
    order
}
