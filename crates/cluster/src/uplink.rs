//! The link to the root.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use oak_control::cluster::Cluster;
use oak_link::{
    ChildConfig, ChildEvent, ChildHandle, ChildLink, ChildSender, Credentials, SessionGate, Sessions,
    system_clock,
};
use oak_model::message::{ClusterWelcome, RootToCluster};
use oak_store::{Engine, Sealer, StoreError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::{ClusterConfig, ClusterError, bulk, encode};

/// Events of the link that may wait; when full, the link waits.
const EVENTS: usize = 256;

/// The way to the root, usable before the link was started.
#[derive(Clone, Default)]
pub(crate) struct ToRoot(Arc<OnceLock<ChildSender>>);

impl ToRoot {
    /// Sends if a session is open; otherwise the next hello tells everything.
    pub(crate) fn send(&self, payload: Bytes) {
        if let Some(sender) = self.0.get()
            && let Err(error) = sender.send(payload)
        {
            tracing::trace!(%error, "not sent to the root");
        }
    }
}

/// The link to the root before it is started.
pub(crate) struct Uplink(ToRoot);

impl Uplink {
    pub(crate) fn new() -> (Self, ToRoot) {
        let to_root = ToRoot::default();
        (Self(to_root.clone()), to_root)
    }

    pub(crate) fn start(
        self,
        tasks: &mut JoinSet<Result<(), StoreError>>,
        config: &ClusterConfig,
        credentials: &Arc<Credentials>,
        engine: Engine<Cluster>,
        (sessions, sealer): (Sessions, Arc<Sealer>),
    ) -> Result<ChildHandle, ClusterError> {
        let (events, inbox) = mpsc::channel(EVENTS);
        let child = ChildConfig::new(&config.root, Arc::clone(credentials), system_clock());
        let gate = SessionGate::default();
        let hello = {
            let (engine, gate) = (engine.clone(), gate.clone());
            move || {
                let (engine, gate) = (engine.clone(), gate.clone());
                async move {
                    match gate.hello(engine.call(|machine, _, _| machine.hello())).await {
                        Ok(hello) => encode(&hello),
                        // The engine has ended, and with it soon this link.
                        Err(_) => Bytes::new(),
                    }
                }
            }
        };
        let handle = ChildLink::spawn(child, hello, events)?;
        // Set once: `start` consumes the only `Uplink` of this sender.
        let _ = self.0.0.set(handle.sender());
        let ways = Ways { engine, gate, sessions, sealer };
        tasks.spawn(run(inbox, ways, config.root.clone()));
        Ok(handle)
    }
}

/// Where what the root says goes.
struct Ways {
    engine: Engine<Cluster>,
    gate: SessionGate,
    sessions: Sessions,
    sealer: Arc<Sealer>,
}

async fn run(mut inbox: mpsc::Receiver<ChildEvent>, ways: Ways, root: String) -> Result<(), StoreError> {
    let Ways { engine, gate, sessions, sealer } = ways;
    while let Some(event) = inbox.recv().await {
        let outcome = match event {
            ChildEvent::Connected { welcome, .. } => match serde_json::from_slice::<ClusterWelcome>(&welcome)
            {
                Ok(mut welcome) => {
                    welcome.instances.iter_mut().for_each(|wish| sealer.protect(wish));
                    info!(root, instances = welcome.instances.len(), "connected to the root");
                    gate.open(engine.post(move |machine, now, _| machine.root_welcome(now, welcome))).await
                }
                Err(error) => {
                    warn!(root, %error, "the root's welcome cannot be read: are the versions too far apart?");
                    Ok(())
                }
            },
            ChildEvent::Message { payload, .. } => match serde_json::from_slice::<RootToCluster>(&payload) {
                Ok(mut message) => {
                    message.wishes_mut().iter_mut().for_each(|wish| sealer.protect(wish));
                    let handle = engine.post(move |machine, now, _| machine.root_message(now, message));
                    gate.message(handle).await.unwrap_or(Ok(()))
                }
                Err(error) => {
                    warn!(root, %error, "the root sent a message that cannot be read");
                    Ok(())
                }
            },
            ChildEvent::OpenBulk(offer) => {
                tokio::spawn(bulk::relay(offer, engine.clone(), sessions.clone()));
                Ok(())
            }
            ChildEvent::Disconnected { reason, .. } => {
                warn!(root, %reason, "disconnected from the root; running services go on");
                engine.post(|machine, _, _| machine.root_closed()).await
            }
            ChildEvent::AttemptFailed { reason, retry_in } => {
                tracing::debug!(root, reason, retry_in_ms = retry_in.as_millis(), "cannot reach the root");
                Ok(())
            }
        };
        if outcome.is_err() {
            break;
        }
    }
    Ok(())
}
