//! Joining a parent with a token.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use tonic::Status;

use super::dial::{ConnectError, Target, dial};
use crate::clock::Clock;
use crate::identity::{Identity, InvalidIdentity};
use crate::parent::{EnrollRefused, REFUSED};
use crate::pki::{
    Credentials, NewCredentials, PeerIdentity, PkiError, enrolment_tls, load_or_create_key, names,
    new_request,
};
use crate::proto::{self, EnrollAnswer, EnrollCall};
use crate::token::{JoinToken, NodeKind};

/// What a node needs to join.
pub struct Enrolment {
    /// The parent as `host:port`.
    pub endpoint: String,
    /// The token from the parent.
    pub token: JoinToken,
    /// If given, exactly this member must answer; else any root (for a cluster) or cluster (for a worker) of the
    /// authority named in the token.
    pub parent: Option<Identity>,
    /// The name the node would like to have, at most 255 bytes.
    pub name: String,
    /// Facts for the parent's shell, at most 64 KiB.
    pub attributes: Bytes,
    /// Where keys and certificates are kept. Must belong to this process alone.
    pub directory: PathBuf,
    /// Wall clock.
    pub clock: Clock,
}

/// Why a node could not join.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// The parent could not be reached, or something else answered; the secret was not sent.
    #[error("cannot connect to the parent")]
    Connect(#[source] ConnectError),
    /// The parent refused.
    #[error("the parent refused")]
    Refused(#[source] EnrollRefused),
    /// The call failed. Joining can be repeated with the same token.
    #[error("the parent did not answer properly")]
    Call(#[source] Box<Status>),
    /// The answer makes no sense.
    #[error("the parent's answer is not usable: {0}")]
    Answer(&'static str),
    /// Keys or certificates could not be made, read or written.
    #[error("cannot handle the node's keys and certificates")]
    Pki(#[from] PkiError),
}

impl From<InvalidIdentity> for EnrollError {
    fn from(_: InvalidIdentity) -> Self {
        Self::Answer("it names no identity")
    }
}

/// Joins a parent: checks that it is the one the token means, sends token and certificate requests, stores what
/// comes back. After a failure or crash at any point it can be repeated with the same token, because the keys are
/// stored first. An existing enrolment in the directory is replaced.
pub async fn enroll(enrolment: Enrolment) -> Result<Arc<Credentials>, EnrollError> {
    let kind = enrolment.token.kind();
    let directory = enrolment.directory.clone();
    let requests = blocking(move || {
        let own = new_request(&load_or_create_key(&directory, names::KEY)?)?;
        let authority = match kind {
            NodeKind::Cluster => new_request(&load_or_create_key(&directory, names::AUTHORITY_KEY)?)?,
            NodeKind::Worker => Vec::new(),
        };
        Ok((own, authority))
    });
    let (csr, authority_csr) = requests.await?;
    let tls =
        enrolment_tls(enrolment.token.authority(), kind, enrolment.parent.clone(), enrolment.clock.clone())?;
    let target = Target::Endpoint(enrolment.endpoint.as_str().into());
    let mut dialled = dial(&target, tls).await.map_err(EnrollError::Connect)?;
    let call = EnrollCall {
        kind: match kind {
            NodeKind::Cluster => proto::NodeKind::Cluster,
            NodeKind::Worker => proto::NodeKind::Worker,
        }
        .into(),
        token_id: enrolment.token.id().to_owned(),
        token_secret: enrolment.token.secret().to_owned(),
        csr: csr.into(),
        authority_csr: authority_csr.into(),
        proposed_name: enrolment.name,
        attributes: enrolment.attributes,
    };
    let answer = dialled.client.enroll(call).await.map_err(to_error)?.into_inner();
    let granted = check(kind, answer, &enrolment.token)?;
    let directory = enrolment.directory;
    blocking(move || {
        granted.install(&directory)?;
        Credentials::open(&directory)
    })
    .await
}

fn check(kind: NodeKind, answer: EnrollAnswer, token: &JoinToken) -> Result<NewCredentials, EnrollError> {
    let identity: Identity = answer.identity.parse()?;
    let fits = match kind {
        NodeKind::Cluster => {
            matches!(identity, Identity::Cluster { .. }) && !answer.authority_chain.is_empty()
        }
        NodeKind::Worker => matches!(identity, Identity::Worker { .. }),
    };
    if !fits {
        return Err(EnrollError::Answer("it grants another kind of member than asked for"));
    }
    let chain = from_wire(answer.chain);
    if PeerIdentity::of_verified(&chain).is_none_or(|own| own.identity != identity) {
        return Err(EnrollError::Answer("the certificate is for another member"));
    }
    let is_rooted = |chain: &[CertificateDer<'_>]| {
        chain.last().is_some_and(|root| crate::Fingerprint::of(root) == token.authority())
    };
    let authority_chain = (kind == NodeKind::Cluster).then(|| from_wire(answer.authority_chain));
    if !is_rooted(&chain) || authority_chain.as_deref().is_some_and(|chain| !is_rooted(chain)) {
        return Err(EnrollError::Answer("the certificates come from another root authority"));
    }
    Ok(NewCredentials { chain, authority_chain, token: Some(token.id().to_owned()) })
}

fn from_wire(chain: Vec<Bytes>) -> Vec<CertificateDer<'static>> {
    chain.into_iter().map(|der| CertificateDer::from(der.to_vec())).collect()
}

fn to_error(status: Status) -> EnrollError {
    match status.metadata().get(REFUSED).and_then(|word| word.to_str().ok()) {
        Some(word) => EnrollError::Refused(EnrollRefused::from_word(word, status.message())),
        None => EnrollError::Call(Box::new(status)),
    }
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PkiError> + Send + 'static,
) -> Result<T, EnrollError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(EnrollError::Pki),
        Err(_) => Err(EnrollError::Answer("the work on files was cut off")),
    }
}
