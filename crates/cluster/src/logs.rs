//! Passing output of instances from a worker to the root.

use oak_control::cluster::Cluster;
use oak_link::{BulkOffer, BulkStream, PeerHandle, Sessions};
use oak_model::InstanceKey;
use oak_model::message::BulkRequest;
use oak_store::Engine;

/// Answers a bulk request of the root by asking the worker that has the instance.
pub(crate) async fn relay(offer: BulkOffer, engine: Engine<Cluster>, sessions: Sessions) {
    let request = offer.request().clone();
    let key = match serde_json::from_slice(&request) {
        Ok(BulkRequest::Logs { key, .. }) => key,
        Err(_) => return offer.refuse("the request is not known to this version"),
    };
    let Some(worker) = worker_session(key, &engine, &sessions).await else {
        return offer.refuse("the worker of the instance is not connected");
    };
    let from_worker = match worker.open_bulk(request).await {
        Ok(stream) => stream,
        Err(error) => return offer.refuse(&error.to_string()),
    };
    match offer.accept().await {
        Ok(to_root) => copy(from_worker, to_root).await,
        Err(error) => tracing::debug!(%error, "the root does not want the stream any more"),
    }
}

async fn worker_session(key: InstanceKey, engine: &Engine<Cluster>, sessions: &Sessions) -> Option<PeerHandle> {
    let session = engine
        .call(move |machine, _, _| {
            let placement = machine.instance(key)?.placement?;
            machine.workers().find(|worker| worker.id == placement.worker)?.session
        })
        .await
        .ok()??;
    sessions.get(session)
}

async fn copy(from: BulkStream, to: BulkStream) {
    let (_to_worker, mut from_worker) = from.split();
    let (mut to_root, _from_root) = to.split();
    while let Some(chunk) = from_worker.recv().await {
        let sent = match chunk {
            Ok(chunk) => to_root.send(chunk).await,
            Err(error) => return drop(to_root.fail(&error.to_string()).await),
        };
        if sent.is_err() {
            return;
        }
    }
    // The root has gone away: nobody is left to tell.
    let _ = to_root.finish().await;
}
