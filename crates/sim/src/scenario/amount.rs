//! Amounts as people write them: `"10m"`, `"8 GiB"`, `0.95`.

use std::fmt;

use serde::{Deserialize, Deserializer};

/// Something with its place in the file.
pub(super) type Located<T> = toml::Spanned<T>;

/// A length of time: `"250ms"`, `"10s"`, `"1h30m"`, `"2d"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Span {
    /// Milliseconds.
    pub ms: u64,
}

impl Span {
    /// So many milliseconds.
    #[must_use]
    pub const fn of_ms(ms: u64) -> Self {
        Self { ms }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
        let mut rest = self.ms;
        if rest == 0 {
            return f.write_str("0s");
        }
        for (size, unit) in units {
            if rest >= size {
                write!(f, "{}{unit}", rest / size)?;
                rest %= size;
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        parse_span(&text).map(Self::of_ms).ok_or_else(|| {
            format!("`{text}` is no length of time: write it like \"250ms\", \"10s\" or \"1h30m\"")
        })
    }
}

fn parse_span(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut sum = 0_u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, after) = rest.split_at(digits);
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let size = match unit.trim() {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        sum = sum.checked_add(number.parse::<u64>().ok()?.checked_mul(size)?)?;
        rest = next;
    }
    // Longer than ten years is a typing error, and sums of such times shall not overflow.
    (sum <= 10 * 366 * 86_400_000).then_some(sum)
}

/// An amount of memory or disk: `"512 MiB"`, `"8 GiB"`, or a number of MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory(u32);

impl Memory {
    /// In MiB.
    #[must_use]
    pub const fn mib(self) -> u32 {
        self.0
    }

    pub(super) const fn eight_gib() -> Self {
        Self(8 * 1024)
    }

    pub(super) const fn hundred_gib() -> Self {
        Self(100 * 1024)
    }

    pub(super) const fn none() -> Self {
        Self(0)
    }
}

impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MemoryVisitor)
    }
}

struct MemoryVisitor;

impl serde::de::Visitor<'_> for MemoryVisitor {
    type Value = Memory;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an amount like \"512 MiB\" or \"8 GiB\", or a number of MiB")
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Memory, E> {
        u32::try_from(number).map(Memory).map_err(|_| E::custom(format!("{number} is no number of MiB")))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Memory, E> {
        let parts =
            text.trim().split_at_checked(text.trim().find(|c: char| !c.is_ascii_digit()).unwrap_or(0));
        let amount = parts.and_then(|(number, unit)| {
            let factor = match unit.trim() {
                "MiB" | "MB" | "M" => 1,
                "GiB" | "GB" | "G" => 1024,
                "TiB" | "TB" | "T" => 1024 * 1024,
                _ => return None,
            };
            number.parse::<u32>().ok()?.checked_mul(factor)
        });
        amount.map(Memory).ok_or_else(|| {
            E::custom(format!("`{text}` is no amount: write it like \"512 MiB\", \"8 GiB\" or \"1 TiB\""))
        })
    }
}

/// A share from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Deserialize)]
#[serde(try_from = "f64")]
pub struct Share(f64);

impl Share {
    /// From 0 to 1.
    #[must_use]
    pub const fn value(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Share {
    type Error = String;

    fn try_from(value: f64) -> Result<Self, String> {
        if (0.0..=1.0).contains(&value) {
            Ok(Self(value))
        } else {
            Err(format!("{value} is no share: write a number from 0.0 to 1.0"))
        }
    }
}

/// Thousandths of a number of cores.
pub(super) fn millis(cores: f64) -> u32 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a conversion from float to integer saturates; negative amounts were refused"
    )]
    let millis = (cores * 1000.0).round() as u32;
    millis
}
