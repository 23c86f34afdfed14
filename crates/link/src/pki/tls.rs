//! TLS configurations of both sides, with ring and without session resumption.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, ServerConfig};

use super::authority::PkiError;
use super::credentials::Credentials;
use super::verify::{Anchor, Expected, Verifier};
use crate::clock::Clock;
use crate::fingerprint::Fingerprint;
use crate::identity::Identity;
use crate::token::NodeKind;

/// Returns the TLS configuration of a parent's port: HTTPS for everyone, client certificates verified if presented.
pub fn server_tls(credentials: &Arc<Credentials>, clock: Clock) -> Result<Arc<ServerConfig>, PkiError> {
    let verifier = Verifier::new(Anchor::Certificate(credentials.root().clone()), None, clock);
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|source| PkiError::Tls { attempt: "configure the TLS server", source })?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::clone(credentials) as Arc<_>);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Links last for days: a cache of sessions would cost memory and save nothing.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Returns the TLS configuration with which a child dials `parent`.
pub(crate) fn client_tls(
    credentials: &Arc<Credentials>,
    parent: Identity,
    clock: Clock,
) -> Result<Arc<ClientConfig>, PkiError> {
    let anchor = Anchor::Certificate(credentials.root().clone());
    client(Verifier::new(anchor, Some(Expected::Member(parent)), clock), Some(credentials))
}

/// Returns the TLS configuration with which a node without certificate dials its future parent.
pub(crate) fn enrolment_tls(
    authority: Fingerprint,
    kind: NodeKind,
    parent: Option<Identity>,
    clock: Clock,
) -> Result<Arc<ClientConfig>, PkiError> {
    let expected = parent.map_or(Expected::ParentOf(kind), Expected::Member);
    client(Verifier::new(Anchor::Fingerprint(authority), Some(expected), clock), None)
}

fn client(verifier: Verifier, credentials: Option<&Arc<Credentials>>) -> Result<Arc<ClientConfig>, PkiError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|source| PkiError::Tls { attempt: "configure the TLS client", source })?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match credentials {
        Some(credentials) => builder.with_client_cert_resolver(Arc::clone(credentials) as Arc<_>),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}
