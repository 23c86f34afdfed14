//! The plain HTTP side of the cluster's port: health, and the probe of the original's worker installer.

use axum::Router;
use axum::response::Json;
use axum::routing::get;
use oak_model::ClusterId;
use serde_json::json;

/// Routes that need no authentication and tell nothing but the identity.
pub(crate) fn router(id: ClusterId) -> Router {
    let status = move || async move { Json(json!({ "cluster_id": id })) };
    Router::new()
        .route("/healthz", get(|| async { Json(json!({ "status": "ok" })) }))
        .route("/status", get(status))
        .route("/api/cluster/status", get(status))
}
