//! A bulk stream the parent asked for, to be accepted or refused by the child's shell.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use rustls::ClientConfig;

use super::dial::{Target, dial};
use crate::bulk::{self, BulkError, BulkStream};
use crate::session::{Item, Line};

/// A wish of the parent. Dropping it refuses the stream.
pub struct BulkOffer {
    request: Bytes,
    answer: Option<Answer>,
}

struct Answer {
    bulk: u64,
    line: Arc<Line>,
    target: Target,
    tls: Arc<ClientConfig>,
}

impl BulkOffer {
    pub(crate) fn new(
        bulk: u64,
        request: Bytes,
        line: Arc<Line>,
        target: Target,
        tls: Arc<ClientConfig>,
    ) -> Self {
        Self { request, answer: Some(Answer { bulk, line, target, tls }) }
    }

    /// Returns what the parent wants, in the shells' own form.
    pub fn request(&self) -> &Bytes {
        &self.request
    }

    /// Opens the stream on a connection of its own. Do this in a task of its own.
    pub async fn accept(mut self) -> Result<BulkStream, BulkError> {
        // Taken only after success, so that a failure or a drop on the way refuses the stream.
        let stream = match &self.answer {
            Some(answer) => open(answer).await,
            None => Err(BulkError::Cancelled),
        };
        match &stream {
            Ok(_) => self.answer = None,
            Err(error) => self.answer_no(&error.to_string()),
        }
        stream
    }

    /// Refuses the stream with a reason for people.
    pub fn refuse(mut self, reason: &str) {
        self.answer_no(reason);
    }

    #[cfg(test)]
    pub(crate) fn id_for_test(&self) -> u64 {
        self.answer.as_ref().map_or(0, |answer| answer.bulk)
    }

    fn answer_no(&mut self, reason: &str) {
        if let Some(Answer { bulk, line, .. }) = self.answer.take() {
            let reason = reason.chars().take(512).collect();
            // Without a session the parent knows already.
            let _ = line.push(Item::BulkRefused { bulk, reason });
        }
    }
}

async fn open(answer: &Answer) -> Result<BulkStream, BulkError> {
    let dialled = dial(&answer.target, Arc::clone(&answer.tls)).await;
    let mut dialled = dialled.map_err(|error| BulkError::Connect(error.to_string()))?;
    let (sender, outbound) = bulk::outbound();
    // Fits into the queue, so this does not wait for the call below.
    sender.introduce(answer.bulk).await?;
    let call = dialled.client.bulk(outbound.into_stream()).await;
    let frames = call.map_err(|status| BulkError::Failed(status.message().to_owned()))?.into_inner();
    let hangup = dialled.hangup;
    Ok(sender.join(frames, move || hangup.cancel()))
}

impl Drop for BulkOffer {
    fn drop(&mut self) {
        self.answer_no("the child did not accept it");
    }
}

impl fmt::Debug for BulkOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkOffer").field("request", &self.request.len()).finish_non_exhaustive()
    }
}
