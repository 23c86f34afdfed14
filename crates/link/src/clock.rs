//! The wall clock as a value that is passed in, so that tests can be in any year.

use std::sync::Arc;
use std::time::SystemTime;

/// Returns the present wall-clock time. Only certificates need it; timers use tokio's clock.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Returns the clock of the operating system.
pub fn system_clock() -> Clock {
    Arc::new(SystemTime::now)
}
