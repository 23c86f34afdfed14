//! The line format of log files. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longest piece of a line in one record.
pub(super) const PIECE_BYTES: usize = 16 << 10;

/// Which output of the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One record of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// Microseconds since 1970.
    pub(super) micros: u64,
    /// Source.
    pub(super) stream: LogStream,
    /// Whether the line ends here.
    pub(super) ends_line: bool,
    /// Bytes of the line, without the line feed.
    pub(super) text: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads a line of a log file, without its line feed; `None` if it is not a record.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        let space = line.iter().take(21).position(|byte| *byte == b' ')?;
        let micros = std::str::from_utf8(line.get(..space)?).ok()?.parse().ok()?;
        let (stream, ends_line) = match line.get(space + 1)? {
            b'o' => (LogStream::Stdout, true),
            b'O' => (LogStream::Stdout, false),
            b'e' => (LogStream::Stderr, true),
            b'E' => (LogStream::Stderr, false),
            _ => return None,
        };
        if line.get(space + 2) != Some(&b' ') {
            return None;
        }
        Some(Self { micros, stream, ends_line, text: line.get(space + 3..)? })
    }

    /// Appends the record with its line feed.
    pub(super) fn append_to(&self, out: &mut Vec<u8>) {
        let letter = match (self.stream, self.ends_line) {
            (LogStream::Stdout, true) => " o ",
            (LogStream::Stdout, false) => " O ",
            (LogStream::Stderr, true) => " e ",
            (LogStream::Stderr, false) => " E ",
        };
        out.extend_from_slice(self.micros.to_string().as_bytes());
        out.extend_from_slice(letter.as_bytes());
        out.extend_from_slice(self.text);
        out.push(b'\n');
    }
}

/// Microseconds since 1970.
pub(super) fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// RFC 3339 in UTC with microseconds: `2024-02-29T12:00:00.000001Z`. Valid until the year 9999.
pub(super) fn rfc3339(micros: u64) -> String {
    let seconds = micros / 1_000_000;
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_date(days);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    let fraction = micros % 1_000_000;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:06}Z")
}

/// Gregorian date of a day counted from 1970-01-01: years are taken to start in March, so that the leap day
/// is the last of its year and the lengths of the months before it follow one linear formula.
fn civil_date(days: u64) -> (u64, u64, u64) {
    // 719 468 days from 0000-03-01 to 1970-01-01; 146 097 days in 400 years
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_writing_and_reading() {
        for (stream, ends_line) in [(LogStream::Stdout, true), (LogStream::Stderr, false)] {
            let record = Record { micros: 1_700_000_000_000_001, stream, ends_line, text: b"a b\xff" };
            let mut out = Vec::new();
            record.append_to(&mut out);
            assert_eq!(Record::parse(&out[..out.len() - 1]), Some(record));
        }
    }

    #[test]
    fn foreign_lines_are_not_records() {
        for line in [&b""[..], b"12", b"12 o", b"x o text", b"12 q text", b"99999999999999999999999 o x"] {
            assert_eq!(Record::parse(line), None);
        }
    }

    #[test]
    fn times_follow_the_calendar() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(rfc3339(951_782_400_000_000), "2000-02-29T00:00:00.000000Z");
        assert_eq!(rfc3339(1_709_208_000_000_001), "2024-02-29T12:00:00.000001Z");
        assert_eq!(rfc3339(4_107_542_399_000_000), "2100-02-28T23:59:59.000000Z");
    }
}
