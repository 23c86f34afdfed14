//! The link to the clusters: who may join, what they say, what they are told.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use oak_control::root::{Attention, Candidate, Effect, Root};
use oak_control::token::TokenRefused;
use oak_link::{
    EnrollRefused, EnrollRequest, Enrolled, Enroller, Identity, NodeKind, ParentEvent, PeerIdentity, Sessions,
};
use oak_model::ClusterId;
use oak_model::message::{ClusterHello, ClusterToRoot, EnrolAttributes, Holdings};
use oak_store::{Engine, EngineStopped, Sealer, StoreError};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::api::{AvailabilityConfirmations, RemovalConfirmations, TokenConfirmations};
use crate::events::EventHub;

/// Who is told what the state machine asks for.
pub(crate) struct Listeners {
    pub(crate) sessions: Sessions,
    pub(crate) tokens: TokenConfirmations,
    pub(crate) availability: AvailabilityConfirmations,
    pub(crate) removals: RemovalConfirmations,
    pub(crate) events: EventHub,
    pub(crate) sealer: Arc<Sealer>,
}

/// Carries out what the state machine asks for.
pub(crate) fn perform(effect: Effect, to: &Listeners) {
    match effect {
        Effect::Welcome { session, mut welcome, .. } => {
            welcome.instances.iter_mut().for_each(|wish| to.sealer.reveal(wish));
            to.sessions.welcome(session, encode(&welcome));
        }
        Effect::Send { session, mut message, .. } => {
            message.wishes_mut().iter_mut().for_each(|wish| to.sealer.reveal(wish));
            to.sessions.send(session, encode(&message));
        }
        Effect::TokenReady { id } => to.tokens.confirm(&id),
        Effect::AvailabilityConfirmed { worker, availability } => {
            to.availability.confirm(&(worker, availability));
        }
        Effect::WorkerRemoval { worker, kept } => to.removals.answer(&worker, &kept),
        Effect::Dismiss { cluster, session } => {
            warn!(cluster = %cluster, "cluster removed; it is refused from now on");
            if let Some(handle) = to.sessions.get(session) {
                handle.dismiss();
            }
        }
        Effect::Events(events) => to.events.publish(events),
    }
}

/// Our own messages always serialise; an empty payload would end the session on the other side.
pub(crate) fn encode(message: &impl serde::Serialize) -> Bytes {
    serde_json::to_vec(message).unwrap_or_default().into()
}

/// Judges clusters that want to join or come back.
pub(crate) struct ClusterEnroller(pub(crate) Engine<Root>);

impl Enroller for ClusterEnroller {
    async fn enroll(&self, request: EnrollRequest) -> Result<Enrolled, EnrollRefused> {
        if request.kind != NodeKind::Cluster {
            return Err(EnrollRefused::WrongKind);
        }
        let attributes: EnrolAttributes = serde_json::from_slice(&request.attributes)
            .map_err(|error| EnrollRefused::Denied(format!("its facts cannot be read: {error}")))?;
        let name = request.proposed_name.clone();
        let outcome = self
            .0
            .call(move |root, now, entropy| {
                let candidate = Candidate {
                    token_id: &request.token_id,
                    secret_hash: &request.token_secret_hash.to_string(),
                    key_fingerprint: &request.public_key_fingerprint.to_string(),
                    name: &request.proposed_name,
                    location: &attributes.location,
                    former: attributes.former,
                };
                root.enrol_cluster(now, entropy, candidate)
            })
            .await
            .map_err(|stopped| EnrollRefused::Denied(stopped.to_string()))?;
        let cluster = outcome.map_err(|reason| match reason {
            TokenRefused::Unknown => EnrollRefused::Unknown,
            TokenRefused::Expired => EnrollRefused::Expired,
            TokenRefused::Used => EnrollRefused::Used,
            TokenRefused::WrongRole => EnrollRefused::WrongKind,
            TokenRefused::NameInUse | TokenRefused::Removed => EnrollRefused::Denied(reason.to_string()),
        })?;
        let id = cluster.to_string().parse().map_err(|_| EnrollRefused::Unknown)?;
        info!(cluster = %cluster, name, "cluster joined");
        Ok(Enrolled { identity: Identity::Cluster { cluster: id } })
    }

    async fn is_enrolled(&self, peer: &PeerIdentity) -> bool {
        let Some(id) = cluster_of(&peer.identity) else { return false };
        self.0.call(move |root, _, _| root.cluster(id).is_some()).await.unwrap_or(false)
    }
}

fn cluster_of(peer: &Identity) -> Option<ClusterId> {
    match peer {
        Identity::Cluster { cluster } => cluster.as_str().parse().ok(),
        Identity::Root | Identity::Worker { .. } => None,
    }
}

/// Turns events of the link into calls until the link or the engine ends.
pub(crate) async fn run(
    mut events: mpsc::Receiver<ParentEvent>,
    engine: Engine<Root>,
    sessions: Sessions,
) -> Result<(), StoreError> {
    while let Some(event) = events.recv().await {
        if handle(event, &engine, &sessions).await.is_err() {
            break;
        }
    }
    Ok(())
}

async fn handle(event: ParentEvent, engine: &Engine<Root>, sessions: &Sessions) -> Result<(), EngineStopped> {
    match event {
        ParentEvent::Opened { peer, session, address, software, hello, handle } => {
            let Some(cluster) = cluster_of(&peer) else {
                handle.refuse("a root takes in only clusters");
                return Ok(());
            };
            let hello: ClusterHello = match serde_json::from_slice(&hello) {
                Ok(hello) => hello,
                Err(error) => {
                    warn!(cluster = %cluster, %error, "cluster sent a hello that cannot be read");
                    handle.refuse("the hello cannot be read: are the versions too far apart?");
                    return Ok(());
                }
            };
            info!(cluster = %cluster, name = hello.name, address = %address.ip(), software, "cluster connected");
            sessions.insert(handle);
            let address = address.ip().to_canonical().to_string();
            let sessions = sessions.clone();
            engine
                .post(move |root, now, _| {
                    if let Err(attention) = root.cluster_opened(now, cluster, session, &address, hello) {
                        report(&attention);
                        if let Some(handle) = sessions.get(session) {
                            handle.dismiss();
                        }
                    }
                })
                .await
        }
        ParentEvent::Message { peer, session, payload } => {
            let Some(cluster) = cluster_of(&peer) else { return Ok(()) };
            match serde_json::from_slice::<ClusterToRoot>(&payload) {
                Ok(message) => {
                    if let ClusterToRoot::Holdings(holdings) = &message {
                        announce(cluster, holdings);
                    }
                    engine
                        .post(move |root, now, _| {
                            if let Err(attention) = root.cluster_message(now, cluster, session, message) {
                                report(&attention);
                            }
                        })
                        .await
                }
                Err(error) => {
                    warn!(cluster = %cluster, %error, "cluster sent a message that cannot be read");
                    Ok(())
                }
            }
        }
        ParentEvent::RoundTrip { peer, session, round_trip } => {
            let Some(cluster) = cluster_of(&peer) else { return Ok(()) };
            let micros = u32::try_from(round_trip.as_micros()).unwrap_or(u32::MAX);
            engine.post(move |root, now, _| root.cluster_measured(now, cluster, session, micros)).await
        }
        ParentEvent::Closed { peer, session, reason } => {
            sessions.remove(session);
            let Some(cluster) = cluster_of(&peer) else { return Ok(()) };
            info!(cluster = %cluster, %reason, "cluster disconnected");
            engine.post(move |root, now, _| root.cluster_closed(now, cluster, session)).await
        }
    }
}

/// Says what is taken over, and what a cluster cannot give back.
fn announce(cluster: ClusterId, holdings: &Holdings) {
    let owners: BTreeSet<&str> = holdings.applications.iter().map(|known| known.owner.as_str()).collect();
    let owners = owners.into_iter().collect::<Vec<_>>().join(", ");
    warn!(
        cluster = %cluster,
        applications = holdings.applications.len(),
        instances = holdings.instances.len(),
        owners,
        "taking over what this root did not know; clusters do not have users: restore a backup, or make the owners \
         that are missing again under their names"
    );
}

fn report(attention: &Attention) {
    match attention {
        Attention::UnknownCluster(cluster) => {
            warn!(cluster = %cluster, "a cluster that is not registered was refused");
        }
        Attention::NodeBlocksExhausted => {
            warn!(
                "all address blocks for workers (10.18.0.0 to 10.29.255.255) are given out: remove clusters that are gone"
            );
        }
    }
}
