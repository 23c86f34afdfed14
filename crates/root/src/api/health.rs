//! Whether this root is alive and can work.

use axum::extract::State;
use serde_json::json;

use super::Shared;
use super::answer::{Answer, plain};

/// `GET /healthz`: the process answers.
pub(super) async fn alive() -> Answer {
    plain(&json!({ "status": "ok" }))
}

/// `GET /readyz`: state and accounts can be read.
pub(super) async fn ready(State(api): State<Shared>) -> Answer {
    api.parts.root.call(|_, _, _| ()).await?;
    api.parts.accounts.call(|_, _, _| ()).await?;
    plain(&json!({ "status": "ready" }))
}
