//! The HTTP side of the cluster's port: health, the probe of the original's worker installer, and a small part of the
//! root's API for times without a root. The same client works with it; its password is the access key of the
//! cluster, a file only the administrator of this machine can read.

mod access;
mod answer;
mod applications;
mod disk;
mod instances;
mod metrics;
mod nodes;
mod record;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::response::Json;
use axum::routing::{delete, get, post, put};
use axum::{Router, routing::MethodRouter};
use oak_control::cluster::Cluster;
use oak_model::ClusterId;
use oak_store::Engine;
use serde_json::json;

pub use access::FILE as ACCESS_KEY_FILE;
pub(crate) use access::{AccessKey, AccessKeyError};
use answer::Refused;

/// Largest descriptor, in bytes.
const MAX_BODY: usize = 2 << 20;

/// What handlers work with.
pub(crate) struct Local {
    pub(crate) id: ClusterId,
    pub(crate) engine: Engine<Cluster>,
    pub(crate) key: AccessKey,
}

type Shared = Arc<Local>;

/// Everything this port answers over HTTP.
pub(crate) fn router(local: Local) -> Router {
    let id = local.id;
    let local = Arc::new(local);
    let status = move || async move { Json(json!({ "cluster_id": id })) };
    Router::new()
        .route("/healthz", get(|| async { Json(json!({ "status": "ok" })) }))
        .route("/status", get(status))
        .route("/api/cluster/status", get(status))
        .route("/metrics", get(metrics::show).with_state(Arc::clone(&local)))
        .merge(local_api(local))
        .fallback(|| async { Refused::nothing_here() })
}

fn local_api(local: Shared) -> Router {
    let guarded: [(&str, MethodRouter<Shared>); 14] = [
        ("/api/applications", get(applications::list)),
        ("/api/application", post(applications::create)),
        ("/api/application/{id}", get(applications::show).delete(applications::delete)),
        ("/api/service", post(applications::add_services)),
        ("/api/services", get(applications::list_services)),
        ("/api/services/{application}", get(applications::list_services_of)),
        ("/api/service/{id}", get(applications::show_service).delete(applications::delete_service)),
        ("/api/service/{id}/instance", post(instances::deploy)),
        ("/api/service/{id}/instance/{number}", delete(instances::undeploy)),
        ("/api/clusters", get(nodes::clusters)),
        ("/api/clusters/{id}/workers", get(nodes::workers)),
        ("/api/clusters/{id}/workers/{worker}", delete(nodes::remove_worker)),
        ("/api/workers/{worker}", get(nodes::worker)),
        ("/api/workers/{worker}/availability", put(nodes::set_availability)),
    ];
    let mut router = Router::new();
    for (path, methods) in guarded {
        router = router.route(&format!("{path}/"), methods.clone()).route(path, methods);
    }
    router
        .layer(from_fn_with_state(Arc::clone(&local), disk::refuse_changes))
        .layer(from_fn_with_state(Arc::clone(&local), access::require_key))
        .route("/api/auth/login", post(access::login))
        .route("/api/auth/login/", post(access::login))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(local)
}
