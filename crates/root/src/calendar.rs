//! Wall times as people and old clients read them, always in UTC.

use std::time::Duration;

use oak_model::WallTime;
use time::{Date, Month, OffsetDateTime};

/// ISO 8601 with milliseconds: `2026-11-22T14:51:59.211Z`.
pub(crate) fn iso(at: WallTime) -> String {
    let date = date(at);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        date.hour(),
        date.minute(),
        date.second(),
        at.0 % 1000
    )
}

/// The form of `created_at` in user records: `22/11/2026 14:51` (root-api reference, 8.1).
pub(crate) fn day_first(at: WallTime) -> String {
    let date = date(at);
    format!(
        "{:02}/{:02}/{:04} {:02}:{:02}",
        date.day(),
        u8::from(date.month()),
        date.year(),
        date.hour(),
        date.minute()
    )
}

/// A duration such as `90s`, `10m`, `2h`, `1d` or `1h30m`, at most ten years.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    const LONGEST: u64 = 10 * 366 * 86_400;
    let mut seconds: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let unit_at = rest.find(|letter: char| !letter.is_ascii_digit())?;
        let (number, tail) = rest.split_at(unit_at);
        let unit = match tail.as_bytes().first()? {
            b's' => 1,
            b'm' => 60,
            b'h' => 3_600,
            b'd' => 86_400,
            _ => return None,
        };
        seconds = seconds.checked_add(number.parse::<u64>().ok()?.checked_mul(unit)?)?;
        rest = tail.get(1..)?;
    }
    (!text.is_empty() && seconds <= LONGEST).then(|| Duration::from_secs(seconds))
}

/// Microseconds since 1970 of a time of RFC 3339: `2026-11-24T16:00:00.25+01:00`. Finer fractions are cut off.
pub(crate) fn parse_micros(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let at = |index: usize| text.as_bytes().get(index).copied();
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if separators.iter().any(|(index, byte)| at(*index) != Some(*byte))
        || !matches!(at(10)?, b'T' | b't' | b' ')
    {
        return None;
    }
    let month = Month::try_from(u8::try_from(number(5..7)?).ok()?).ok()?;
    let date = Date::from_calendar_date(
        i32::try_from(number(0..4)?).ok()?,
        month,
        u8::try_from(number(8..10)?).ok()?,
    );
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let rest = text.get(19..)?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|letter: char| !letter.is_ascii_digit())?),
        None => ("0", rest),
    };
    let digits: String = fraction.chars().chain("000000".chars()).take(6).collect();
    let fraction: i64 = if fraction.is_empty() { return None } else { digits.parse().ok()? };
    let days = i64::from(
        date.ok()?.to_julian_day() - Date::from_calendar_date(1970, Month::January, 1).ok()?.to_julian_day(),
    );
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - zone_seconds(zone)?;
    u64::try_from(seconds * 1_000_000 + fraction).ok()
}

fn zone_seconds(zone: &str) -> Option<i64> {
    if matches!(zone, "Z" | "z") {
        return Some(0);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    if hours.len() != 2 || minutes.len() != 2 {
        return None;
    }
    let (hours, minutes) = (hours.parse::<u8>().ok()?, minutes.parse::<u8>().ok()?);
    (hours < 24 && minutes < 60).then(|| sign * (i64::from(hours) * 3_600 + i64::from(minutes) * 60))
}

fn date(at: WallTime) -> OffsetDateTime {
    let seconds = i64::try_from(at.0 / 1000).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_durations_are_read_as_people_write_them() {
        let micros = |text| parse_micros(text);
        assert_eq!(micros("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(micros("2026-02-02T02:40:09.007Z"), Some(1_770_000_009_007_000));
        assert_eq!(micros("2026-02-02T03:40:09.0070001+01:00"), Some(1_770_000_009_007_000));
        for bad in [
            "",
            "2026-02-02",
            "2026-13-02T00:00:00Z",
            "2026-02-30T00:00:00Z",
            "2026-02-02T25:00:00Z",
            "2026-02-02T00:00:00",
            "2026-02-02T00:00:00.Z",
            "1969-12-31T23:59:59Z",
            "2026-02-02T00:00:00+1:00",
            "äöü",
        ] {
            assert_eq!(micros(bad), None, "{bad}");
        }
        assert_eq!(duration("1h30m"), Some(Duration::from_secs(5_400)));
        for bad in ["", "10", "m", "1w", "-1s", "99999999999d", "1hm"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn both_forms_have_fixed_widths() {
        let at = WallTime(1_770_000_009_007);
        assert_eq!(iso(at), "2026-02-02T02:40:09.007Z");
        assert_eq!(day_first(at), "02/02/2026 02:40");
        assert_eq!(iso(WallTime(u64::MAX)).get(..4), Some("1970"), "a nonsensical clock does not panic");
    }
}
