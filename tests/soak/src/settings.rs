//! What can be set from outside.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Settings of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// `SOAK_MINUTES`: no further round of faults begins after this time.
    pub(crate) length: Duration,
    /// `SOAK_SEED`: decides about faults and what the user does; random if not given.
    pub(crate) seed: u64,
}

impl Settings {
    pub(crate) fn from_environment() -> anyhow::Result<Self> {
        let minutes = number("SOAK_MINUTES")?.unwrap_or(60);
        ensure!((1..=100_000).contains(&minutes), "SOAK_MINUTES must be from 1 to 100000");
        let seed = number("SOAK_SEED")?.unwrap_or_else(|| StdRng::from_os_rng().random_range(0..1 << 32));
        Ok(Self { length: Duration::from_secs(minutes * 60), seed })
    }
}

fn number(variable: &str) -> anyhow::Result<Option<u64>> {
    let text = std::env::var(variable).unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).with_context(|| format!("{variable} must be a whole number, not `{text}`"))
}
