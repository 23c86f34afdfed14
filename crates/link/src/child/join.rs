//! Joining once: the certificate of an earlier start is used, otherwise the token, waiting for a parent that is away.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::dial::ConnectError;
use super::enroll::{EnrollError, Enrolment, enroll};
use crate::clock::Clock;
use crate::pki::{Credentials, PkiError};
use crate::token::{JoinToken, NodeKind};

/// Time between attempts to reach a parent that does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// What a node needs to find its place.
pub struct Joining {
    /// What it is.
    pub kind: NodeKind,
    /// The parent as `host:port`.
    pub endpoint: String,
    /// Needed once.
    pub token: Option<JoinToken>,
    /// The name it would like to have.
    pub name: String,
    /// Facts for the parent's shell.
    pub attributes: Bytes,
    /// Where keys and certificates are kept.
    pub directory: PathBuf,
    /// Wall clock.
    pub clock: Clock,
}

/// Why a node has no place.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// There is no token, and none was used before.
    #[error(
        "this {0} has not joined yet: run `oak token create {0}` where the root runs, and start with --token"
    )]
    NoToken(NodeKind),
    /// The parent refused, or is not the one the token means.
    #[error("cannot join {endpoint}")]
    Failed {
        /// The parent.
        endpoint: String,
        /// Why.
        source: Box<EnrollError>,
    },
    /// The keys of an earlier start are not usable.
    #[error("cannot use the keys and certificates of this node")]
    Credentials(#[source] PkiError),
    /// The program was asked to stop before the parent answered.
    #[error("stopped before {0} could be reached")]
    Stopped(String),
}

/// Returns the credentials of this node, joining the parent first if that was never done. A parent that does not
/// answer is waited for; one that refuses, or is not the one the token means, ends the attempt.
pub async fn join(joining: Joining, shutdown: &CancellationToken) -> Result<Arc<Credentials>, JoinError> {
    match Credentials::open(&joining.directory) {
        Ok(credentials) => return Ok(credentials),
        Err(PkiError::NotEnrolled { .. }) => {}
        Err(error) => return Err(JoinError::Credentials(error)),
    }
    let token = joining.token.ok_or(JoinError::NoToken(joining.kind))?;
    if token.kind() != joining.kind {
        let source = Box::new(EnrollError::Refused(crate::parent::EnrollRefused::WrongKind));
        return Err(JoinError::Failed { endpoint: joining.endpoint, source });
    }
    loop {
        let enrolment = Enrolment {
            endpoint: joining.endpoint.clone(),
            token: token.clone(),
            parent: None,
            name: joining.name.clone(),
            attributes: joining.attributes.clone(),
            directory: joining.directory.clone(),
            clock: joining.clock.clone(),
        };
        match enroll(enrolment).await {
            Ok(credentials) => {
                info!(parent = joining.endpoint, identity = %credentials.identity(), "joined");
                return Ok(credentials);
            }
            Err(error) if is_temporary(&error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                warn!(parent = joining.endpoint, %error, cause, "trying again");
            }
            Err(error) => {
                return Err(JoinError::Failed { endpoint: joining.endpoint, source: Box::new(error) });
            }
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = shutdown.cancelled() => return Err(JoinError::Stopped(joining.endpoint)),
        }
    }
}

fn is_temporary(error: &EnrollError) -> bool {
    match error {
        EnrollError::Connect(ConnectError::Endpoint { .. } | ConnectError::Rejected { .. }) => false,
        EnrollError::Connect(_) | EnrollError::Call(_) => true,
        EnrollError::Refused(_) | EnrollError::Answer(_) | EnrollError::Pki(_) => false,
    }
}
