//! The caller's own account.

use axum::extract::State;
use serde_json::json;

use super::answer::{Answer, plain};
use super::auth::check_password;
use super::body::Object;
use super::caller::Caller;
use super::error::ApiError;
use super::parameter::Parameter;
use super::peer::Peer;
use super::{Shared, record};
use crate::accounts::{DEFAULT_PASSWORD, DEFAULT_USER, MAX_PASSWORD_BYTES};

/// `GET /api/user/<name>`: the own account, without the password.
pub(super) async fn show(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(name): Parameter<String>,
) -> Answer {
    caller.require_self(&name)?;
    let wanted = name.clone();
    let user = api.parts.accounts.call(move |accounts, _, _| accounts.user_named(&wanted).cloned()).await?;
    let user = user.ok_or_else(|| ApiError::not_found(format!("there is no user `{name}`")))?;
    plain(&record::user(&user, Some(&caller.0.roles)))
}

/// `GET /api/permission/<name>` → `{roles}`: the caller's own, in the organisation it logged in to.
pub(super) async fn permissions(caller: Caller, Parameter(name): Parameter<String>) -> Answer {
    caller.require_self(&name)?;
    plain(&json!({ "roles": caller.0.roles }))
}

/// `POST /api/user/<name>` with `{oldPassword, newPassword}` → `{}`. Ends the validity of all tokens of the user.
pub(super) async fn change_password(
    State(api): State<Shared>,
    caller: Caller,
    peer: Peer,
    Parameter(name): Parameter<String>,
    body: Object,
) -> Answer {
    caller.require_self(&name)?;
    let old = body.text("oldPassword", MAX_PASSWORD_BYTES)?;
    let new = body.text("newPassword", MAX_PASSWORD_BYTES)?;
    let Some(credentials) = check_password(&api, peer, &name, old).await? else {
        return Err(ApiError::bad_request("Old password is not valid!"));
    };
    if old == new {
        return Err(ApiError::bad_request("Old password can't be the new password!"));
    }
    let is_default = name == DEFAULT_USER && new == DEFAULT_PASSWORD;
    let hash = api.parts.passwords.hash(new.to_owned()).await?;
    let version = credentials.password_version;
    let changed = api
        .parts
        .accounts
        .call(move |accounts, _, _| accounts.change_password(&name, version, hash, is_default));
    changed.await??;
    plain(&json!({}))
}
