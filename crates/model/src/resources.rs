//! What an instance needs and what a worker has.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An amount of each resource. Zero in a request means "no need": nothing is reserved and nothing is limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// CPU in thousandths of a core.
    pub cpu_millis: u32,
    /// Memory in MiB (the descriptors say MB and mean this).
    pub memory_mib: u32,
    /// Disk in MiB.
    pub storage_mib: u32,
    /// Whole GPUs.
    #[serde(skip_serializing_if = "is_zero")]
    pub gpus: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form serde asks for")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Resources {
    /// Nothing.
    pub const ZERO: Self = Self { cpu_millis: 0, memory_mib: 0, storage_mib: 0, gpus: 0 };

    /// Sum, at most the largest representable value.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_mib: self.memory_mib.saturating_add(other.memory_mib),
            storage_mib: self.storage_mib.saturating_add(other.storage_mib),
            gpus: self.gpus.saturating_add(other.gpus),
        }
    }

    /// Difference, at least zero.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_sub(other.cpu_millis),
            memory_mib: self.memory_mib.saturating_sub(other.memory_mib),
            storage_mib: self.storage_mib.saturating_sub(other.storage_mib),
            gpus: self.gpus.saturating_sub(other.gpus),
        }
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB memory, {} CPU", self.memory_mib, Cores(self.cpu_millis))?;
        if self.storage_mib > 0 {
            write!(f, ", {} MiB storage", self.storage_mib)?;
        }
        if self.gpus > 0 {
            write!(f, ", {} GPUs", self.gpus)?;
        }
        Ok(())
    }
}

/// Thousandths of a core, shown in cores.
#[derive(Clone, Copy, Debug)]
pub struct Cores(pub u32);

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let digits = format!("{rest:03}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_show_without_trailing_zeros() {
        assert_eq!(Cores(1500).to_string(), "1.5");
        assert_eq!(Cores(2000).to_string(), "2");
        assert_eq!(Cores(50).to_string(), "0.05");
    }
}
