//! Output of instances on request of the cluster.

use futures_util::StreamExt;
use oak_link::BulkOffer;
use oak_model::message::BulkRequest;
use oak_runtime::{LogQuery, read_logs};

use crate::container::Places;

/// Answers a bulk request with the output of an instance.
pub(crate) async fn serve(offer: BulkOffer, places: Places) {
    let Ok(BulkRequest::Logs { key, tail, follow }) = serde_json::from_slice(offer.request()) else {
        return offer.refuse("the request is not known to this version");
    };
    let directory = places.log_directory(key);
    if !directory.exists() {
        return offer.refuse("the instance has no output on this worker yet");
    }
    let tail_lines = tail.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX));
    let query = LogQuery { tail_lines, since: None, follow, timestamps: false };
    let output = read_logs(directory, query).map(|piece| piece.map_err(|error| error.to_string()));
    let sent = match offer.accept().await {
        Ok(stream) => stream.send_all(output).await,
        Err(error) => Err(error),
    };
    if let Err(error) = sent {
        tracing::debug!(instance = %key, %error, "the reader of the output went away");
    }
}
