//! The certificate authority of a root, and the subordinate one with which a cluster signs its workers.
//!
//! Authorities are valid from 1970 to 2199: a device whose clock was reset must still be able to work, and a lost
//! authority is answered by a new one, not by waiting. Leafs live [`LEAF_LIFETIME`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::Rng;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SanType, SerialNumber, SigningKey,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};

use super::credentials::{Credentials, NewCredentials, load_or_create_key};
use super::files::{self, names};
use super::inspect::inspect;
use crate::fingerprint::Fingerprint;
use crate::identity::Identity;

/// Validity of a node's certificate. It renews at half of it.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// 2199-12-31, the end of every authority, in seconds since 1970.
const AUTHORITY_END: Duration = Duration::from_secs(7_258_032_000);

/// Largest certificate request read, in bytes. Ours are below 400.
pub(crate) const REQUEST_LIMIT: usize = 8 * 1024;

/// Why certificates could not be read, written or issued.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("cannot access {}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file is there but holds something else than expected.
    #[error("{} is damaged: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// The directory holds no finished enrolment.
    #[error("{} holds no certificate; this node has not joined yet", path.display())]
    NotEnrolled {
        /// The directory.
        path: PathBuf,
    },
    /// The cryptographic library refused.
    #[error("cannot {attempt}")]
    Crypto {
        /// What was tried.
        attempt: &'static str,
        /// The cause.
        source: rcgen::Error,
    },
    /// The TLS library refused.
    #[error("cannot {attempt}")]
    Tls {
        /// What was tried.
        attempt: &'static str,
        /// The cause.
        source: rustls::Error,
    },
    /// A certificate request was refused.
    #[error("certificate request refused: {0}")]
    Request(&'static str),
}

/// Signs certificates of this node's children: all tiers for the root, its own workers for a cluster.
pub struct Authority {
    identity: Identity,
    issuer: Issuer<'static, KeyPair>,
    /// What follows a leaf in its chain: our own certificate first, the root authority last.
    chain: Vec<CertificateDer<'static>>,
    root: Fingerprint,
}

impl Authority {
    /// Opens the authority of the root in `dir`; creates it on the first start.
    pub fn open_root(dir: &Path) -> Result<Arc<Self>, PkiError> {
        let key = load_or_create_key(dir, names::AUTHORITY_KEY)?;
        if files::read(dir, names::AUTHORITY).map_err(at(dir, names::AUTHORITY))?.is_none() {
            let params = authority_params("oakestra root", None);
            let certificate = params.self_signed(&key).map_err(crypto("sign the root authority"))?;
            let text = files::write_chain(&[certificate.der().clone()]);
            files::write(dir, names::AUTHORITY, &text).map_err(at(dir, names::AUTHORITY))?;
        }
        Self::open(dir, Identity::Root, key)
    }

    /// Opens the authority a cluster got when it enrolled into `dir`.
    pub fn open_cluster(dir: &Path) -> Result<Arc<Self>, PkiError> {
        let chain = read_certificates(dir, names::AUTHORITY)?;
        let identity = chain.first().and_then(inspect).and_then(|facts| facts.identity);
        let Some(identity @ Identity::Cluster { .. }) = identity else {
            return Err(damaged(dir, names::AUTHORITY, "not the authority of a cluster"));
        };
        let key = files::read(dir, names::AUTHORITY_KEY).map_err(at(dir, names::AUTHORITY_KEY))?;
        let key = KeyPair::from_pem(&key.ok_or_else(|| damaged(dir, names::AUTHORITY_KEY, "missing"))?)
            .map_err(crypto("read the authority's key"))?;
        Self::open(dir, identity, key)
    }

    fn open(dir: &Path, identity: Identity, key: KeyPair) -> Result<Arc<Self>, PkiError> {
        let chain = read_certificates(dir, names::AUTHORITY)?;
        let (Some(own), Some(root)) = (chain.first(), chain.last()) else {
            return Err(damaged(dir, names::AUTHORITY, "empty"));
        };
        let facts = inspect(own).ok_or_else(|| damaged(dir, names::AUTHORITY, "not a certificate"))?;
        if facts.key != Fingerprint::of(&key.subject_public_key_info()) {
            return Err(damaged(dir, names::AUTHORITY, "does not belong to the authority's key"));
        }
        let root = Fingerprint::of(root);
        let issuer = Issuer::from_ca_cert_der(own, key).map_err(crypto("read the authority"))?;
        Ok(Arc::new(Self { identity, issuer, chain, root }))
    }

    /// Returns whose authority this is: the root's or a cluster's.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Returns the fingerprint of the root authority, as join tokens carry it.
    pub fn root_fingerprint(&self) -> Fingerprint {
        self.root
    }

    /// Issues a leaf for `identity` with the key `key`; returns its chain, leaf first. `names` are DNS names or
    /// addresses by which people reach the node over HTTPS. The caller decides that the key may have the identity.
    pub(crate) fn issue_leaf(
        &self,
        identity: &Identity,
        key: &impl PublicKeyData,
        names: &[String],
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        let mut params =
            CertificateParams::new(names).map_err(crypto("put a host name into a certificate"))?;
        params.distinguished_name = common_name(&identity.to_string());
        params.subject_alt_names.push(identity_name(identity)?);
        params.serial_number = Some(random_serial());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let last_start = AUTHORITY_END.saturating_sub(LEAF_LIFETIME);
        let start = now.duration_since(UNIX_EPOCH).unwrap_or_default().min(last_start);
        params.not_before = rcgen::date_time_ymd(1970, 1, 1) + whole_seconds(start);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + whole_seconds(start + LEAF_LIFETIME);
        let leaf = params.signed_by(key, &self.issuer).map_err(crypto("sign a certificate"))?;
        Ok(self.chain_for(leaf.der()))
    }

    /// Issues the authority of a cluster; returns its chain, that authority first. Only the root does this.
    pub(crate) fn issue_cluster_authority(
        &self,
        cluster: &Identity,
        key: &impl PublicKeyData,
    ) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        let mut params = authority_params(&format!("{cluster} authority"), Some(0));
        params.subject_alt_names.push(identity_name(cluster)?);
        params.use_authority_key_identifier_extension = true;
        let certificate =
            params.signed_by(key, &self.issuer).map_err(crypto("sign a cluster's authority"))?;
        Ok(self.chain_for(certificate.der()))
    }

    fn chain_for(&self, certificate: &CertificateDer<'static>) -> Vec<CertificateDer<'static>> {
        std::iter::once(certificate.clone()).chain(self.chain.iter().cloned()).collect()
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("identity", &self.identity)
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

/// Opens the root's authority in `dir`, creating it on the first start, and issues the root's own certificate.
/// `host_names` are the DNS names and addresses by which people's HTTPS clients know the root.
pub fn open_root(
    dir: &Path,
    host_names: &[String],
    now: SystemTime,
) -> Result<(Arc<Authority>, Arc<Credentials>), PkiError> {
    let authority = Authority::open_root(dir)?;
    let key = load_or_create_key(dir, names::KEY)?;
    let chain = authority.issue_leaf(&Identity::Root, &key, host_names, now)?;
    NewCredentials { chain, authority_chain: None, token: None }.install(dir)?;
    Ok((authority, Credentials::open(dir)?))
}

/// Renews the root's own certificate if half of its validity is over; for the root's shell, about once a day. Members
/// do not mind an old one, people's HTTPS clients do. Tells whether it was renewed.
pub fn renew_root(
    authority: &Authority,
    credentials: &Credentials,
    host_names: &[String],
    now: SystemTime,
) -> Result<bool, PkiError> {
    if !credentials.is_renewal_due(now) {
        return Ok(false);
    }
    let chain = authority.issue_leaf(&Identity::Root, credentials.key(), host_names, now)?;
    credentials.install(chain)?;
    Ok(true)
}

/// Makes a certificate request for `key`. Only the key in it counts.
pub(crate) fn new_request(key: &impl SigningKey) -> Result<Vec<u8>, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name("oakestra node");
    let request = params.serialize_request(key).map_err(crypto("make a certificate request"))?;
    Ok(request.der().to_vec())
}

/// Reads a certificate request of a peer: its signature is checked, its key must be ECDSA P-256.
pub(crate) fn read_request(der: &[u8]) -> Result<impl PublicKeyData + use<>, PkiError> {
    if der.len() > REQUEST_LIMIT {
        return Err(PkiError::Request("it is too large"));
    }
    let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
        .map_err(crypto("read a certificate request"))?;
    if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
        return Err(PkiError::Request("its key is not ECDSA P-256"));
    }
    Ok(request.public_key)
}

fn authority_params(name: &str, path_length: Option<u8>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.serial_number = Some(random_serial());
    params.is_ca =
        IsCa::Ca(path_length.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = rcgen::date_time_ymd(1970, 1, 1);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + AUTHORITY_END;
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn identity_name(identity: &Identity) -> Result<SanType, PkiError> {
    let uri = identity.to_string().try_into().map_err(crypto("put an identity into a certificate"))?;
    Ok(SanType::URI(uri))
}

/// The library's default derives the serial from the key, but a renewed certificate keeps its key.
fn random_serial() -> SerialNumber {
    let mut bytes: [u8; 16] = crate::entropy::os_rng().random();
    // A leading zero bit keeps the number positive, a leading one bit below keeps its length.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}

fn read_certificates(dir: &Path, name: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let text = files::read(dir, name).map_err(at(dir, name))?;
    let text = text.ok_or_else(|| damaged(dir, name, "missing"))?;
    files::read_chain(&text).ok_or_else(|| damaged(dir, name, "not a certificate chain"))
}

pub(crate) fn at(dir: &Path, name: &str) -> impl FnOnce(io::Error) -> PkiError {
    let path = dir.join(name);
    |source| PkiError::File { path, source }
}

pub(crate) fn damaged(dir: &Path, name: &str, problem: &'static str) -> PkiError {
    PkiError::Damaged { path: dir.join(name), problem }
}

pub(crate) fn crypto(attempt: &'static str) -> impl FnOnce(rcgen::Error) -> PkiError {
    move |source| PkiError::Crypto { attempt, source }
}
