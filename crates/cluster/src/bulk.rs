//! Passing streams between the root and the worker that has the instance: output, and programs run inside.

use futures_util::StreamExt;
use oak_control::cluster::Cluster;
use oak_link::{BulkError, BulkOffer, BulkStream, PeerHandle, Sessions};
use oak_model::InstanceKey;
use oak_model::message::BulkRequest;
use oak_store::Engine;

/// Answers a bulk request of the root by asking the worker that has the instance.
pub(crate) async fn relay(offer: BulkOffer, engine: Engine<Cluster>, sessions: Sessions) {
    let request = offer.request().clone();
    let Ok(wanted) = serde_json::from_slice::<BulkRequest>(&request) else {
        return offer.refuse("the cluster is too old for this request: upgrade it");
    };
    let key = wanted.key();
    let Some(worker) = worker_session(key, &engine, &sessions).await else {
        return offer.refuse("the worker of the instance is not connected");
    };
    let worker = match worker.open_bulk(request).await {
        Ok(stream) => stream,
        Err(BulkError::Refused(reason)) => return offer.refuse(&reason),
        Err(error) => return offer.refuse(&error.to_string()),
    };
    let passed = match (offer.accept().await, wanted) {
        (Ok(root), BulkRequest::Exec { .. }) => both_ways(root, worker).await,
        (Ok(root), BulkRequest::Logs { .. } | BulkRequest::TimedLogs { .. }) => {
            // The sending half is kept: dropping it would tell the worker that nobody reads any more.
            let (_to_worker, from_worker) = worker.split();
            root.send_all(from_worker.map(|piece| piece.map_err(|error| error.to_string()))).await
        }
        (Err(error), _) => Err(error),
    };
    if let Err(error) = passed {
        tracing::debug!(instance = %key, %error, "the other side of a stream went away");
    }
}

/// Passes bytes in both directions until the worker has said everything, or one of them is gone: then the other hears
/// of it. Each direction waits for its receiver; nothing piles up here.
async fn both_ways(root: BulkStream, worker: BulkStream) -> Result<(), BulkError> {
    let (mut to_root, mut from_root) = root.split();
    let (mut to_worker, mut from_worker) = worker.split();
    let root_is_gone = to_root.gone();
    let down = async {
        while let Some(piece) = from_root.recv().await {
            to_worker.send(piece?).await?;
        }
        // The root has nothing more to say, but listens.
        std::future::pending::<Result<(), BulkError>>().await
    };
    let up = async {
        loop {
            match from_worker.recv().await {
                Some(Ok(piece)) => to_root.send(piece).await?,
                Some(Err(error)) => return to_root.fail(&error.to_string()).await,
                None => return to_root.finish().await,
            }
        }
    };
    tokio::select! {
        gone = down => return gone,
        // `down` does not see it while the worker takes nothing.
        () = root_is_gone => return Err(BulkError::Cancelled),
        said = up => said?,
    }
    // Dropping the receiver now would cancel what is still on its way.
    while let Some(Ok(_)) = from_root.recv().await {}
    Ok(())
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
