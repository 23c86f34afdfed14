//! Secrets and credentials of registries: written and listed, never read back.

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::client::{Call, Client};
use crate::error::ClientError;

/// What is known of a secret or a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Secret {
    /// Name of the secret, host of the registry.
    pub name: String,
    /// Whether services need it and the root does not have it.
    pub missing: bool,
    /// User name at a registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Grows with every change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// When the value was last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed: Option<String>,
    /// Services that need a missing one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub used_by: Vec<String>,
}

impl Client {
    /// Stores or replaces a secret; the value is base64.
    ///
    /// # Errors
    /// [`ClientError::Refused`] if name or value are not allowed.
    pub async fn put_secret(&self, name: &str, value_base64: &str) -> Result<(), ClientError> {
        let body = json!({ "value_base64": value_base64 });
        let call = Call::new(Method::PUT, &["api", "secrets", name], format!("store secret {name}"));
        self.execute(call.body(&body)).await
    }

    /// Lists secrets.
    ///
    /// # Errors
    /// [`ClientError`] in general.
    pub async fn secrets(&self) -> Result<Vec<Secret>, ClientError> {
        self.fetch(Call::new(Method::GET, &["api", "secrets"], "list the secrets")).await
    }

    /// Removes a secret.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with 404 if there is none, 409 if a service uses it.
    pub async fn delete_secret(&self, name: &str) -> Result<(), ClientError> {
        self.execute(Call::new(Method::DELETE, &["api", "secrets", name], format!("remove secret {name}")))
            .await
    }

    /// Stores or replaces the credentials of a registry.
    ///
    /// # Errors
    /// [`ClientError::Refused`] if host, user name or password are not allowed.
    pub async fn put_registry(&self, host: &str, username: &str, password: &str) -> Result<(), ClientError> {
        let body = json!({ "username": username, "password": password });
        let path = ["api", "registry-credentials", host];
        let call = Call::new(Method::PUT, &path, format!("store the credentials of registry {host}"));
        self.execute(call.body(&body)).await
    }

    /// Lists registries whose credentials are stored.
    ///
    /// # Errors
    /// [`ClientError`] in general.
    pub async fn registries(&self) -> Result<Vec<Secret>, ClientError> {
        self.fetch(Call::new(Method::GET, &["api", "registry-credentials"], "list the registries")).await
    }

    /// Removes the credentials of a registry.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with 404 if there are none.
    pub async fn delete_registry(&self, host: &str) -> Result<(), ClientError> {
        let path = ["api", "registry-credentials", host];
        let call = Call::new(Method::DELETE, &path, format!("remove the credentials of registry {host}"));
        self.execute(call).await
    }
}
