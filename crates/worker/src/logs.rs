//! Output of instances on request of the cluster.

use futures_util::StreamExt;
use oak_link::{BulkOffer, BulkStream};
use oak_model::message::BulkRequest;
use oak_runtime::{LogQuery, read_logs};

use crate::container::Places;

/// Answers a bulk request with the output of an instance.
pub(crate) async fn serve(offer: BulkOffer, places: Places) {
    let (key, tail, follow) = match serde_json::from_slice(offer.request()) {
        Ok(BulkRequest::Logs { key, tail, follow }) => (key, tail, follow),
        Err(_) => return offer.refuse("the request is not known to this version"),
    };
    let directory = places.log_directory(key);
    if !directory.exists() {
        return offer.refuse("the instance has no output on this worker yet");
    }
    let tail_lines = tail.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX));
    let query = LogQuery { tail_lines, since: None, follow, timestamps: false };
    match offer.accept().await {
        Ok(stream) => copy(read_logs(directory, query), stream).await,
        Err(error) => tracing::debug!(%error, "the cluster does not want the stream any more"),
    }
}

async fn copy(
    mut output: impl futures_util::Stream<Item = std::io::Result<bytes::Bytes>> + Unpin,
    stream: BulkStream,
) {
    let (mut sender, mut receiver) = stream.split();
    loop {
        // Both branches are cancel-safe; the reader of the stream going away ends it even while nothing is written.
        let chunk = tokio::select! {
            chunk = output.next() => chunk,
            gone = receiver.recv() => match gone {
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return,
            },
        };
        let sent = match chunk {
            Some(Ok(chunk)) => sender.send(chunk).await,
            Some(Err(error)) => return drop(sender.fail(&error.to_string()).await),
            None => return drop(sender.finish().await),
        };
        if sent.is_err() {
            return;
        }
    }
}
