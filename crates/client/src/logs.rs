//! Output of an instance as it is written.

use std::fmt;

use bytes::Bytes;
use reqwest::{Method, Response};

use crate::client::{Call, Client};
use crate::error::ClientError;

/// What part of the output is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Only the last lines; `None` is everything that is kept.
    pub tail: Option<u32>,
    /// Go on with what comes until the instance ends or the stream is dropped.
    pub follow: bool,
    /// Only what was written since then: a duration such as `10m`, or a time of RFC 3339.
    pub since: Option<String>,
    /// Each line begins with its time.
    pub timestamps: bool,
}

/// Output of an instance, in pieces as they arrive; a piece may end inside a line or inside a character.
pub struct LogStream {
    response: Response,
    action: String,
    client: Client,
}

impl fmt::Debug for LogStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogStream").field("action", &self.action).finish_non_exhaustive()
    }
}

impl LogStream {
    /// The next piece; `None` at the end. Safe to cancel.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] if the connection breaks.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        self.response.chunk().await.map_err(|source| self.client.unreachable(&self.action, source))
    }
}

impl Client {
    /// Opens the output of instance `number` of a service.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with 404 if there is no such instance.
    pub async fn logs(
        &self,
        service: &str,
        number: u32,
        options: LogOptions,
    ) -> Result<LogStream, ClientError> {
        let number_text = number.to_string();
        let path = ["api", "service", service, "instance", &number_text, "logs"];
        let mut call =
            Call::new(Method::GET, &path, format!("read the logs of instance {number} of service {service}"));
        if let Some(lines) = options.tail {
            call = call.query("tail", lines);
        }
        if options.follow {
            call = call.query("follow", true);
        }
        if let Some(since) = options.since {
            call = call.query("since", since);
        }
        if options.timestamps {
            call = call.query("timestamps", true);
        }
        let response = self.open(&call).await?;
        Ok(LogStream { response, action: call.action, client: self.clone() })
    }
}
