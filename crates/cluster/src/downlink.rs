//! Events of the link to the workers.

use oak_control::cluster::{Cluster, Parting};
use oak_link::{CloseReason, Identity, ParentEvent, Sessions};
use oak_model::message::{WorkerHello, WorkerToCluster};
use oak_model::{ClusterId, WorkerId};
use oak_store::{Engine, StoreError};
use tokio::sync::mpsc;
use tracing::{info, warn};

/// Turns events into calls until the link or the engine ends.
pub(crate) async fn run(
    mut events: mpsc::Receiver<ParentEvent>,
    engine: Engine<Cluster>,
    sessions: Sessions,
    cluster: ClusterId,
) -> Result<(), StoreError> {
    while let Some(event) = events.recv().await {
        if handle(event, &engine, &sessions, cluster).await.is_err() {
            break;
        }
    }
    Ok(())
}

async fn handle(
    event: ParentEvent,
    engine: &Engine<Cluster>,
    sessions: &Sessions,
    cluster: ClusterId,
) -> Result<(), oak_store::EngineStopped> {
    match event {
        ParentEvent::Opened { peer, session, address, software, hello, handle } => {
            let Some(worker) = worker_of(&peer, cluster) else {
                handle.refuse("this cluster takes in only its own workers");
                return Ok(());
            };
            let hello: WorkerHello = match serde_json::from_slice(&hello) {
                Ok(hello) => hello,
                Err(error) => {
                    warn!(worker = %worker, %error, "worker sent a hello that cannot be read");
                    handle.refuse("the hello cannot be read: are the versions too far apart?");
                    return Ok(());
                }
            };
            info!(worker = %worker, name = %hello.facts.name, address = %address.ip(), software, "worker connected");
            sessions.insert(handle);
            let address = address.ip().to_canonical().to_string();
            engine
                .post(move |machine, now, _| machine.worker_opened(now, worker, session, &address, hello))
                .await
        }
        ParentEvent::Message { peer, session, payload } => {
            let Some(worker) = worker_of(&peer, cluster) else { return Ok(()) };
            match serde_json::from_slice::<WorkerToCluster>(&payload) {
                Ok(message) => {
                    engine
                        .post(move |machine, now, _| machine.worker_message(now, worker, session, message))
                        .await
                }
                Err(error) => {
                    warn!(worker = %worker, %error, "worker sent a message that cannot be read");
                    Ok(())
                }
            }
        }
        ParentEvent::RoundTrip { peer, session, round_trip } => {
            let Some(worker) = worker_of(&peer, cluster) else { return Ok(()) };
            let micros = u32::try_from(round_trip.as_micros()).unwrap_or(u32::MAX);
            engine.post(move |machine, now, _| machine.worker_measured(now, worker, session, micros)).await
        }
        ParentEvent::Closed { peer, session, reason } => {
            sessions.remove(session);
            let Some(worker) = worker_of(&peer, cluster) else { return Ok(()) };
            info!(worker = %worker, %reason, "worker disconnected");
            let parting = match reason {
                CloseReason::Left => Parting::Left,
                CloseReason::Silent => Parting::Silent,
                CloseReason::Lost(_)
                | CloseReason::Superseded
                | CloseReason::Overflow
                | CloseReason::Refused(_)
                | CloseReason::Ended(_)
                | CloseReason::Protocol(_)
                | CloseReason::Draining => Parting::Broken,
            };
            engine.post(move |machine, now, _| machine.worker_closed(now, worker, session, parting)).await
        }
    }
}

fn worker_of(peer: &Identity, own: ClusterId) -> Option<WorkerId> {
    match peer {
        Identity::Worker { cluster, worker } if cluster.as_str() == own.to_string() => {
            worker.as_str().parse().ok()
        }
        Identity::Worker { .. } | Identity::Cluster { .. } | Identity::Root => None,
    }
}
