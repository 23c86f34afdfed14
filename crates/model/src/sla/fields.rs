//! Typed access to the members of one JSON object; every mismatch becomes a finding and a neutral value, so that
//! reading goes on and all problems are found in one pass.

use serde_json::{Map, Value};

use super::errors::Findings;
use super::path::Path;

/// The members of one object and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a> {
    pub(super) map: &'a Map<String, Value>,
    pub(super) path: &'a Path<'a>,
}

impl<'a> Fields<'a> {
    /// The object `value`; anything else is a finding.
    pub(super) fn of(value: &'a Value, path: &'a Path<'a>, findings: &mut Findings) -> Option<Self> {
        let map = expect_with(value, *path, "an object", findings, Value::as_object)?;
        Some(Self { map, path })
    }

    /// An optional text.
    pub(super) fn text(&self, key: &str, findings: &mut Findings) -> Option<&'a str> {
        let value = self.map.get(key)?;
        expect_with(value, self.path.key(key), "a text", findings, Value::as_str)
    }

    /// A required text; `meaning` says what it is for.
    pub(super) fn required_text(&self, key: &str, meaning: &str, findings: &mut Findings) -> Option<&'a str> {
        if !self.map.contains_key(key) {
            findings.missing(self.path.key(key), format_args!("a text: {meaning}"));
            return None;
        }
        self.text(key, findings)
    }

    /// An optional text that must parse as `T`; `allowed` describes the texts that do.
    pub(super) fn required_parsed<T: std::str::FromStr>(
        &self,
        key: &str,
        allowed: &str,
        findings: &mut Findings,
    ) -> Option<T> {
        let Some(value) = self.map.get(key) else {
            findings.missing(self.path.key(key), allowed);
            return None;
        };
        expect_with(value, self.path.key(key), allowed, findings, |value| value.as_str()?.parse().ok())
    }

    /// An optional integer from 0 to `max`; 0 when absent. `1.0` counts as an integer, as in JSON Schema.
    pub(super) fn integer(&self, key: &str, max: u32, unit: &str, findings: &mut Findings) -> u32 {
        let Some(value) = self.map.get(key) else { return 0 };
        let in_range =
            |value: &Value| whole(value).and_then(|number| u32::try_from(number).ok()).filter(|n| *n <= max);
        let allowed = format_args!("an integer from 0 to {max} ({unit})");
        expect_with(value, self.path.key(key), allowed, findings, in_range).unwrap_or(0)
    }

    /// An optional integer within bounds; `None` when absent or wrong.
    pub(super) fn integer_within(
        &self,
        key: &str,
        range: std::ops::RangeInclusive<u32>,
        unit: &str,
        findings: &mut Findings,
    ) -> Option<u32> {
        let value = self.map.get(key)?;
        let allowed = format_args!("an integer from {} to {} ({unit})", range.start(), range.end());
        let in_range = |value: &Value| {
            whole(value).and_then(|number| u32::try_from(number).ok()).filter(|n| range.contains(n))
        };
        expect_with(value, self.path.key(key), allowed, findings, in_range)
    }

    /// An optional boolean; false when absent.
    pub(super) fn flag(&self, key: &str, findings: &mut Findings) -> bool {
        let Some(value) = self.map.get(key) else { return false };
        expect_with(value, self.path.key(key), "true or false", findings, Value::as_bool).unwrap_or(false)
    }

    /// An optional list; empty when absent.
    pub(super) fn list(&self, key: &str, findings: &mut Findings) -> &'a [Value] {
        let Some(value) = self.map.get(key) else { return &[] };
        expect_with(value, self.path.key(key), "a list", findings, Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// An optional list of texts; empty when absent. Elements of another type are findings and left out.
    pub(super) fn texts(&self, key: &str, findings: &mut Findings) -> Vec<&'a str> {
        let Some(value) = self.map.get(key) else { return Vec::new() };
        let list_path = self.path.key(key);
        let Some(items) = expect_with(value, list_path, "a list of texts", findings, Value::as_array) else {
            return Vec::new();
        };
        let mut texts = Vec::with_capacity(items.len());
        for (position, item) in items.iter().enumerate() {
            texts.extend(expect_with(item, list_path.index(position), "a text", findings, Value::as_str));
        }
        texts
    }
}

/// A number without fraction, as an integer.
pub(super) fn whole(value: &Value) -> Option<i64> {
    if let Some(number) = value.as_i64() {
        return Some(number);
    }
    // Above 2^53 a float no longer tells neighbouring integers apart; nothing in a descriptor is that large.
    const LARGEST: f64 = 9_007_199_254_740_992.0;
    let number = value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() <= LARGEST)?;
    #[allow(clippy::cast_possible_truncation, reason = "checked above: no fraction and within 2^53")]
    Some(number as i64)
}

/// Refuses members that this release does not know, where an unknown one cannot be meant for anybody else.
pub(super) fn refuse_unknown(fields: Fields<'_>, known: &[&str], findings: &mut Findings) {
    for (key, value) in fields.map {
        if !known.contains(&key.as_str()) {
            let reason = format_args!("is not known here: use {}", known.join(", "));
            findings.refused(fields.path.key(key), reason, value, "remove it");
        }
    }
}

fn expect_with<'a, T>(
    value: &'a Value,
    path: Path<'_>,
    allowed: impl std::fmt::Display,
    findings: &mut Findings,
    read: impl FnOnce(&'a Value) -> Option<T>,
) -> Option<T> {
    let found = read(value);
    if found.is_none() {
        findings.expected(path, allowed, value);
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::whole;

    #[test]
    fn integers_may_be_written_with_a_point() {
        for (value, expected) in [
            (json!(1), Some(1)),
            (json!(1.0), Some(1)),
            (json!(-1), Some(-1)),
            (json!(1.5), None),
            (json!("1"), None),
            (json!(true), None),
            (json!(null), None),
            (json!(1e300), None),
            (json!(u64::MAX), None),
        ] {
            assert_eq!(whole(&value), expected, "{value}");
        }
    }
}
