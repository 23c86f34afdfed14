//! The access key: who can read the state of the cluster on its machine may use its API.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use rand::TryRngCore;
use rand::rngs::OsRng;
use serde_json::{Value, json};

use super::Shared;
use super::answer::Refused;

/// Name of the file in the directory of the cluster.
pub const FILE: &str = "access-key";

/// A random text of 32 hexadecimal digits.
pub(crate) struct AccessKey(String);

/// The key cannot be read or made.
#[derive(Debug, thiserror::Error)]
#[error("cannot read or write the access key {}", path.display())]
pub struct AccessKeyError {
    path: PathBuf,
    source: io::Error,
}

impl AccessKey {
    /// Reads the key of this cluster, or makes one.
    pub(crate) fn open(directory: &Path) -> Result<Self, AccessKeyError> {
        let path = directory.join(FILE);
        Self::read_or_make(&path).map_err(|source| AccessKeyError { path, source })
    }

    fn read_or_make(path: &Path) -> io::Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) if is_key(text.trim()) => return Ok(Self(text.trim().to_owned())),
            // Cut off by a crash; nobody can have used it.
            Ok(_) => fs::remove_file(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut bytes = [0_u8; 16];
        OsRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
        let key: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(key.as_bytes())?;
        file.sync_all()?;
        Ok(Self(key))
    }

    /// Takes the same time for every text of this length.
    fn is(&self, text: &str) -> bool {
        text.len() == self.0.len()
            && self.0.bytes().zip(text.bytes()).fold(0, |sum, (ours, theirs)| sum | (ours ^ theirs)) == 0
    }
}

fn is_key(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `POST /api/auth/login`: the password is the access key, and so is the token.
pub(super) async fn login(State(local): State<Shared>, Json(body): Json<Value>) -> Result<Response, Refused> {
    let password = body.get("password").and_then(Value::as_str).unwrap_or_default();
    if !local.key.is(password) {
        return Err(Refused::new(
            StatusCode::UNAUTHORIZED,
            "this is the API of a cluster, not of the root: its password is the access key in the directory \
             `cluster` of its data, and `oak --local` uses it by itself",
        ));
    }
    Ok(Json(json!({ "token": password, "refresh_token": password })).into_response())
}

/// Lets only calls with the access key through.
pub(super) async fn require_key(State(local): State<Shared>, request: Request, next: Next) -> Response {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    if local.key.is(token) {
        next.run(request).await
    } else {
        Refused::new(StatusCode::UNAUTHORIZED, "log in first: POST /api/auth/login").into_response()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_only_and_a_torn_one_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let first = AccessKey::open(directory.path()).unwrap();
        let again = AccessKey::open(directory.path()).unwrap();
        assert!(again.is(&first.0));
        assert!(!again.is("") && !again.is(&"0".repeat(32)));
        let path = directory.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "12").unwrap();
        assert!(!AccessKey::open(directory.path()).unwrap().is(&first.0));
    }
}
