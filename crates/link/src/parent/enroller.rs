//! The decisions the link leaves to the parent's shell: who may join, and who still belongs.

use std::fmt;
use std::future::Future;

use bytes::Bytes;

use crate::fingerprint::Fingerprint;
use crate::identity::Identity;
use crate::pki::PeerIdentity;
use crate::token::NodeKind;

/// A request to join, checked for form. The requester has proved that it holds the key.
#[derive(Clone, Debug)]
pub struct EnrollRequest {
    /// What it wants to be.
    pub kind: NodeKind,
    /// Id of the token it presented.
    pub token_id: String,
    /// Hash of the secret it presented; compare with the stored one.
    pub token_secret_hash: Fingerprint,
    /// Fingerprint of its public key.
    pub public_key_fingerprint: Fingerprint,
    /// The name it would like to have, at most 255 bytes of any text.
    pub proposed_name: String,
    /// What it tells about itself, at most 64 KiB in the shell's own form.
    pub attributes: Bytes,
}

/// A granted request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolled {
    /// Who the requester is from now on.
    pub identity: Identity,
}

/// Why a request to join was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnrollRefused {
    /// No such token, or the secret is wrong; the two are not told apart.
    #[error("the join token is not known; make a new one on the parent")]
    Unknown,
    /// The token was not used in time.
    #[error("the join token has expired; make a new one on the parent")]
    Expired,
    /// Another node has used the token.
    #[error("the join token was used by another node already; make a new one on the parent")]
    Used,
    /// The token admits another kind of member.
    #[error("the join token is for another kind of node, or this parent takes in another kind")]
    WrongKind,
    /// Another reason, in words for people.
    #[error("joining was refused: {0}")]
    Denied(String),
}

impl EnrollRefused {
    /// The word that stands for the reason on the wire.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Used => "used",
            Self::WrongKind => "wrong-kind",
            Self::Denied(_) => "denied",
        }
    }

    /// Reads the reason from the wire.
    pub(crate) fn from_word(word: &str, text: &str) -> Self {
        match word {
            "unknown" => Self::Unknown,
            "expired" => Self::Expired,
            "used" => Self::Used,
            "wrong-kind" => Self::WrongKind,
            _ => Self::Denied(text.to_owned()),
        }
    }
}

/// Implemented by the parent's shell.
pub trait Enroller: Send + Sync + 'static {
    /// Decides about a request to join and records it durably before granting.
    ///
    /// A child repeats the request when the answer got lost: the same token with the same key must be granted the
    /// same identity again, also after the token was used.
    fn enroll(&self, request: EnrollRequest) -> impl Future<Output = Result<Enrolled, EnrollRefused>> + Send;

    /// Tells whether this member still belongs here. Asked at the start of every session, bulk stream and renewal;
    /// `false` revokes. Compare the key too if a re-enrolled node shall lock out its former self.
    fn is_enrolled(&self, peer: &PeerIdentity) -> impl Future<Output = bool> + Send;
}

impl fmt::Display for EnrollRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with token {}", self.kind, self.token_id)
    }
}
