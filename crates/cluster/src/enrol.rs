//! Joining the root, and letting workers join.

use std::sync::Arc;

use oak_control::cluster::{Candidate, Cluster};
use oak_control::token::TokenRefused;
use oak_link::{
    Credentials, EnrollRefused, EnrollRequest, Enrolled, Enroller, Identity, Joining, NodeKind, PeerIdentity,
    system_clock,
};
use oak_model::message::EnrolAttributes;
use oak_model::{ClusterId, WorkerId};
use oak_store::Engine;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{ClusterConfig, ClusterError, cluster_of, encode};

/// Uses the certificate of an earlier start, or joins with the token.
pub(crate) async fn join(
    config: &ClusterConfig,
    shutdown: &CancellationToken,
) -> Result<(Arc<Credentials>, ClusterId), ClusterError> {
    let attributes = EnrolAttributes { location: config.settings.location.clone(), former: None };
    let joining = Joining {
        kind: NodeKind::Cluster,
        endpoint: config.root.clone(),
        token: config.token.clone(),
        name: config.settings.name.clone(),
        attributes: encode(&attributes),
        directory: config.directory.join("identity"),
        clock: system_clock(),
    };
    let credentials = oak_link::join(joining, shutdown).await?;
    let id = cluster_of(&credentials).ok_or(ClusterError::NotACluster)?;
    Ok((credentials, id))
}

/// Judges workers that want to join or come back.
pub(crate) struct WorkerEnroller {
    engine: Engine<Cluster>,
    cluster: ClusterId,
}

impl WorkerEnroller {
    pub(crate) const fn new(engine: Engine<Cluster>, cluster: ClusterId) -> Self {
        Self { engine, cluster }
    }
}

impl Enroller for WorkerEnroller {
    async fn enroll(&self, request: EnrollRequest) -> Result<Enrolled, EnrollRefused> {
        if request.kind != NodeKind::Worker {
            return Err(EnrollRefused::WrongKind);
        }
        let cluster = self.cluster;
        let name = request.proposed_name.clone();
        let outcome = self
            .engine
            .call(move |machine, now, entropy| {
                let candidate = Candidate {
                    cluster,
                    token_id: &request.token_id,
                    secret_hash: &request.token_secret_hash.to_string(),
                    key_fingerprint: &request.public_key_fingerprint.to_string(),
                    name: &request.proposed_name,
                };
                machine.enrol_worker(now, entropy, candidate)
            })
            .await
            .map_err(|stopped| EnrollRefused::Denied(stopped.to_string()))?;
        let worker = outcome.map_err(refused)?;
        let identity = worker_identity(cluster, worker)
            .ok_or_else(|| EnrollRefused::Denied("the worker got no usable identity".to_owned()))?;
        info!(worker = %worker, name, "worker joined");
        Ok(Enrolled { identity })
    }

    async fn is_enrolled(&self, peer: &PeerIdentity) -> bool {
        let Identity::Worker { cluster, worker } = &peer.identity else { return false };
        let Ok(worker) = worker.as_str().parse::<WorkerId>() else { return false };
        cluster.as_str() == self.cluster.to_string()
            && self.engine.call(move |machine, _, _| machine.knows_worker(worker)).await.unwrap_or(false)
    }
}

fn worker_identity(cluster: ClusterId, worker: WorkerId) -> Option<Identity> {
    Some(Identity::Worker {
        cluster: cluster.to_string().parse().ok()?,
        worker: worker.to_string().parse().ok()?,
    })
}

fn refused(reason: TokenRefused) -> EnrollRefused {
    match reason {
        TokenRefused::Unknown => EnrollRefused::Unknown,
        TokenRefused::Expired => EnrollRefused::Expired,
        TokenRefused::Used => EnrollRefused::Used,
        TokenRefused::WrongRole => EnrollRefused::WrongKind,
        TokenRefused::NameInUse => EnrollRefused::Denied(reason.to_string()),
    }
}
