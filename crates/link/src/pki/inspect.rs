//! What we read from a certificate beyond what webpki verifies: validity, key and identity.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::time::ASN1Time;

use crate::fingerprint::Fingerprint;
use crate::identity::Identity;

/// Facts of one certificate; trustworthy only if its chain was verified.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// The one identity URI in the subject alternative names.
    pub identity: Option<Identity>,
    /// Start of the validity.
    pub not_before: SystemTime,
    /// End of the validity.
    pub not_after: SystemTime,
    /// Fingerprint of the public key (SubjectPublicKeyInfo).
    pub key: Fingerprint,
}

impl Facts {
    /// Returns `now`, moved into the validity if it lies outside: devices boot in 1970 and stay off for months.
    pub(crate) fn clamp(&self, now: SystemTime) -> UnixTime {
        let time = now.clamp(self.not_before, self.not_after.max(self.not_before));
        UnixTime::since_unix_epoch(time.duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// Tells whether half of the validity is over. A clock before the start counts as not over.
    pub(crate) fn is_past_half(&self, now: SystemTime) -> bool {
        let lifetime = self.not_after.duration_since(self.not_before).unwrap_or_default();
        now >= self.not_before + lifetime / 2
    }
}

/// Reads the facts of a certificate; `None` if it is damaged or carries two identities.
pub(crate) fn inspect(certificate: &CertificateDer<'_>) -> Option<Facts> {
    let (rest, parsed) = X509Certificate::from_der(certificate).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let mut identity = None;
    if let Ok(Some(names)) = parsed.subject_alternative_name() {
        let uris = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with(Identity::SCHEME) => Some(*uri),
            _ => None,
        });
        for uri in uris {
            if identity.replace(uri.parse().ok()?).is_some() {
                return None;
            }
        }
    }
    Some(Facts {
        identity,
        not_before: to_system_time(parsed.validity().not_before)?,
        not_after: to_system_time(parsed.validity().not_after)?,
        key: Fingerprint::of(parsed.public_key().raw),
    })
}

fn to_system_time(time: ASN1Time) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(time.timestamp()).ok()?))
}
