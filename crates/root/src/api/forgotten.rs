//! Forgotten passwords.

use std::time::Instant;

use axum::extract::State;
use serde_json::json;

use super::Shared;
use super::answer::{Answer, plain};
use super::auth::MAX_NAME_BYTES;
use super::body::Object;
use super::error::ApiError;
use super::peer::Peer;
use super::trail::Trail;
use crate::accounts::{
    DEFAULT_PASSWORD, DEFAULT_USER, MAX_PASSWORD_BYTES, MAX_RESET_TOKEN_BYTES, ResetToken,
};

/// `POST /api/user/` `{username}` → `{}`: sends a link by mail. The answer, and the time until it comes, is the same
/// whether or not there is such a user with an address. `domain`, which the dashboard sends, is not used: the link leads to
/// the configured address, otherwise anybody could have links of their own sent to users.
pub(super) async fn request(State(api): State<Shared>, peer: Peer, trail: Trail, body: Object) -> Answer {
    let name = body.text("username", MAX_NAME_BYTES)?;
    trail.names(name);
    let Some(mailer) = &api.parts.mailer else {
        return Err(ApiError::conflict(
            "passwords cannot be reset by mail: whoever runs this root has to configure `mail.host`; an Admin can set \
             a new password",
        ));
    };
    // Every request counts like a wrong password, so that nobody is flooded with mails.
    let subject = format!("reset of {name}");
    api.throttle.check(peer.address, &subject, Instant::now())?;
    api.throttle.failed(peer.address, &subject, Instant::now());
    mailer
        .send_reset(name)
        .map_err(|_| ApiError::unavailable("too many mails are waiting: try again later"))?;
    plain(&json!({}))
}

/// `PUT /api/user/` `{token, password}` → `{}`. The link is used up, and all tokens of the user end.
pub(super) async fn finish(State(api): State<Shared>, trail: Trail, body: Object) -> Answer {
    let token = body.text("token", MAX_RESET_TOKEN_BYTES)?.to_owned();
    let password = body.text("password", MAX_PASSWORD_BYTES)?.to_owned();
    let presented = token.clone();
    let user = api.parts.accounts.call(move |accounts, now, _| {
        accounts.check_reset(now, &ResetToken::presented(&presented)).map(|user| user.name.clone())
    });
    // The hash costs much; it is computed only for a link that is good.
    let name = user.await??;
    trail.names(&name);
    let is_default = name == DEFAULT_USER && password == DEFAULT_PASSWORD;
    let hash = api.parts.passwords.hash(password).await?;
    let finished = api.parts.accounts.call(move |accounts, now, _| {
        accounts.finish_reset(now, &ResetToken::presented(&token), hash, is_default)
    });
    finished.await??;
    plain(&json!({}))
}
