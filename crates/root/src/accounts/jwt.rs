//! Tokens of users: JSON web tokens signed with ES256.
//!
//! Written on `ring` instead of a JWT crate because exactly one algorithm is ever made or accepted: nothing to
//! choose means nothing to confuse, and `ring` is in the program anyway.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oak_model::{OrganizationId, WallTime};
use oak_store::create_private;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};

use super::types::{Principal, Role};
use super::verified::{Content, Verified};

/// Life of an access token, in seconds.
const ACCESS_S: u64 = 10 * 60;
/// Life of a refresh token, in seconds.
const REFRESH_S: u64 = 30 * 24 * 60 * 60;
/// Longest token that is looked at, in bytes; ours have some 700.
const MAX_BYTES: usize = 8 * 1024;

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenKind {
    /// Calls of the API.
    Access,
    /// Getting new access tokens.
    Refresh,
}

/// The content of a token (client contract, 1.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Always false; old clients expect the field.
    pub fresh: bool,
    /// Time of issue, Unix seconds.
    pub iat: u64,
    /// Random identity, a UUID.
    pub jti: String,
    /// What it is for.
    #[serde(rename = "type")]
    pub kind: TokenKind,
    /// Name of the user.
    pub sub: String,
    /// Not valid before, Unix seconds.
    pub nbf: u64,
    /// Random, a UUID.
    pub csrf: String,
    /// End of life, Unix seconds.
    pub exp: u64,
    /// Name of the user again.
    pub user: String,
    /// Roles at the time of issue; the server asks its accounts instead.
    pub roles: Vec<Role>,
    /// Organisation.
    pub organization: OrganizationId,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    typ: String,
    /// Version of the password under which the token was issued.
    #[serde(default)]
    pwv: u64,
}

/// A token that is not accepted. The texts are those old clients know (root-api reference, 2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRejected {
    /// Not three parts, not base64, not JSON, another algorithm.
    #[error("Not enough segments")]
    Malformed,
    /// Signed with another key.
    #[error("Signature verification failed")]
    Signature,
    /// Too old.
    #[error("Token has expired")]
    Expired,
    /// A refresh token where an access token is needed.
    #[error("Only non-refresh tokens are allowed")]
    NotAccess,
    /// An access token where a refresh token is needed.
    #[error("Only refresh tokens are allowed")]
    NotRefresh,
}

/// The signing key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The file cannot be read or written.
    #[error("cannot read or write the signing key {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("the signing key {path} is damaged: remove the file, everybody has to log in again then")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// No key can be made, or no signature.
    #[error("the system gives no randomness for signing")]
    Random,
}

/// Issues and checks tokens.
#[derive(Debug)]
pub struct Signer {
    key: EcdsaKeyPair,
    random: SystemRandom,
    verified: Verified,
}

impl Signer {
    /// Opens the signing key, or makes one with permissions 0600.
    ///
    /// # Errors
    /// The file cannot be read or written, or is damaged.
    pub fn open(path: &Path) -> Result<Self, SignerError> {
        let failed = |source| SignerError::File { path: path.to_owned(), source };
        let random = SystemRandom::new();
        let document = match fs::read(path) {
            Ok(document) => document,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
                    .map_err(|_| SignerError::Random)?;
                create_private(path, document.as_ref()).map_err(failed)?;
                document.as_ref().to_vec()
            }
            Err(error) => return Err(failed(error)),
        };
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &document, &random)
            .map_err(|_| SignerError::Damaged { path: path.to_owned() })?;
        Ok(Self { key, random, verified: Verified::default() })
    }

    /// Makes a token.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn issue(
        &self,
        kind: TokenKind,
        principal: &Principal,
        now: WallTime,
    ) -> Result<String, SignerError> {
        let issued = now.0 / 1000;
        let life = match kind {
            TokenKind::Access => ACCESS_S,
            TokenKind::Refresh => REFRESH_S,
        };
        let claims = Claims {
            fresh: false,
            iat: issued,
            jti: self.uuid()?,
            kind,
            sub: principal.name.clone(),
            nbf: issued,
            csrf: self.uuid()?,
            exp: issued + life,
            user: principal.name.clone(),
            roles: principal.roles.clone(),
            organization: principal.organization,
        };
        let header =
            Header { alg: "ES256".to_owned(), typ: "JWT".to_owned(), pwv: principal.password_version };
        let mut token = encoded(&header)?;
        token.push('.');
        token.push_str(&encoded(&claims)?);
        let signature = self.key.sign(&self.random, token.as_bytes()).map_err(|_| SignerError::Random)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut token);
        Ok(token)
    }

    /// Checks signature, age and kind of a token. Returns its content and the version of the password it was issued
    /// under.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn check(&self, token: &str, kind: TokenKind, now: WallTime) -> Result<(Claims, u64), TokenRejected> {
        if token.len() > MAX_BYTES {
            return Err(TokenRejected::Malformed);
        }
        let (claims, version) = match self.verified.find(token) {
            Some(content) => content,
            None => self.verify(token)?,
        };
        if claims.exp <= now.0 / 1000 {
            return Err(TokenRejected::Expired);
        }
        match (kind, claims.kind) {
            (TokenKind::Access, TokenKind::Refresh) => Err(TokenRejected::NotAccess),
            (TokenKind::Refresh, TokenKind::Access) => Err(TokenRejected::NotRefresh),
            (TokenKind::Access, TokenKind::Access) | (TokenKind::Refresh, TokenKind::Refresh) => {
                Ok((claims, version))
            }
        }
    }

    fn verify(&self, token: &str) -> Result<Content, TokenRejected> {
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenRejected::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenRejected::Malformed)?;
        let header: Header = decoded(header)?;
        if header.alg != "ES256" {
            return Err(TokenRejected::Malformed);
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenRejected::Malformed)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| TokenRejected::Signature)?;
        let content = (decoded(claims)?, header.pwv);
        self.verified.insert(token, content.clone());
        Ok(content)
    }

    /// A random UUID (version 4, RFC 9562).
    fn uuid(&self) -> Result<String, SignerError> {
        let mut bytes = [0_u8; 16];
        self.random.fill(&mut bytes).map_err(|_| SignerError::Random)?;
        let random = u128::from_be_bytes(bytes);
        let value = (random & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
        let digits = format!("{value:032x}");
        let (head, tail) = digits.split_at(20);
        let (head, variant) = head.split_at(16);
        let (head, version) = head.split_at(12);
        let (head, middle) = head.split_at(8);
        Ok(format!("{head}-{middle}-{version}-{variant}-{tail}"))
    }
}

fn encoded(value: &impl Serialize) -> Result<String, SignerError> {
    // Our own types always serialise; the error type has no better place for what cannot happen.
    let json = serde_json::to_vec(value).map_err(|_| SignerError::Random)?;
    Ok(URL_SAFE_NO_PAD.encode(json))
}

fn decoded<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, TokenRejected> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenRejected::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| TokenRejected::Malformed)
}

#[cfg(test)]
mod tests {
    use oak_model::UserId;

    use super::*;

    fn principal() -> Principal {
        Principal {
            user: UserId::from_parts(1, 2),
            name: "Admin".into(),
            organization: OrganizationId::from_parts(1, 3),
            in_root: true,
            roles: Role::ALL.to_vec(),
            password_version: 7,
        }
    }

    #[test]
    fn a_token_is_accepted_until_it_expires_and_over_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("root/jwt-key");
        let now = WallTime(1_800_000_000_000);
        let token = Signer::open(&path).unwrap().issue(TokenKind::Access, &principal(), now).unwrap();
        assert_eq!(token.split('.').count(), 3);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let signer = Signer::open(&path).unwrap();
        let (claims, version) = signer.check(&token, TokenKind::Access, now).unwrap();
        assert_eq!((claims.sub.as_str(), claims.exp - claims.iat, version), ("Admin", 600, 7));
        assert_eq!((claims.jti.len(), claims.jti.as_bytes()[14]), (36, b'4'));
        assert_ne!(claims.jti, claims.csrf);
        assert_eq!(signer.check(&token, TokenKind::Refresh, now), Err(TokenRejected::NotRefresh));
        let late = WallTime(now.0 + 600_000);
        assert_eq!(signer.check(&token, TokenKind::Access, late), Err(TokenRejected::Expired));
    }

    #[test]
    fn a_changed_token_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let signer = Signer::open(&directory.path().join("a")).unwrap();
        let other = Signer::open(&directory.path().join("b")).unwrap();
        let now = WallTime(1_800_000_000_000);
        let token = signer.issue(TokenKind::Access, &principal(), now).unwrap();
        let check = |text: &str| signer.check(text, TokenKind::Access, now).map(|_| ());
        assert_eq!(other.check(&token, TokenKind::Access, now).map(|_| ()), Err(TokenRejected::Signature));
        assert_eq!(check(&token), Ok(()), "from now on this one is remembered");
        let parts: Vec<_> = token.split('.').collect();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
        let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"Admin"}"#);
        assert_eq!(check(&format!("{none}.{}.", parts[1])), Err(TokenRejected::Malformed));
        assert_eq!(check(&format!("{}.{claims}.{}", parts[0], parts[2])), Err(TokenRejected::Signature));
        assert_eq!(check(&format!("{}.{}.", parts[0], parts[1])), Err(TokenRejected::Signature));
        for bad in ["", ".", "..", "a.b.c", "a.b.c.d", &"x".repeat(100_000)] {
            assert_eq!(check(bad), Err(TokenRejected::Malformed), "{bad:.10}");
        }
    }

    #[test]
    fn a_damaged_key_names_the_way_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("jwt-key");
        fs::write(&path, b"rubbish").unwrap();
        assert!(Signer::open(&path).unwrap_err().to_string().contains("remove the file"));
    }
}
