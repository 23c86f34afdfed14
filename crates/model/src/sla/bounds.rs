//! The parts that bounds have in common: `threshold`, `rigidness`, `convergence_time`.

use serde_json::Value;

use crate::{Area, Limit, Position, Strictness};

use super::errors::Findings;
use super::fields::Fields;

/// Longest `convergence_time`: a day.
const MAX_CONVERGENCE_S: u32 = 86_400;
/// Half way around the earth and a bit.
const MAX_KM: f64 = 20_100.0;
/// A minute there and back.
const MAX_MS: f64 = 60_000.0;
/// Longest name of an area, in bytes; as names of clusters.
const MAX_AREA_NAME: usize = 255;

/// Reads a `threshold` in kilometres.
pub(super) fn distance(fields: Fields<'_>, findings: &mut Findings) -> Option<Limit> {
    threshold(fields, "km", MAX_KM, findings).map(Limit::DistanceM)
}

/// Reads a `threshold` in milliseconds.
pub(super) fn round_trip(fields: Fields<'_>, findings: &mut Findings) -> Option<Limit> {
    threshold(fields, "ms", MAX_MS, findings).map(Limit::RoundTripUs)
}

fn threshold(fields: Fields<'_>, unit: &str, most: f64, findings: &mut Findings) -> Option<u32> {
    const KEY: &str = "threshold";
    let allowed = format_args!("a number from 0 to {most} ({unit})");
    let Some(value) = fields.map.get(KEY) else {
        findings.missing(fields.path.key(KEY), allowed);
        return None;
    };
    let number = value.as_f64().filter(|number| (0.0..=most).contains(number));
    if number.is_none() {
        findings.expected(fields.path.key(KEY), allowed, value);
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above: below 2^31")]
    number.map(|number| (number * 1000.0).round() as u32)
}

/// Reads `rigidness` and `convergence_time`; without them a bound must hold.
pub(super) fn strictness(fields: Fields<'_>, findings: &mut Findings) -> Strictness {
    let convergence_s = if fields.map.contains_key("convergence_time") {
        fields.integer("convergence_time", MAX_CONVERGENCE_S, "seconds", findings)
    } else {
        Strictness::DEFAULT_CONVERGENCE_S
    };
    Strictness { rigidness: rigidness(fields, findings), convergence_s }
}

fn rigidness(fields: Fields<'_>, findings: &mut Findings) -> u16 {
    const KEY: &str = "rigidness";
    let Some(value) = fields.map.get(KEY) else { return Strictness::HARD };
    let share = match value.as_f64() {
        Some(share) if (0.0..=1.0).contains(&share) => share,
        // The form of the dashboard has a percentage.
        Some(percent) if (1.0..=100.0).contains(&percent) => {
            findings.warn(fields.path.key(KEY), "is above 1 and taken for a percentage; write 0.5 for 50 %");
            percent / 100.0
        }
        _ => {
            findings.expected(
                fields.path.key(KEY),
                "a number from 0 to 1: 1 for a bound that must hold, less for one that is preferred",
                value,
            );
            return Strictness::HARD;
        }
    };
    if share == 0.0 {
        findings.warn(fields.path.key(KEY), "is 0, so this bound has no effect");
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above: 0 to 1000")]
    let thousandths = (share * 1000.0).round() as u16;
    thousandths
}

/// Reads a position as `latitude,longitude[,radius in metres]`.
pub(super) fn circle(fields: Fields<'_>, key: &str, findings: &mut Findings) -> Option<Area> {
    let text = fields.required_text(key, CIRCLE, findings)?;
    match Position::parse_area(text) {
        Ok((centre, radius_m)) => Some(Area::Around { centre, radius_m }),
        Err(_) => {
            findings.expected(fields.path.key(key), format_args!("a text: {CIRCLE}"), &text.into());
            None
        }
    }
}

const CIRCLE: &str = "latitude,longitude[,radius in metres], such as 48.26,11.67";

/// Reads an area: a circle, or the name of a cluster or of a label `area=…`.
pub(super) fn area(fields: Fields<'_>, key: &str, findings: &mut Findings) -> Option<Area> {
    const MEANING: &str =
        "latitude,longitude[,radius in metres], the name of a cluster, or that of a label area=… of workers";
    let text = fields.required_text(key, MEANING, findings)?.trim();
    // Nobody calls a place `1,2`: whatever begins like a number is meant as a position.
    let is_number = |letter: char| letter.is_ascii_digit() || matches!(letter, '-' | '+' | '.');
    if text.contains(',') && text.starts_with(is_number) {
        return circle(fields, key, findings);
    }
    if text.is_empty() || text.len() > MAX_AREA_NAME || text.chars().any(char::is_control) {
        findings.expected(fields.path.key(key), format_args!("a text: {MEANING}"), &Value::from(text));
        return None;
    }
    Some(Area::Named(text.to_owned()))
}
