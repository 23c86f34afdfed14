//! Users and organisations. Never with a hash.

use oak_control::root::{Consumption, Quota, QuotaKind};
use serde_json::{Map, Value, json};

use crate::accounts::{Organization, Role, User};

/// A user, with its roles in an organisation if one is meant.
pub(in crate::api) fn user(user: &User, roles: Option<&[Role]>) -> Value {
    let mut record = json!({
        "_id": { "$oid": user.id },
        "name": user.name,
        "email": user.email,
        "created_at": user.created_at,
    });
    if let Some(roles) = roles {
        record["roles"] = json!(roles);
    }
    record
}

/// An organisation with what it may and does use.
pub(in crate::api) fn organization(organization: &Organization, quota: &Quota, used: &Consumption) -> Value {
    let members = organization.members.iter();
    let members: Vec<_> = members.map(|m| json!({ "user_id": m.user, "roles": m.roles })).collect();
    json!({
        "_id": { "$oid": organization.id },
        "name": organization.name,
        "member": members,
        "quota": amounts(|kind| quota.limit(kind)),
        "usage": amounts(|kind| Some(used.amount(kind))),
    })
}

/// Only the kinds that have an amount.
fn amounts(amount: impl Fn(QuotaKind) -> Option<u64>) -> Map<String, Value> {
    let named = |kind: QuotaKind| Some((kind.name().to_owned(), shown(kind, amount(kind)?)));
    QuotaKind::ALL.into_iter().filter_map(named).collect()
}

/// CPU in cores: a whole number where it is one.
fn shown(kind: QuotaKind, amount: u64) -> Value {
    if kind != QuotaKind::CpuMillis || amount.is_multiple_of(1000) {
        return json!(if kind == QuotaKind::CpuMillis { amount / 1000 } else { amount });
    }
    #[allow(clippy::cast_precision_loss, reason = "far below 2^53 thousandths of a core")]
    let cores = amount as f64 / 1000.0;
    json!(cores)
}
