//! Times as users write them.

use std::time::Duration;

const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
/// Longest time that can be asked for.
const LONGEST_S: u64 = 7 * 86_400;

/// Reads `90s`, `30m`, `1h`, `7d` or a number of seconds.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let unit = UNITS.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)));
    let (digits, factor) = unit.unwrap_or((text, 1));
    let seconds = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    let seconds = seconds.filter(|seconds| (1..=LONGEST_S).contains(seconds));
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| "write a time from 1s to 7d, such as 30m, 1h or 7d".to_owned())
}

/// The shortest form that [`parse`] reads back.
pub(super) fn shown(time: Duration) -> String {
    let seconds = time.as_secs();
    let unit = UNITS.iter().find(|(_, factor)| seconds.is_multiple_of(*factor));
    unit.map_or_else(|| format!("{seconds}s"), |(suffix, factor)| format!("{}{suffix}", seconds / factor))
}

#[cfg(test)]
mod tests {
    use super::{parse, shown};

    #[test]
    fn reads_and_shows_times() {
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("1h", 3600), ("7d", 604_800), ("5", 5)] {
            assert_eq!(parse(text).map(|time| time.as_secs()), Ok(seconds), "{text}");
        }
        for bad in ["", "h", "-1h", "0", "1.5h", "400d", "99999999999999999999d"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(parse("3600s").map(shown).as_deref(), Ok("1h"));
        assert_eq!(parse("90s").map(shown).as_deref(), Ok("90s"));
    }
}
