//! Secrets of an organisation and credentials of registries: written, listed, removed, never read back.

use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use oak_control::root::{Secret, SecretOwner, SecretRefusal};
use oak_model::confidential::{MAX_CONFIDENTIAL_BYTES, RegistryLogin};
use oak_model::{Purpose, RegistryHost, SecretName};
use serde::Serialize;
use serde_json::json;

use super::Shared;
use super::answer::{Answer, message, plain};
use super::body::ConfidentialObject;
use super::caller::Caller;
use super::error::ApiError;
use super::parameter::Parameter;
use super::permission::Action;
use crate::calendar;

const MAX_USERNAME: usize = 256;

#[derive(Debug, Serialize)]
struct SecretRecord {
    name: String,
    /// Whether services need it and this root does not have it.
    missing: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    used_by: Vec<String>,
}

impl SecretRecord {
    fn of(secret: &Secret) -> Self {
        let name = match &secret.purpose {
            Purpose::Secret(name) => name.to_string(),
            Purpose::Registry(host) => host.to_string(),
        };
        Self {
            name,
            missing: false,
            username: secret.username.clone(),
            version: Some(secret.version),
            created: Some(calendar::iso(secret.created)),
            changed: Some(calendar::iso(secret.changed)),
            used_by: Vec::new(),
        }
    }
}

/// `GET /api/secrets`: names, versions and dates; and which ones services need but are not here.
pub(super) async fn list(State(api): State<Shared>, caller: Caller) -> Answer {
    let owner = owner(&caller)?;
    let records = api.parts.root.call(move |root, _, _| {
        let is_secret = |secret: &&Secret| matches!(secret.purpose, Purpose::Secret(_));
        let known = root.secrets_of(&owner).filter(is_secret).map(SecretRecord::of);
        let missing = root.missing_secrets(&owner).into_iter().map(|(name, users)| SecretRecord {
            name: name.to_string(),
            missing: true,
            username: None,
            version: None,
            created: None,
            changed: None,
            used_by: users.iter().map(|service| service.job_name.to_string()).collect(),
        });
        known.chain(missing).collect::<Vec<_>>()
    });
    plain(&records.await?)
}

/// `GET /api/secrets/<name>`: everything but the value.
pub(super) async fn show(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(name): Parameter<String>,
) -> Answer {
    owner(&caller)?;
    show_one(&api, &caller, Purpose::Secret(secret_name(&name)?)).await
}

/// `PUT /api/secrets/<name>` with `value` (text) or `value_base64`: stores or replaces it.
pub(super) async fn put(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(name): Parameter<String>,
    ConfidentialObject(body): ConfidentialObject,
) -> Answer {
    owner(&caller)?;
    let purpose = Purpose::Secret(secret_name(&name)?);
    let value = match (body.0.get("value"), body.0.get("value_base64")) {
        (Some(_), None) => body.text("value", MAX_CONFIDENTIAL_BYTES)?.as_bytes().to_vec(),
        (None, Some(_)) => BASE64
            .decode(body.text("value_base64", 2 * MAX_CONFIDENTIAL_BYTES)?)
            .map_err(|_| ApiError::field("value_base64", "must be base64 with padding"))?,
        (None, None) | (Some(_), Some(_)) => {
            return Err(ApiError::field("value", "is required, or value_base64 instead of it"));
        }
    };
    if value.is_empty() || value.len() > MAX_CONFIDENTIAL_BYTES {
        let problem = format!("must have 1 to {MAX_CONFIDENTIAL_BYTES} bytes");
        return Err(ApiError::field("value", &problem));
    }
    store(&api, &caller, purpose, None, &value).await
}

/// `DELETE /api/secrets/<name>`.
pub(super) async fn delete(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(name): Parameter<String>,
) -> Answer {
    owner(&caller)?;
    remove(&api, &caller, Purpose::Secret(secret_name(&name)?)).await
}

/// `GET /api/registry-credentials`.
pub(super) async fn list_registries(State(api): State<Shared>, caller: Caller) -> Answer {
    let owner = owner(&caller)?;
    let records = api.parts.root.call(move |root, _, _| {
        let is_registry = |secret: &&Secret| matches!(secret.purpose, Purpose::Registry(_));
        root.secrets_of(&owner).filter(is_registry).map(SecretRecord::of).collect::<Vec<_>>()
    });
    plain(&records.await?)
}

/// `GET /api/registry-credentials/<host>`: everything but the password.
pub(super) async fn show_registry(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(host): Parameter<String>,
) -> Answer {
    owner(&caller)?;
    show_one(&api, &caller, Purpose::Registry(registry_host(&host)?)).await
}

/// `PUT /api/registry-credentials/<host>` with `username` and `password`.
pub(super) async fn put_registry(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(host): Parameter<String>,
    ConfidentialObject(body): ConfidentialObject,
) -> Answer {
    owner(&caller)?;
    let purpose = Purpose::Registry(registry_host(&host)?);
    let login = RegistryLogin {
        username: body.text("username", MAX_USERNAME)?.to_owned(),
        password: body.text("password", MAX_CONFIDENTIAL_BYTES / 2)?.to_owned(),
    };
    if login.username.contains(':') {
        // Basic authentication ends the name at the first colon (RFC 7617, 2), which also forbids control characters.
        return Err(ApiError::field("username", "must not contain a colon"));
    }
    for (field, text) in [("username", &login.username), ("password", &login.password)] {
        if text.chars().any(char::is_control) {
            return Err(ApiError::field(field, "must not contain control characters"));
        }
    }
    let value = serde_json::to_vec(&login).map_err(|error| ApiError::internal(&error))?;
    store(&api, &caller, purpose, Some(login.username), &value).await
}

/// `DELETE /api/registry-credentials/<host>`.
pub(super) async fn delete_registry(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(host): Parameter<String>,
) -> Answer {
    owner(&caller)?;
    remove(&api, &caller, Purpose::Registry(registry_host(&host)?)).await
}

/// Whose secrets the caller works with: those of its organisation; in the first one everybody has their own.
fn owner(caller: &Caller) -> Result<SecretOwner, ApiError> {
    caller.require(Action::CreateApplications)?;
    Ok(caller.secret_owner())
}

async fn show_one(api: &Shared, caller: &Caller, purpose: Purpose) -> Answer {
    let owner = owner(caller)?;
    let unknown = SecretRefusal::Unknown(purpose.clone());
    let record = api.parts.root.call(move |root, _, _| {
        root.secrets_of(&owner).find(|secret| secret.purpose == purpose).map(SecretRecord::of)
    });
    plain(&record.await?.ok_or(unknown)?)
}

async fn store(
    api: &Shared,
    caller: &Caller,
    purpose: Purpose,
    username: Option<String>,
    value: &[u8],
) -> Answer {
    let owner = owner(caller)?;
    let sealed = api.parts.secrets.seal(&purpose, value).map_err(|error| ApiError::internal(&error))?;
    let name = match &purpose {
        Purpose::Secret(name) => name.to_string(),
        Purpose::Registry(host) => host.to_string(),
    };
    let stored =
        api.parts.root.call(move |root, now, _| root.put_secret(now, (owner, purpose), username, sealed));
    plain(&json!({ "name": name, "version": stored.await?? }))
}

async fn remove(api: &Shared, caller: &Caller, purpose: Purpose) -> Answer {
    let key = (owner(caller)?, purpose);
    api.parts.root.call(move |root, _, _| root.remove_secret(&key)).await??;
    message("removed")
}

fn secret_name(text: &str) -> Result<SecretName, ApiError> {
    text.parse().map_err(|rule| ApiError::bad_request(format!("the name of a secret {rule}")))
}

fn registry_host(text: &str) -> Result<RegistryHost, ApiError> {
    text.parse().map_err(|rule| ApiError::bad_request(format!("the registry {rule}")))
}

impl From<SecretRefusal> for ApiError {
    fn from(refusal: SecretRefusal) -> Self {
        let status = match &refusal {
            SecretRefusal::Unknown(_) => StatusCode::NOT_FOUND,
            SecretRefusal::InUse { .. } | SecretRefusal::TooMany => StatusCode::CONFLICT,
        };
        Self::new(status, refusal.to_string())
    }
}
