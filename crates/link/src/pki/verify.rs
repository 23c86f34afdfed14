//! How a peer's certificate chain becomes an identity, on both sides of the connection.
//!
//! Time does not count (a chain is verified at the present moved into the leaf's validity) and host names do not
//! count: the one identity URI does. Leafs of root and clusters must be signed by the root authority itself, a
//! worker's leaf by the authority of the very cluster it names.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::inspect::inspect;
use crate::clock::Clock;
use crate::fingerprint::Fingerprint;
use crate::identity::Identity;
use crate::token::NodeKind;

/// The verified caller of a request over TLS; an extension of every request that came with a client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Who it is.
    pub identity: Identity,
    /// Fingerprint of its public key, the same over all renewals of its certificate.
    pub key: Fingerprint,
}

impl PeerIdentity {
    /// Reads the identity of a chain that the TLS layer has verified.
    pub(crate) fn of_verified(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let facts = chain.first().and_then(inspect)?;
        Some(Self { identity: facts.identity?, key: facts.key })
    }
}

/// Why a peer's certificate was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerRejected {
    /// The chain does not lead to the expected root authority.
    #[error("the peer's certificate does not come from the root authority {expected}")]
    ForeignRoot {
        /// Fingerprint of the expected root authority.
        expected: Fingerprint,
    },
    /// The certificate or chain is damaged or not properly signed.
    #[error("the peer's certificate chain is not valid: {0}")]
    Invalid(String),
    /// The certificate names no member of the system.
    #[error("the peer's certificate names no member of the system")]
    Nameless,
    /// The certificate was signed by an authority that may not name this member.
    #[error("the certificate of {identity} was signed by the wrong authority")]
    WrongIssuer {
        /// The claimed identity.
        identity: Identity,
    },
    /// The peer is a member, but not the one that was dialled.
    #[error("the peer is {found}, expected {expected}")]
    WrongPeer {
        /// Who was dialled.
        expected: String,
        /// Who answered.
        found: Identity,
    },
}

impl From<PeerRejected> for Error {
    fn from(rejected: PeerRejected) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(rejected))))
    }
}

/// Finds our own verdict in an error that went through the TLS library.
pub(crate) fn find_rejection(error: &(dyn std::error::Error + 'static)) -> Option<PeerRejected> {
    if let Some(rejected) = error.downcast_ref::<PeerRejected>() {
        return Some(rejected.clone());
    }
    if let Some(Error::InvalidCertificate(CertificateError::Other(OtherError(inner)))) =
        error.downcast_ref::<Error>()
    {
        return inner.downcast_ref::<PeerRejected>().cloned();
    }
    // An io::Error gives its content only through get_ref.
    let inner = error.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
    match inner {
        Some(inner) => find_rejection(inner),
        None => error.source().and_then(find_rejection),
    }
}

/// What a chain must lead to.
#[derive(Clone)]
pub(crate) enum Anchor {
    /// This root authority.
    Certificate(CertificateDer<'static>),
    /// A root authority in the peer's own chain with this fingerprint.
    Fingerprint(Fingerprint),
}

/// Who may answer.
#[derive(Clone)]
pub(crate) enum Expected {
    /// Exactly this member.
    Member(Identity),
    /// The kind of member that takes in children of this kind.
    ParentOf(NodeKind),
}

impl Expected {
    fn check(&self, found: &Identity) -> Result<(), PeerRejected> {
        let (fits, expected) = match (self, found) {
            (Self::Member(member), found) => (member == found, member.to_string()),
            (Self::ParentOf(NodeKind::Cluster), found) => (*found == Identity::Root, "the root".to_owned()),
            (Self::ParentOf(NodeKind::Worker), found) => {
                (matches!(found, Identity::Cluster { .. }), "a cluster".to_owned())
            }
        };
        if fits { Ok(()) } else { Err(PeerRejected::WrongPeer { expected, found: found.clone() }) }
    }
}

/// Verifies chains of members.
pub(crate) struct Verifier {
    anchor: Anchor,
    /// `None` on the server side: any member may connect, each call decides.
    expected: Option<Expected>,
    clock: Clock,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(crate) fn new(anchor: Anchor, expected: Option<Expected>, clock: Clock) -> Self {
        Self {
            anchor,
            expected,
            clock,
            algorithms: ring::default_provider().signature_verification_algorithms,
        }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        usage: KeyUsage,
    ) -> Result<(), PeerRejected> {
        let facts = inspect(leaf).ok_or_else(|| PeerRejected::Invalid("it cannot be read".to_owned()))?;
        let identity = facts.identity.clone().ok_or(PeerRejected::Nameless)?;
        let root = match &self.anchor {
            Anchor::Certificate(certificate) => certificate,
            Anchor::Fingerprint(expected) => rest
                .iter()
                .find(|certificate| Fingerprint::of(certificate) == *expected)
                .ok_or(PeerRejected::ForeignRoot { expected: *expected })?,
        };
        let anchor = anchor_from_trusted_cert(root).map_err(invalid)?;
        let end_entity = EndEntityCert::try_from(leaf).map_err(invalid)?;
        let anchors = [anchor];
        let path = end_entity
            .verify_for_usage(
                self.algorithms.all,
                &anchors,
                rest,
                facts.clamp((self.clock)()),
                usage,
                None,
                None,
            )
            .map_err(|error| match error {
                webpki::Error::UnknownIssuer => PeerRejected::ForeignRoot { expected: Fingerprint::of(root) },
                error => invalid(error),
            })?;
        let signers: Vec<_> = path.intermediate_certificates().map(|certificate| certificate.der()).collect();
        check_signers(&identity, &signers)?;
        match &self.expected {
            Some(expected) => expected.check(&identity),
            None => Ok(()),
        }
    }
}

/// Checks that the authorities between leaf and root may name `identity`.
fn check_signers(identity: &Identity, signers: &[CertificateDer<'_>]) -> Result<(), PeerRejected> {
    let may_name = match (identity, signers) {
        (Identity::Root | Identity::Cluster { .. }, []) => true,
        (Identity::Worker { cluster, .. }, [signer]) => {
            let cluster = Identity::Cluster { cluster: cluster.clone() };
            inspect(signer).and_then(|facts| facts.identity) == Some(cluster)
        }
        _ => false,
    };
    if may_name { Ok(()) } else { Err(PeerRejected::WrongIssuer { identity: identity.clone() }) }
}

fn invalid(error: webpki::Error) -> PeerRejected {
    PeerRejected::Invalid(error.to_string())
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, rest, KeyUsage::server_auth())?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, rest, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
