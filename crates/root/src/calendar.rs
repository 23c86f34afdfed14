//! Wall times as people and old clients read them, always in UTC.

use oak_model::WallTime;
use time::OffsetDateTime;

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

fn date(at: WallTime) -> OffsetDateTime {
    let seconds = i64::try_from(at.0 / 1000).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_have_fixed_widths() {
        let at = WallTime(1_770_000_009_007);
        assert_eq!(iso(at), "2026-02-02T02:40:09.007Z");
        assert_eq!(day_first(at), "02/02/2026 02:40");
        assert_eq!(iso(WallTime(u64::MAX)).get(..4), Some("1970"), "a nonsensical clock does not panic");
    }
}
