//! A node's own key and certificate chain: loaded from its directory, replaced in place when renewed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureScheme, crypto};

use super::authority::{PkiError, at, crypto as crypto_error, damaged, new_request};
use super::files::{self, names};
use super::inspect::{Facts, inspect};
use crate::fingerprint::Fingerprint;
use crate::identity::Identity;
use crate::token::JoinToken;

/// Key and certificates of this node. Every TLS configuration made from it follows a renewal at once.
pub struct Credentials {
    dir: PathBuf,
    identity: Identity,
    root: CertificateDer<'static>,
    key: KeyPair,
    current: RwLock<Current>,
}

#[derive(Clone)]
struct Current {
    certified: Arc<CertifiedKey>,
    facts: Facts,
}

impl Credentials {
    /// Loads `key.pem`, `cert.pem` and `ca.pem` from `dir`.
    pub fn open(dir: &Path) -> Result<Arc<Self>, PkiError> {
        let Some(chain) = files::read(dir, names::CHAIN).map_err(at(dir, names::CHAIN))? else {
            return Err(PkiError::NotEnrolled { path: dir.to_owned() });
        };
        let chain =
            files::read_chain(&chain).ok_or_else(|| damaged(dir, names::CHAIN, "not a certificate chain"))?;
        let key = files::read(dir, names::KEY).map_err(at(dir, names::KEY))?;
        let key = KeyPair::from_pem(&key.ok_or_else(|| damaged(dir, names::KEY, "missing"))?)
            .map_err(crypto_error("read the node's key"))?;
        let root = files::read(dir, names::ROOT).map_err(at(dir, names::ROOT))?;
        let root = root.as_deref().and_then(files::read_chain).and_then(|chain| chain.into_iter().next());
        let root = root.ok_or_else(|| damaged(dir, names::ROOT, "missing or not a certificate"))?;
        let current = prepare(&key, chain)?;
        let Some(identity) = current.facts.identity.clone() else {
            return Err(damaged(dir, names::CHAIN, "the certificate names no member"));
        };
        Ok(Arc::new(Self { dir: dir.to_owned(), identity, root, key, current: RwLock::new(current) }))
    }

    /// Returns who this node is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Tells whether this token is the one the node joined with; one that a start is given again means nothing. False for
    /// nodes that joined under a release that did not keep this.
    pub fn joined_with(&self, token: &JoinToken) -> bool {
        files::read(&self.dir, names::TOKEN).ok().flatten().is_some_and(|id| id == token.id())
    }

    /// Returns the directory of the files.
    pub fn directory(&self) -> &Path {
        &self.dir
    }

    /// Returns the fingerprint of the root authority.
    pub fn root_fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.root)
    }

    /// Returns the end of the certificate's validity. Peers of this system accept it afterwards too.
    pub fn not_after(&self) -> SystemTime {
        self.current().facts.not_after
    }

    /// Tells whether half of the certificate's validity is over.
    pub fn is_renewal_due(&self, now: SystemTime) -> bool {
        self.current().facts.is_past_half(now)
    }

    /// Checks a renewed chain, writes it to disk and uses it from now on.
    pub(crate) fn install(&self, chain: Vec<CertificateDer<'static>>) -> Result<(), PkiError> {
        let text = files::write_chain(&chain);
        self.replace(chain)?;
        files::write(&self.dir, names::CHAIN, &text).map_err(at(&self.dir, names::CHAIN))
    }

    fn replace(&self, chain: Vec<CertificateDer<'static>>) -> Result<(), PkiError> {
        let renewed = prepare(&self.key, chain)?;
        if renewed.facts.identity.as_ref() != Some(&self.identity) {
            return Err(damaged(&self.dir, names::CHAIN, "the certificate is for another member"));
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = renewed;
        Ok(())
    }

    pub(crate) fn request(&self) -> Result<Vec<u8>, PkiError> {
        new_request(&self.key)
    }

    pub(crate) fn key(&self) -> &KeyPair {
        &self.key
    }

    pub(crate) fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    fn current(&self) -> Current {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("identity", &self.identity)
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current().certified)
    }
}

impl ResolvesClientCert for Credentials {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current().certified)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The result of an enrolment, not yet on disk.
pub(crate) struct NewCredentials {
    /// Leaf first, root authority last.
    pub chain: Vec<CertificateDer<'static>>,
    /// The cluster's authority first, root authority last.
    pub authority_chain: Option<Vec<CertificateDer<'static>>>,
    /// Public part of the token that was used; the root uses none.
    pub token: Option<String>,
}

impl NewCredentials {
    /// Writes the files so that a crash leaves either no enrolment (to be repeated with the same key and token) or
    /// a complete one. The keys must be in `dir` already.
    pub(crate) fn install(&self, dir: &Path) -> Result<(), PkiError> {
        let Some(root) = self.chain.last() else {
            return Err(damaged(dir, names::CHAIN, "an empty chain was issued"));
        };
        files::remove(dir, names::CHAIN).map_err(at(dir, names::CHAIN))?;
        let write = |name: &str, chain: &[CertificateDer<'static>]| {
            files::write(dir, name, &files::write_chain(chain)).map_err(at(dir, name))
        };
        write(names::ROOT, std::slice::from_ref(root))?;
        if let Some(chain) = &self.authority_chain {
            write(names::AUTHORITY, chain)?;
        }
        if let Some(token) = &self.token {
            files::write(dir, names::TOKEN, token).map_err(at(dir, names::TOKEN))?;
        }
        write(names::CHAIN, &self.chain)
    }
}

/// Loads the key in file `name` of `dir`, or makes and stores one.
pub(crate) fn load_or_create_key(dir: &Path, name: &str) -> Result<KeyPair, PkiError> {
    if let Some(text) = files::read(dir, name).map_err(at(dir, name))? {
        return KeyPair::from_pem(&text).map_err(crypto_error("read a key file"));
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(crypto_error("make a key"))?;
    files::write(dir, name, &key.serialize_pem()).map_err(at(dir, name))?;
    Ok(key)
}

fn prepare(key: &KeyPair, chain: Vec<CertificateDer<'static>>) -> Result<Current, PkiError> {
    let facts = chain.first().and_then(inspect);
    let facts = facts.ok_or(PkiError::Request("the issued certificate is damaged"))?;
    if facts.key != Fingerprint::of(&key.subject_public_key_info()) {
        return Err(PkiError::Request("the issued certificate is for another key"));
    }
    let private = PrivateKeyDer::try_from(key.serialize_der())
        .map_err(|_| PkiError::Request("the node's key has an unknown form"))?;
    let signer = crypto::ring::sign::any_supported_type(&private)
        .map_err(|source| PkiError::Tls { attempt: "use the node's key", source })?;
    Ok(Current { certified: Arc::new(CertifiedKey::new(chain, signer)), facts })
}
