//! Logging in, and getting a new access token.

use std::time::Instant;

use axum::extract::State;
use axum::http::StatusCode;
use serde_json::json;

use super::answer::{Answer, plain};
use super::body::Object;
use super::caller::Refresher;
use super::error::ApiError;
use super::peer::Peer;
use super::trail::Trail;
use super::{Api, Shared};
use crate::accounts::{
    Credentials, MAX_PASSWORD_BYTES, PasswordError, Passwords, ROOT_ORGANIZATION, TokenKind,
};

/// Longest names of users and organisations, bytes.
pub(super) const MAX_NAME_BYTES: usize = 256;

/// `POST /api/auth/login`: `{username, password, organization_name?}` → `{token, refresh_token}`.
pub(super) async fn login(State(api): State<Shared>, peer: Peer, trail: Trail, body: Object) -> Answer {
    let name = body.text("username", MAX_NAME_BYTES)?.to_owned();
    let password = body.text("password", MAX_PASSWORD_BYTES)?;
    let organization = body.nullable_text("organization_name", MAX_NAME_BYTES)?.map(str::to_owned);
    trail.names(&name);
    let credentials = check_password(&api, peer, &name, password).await?;
    let credentials = credentials
        .ok_or_else(|| ApiError::new(StatusCode::UNAUTHORIZED, "the user name or the password is wrong"))?;
    if credentials.default_password && !peer.is_local {
        return Err(default_password(&name));
    }
    let wanted = organization.clone();
    let principal = api.parts.accounts.call(move |accounts, _, _| {
        let organization = accounts.login_organization(&name, wanted.as_deref())?;
        accounts.principal(&name, organization)
    });
    let unknown = || {
        let name = organization.as_deref().unwrap_or(ROOT_ORGANIZATION);
        ApiError::not_found(format!("there is no organisation `{name}`"))
    };
    let principal = principal.await?.ok_or_else(unknown)?;
    let now = api.parts.clock.now().wall;
    let issue =
        |kind| api.parts.signer.issue(kind, &principal, now).map_err(|error| ApiError::internal(&error));
    plain(&json!({ "token": issue(TokenKind::Access)?, "refresh_token": issue(TokenKind::Refresh)? }))
}

/// `POST /api/auth/refresh` with a refresh token → `{token}` with the roles the user has now.
pub(super) async fn refresh(State(api): State<Shared>, Refresher(principal): Refresher) -> Answer {
    let now = api.parts.clock.now().wall;
    let token = api.parts.signer.issue(TokenKind::Access, &principal, now);
    plain(&json!({ "token": token.map_err(|error| ApiError::internal(&error))? }))
}

/// The credentials of a user if the password is right. Wrong ones are counted against the client.
pub(super) async fn check_password(
    api: &Api,
    peer: Peer,
    name: &str,
    password: &str,
) -> Result<Option<Credentials>, ApiError> {
    let passwords = &api.parts.passwords;
    // Before the memory of right passwords: otherwise that would answer guesses without limit.
    api.throttle.check(peer.address, name, Instant::now())?;
    let wanted = name.to_owned();
    let found = api.parts.accounts.call(move |accounts, _, _| accounts.credentials(&wanted)).await?;
    let is_remembered =
        || found.as_ref().is_some_and(|found| passwords.remembers(name, password, &found.password));
    if is_remembered() {
        return Ok(found);
    }
    let turn = passwords.turn().await?;
    // Others of the same client may have come first: a right one saves the work, wrong ones forbid it.
    api.throttle.check(peer.address, name, Instant::now())?;
    if is_remembered() {
        return Ok(found);
    }
    let hash = found.as_ref().map(|found| found.password.as_str());
    if passwords.verify(turn, name, password, hash).await? {
        if let Some(outdated) = hash.filter(|hash| Passwords::is_outdated(hash)) {
            renew_hash(api, name, password, outdated).await?;
        }
        return Ok(found);
    }
    api.throttle.failed(peer.address, name, Instant::now());
    tracing::info!(user = name, address = %peer.address, "wrong password");
    Ok(None)
}

/// A hash that was made by the original is replaced as soon as the password is known again.
async fn renew_hash(api: &Api, name: &str, password: &str, outdated: &str) -> Result<(), ApiError> {
    let hash = match api.parts.passwords.hash(password.to_owned()).await {
        Ok(hash) => hash,
        // The next login does it.
        Err(PasswordError::Busy) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let (name, outdated) = (name.to_owned(), outdated.to_owned());
    api.parts.accounts.post(move |accounts, _, _| accounts.replace_hash(&name, &outdated, hash)).await?;
    Ok(())
}

fn default_password(name: &str) -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        format!(
            "the first password of `{name}` works only on the root machine itself until it is changed: open \
             http://localhost:10000 there (or through `ssh -L 10000:localhost:10000 <root machine>`) and change it"
        ),
    )
}
