//! The link between tiers: a child (cluster, worker) dials its parent (root, cluster) and both talk over one
//! gRPC stream on mutual TLS, on the same port on which the parent serves plain HTTP.
//!
//! This crate moves opaque payloads. It knows identities, certificates, sessions, heartbeats and bulk streams;
//! it must never look into a payload or decide anything about services and placement.
//!
//! | piece | parent | child |
//! |---|---|---|
//! | certificates | [`Authority`] signs, [`Credentials`] identify | [`Credentials`], renewed by the link itself |
//! | joining | [`Enroller`] judges a [`JoinToken`] | [`enroll()`] |
//! | control | [`ParentLink`], [`ParentEvent`], [`PeerHandle`] | [`ChildLink`], [`ChildEvent`], [`ChildHandle`] |
//! | bulk | [`PeerHandle::open_bulk`] | [`ChildEvent::OpenBulk`], [`BulkOffer::accept`] |
//! | port | [`serve`] with the router of [`ParentLink::routes`] | |
//!
//! A session:
//!
//! ```text
//! child                                parent
//!   | -- hello + payload ----------------> |  Opened { hello, handle }
//!   | <---------------- welcome + payload  |  handle.welcome(..) or handle.refuse(..)
//!   | <-- messages, heartbeats, open_bulk -> |  Message
//!   | -- end of stream, silence, error --> |  Closed { reason }
//! ```
//!
//! Nothing is replayed after a loss: the next session starts with a new hello, so the shells put their full state
//! into hello and welcome and send only changes afterwards.

mod bulk;
mod child;
mod clock;
mod entropy;
mod fingerprint;
mod identity;
mod parent;
mod pki;
mod port;
mod session;
mod token;

/// Code generated from `proto/link.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
mod proto {
    tonic::include_proto!("oak.link.v1");
}

pub use bulk::{BulkError, BulkReceiver, BulkSender, BulkStream};
pub use child::{
    Backoff, BackoffPolicy, BulkOffer, ChildConfig, ChildEvent, ChildHandle, ChildLink, ChildSender,
    ConnectError, EnrollError, Enrolment, JoinError, Joining, SessionGate, enroll, is_removed, join,
};
pub use clock::{Clock, system_clock};
pub use fingerprint::{Fingerprint, InvalidFingerprint};
pub use identity::{Identity, InvalidIdentity, NodeId};
pub use parent::{
    EnrollRefused, EnrollRequest, Enrolled, Enroller, ParentConfig, ParentEvent, ParentLink, PeerHandle,
    Sessions,
};
pub use pki::{
    Authority, Credentials, LEAF_LIFETIME, PeerIdentity, PeerRejected, PkiError, open_root, renew_root,
    server_tls,
};
pub use port::{PortConfig, PortLimits, listen, serve};
pub use session::{CloseReason, MAX_MESSAGE, SendError};
pub use token::{InvalidToken, JoinToken, NodeKind};

#[cfg(test)]
mod tests;
