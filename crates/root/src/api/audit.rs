//! Reading the audit log.

use axum::extract::{Query, State};
use oak_model::OrganizationId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use super::answer::{Answer, plain};
use super::caller::Caller;
use super::error::ApiError;
use super::permission::Action;
use crate::audit::{Entry, Filter};
use crate::calendar;

/// Entries of a page: usually, most.
const LIMIT: (usize, usize) = (100, 1000);

/// The query.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    limit: Option<usize>,
    before: Option<u64>,
    user: Option<String>,
    organization: Option<OrganizationId>,
    method: Option<String>,
    result: Option<Outcome>,
}

/// The methods of what is recorded.
pub(super) const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

impl Wanted {
    fn method(&self) -> Result<Option<String>, ApiError> {
        let Some(word) = &self.method else { return Ok(None) };
        let known = METHODS.into_iter().find(|method| method.eq_ignore_ascii_case(word));
        let rule = || ApiError::bad_request(format!("method must be one of {}", METHODS.join(", ")));
        known.map(|method| Some(method.to_owned())).ok_or_else(rule)
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Done,
    Refused,
}

/// `GET /api/audit?limit=&before=&user=&organization=&method=&result=` → `{entries, next}`, newest first. Admins of an
/// organisation see what was done in it.
pub(super) async fn list(
    State(api): State<Shared>,
    caller: Caller,
    wanted: Result<Query<Wanted>, axum::extract::rejection::QueryRejection>,
) -> Answer {
    caller.require(Action::ReadAudit)?;
    let Query(wanted) = wanted.map_err(|_| {
        ApiError::bad_request(
            "the query may hold limit=<1 to 1000>, before=<number>, user=<name>, organization=<id>, method=<method> and \
             result=done or result=refused",
        )
    })?;
    let limit = wanted.limit.unwrap_or(LIMIT.0);
    if !(1..=LIMIT.1).contains(&limit) {
        return Err(ApiError::bad_request(format!("limit must be from 1 to {}", LIMIT.1)));
    }
    let method = wanted.method()?;
    let organization = match (caller.0.is_system_admin(), wanted.organization) {
        (true, wanted) => wanted,
        (false, None) => Some(caller.0.organization),
        (false, Some(id)) if id == caller.0.organization => Some(id),
        (false, Some(_)) => return Err(ApiError::forbidden()),
    };
    let filter = Filter {
        organization,
        user: wanted.user,
        method,
        done: wanted.result.map(|outcome| matches!(outcome, Outcome::Done)),
        before: wanted.before,
    };
    let page = api.parts.audit.call(move |log, _, _| log.page(&filter, limit)).await?;
    let entries: Vec<_> = page.entries.iter().map(record).collect();
    plain(&json!({ "entries": entries, "next": page.next }))
}

fn record(entry: &Entry) -> Value {
    let event = &entry.event;
    let mut record = json!({
        "id": entry.number,
        "at": calendar::iso(entry.at),
        "user": event.user,
        "organization": event.organization,
        "from": event.from,
        "method": event.method,
        "route": event.route,
        "path": event.path,
        "object": event.object,
        "status": event.status,
        "result": if event.was_done() { "done" } else { "refused" },
    });
    if event.unrecorded > 0 {
        record["unrecorded"] = json!(event.unrecorded);
    }
    record
}
