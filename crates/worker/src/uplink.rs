//! The link to the cluster.

use std::sync::Arc;

use bytes::Bytes;
use oak_control::worker::Worker;
use oak_link::{
    BulkOffer, ChildConfig, ChildEvent, ChildHandle, ChildLink, Credentials, PkiError, SessionGate,
    system_clock,
};
use oak_model::WorkerFacts;
use oak_model::message::{BulkRequest, ClusterToWorker, WorkerHello, WorkerWelcome};
use oak_store::{Engine, StoreError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::facts::OwnAddresses;
use crate::operations::Operations;
use crate::{WorkerConfig, encode, exec, logs};

/// Events of the link that may wait; when full, the link waits.
const EVENTS: usize = 256;

/// Starts the link.
pub(crate) fn start(
    tasks: &mut JoinSet<Result<(), StoreError>>,
    config: &WorkerConfig,
    credentials: &Arc<Credentials>,
    facts: WorkerFacts,
    engine: Engine<Worker>,
    operations: &Arc<Operations>,
) -> Result<ChildHandle, PkiError> {
    let (events, inbox) = mpsc::channel(EVENTS);
    let cluster = config.cluster.as_str();
    let child = ChildConfig::new(cluster, Arc::clone(credentials), system_clock());
    let gate = SessionGate::default();
    let hello = {
        let (engine, gate) = (engine.clone(), gate.clone());
        let (cluster, address) = (config.cluster.clone(), config.address);
        let network = Arc::clone(&operations.network);
        move || {
            let (engine, gate, mut facts) = (engine.clone(), gate.clone(), facts.clone());
            let (cluster, network) = (cluster.clone(), Arc::clone(&network));
            async move {
                // The machine may have moved since the last session.
                let own = if address.is_none() { own_addresses(cluster).await } else { None };
                let own_address = own.and_then(OwnAddresses::first);
                if let (Some(own), Some(address)) = (own, own_address) {
                    facts.address = address.to_string();
                    facts.address6 = own.second();
                    network.set_addresses(own);
                }
                match gate.hello(engine.call(|worker, _, _| worker.hello(facts))).await {
                    Ok(hello) => encode(&WorkerHello { own_address, ..hello }),
                    // The engine has ended, and with it soon this link.
                    Err(_) => Bytes::new(),
                }
            }
        }
    };
    let handle = ChildLink::spawn(child, hello, events)?;
    // Set once: this function is called once per start.
    let _ = operations.to_cluster.set(handle.sender());
    tasks.spawn(run(inbox, engine, gate, Arc::clone(operations), cluster.to_owned()));
    Ok(handle)
}

/// The addresses of this machine that lead to the cluster.
async fn own_addresses(cluster: String) -> Option<OwnAddresses> {
    // It may ask a name server.
    tokio::task::spawn_blocking(move || OwnAddresses::towards(&cluster)).await.ok()
}

async fn run(
    mut inbox: mpsc::Receiver<ChildEvent>,
    engine: Engine<Worker>,
    gate: SessionGate,
    operations: Arc<Operations>,
    cluster: String,
) -> Result<(), StoreError> {
    while let Some(event) = inbox.recv().await {
        let outcome = match event {
            ChildEvent::Connected { welcome, .. } => {
                match serde_json::from_slice::<WorkerWelcome>(&welcome) {
                    Ok(mut welcome) => {
                        for assignment in &mut welcome.assignments {
                            operations.secrets.protect(&mut assignment.desired);
                        }
                        info!(cluster, instances = welcome.assignments.len(), subnet = %welcome.subnet, "connected to the cluster");
                        let taken =
                            gate.open(engine.post(move |worker, now, _| worker.welcome(now, welcome))).await;
                        operations.network.reconnected();
                        taken
                    }
                    Err(error) => {
                        warn!(cluster, %error, "the cluster's welcome cannot be read: are the versions too far apart?");
                        Ok(())
                    }
                }
            }
            ChildEvent::Message { payload, .. } => {
                match serde_json::from_slice::<ClusterToWorker>(&payload) {
                    Ok(mut message) => {
                        if let Some(wish) = message.wishes_mut() {
                            operations.secrets.protect(wish);
                        }
                        let handle = engine.post(move |worker, now, _| worker.message(now, message));
                        gate.message(handle).await.unwrap_or(Ok(()))
                    }
                    Err(error) => {
                        warn!(cluster, %error, "the cluster sent a message that cannot be read");
                        Ok(())
                    }
                }
            }
            ChildEvent::OpenBulk(offer) => {
                serve(offer, &operations);
                Ok(())
            }
            ChildEvent::Disconnected { reason, .. } => {
                warn!(cluster, %reason, "disconnected from the cluster; running instances go on");
                engine.post(|worker, _, _| worker.cluster_closed()).await
            }
            ChildEvent::AttemptFailed { reason, retry_in } => {
                tracing::debug!(
                    cluster,
                    reason,
                    retry_in_ms = retry_in.as_millis(),
                    "cannot reach the cluster"
                );
                Ok(())
            }
        };
        if outcome.is_err() {
            break;
        }
    }
    Ok(())
}

/// Answers a wish for a stream in a task of its own.
fn serve(offer: BulkOffer, operations: &Arc<Operations>) {
    match serde_json::from_slice::<BulkRequest>(offer.request()) {
        Ok(BulkRequest::Logs { key, tail, follow }) => {
            let wanted = logs::Wanted { tail, follow, since: None, timestamps: false };
            tokio::spawn(logs::serve(offer, key, wanted, operations.places.clone()));
        }
        Ok(BulkRequest::TimedLogs { key, tail, follow, since, timestamps }) => {
            let wanted = logs::Wanted { tail, follow, since, timestamps };
            tokio::spawn(logs::serve(offer, key, wanted, operations.places.clone()));
        }
        Ok(BulkRequest::Exec { key, command, terminal }) => {
            tokio::spawn(exec::serve(offer, key, command, terminal, Arc::clone(operations)));
        }
        Err(_) => offer.refuse("the worker is too old for this request: upgrade it"),
    }
}
