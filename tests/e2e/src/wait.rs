//! Waiting for conditions, with deadlines.

use std::time::{Duration, Instant};

use anyhow::Context as _;

const POLL_EVERY: Duration = Duration::from_millis(50);

/// Calls `probe` until it succeeds and returns what it returned.
///
/// # Errors
/// The last error of `probe` when the time is over.
pub fn eventually<T>(
    what: &str,
    within: Duration,
    mut probe: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + within;
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error).with_context(|| format!("not within {} s: {what}", within.as_secs_f32()));
            }
            Err(_) => pause(),
        }
    }
}

/// The usual deadline: far more than anything takes, so that a busy machine is no failure.
pub const fn soon() -> Duration {
    Duration::from_secs(30)
}

/// The interval between two looks at a condition.
#[allow(clippy::disallowed_methods, reason = "the interval of polls that have a deadline")]
pub fn pause() {
    std::thread::sleep(POLL_EVERY);
}

/// Lets a random time of a chaos test or the span of a measurement pass.
#[allow(clippy::disallowed_methods, reason = "the time itself is meant, not a condition")]
pub fn let_pass(span: Duration) {
    std::thread::sleep(span);
}
