//! The link to the clusters: who may join, what they say, what they are told, and the output of their instances.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use oak_control::root::{Attention, Candidate, Effect, Root};
use oak_control::token::TokenRefused;
use oak_link::{
    BulkError, BulkReceiver, BulkSender, EnrollRefused, EnrollRequest, Enrolled, Enroller, Identity,
    NodeKind, ParentEvent, PeerIdentity, Sessions,
};
use oak_model::message::{BulkRequest, ClusterHello, ClusterToRoot, EnrolAttributes, Holdings};
use oak_model::{ClusterId, InstanceKey};
use oak_store::{Engine, EngineStopped, StoreError};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::api::{AvailabilityConfirmations, BoxFuture, LogError, LogSource, LogStream, TokenConfirmations};

/// Carries out what the state machine asks for.
pub(crate) fn perform(
    effect: Effect,
    sessions: &Sessions,
    tokens: &TokenConfirmations,
    availability: &AvailabilityConfirmations,
) {
    match effect {
        Effect::Welcome { session, welcome, .. } => sessions.welcome(session, encode(&welcome)),
        Effect::Send { session, message, .. } => sessions.send(session, encode(&message)),
        Effect::TokenReady { id } => tokens.confirm(&id),
        Effect::AvailabilityConfirmed { worker, availability: reached } => {
            availability.confirm(&(worker, reached));
        }
    }
}

/// Our own messages always serialise; an empty payload would end the session on the other side.
fn encode(message: &impl serde::Serialize) -> Bytes {
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
            TokenRefused::NameInUse => EnrollRefused::Denied(reason.to_string()),
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
                            handle.refuse("this cluster is not registered here");
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

/// Fetches output through the cluster that has the instance.
pub(crate) struct LinkLogs {
    pub(crate) engine: Engine<Root>,
    pub(crate) sessions: Sessions,
}

impl LogSource for LinkLogs {
    fn open(
        &self,
        key: InstanceKey,
        tail: Option<u32>,
        follow: bool,
    ) -> BoxFuture<'_, Result<LogStream, LogError>> {
        Box::pin(self.fetch(key, tail, follow))
    }
}

impl LinkLogs {
    async fn fetch(&self, key: InstanceKey, tail: Option<u32>, follow: bool) -> Result<LogStream, LogError> {
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
        let request = encode(&BulkRequest::Logs { key, tail, follow });
        let opened = peer.open_bulk(request).await.map_err(|error| match error {
            BulkError::Refused(reason) => LogError::NotThere(reason),
            error => LogError::Unreachable(error.to_string()),
        })?;
        let (sender, receiver) = opened.split();
        Ok(Box::pin(stream::unfold(Reading { _sender: Arc::new(sender), receiver }, next)))
    }
}

/// The sending half is kept: dropping it would tell the worker that nobody reads any more.
struct Reading {
    _sender: Arc<BulkSender>,
    receiver: BulkReceiver,
}

async fn next(mut reading: Reading) -> Option<(Result<Bytes, LogError>, Reading)> {
    let piece = reading.receiver.recv().await?;
    Some((piece.map_err(|error| LogError::Failed(error.to_string())), reading))
}
