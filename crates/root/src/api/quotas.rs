//! Quotas in request bodies.

use oak_control::root::{Quota, QuotaKind};
use serde_json::Value;

use super::body::Object;
use super::error::ApiError;

/// Largest limit; beyond this it is a slip.
const MAX: u64 = 1 << 40;

/// The quota a body gives: all of it, what is not named is not limited. `None`: not given.
pub(super) fn read(body: &Object) -> Result<Option<Quota>, ApiError> {
    let fields = match body.0.get("quota") {
        None => return Ok(None),
        Some(Value::Object(fields)) => fields,
        Some(_) => return Err(ApiError::field("quota", "must be an object of limits")),
    };
    let mut quota = Quota::default();
    for (name, value) in fields {
        let Some(kind) = QuotaKind::ALL.into_iter().find(|kind| kind.name() == name) else {
            let known = QuotaKind::ALL.map(QuotaKind::name).join(", ");
            return Err(ApiError::field("quota", &format!("may limit only {known}")));
        };
        quota.set_limit(kind, Some(limit(kind, value)?));
    }
    Ok(Some(quota))
}

fn limit(kind: QuotaKind, value: &Value) -> Result<u64, ApiError> {
    let number = match kind {
        QuotaKind::CpuMillis => value.as_f64().and_then(millis),
        _ => value.as_u64(),
    };
    let number = number.filter(|number| *number <= MAX);
    let wrong = || {
        let form = if kind == QuotaKind::CpuMillis { "a number of cores" } else { "a whole number" };
        ApiError::field(&format!("quota.{}", kind.name()), &format!("must be {form}, 0 or more"))
    };
    number.ok_or_else(wrong)
}

fn millis(cores: f64) -> Option<u64> {
    #[allow(clippy::cast_precision_loss, reason = "a bound that has room")]
    let is_sensible = cores >= 0.0 && cores <= (MAX / 1000) as f64;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "just checked")]
    is_sensible.then(|| (cores * 1000.0).round() as u64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(quota: &Value) -> Option<Quota> {
        let body = json!({ "quota": quota });
        read(&Object(body.as_object().unwrap().clone())).ok().flatten()
    }

    #[test]
    fn every_kind_is_read_and_nothing_else() {
        let quota = parsed(&json!({ "cpu": 1.5, "instances": 3, "gpus": 0 })).unwrap();
        assert_eq!((quota.cpu_millis, quota.instances, quota.gpus), (Some(1500), Some(3), Some(0)));
        assert_eq!(quota.services, None);
        assert_eq!(parsed(&json!({})), Some(Quota::default()));
        for bad in [
            json!({ "instances": -1 }),
            json!({ "instances": 1.5 }),
            json!({ "cpu": -0.1 }),
            json!({ "cpu": "1" }),
            json!({ "memory": 1 }),
            json!({ "services": null }),
            json!(null),
            json!({ "memory_mib": 1_u64 << 41 }),
            json!([]),
        ] {
            assert_eq!(parsed(&bad), None, "{bad}");
        }
    }
}
