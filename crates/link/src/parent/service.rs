//! The gRPC calls of a parent: checks who calls, then hands over.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ConnectInfo;
use bytes::Bytes;
use futures_util::stream::Stream;
use rcgen::PublicKeyData;
use rustls::pki_types::CertificateDer;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::{info, warn};

use super::enroller::{EnrollRefused, EnrollRequest, Enroller};
use super::handle::what_to_do_when_removed;
use super::link::Core;
use super::session;
use crate::bulk;
use crate::clock::Clock;
use crate::fingerprint::Fingerprint;
use crate::identity::Identity;
use crate::pki::{Authority, PeerIdentity, PkiError, read_request};
use crate::port::Hangup;
use crate::proto::bulk_frame::Body;
use crate::proto::link_server::Link;
use crate::proto::{self, BulkFrame, EnrollAnswer, EnrollCall, Frame, RenewAnswer, RenewCall};
use crate::session::Inbox;
use crate::token::{NodeKind, hash_secret, is_secret, is_token_id};

/// Metadata key that carries the word for a refused enrolment.
pub(crate) const REFUSED: &str = "oak-refused";

/// The word for a caller that was a member once.
pub(crate) const REMOVED: &str = "removed";

/// Largest facts a joining node may send.
const ATTRIBUTES_LIMIT: usize = 64 * 1024;

/// How long a child may take from calling Bulk to its first frame.
const FIRST_BULK_FRAME: Duration = Duration::from_secs(10);

pub(crate) struct Service<E> {
    pub core: Arc<Core>,
    pub enroller: E,
    pub authority: Arc<Authority>,
    pub clock: Clock,
}

type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl<E: Enroller> Service<E> {
    /// Returns the caller if it is a present member below us.
    async fn member<T>(&self, request: &Request<T>) -> Result<PeerIdentity, Status> {
        let peer = request.extensions().get::<PeerIdentity>();
        let peer = peer.ok_or_else(|| Status::unauthenticated("this call needs a client certificate"))?;
        if !self.authority.identity().is_parent_of(&peer.identity) {
            warn!(peer = %peer.identity, "call of a member that belongs to another parent refused");
            let text = format!("{} is not a child of {}", peer.identity, self.authority.identity());
            return Err(Status::permission_denied(text));
        }
        if !self.enroller.is_enrolled(peer).await {
            info!(peer = %peer.identity, "call of a former member refused");
            return Err(removed(&peer.identity));
        }
        Ok(peer.clone())
    }

    /// Checks that the shell granted something this parent can grant.
    fn check_granted(&self, kind: NodeKind, identity: &Identity) -> Result<(), Status> {
        let fits_kind = matches!(
            (kind, identity),
            (NodeKind::Cluster, Identity::Cluster { .. }) | (NodeKind::Worker, Identity::Worker { .. })
        );
        if fits_kind && self.authority.identity().is_parent_of(identity) {
            return Ok(());
        }
        warn!(%identity, %kind, "the shell granted an identity this parent cannot sign");
        Err(Status::internal("the parent granted an identity it cannot sign"))
    }
}

#[tonic::async_trait]
impl<E: Enroller> Link for Service<E> {
    type SessionStream = Outgoing<Frame>;
    type BulkStream = Outgoing<BulkFrame>;

    async fn session(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        if self.core.shutdown.is_cancelled() {
            return Err(Status::unavailable("the parent shuts down"));
        }
        let peer = self.member(&request).await?;
        let address = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
        let address = address.ok_or_else(|| Status::internal("the address of the peer is not known"))?;
        let hangup = request.extensions().get::<Hangup>().cloned();
        let (session, outbox) = self.core.new_session(peer.identity, address);
        let inbox = Inbox::new(request.into_inner(), Arc::clone(&session.line));
        self.core.tasks.spawn(session::run(Arc::clone(&self.core), session, inbox, hangup));
        Ok(Response::new(outbox.into_response()))
    }

    async fn bulk(
        &self,
        request: Request<Streaming<BulkFrame>>,
    ) -> Result<Response<Self::BulkStream>, Status> {
        let peer = self.member(&request).await?;
        let hangup = request.extensions().get::<Hangup>().cloned();
        let mut frames = request.into_inner();
        let first = tokio::time::timeout(FIRST_BULK_FRAME, frames.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("the first frame did not come"))??;
        let Some(Body::Bulk(id)) = first.and_then(|frame| frame.body) else {
            return Err(Status::invalid_argument("the first frame does not name a bulk stream"));
        };
        let reply = self.core.desk.take(id, &peer.identity);
        let reply =
            reply.ok_or_else(|| Status::not_found("nobody asked for this bulk stream, or not any more"))?;
        let (sender, outbound) = bulk::outbound();
        let hang_up = move || {
            if let Some(Hangup(connection)) = &hangup {
                connection.cancel();
            }
        };
        if reply.send(Ok(sender.join(frames, hang_up))).is_err() {
            return Err(Status::cancelled("the parent gave up this bulk stream"));
        }
        Ok(Response::new(outbound.into_response()))
    }

    async fn enroll(&self, request: Request<EnrollCall>) -> Result<Response<EnrollAnswer>, Status> {
        let call = request.into_inner();
        let kind = match call.kind() {
            proto::NodeKind::Cluster => NodeKind::Cluster,
            proto::NodeKind::Worker => NodeKind::Worker,
            proto::NodeKind::Unspecified => {
                return Err(Status::invalid_argument("the kind of node is missing"));
            }
        };
        if !is_token_id(&call.token_id) || !is_secret(&call.token_secret) {
            return Err(refuse(&EnrollRefused::Unknown));
        }
        if call.attributes.len() > ATTRIBUTES_LIMIT || call.proposed_name.len() > 255 {
            return Err(Status::invalid_argument("name or attributes are too large"));
        }
        let takes_in = match self.authority.identity() {
            Identity::Root => Some(NodeKind::Cluster),
            Identity::Cluster { .. } => Some(NodeKind::Worker),
            Identity::Worker { .. } => None,
        };
        if takes_in != Some(kind) {
            return Err(refuse(&EnrollRefused::WrongKind));
        }
        let key = read_request(&call.csr).map_err(|error| bad_request(&error))?;
        let authority_key = match kind {
            NodeKind::Cluster => {
                Some(read_request(&call.authority_csr).map_err(|error| bad_request(&error))?)
            }
            NodeKind::Worker => None,
        };
        let request = EnrollRequest {
            kind,
            token_id: call.token_id,
            token_secret_hash: hash_secret(&call.token_secret),
            public_key_fingerprint: Fingerprint::of(&key.subject_public_key_info()),
            proposed_name: call.proposed_name,
            attributes: call.attributes,
        };
        let description = request.to_string();
        let granted = self.enroller.enroll(request).await.map_err(|refused| {
            info!(request = %description, reason = %refused, "enrolment refused");
            refuse(&refused)
        })?;
        self.check_granted(kind, &granted.identity)?;
        let issue = |error: PkiError| internal(&error);
        let chain = self.authority.issue_leaf(&granted.identity, &key, &[], (self.clock)()).map_err(issue)?;
        let authority_chain = match &authority_key {
            Some(key) => self.authority.issue_cluster_authority(&granted.identity, key).map_err(issue)?,
            None => Vec::new(),
        };
        info!(request = %description, identity = %granted.identity, "enrolled");
        Ok(Response::new(EnrollAnswer {
            identity: granted.identity.to_string(),
            chain: to_wire(&chain),
            authority_chain: to_wire(&authority_chain),
        }))
    }

    async fn renew(&self, request: Request<RenewCall>) -> Result<Response<RenewAnswer>, Status> {
        let peer = self.member(&request).await?;
        let key = read_request(&request.into_inner().csr).map_err(|error| bad_request(&error))?;
        if Fingerprint::of(&key.subject_public_key_info()) != peer.key {
            return Err(Status::permission_denied("a renewal keeps the key; to change the key, join again"));
        }
        let chain = self.authority.issue_leaf(&peer.identity, &key, &[], (self.clock)());
        let chain = chain.map_err(|error| internal(&error))?;
        info!(peer = %peer.identity, "certificate renewed");
        Ok(Response::new(RenewAnswer { chain: to_wire(&chain) }))
    }
}

fn to_wire(chain: &[CertificateDer<'_>]) -> Vec<Bytes> {
    chain.iter().map(|certificate| Bytes::copy_from_slice(certificate)).collect()
}

fn removed(peer: &Identity) -> Status {
    let mut status = Status::permission_denied(what_to_do_when_removed(peer));
    status.metadata_mut().insert(REFUSED, MetadataValue::from_static(REMOVED));
    status
}

fn refuse(refused: &EnrollRefused) -> Status {
    let mut status = Status::new(
        Code::PermissionDenied,
        match refused {
            EnrollRefused::Denied(reason) => reason.clone(),
            other => other.to_string(),
        },
    );
    status.metadata_mut().insert(REFUSED, MetadataValue::from_static(refused.word()));
    status
}

fn bad_request(error: &PkiError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn internal(error: &PkiError) -> Status {
    warn!(%error, source = ?std::error::Error::source(error), "cannot issue a certificate");
    Status::internal("the parent could not issue the certificate")
}
