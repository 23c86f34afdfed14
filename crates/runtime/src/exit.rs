//! How a container ended, and the future that waits for it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

/// How a container ended. Neither code nor signal: nobody saw it (its shim was killed).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// Exit code of the first process, 0–255.
    pub code: Option<i32>,
    /// Signal that ended the first process.
    pub signal: Option<i32>,
    /// Whether it ended without success after the kernel killed one of its processes for lack of memory.
    pub out_of_memory: bool,
    /// Whether the shim ended it because [`crate::ContainerRequest::run_until`] had come.
    #[serde(default)]
    pub lease_ended: bool,
    /// When.
    #[serde(with = "milliseconds")]
    pub finished_at: SystemTime,
}

impl ExitStatus {
    /// Nobody recorded the end.
    pub(crate) fn unknown() -> Self {
        Self {
            code: None,
            signal: None,
            out_of_memory: false,
            lease_ended: false,
            finished_at: SystemTime::now(),
        }
    }

    /// Whether the program ended by itself with code 0.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.code == Some(0) && !self.lease_ended
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(formatter, "exit code {code}")?,
            (None, Some(signal)) => write!(formatter, "signal {signal}")?,
            (None, None) => formatter.write_str("ended unobserved")?,
        }
        if self.out_of_memory {
            formatter.write_str(", out of memory")?;
        }
        if self.lease_ended {
            formatter.write_str(", its time was over")?;
        }
        Ok(())
    }
}

mod milliseconds {
    //! Times in `exit.json`: milliseconds since 1970.
    use super::{Duration, SystemTime, UNIX_EPOCH};
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, out: S) -> Result<S::Ok, S::Error> {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        out.serialize_u64(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<SystemTime, D::Error> {
        let millis = u64::deserialize(input)?;
        UNIX_EPOCH
            .checked_add(Duration::from_millis(millis))
            .ok_or_else(|| serde::de::Error::custom("time out of range"))
    }
}

/// Resolves when a container has ended. Costs nothing while waiting; may be dropped at any time.
pub struct ExitObserver(BoxFuture<'static, ExitStatus>);

impl ExitObserver {
    /// Wraps the future of an engine.
    pub fn new(future: impl Future<Output = ExitStatus> + Send + 'static) -> Self {
        Self(Box::pin(future))
    }
}

impl Future for ExitObserver {
    type Output = ExitStatus;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<ExitStatus> {
        self.0.as_mut().poll(context)
    }
}

impl fmt::Debug for ExitObserver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ExitObserver")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_files_of_this_version_can_be_read() {
        let older = r#"{"code":null,"signal":9,"out_of_memory":true,"finished_at":1700000000123}"#;
        assert!(!serde_json::from_str::<ExitStatus>(older).unwrap().lease_ended);
        let sample = r#"{"code":null,"signal":9,"out_of_memory":true,"lease_ended":false,"finished_at":1700000000123}"#;
        let status: ExitStatus = serde_json::from_str(sample).unwrap();
        assert_eq!(status.signal, Some(9));
        assert_eq!(serde_json::to_string(&status).unwrap(), sample);
        assert_eq!(status.to_string(), "signal 9, out of memory");
    }
}
