//! What happened, as it happens and from the recent past.

use std::fmt;

use reqwest::{Method, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::client::{Call, Client};
use crate::error::ClientError;

/// Largest unfinished event that is kept; the server sends far smaller ones.
const LONGEST: usize = 1 << 20;

/// One thing that happened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// Number; a stream can be resumed behind it.
    pub sequence: u64,
    /// When.
    pub timestamp: String,
    /// What.
    pub kind: String,
    /// Service it is about.
    #[serde(rename = "microserviceID", skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Number of the instance it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_number: Option<u32>,
    /// Status of the instance after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Why, or more.
    pub detail: String,
    /// Everything else.
    #[serde(flatten)]
    pub other: serde_json::Map<String, Value>,
}

/// What a stream of events gives.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// Something happened.
    Event(Box<Event>),
    /// Events before the next one are not kept any more.
    Gap,
    /// The server ends the stream, and why.
    End(String),
}

/// An open stream of events.
pub struct EventStream {
    response: Response,
    client: Client,
    rest: Vec<u8>,
    /// The last id: a stream opened with it goes on behind it.
    pub last_id: Option<String>,
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream").field("last_id", &self.last_id).finish_non_exhaustive()
    }
}

const ACTION: &str = "read the events";

impl EventStream {
    /// The next thing that is told; `None` at the end. Safe to cancel.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] if the connection breaks.
    pub async fn next(&mut self) -> Result<Option<Told>, ClientError> {
        loop {
            while let Some(end) = self.rest.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.rest.drain(..end + 2).collect();
                if let Some(told) = self.read(&String::from_utf8_lossy(&block)) {
                    return Ok(Some(told));
                }
            }
            let piece = self.response.chunk().await;
            let piece = piece.map_err(|source| self.client.unreachable(ACTION, source))?;
            let Some(piece) = piece else { return Ok(None) };
            if self.rest.len() + piece.len() > LONGEST {
                return Err(ClientError::TooLarge { action: ACTION.to_owned(), limit: LONGEST });
            }
            self.rest.extend_from_slice(&piece);
        }
    }

    fn read(&mut self, block: &str) -> Option<Told> {
        let (mut event, mut data) = ("", "");
        for line in block.lines() {
            match line.split_once(": ") {
                Some(("id", id)) => self.last_id = Some(id.to_owned()),
                Some(("event", name)) => event = name,
                Some(("data", text)) => data = text,
                _ => {}
            }
        }
        match event {
            _ if data.is_empty() => None,
            "gap" => Some(Told::Gap),
            "end" => {
                let reason = serde_json::from_str::<Value>(data).ok()?;
                Some(Told::End(reason.get("reason")?.as_str()?.to_owned()))
            }
            _ => Some(Told::Event(Box::new(serde_json::from_str(data).ok()?))),
        }
    }
}

impl Client {
    /// Opens the stream of events from now on, or behind the event with the id `since`. `filters` are names and values
    /// of the query, such as `("service", id)`.
    ///
    /// # Errors
    /// [`ClientError::Refused`] if a filter makes no sense.
    pub async fn events(
        &self,
        since: Option<&str>,
        filters: &[(&'static str, String)],
    ) -> Result<EventStream, ClientError> {
        let mut call = Call::new(Method::GET, &["api", "events"], ACTION);
        if let Some(since) = since {
            call = call.query("since", since);
        }
        for (name, value) in filters {
            call = call.query(name, value);
        }
        let response = self.open(&call).await?;
        let last_id = since.map(str::to_owned);
        Ok(EventStream { response, client: self.clone(), rest: Vec::new(), last_id })
    }

    /// The recent past of a service, newest last.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with 404 if there is no such service.
    pub async fn events_of(&self, service: &str, limit: usize) -> Result<Vec<Event>, ClientError> {
        let path = ["api", "service", service, "events"];
        let call = Call::new(Method::GET, &path, format!("read the events of service {service}"));
        self.fetch(call.query("limit", limit)).await
    }
}
