//! Passing output of instances from a worker to the root.

use futures_util::StreamExt;
use oak_control::cluster::Cluster;
use oak_link::{BulkOffer, PeerHandle, Sessions};
use oak_model::InstanceKey;
use oak_model::message::BulkRequest;
use oak_store::Engine;

/// Answers a bulk request of the root by asking the worker that has the instance.
pub(crate) async fn relay(offer: BulkOffer, engine: Engine<Cluster>, sessions: Sessions) {
    let request = offer.request().clone();
    let Ok(BulkRequest::Logs { key, .. }) = serde_json::from_slice(&request) else {
        return offer.refuse("the request is not known to this version");
    };
    let Some(worker) = worker_session(key, &engine, &sessions).await else {
        return offer.refuse("the worker of the instance is not connected");
    };
    let from_worker = match worker.open_bulk(request).await {
        Ok(stream) => stream,
        Err(error) => return offer.refuse(&error.to_string()),
    };
    // The sending half is kept: dropping it would tell the worker that nobody reads any more.
    let (_to_worker, from_worker) = from_worker.split();
    let sent = match offer.accept().await {
        Ok(to_root) => {
            to_root.send_all(from_worker.map(|piece| piece.map_err(|error| error.to_string()))).await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = sent {
        tracing::debug!(instance = %key, %error, "the reader of the output went away");
    }
}

async fn worker_session(
    key: InstanceKey,
    engine: &Engine<Cluster>,
    sessions: &Sessions,
) -> Option<PeerHandle> {
    let session = engine
        .call(move |machine, _, _| {
            let placement = machine.instance(key)?.placement?;
            machine.workers().find(|worker| worker.id == placement.worker)?.session
        })
        .await
        .ok()??;
    sessions.get(session)
}
