//! The login: one token for all calls of a client, made when the first call needs it and again when it is refused.

use std::fmt;
use std::sync::Arc;

use reqwest::Method;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Mutex;

use crate::client::{Call, Client, Credentials};
use crate::decode;
use crate::error::ClientError;

/// Credentials and the token they gave. `Debug` shows neither.
pub(crate) struct Session {
    credentials: Credentials,
    // Held during a login, so that calls which start together log in once.
    token: Mutex<Option<Arc<str>>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Login {
    token: Arc<str>,
}

impl Session {
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self { credentials, token: Mutex::new(None) }
    }

    /// The present token, or a new one.
    pub(crate) async fn token(&self, client: &Client) -> Result<Arc<str>, ClientError> {
        let mut slot = self.token.lock().await;
        if let Some(token) = &*slot {
            return Ok(Arc::clone(token));
        }
        let token = self.login(client).await?;
        *slot = Some(Arc::clone(&token));
        Ok(token)
    }

    /// Forgets `token`, unless another call has replaced it already.
    pub(crate) async fn discard(&self, token: &Arc<str>) {
        let mut slot = self.token.lock().await;
        if slot.as_ref().is_some_and(|present| Arc::ptr_eq(present, token)) {
            *slot = None;
        }
    }

    async fn login(&self, client: &Client) -> Result<Arc<str>, ClientError> {
        let Credentials { username, password, organization } = &self.credentials;
        let mut body = json!({"username": username, "password": password});
        if let (Some(organization), Some(fields)) = (organization, body.as_object_mut()) {
            fields.insert("organization_name".to_owned(), organization.as_str().into());
        }
        let action = format!("log in to {} as {username}", client.server());
        let call = Call::new(Method::POST, &["api", "auth", "login"], action).body(&body);
        let answer = client.send_unauthenticated(&call).await?;
        let login: Login = decode::decode(&answer)
            .map_err(|source| ClientError::Unreadable { action: call.action.clone(), source })?;
        Ok(login.token)
    }
}
