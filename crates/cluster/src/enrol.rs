//! Joining the root, and letting workers join.

use std::path::PathBuf;
use std::sync::Arc;

use oak_control::cluster::{Candidate, Cluster};
use oak_control::token::TokenRefused;
use oak_link::{
    Credentials, EnrollRefused, EnrollRequest, Enrolled, Enroller, Fingerprint, Identity, JoinToken, Joining,
    NodeKind, PeerIdentity, PkiError, system_clock,
};
use oak_model::message::EnrolAttributes;
use oak_model::{ClusterId, WorkerId, chain};
use oak_store::Engine;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{ClusterConfig, ClusterError, cluster_of, encode};

/// The certificates of a cluster. Two, because a root that lost its disk has another authority, and the workers go on
/// knowing the cluster by the one under which they joined.
pub(crate) struct Identities {
    /// Shown to workers.
    pub(crate) workers: Arc<Credentials>,
    /// Shown to the root.
    pub(crate) root: Arc<Credentials>,
    pub(crate) id: ClusterId,
}

/// Certificate under the root of the first joining.
const FIRST: &str = "identity";

/// The certificate that takes the place of that one.
const NEXT: &str = "identity-next";

/// Certificate under the present root, if that is another one.
const REJOINED: &str = "identity-rejoined";

/// Authority of the root that the cluster in this directory belongs to; `None` before it joined one.
#[must_use]
pub fn root_authority(directory: &std::path::Path) -> Option<Fingerprint> {
    let present = Credentials::open(&directory.join(REJOINED));
    let present = present.or_else(|_| Credentials::open(&directory.join(FIRST)));
    present.ok().map(|credentials| credentials.root_fingerprint())
}

/// Uses the certificates of an earlier start, or joins with the token.
pub(crate) async fn join(
    config: &ClusterConfig,
    shutdown: &CancellationToken,
) -> Result<Identities, ClusterError> {
    let first = config.directory.join(FIRST);
    let workers = oak_link::join(joining(config, first, None), shutdown).await?;
    let id = cluster_of(&workers).ok_or(ClusterError::NotACluster)?;
    let directory = config.directory.join(REJOINED);
    let present = match Credentials::open(&directory) {
        Ok(rejoined) => rejoined,
        Err(PkiError::NotEnrolled { .. }) => Arc::clone(&workers),
        Err(error) => return Err(error.into()),
    };
    let root = match &config.token {
        // The token of the first joining may stay in the configuration for ever.
        Some(token)
            if ![present.root_fingerprint(), workers.root_fingerprint()].contains(&token.authority()) =>
        {
            if !config.rejoin {
                return Err(ClusterError::OtherRoot {
                    name: config.settings.name.clone(),
                    present: present.root_fingerprint().to_string(),
                });
            }
            // A certificate of yet another root would be taken for the result.
            let _ = std::fs::remove_dir_all(&directory);
            let rejoined = oak_link::join(joining(config, directory, Some(id)), shutdown).await?;
            if cluster_of(&rejoined) != Some(id) {
                return Err(ClusterError::IdentityTaken { name: config.settings.name.clone() });
            }
            info!(root = config.root, "joined another root; workers and services go on");
            rejoined
        }
        Some(token) if is_to_join_again(config, &present, token).await => {
            join_again(config, &present, id, shutdown).await?
        }
        _ => present,
    };
    Ok(Identities { workers, root, id })
}

/// Whether the root has removed this cluster, and there is a token that it has not joined with.
async fn is_to_join_again(config: &ClusterConfig, present: &Arc<Credentials>, token: &JoinToken) -> bool {
    let first = Credentials::open(&config.directory.join(FIRST));
    let is_known = |credentials: &Arc<Credentials>| credentials.joined_with(token);
    let is_new = !is_known(present) && !first.is_ok_and(|first| is_known(&first));
    is_new && oak_link::is_removed(present, &config.root, system_clock()).await
}

/// Joins again after a removal, as who it was: its workers know it by that. The root does not know any more what it has,
/// so that everything is stopped that the root does not ask for.
async fn join_again(
    config: &ClusterConfig,
    present: &Arc<Credentials>,
    id: ClusterId,
    shutdown: &CancellationToken,
) -> Result<Arc<Credentials>, ClusterError> {
    info!(root = config.root, "this cluster was removed and has a new token: it joins again");
    let next = config.directory.join(NEXT);
    let joined = match oak_link::join(joining(config, next.clone(), Some(id)), shutdown).await {
        Ok(joined) => joined,
        Err(error) => {
            warn!(error = chain(&error), "this cluster was removed from its root, and cannot join again");
            return Ok(Arc::clone(present));
        }
    };
    if cluster_of(&joined) != Some(id) {
        // The next attempt, under another name, must not find it.
        let _ = std::fs::remove_dir_all(&next);
        return Err(ClusterError::IdentityTaken { name: config.settings.name.clone() });
    }
    let directory = config.directory.join(REJOINED);
    let replaced = tokio::task::spawn_blocking({
        let directory = directory.clone();
        move || {
            // A crash in between leaves a cluster that is refused and joins again, with the same token and key.
            let _ = std::fs::remove_dir_all(&directory);
            std::fs::rename(&next, &directory)
        }
    });
    let replaced =
        replaced.await.unwrap_or_else(|_| Err(std::io::Error::other("the work on files was cut off")));
    replaced.map_err(|source| ClusterError::Directory { path: directory.clone(), source })?;
    Ok(Credentials::open(&directory)?)
}

fn joining(config: &ClusterConfig, directory: PathBuf, former: Option<ClusterId>) -> Joining {
    let attributes = EnrolAttributes { location: config.settings.location.clone(), former };
    Joining {
        kind: NodeKind::Cluster,
        endpoint: config.root.clone(),
        token: config.token.clone(),
        name: config.settings.name.clone(),
        attributes: encode(&attributes),
        directory,
        clock: system_clock(),
    }
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
        TokenRefused::NameInUse | TokenRefused::Removed => EnrollRefused::Denied(reason.to_string()),
    }
}
