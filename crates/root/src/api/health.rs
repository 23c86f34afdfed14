//! Whether this root is alive and can work.

use axum::extract::State;
use oak_store::Health;
use serde_json::json;

use super::Shared;
use super::answer::{Answer, plain};

const DISK: &str = "the disk of this root is full, read-only or failing: its log tells more";

/// `GET /healthz`: the process answers.
pub(super) async fn alive() -> Answer {
    plain(&json!({ "status": "ok" }))
}

/// `GET /readyz`: state and accounts can be read. A disk in trouble is told: then changes are refused.
pub(super) async fn ready(State(api): State<Shared>) -> Answer {
    api.parts.root.call(|_, _, _| ()).await?;
    api.parts.accounts.call(|_, _, _| ()).await?;
    let health = api.parts.root.health().borrow().clone();
    match health {
        Health::Ok => plain(&json!({ "status": "ready" })),
        // Not the reason: everybody may ask this.
        Health::Degraded { .. } => plain(&json!({ "status": "read-only", "message": DISK })),
    }
}
