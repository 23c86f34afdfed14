//! Paths that guides of the original name although it does not have them, and settings that it does not have either.

use axum::http::StatusCode;
use serde_json::json;

use super::answer::{Answer, plain};
use super::caller::Caller;
use super::error::ApiError;
use super::permission::Action;

/// `GET /api/v1/info`: which program answers, and in which version.
pub(super) async fn info() -> Answer {
    plain(&json!({
        "name": "oakestra root",
        "version": env!("CARGO_PKG_VERSION"),
        "api_version": "v1",
        "documentation": "/api/docs",
    }))
}

/// `GET` and `PUT /api/settings`: the dashboard of the original asks for settings of mail and sends them to a path that
/// no version of the original has. They are not kept in the system but in the configuration of the root.
pub(super) async fn settings(caller: Caller) -> Answer {
    caller.require(Action::ManageOrganizations)?;
    Err(ApiError::new(
        StatusCode::NOT_IMPLEMENTED,
        "settings are not part of the API: they are in the configuration of the root; `oak config show` on its \
         machine lists all of them and says where each value comes from",
    ))
}
