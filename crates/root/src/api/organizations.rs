//! Organisations.

use axum::extract::State;
use serde_json::{Value, json};

use super::Shared;
use super::answer::{Answer, nested};
use super::caller::Caller;

/// `GET /api/organization/`: all of them, for admins.
pub(super) async fn list(State(api): State<Shared>, caller: Caller) -> Answer {
    caller.require_admin()?;
    let all = api.parts.accounts.call(|accounts, _, _| accounts.organizations().cloned().collect::<Vec<_>>());
    let records = all.await?.into_iter().map(|organization| {
        let members = organization.members.iter();
        json!({
            "_id": { "$oid": organization.id },
            "name": organization.name,
            "member": members.map(|m| json!({ "user_id": m.user, "roles": m.roles })).collect::<Vec<Value>>(),
        })
    });
    nested(&records.collect::<Vec<_>>())
}
