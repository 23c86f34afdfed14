//! Streams to instances, through the cluster that has them: their output, and programs run inside them.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use oak_control::root::Root;
use oak_link::{BulkError, BulkReceiver, BulkSender, BulkStream, Sessions};
use oak_model::InstanceKey;
use oak_model::exec::TerminalSize;
use oak_model::message::BulkRequest;
use oak_store::Engine;

use crate::api::{
    BoxFuture, ByteSender, ExecSource, ExecStreams, LogError, LogRequest, LogSource, LogStream,
};
use crate::clusters::encode;

/// The way to instances.
#[derive(Clone)]
pub(crate) struct LinkStreams {
    pub(crate) engine: Engine<Root>,
    pub(crate) sessions: Sessions,
}

impl LogSource for LinkStreams {
    fn open(&self, key: InstanceKey, wanted: LogRequest) -> BoxFuture<'_, Result<LogStream, LogError>> {
        Box::pin(async move {
            let LogRequest { tail, follow, since, timestamps } = wanted;
            let request = if since.is_none() && !timestamps {
                // Known to every release.
                BulkRequest::Logs { key, tail, follow }
            } else {
                BulkRequest::TimedLogs { key, tail, follow, since, timestamps }
            };
            let (sender, receiver) = self.ask(&request).await?.split();
            Ok(reading(receiver, Some(Arc::new(sender))))
        })
    }
}

impl ExecSource for LinkStreams {
    fn open(
        &self,
        key: InstanceKey,
        command: Vec<String>,
        terminal: Option<TerminalSize>,
    ) -> BoxFuture<'_, Result<ExecStreams, LogError>> {
        Box::pin(async move {
            let (sender, receiver) = self.ask(&BulkRequest::Exec { key, command, terminal }).await?.split();
            Ok(ExecStreams { sender: Box::new(Sending(sender)), receiver: reading(receiver, None) })
        })
    }
}

impl LinkStreams {
    async fn ask(&self, request: &BulkRequest) -> Result<BulkStream, LogError> {
        let key = request.key();
        let session = self
            .engine
            .call(move |root, _, _| {
                let cluster = root.instance(key).and_then(|instance| instance.cluster);
                let cluster = cluster.and_then(|id| root.cluster(id));
                let cluster = cluster
                    .ok_or_else(|| LogError::NotThere("the instance has no cluster yet".to_owned()))?;
                let away = || LogError::Unreachable(format!("cluster {} is not connected", cluster.name));
                cluster.session.ok_or_else(away)
            })
            .await
            .map_err(|stopped| LogError::Unreachable(stopped.to_string()))??;
        let gone = || LogError::Unreachable("the cluster has just disconnected".to_owned());
        let peer = self.sessions.get(session).ok_or_else(gone)?;
        peer.open_bulk(encode(request)).await.map_err(|error| match error {
            BulkError::Refused(reason) => LogError::NotThere(reason),
            error => LogError::Unreachable(error.to_string()),
        })
    }
}

struct Sending(BulkSender);

impl ByteSender for Sending {
    fn send(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move { self.0.send(bytes).await.map_err(|error| LogError::Failed(error.to_string())) })
    }
}

/// The sending half of what is only read is kept: dropping it would tell the worker that nobody reads any more.
fn reading(receiver: BulkReceiver, sender: Option<Arc<BulkSender>>) -> LogStream {
    Box::pin(stream::unfold((receiver, sender), |(mut receiver, sender)| async move {
        let piece = receiver.recv().await?;
        Some((piece.map_err(|error| LogError::Failed(error.to_string())), (receiver, sender)))
    }))
}
