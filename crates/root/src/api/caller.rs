//! Who calls: the user behind the bearer token, as the accounts know it now.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use oak_control::root::{Owner, SecretOwner};
use oak_model::OrganizationId;
use oak_store::EngineStopped;

use super::error::ApiError;
use super::permission::{Action, Object, allowed};
use super::scope::Scope;
use super::trail::Trail;
use super::{Api, Shared};
use crate::accounts::{Accounts, Claims, Principal, TokenKind};

/// An authenticated user.
#[derive(Clone, Debug)]
pub(super) struct Caller(pub(super) Principal);

impl Caller {
    /// Refuses everybody who may not do this on anything.
    pub(super) fn require(&self, action: Action) -> Result<(), ApiError> {
        if allowed(&self.0, action, Object::Anything) { Ok(()) } else { Err(ApiError::forbidden()) }
    }

    /// Refuses everybody but this user.
    pub(super) fn require_self(&self, name: &str) -> Result<(), ApiError> {
        if self.0.name == name { Ok(()) } else { Err(ApiError::forbidden()) }
    }

    /// The same user as the accounts know it now; `None` if its token has been revoked since.
    pub(super) async fn renewed(&self, api: &Api) -> Result<Option<Self>, EngineStopped> {
        let former = self.0.clone();
        let present = api.parts.accounts.call(move |accounts, _, _| {
            let present = present(accounts, &former.name, former.organization, !former.roles.is_empty());
            present.filter(|now| now.user == former.user && now.password_version == former.password_version)
        });
        Ok(present.await?.map(Self))
    }

    /// Which applications it may change.
    pub(super) fn scope(&self) -> Scope {
        Scope::new(self.0.clone(), Action::ChangeApplications)
    }

    /// Which applications it may see.
    pub(super) fn view(&self) -> Scope {
        Scope::new(self.0.clone(), Action::ViewApplications)
    }

    /// Whose secrets it works with: those of its organisation; in the first one everybody has their own.
    pub(super) fn secret_owner(&self) -> SecretOwner {
        let user = self.0.in_root.then(|| self.0.name.clone());
        SecretOwner { organization: self.0.organization, user }
    }

    /// To whom an application belongs that it creates.
    pub(super) fn owner(&self) -> Owner {
        Owner { user: self.0.name.clone(), organization: Some(self.0.organization) }
    }
}

impl FromRequestParts<Shared> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        authenticate(parts, api, TokenKind::Access).await.map(Self)
    }
}

/// The user behind a refresh token.
#[derive(Debug)]
pub(super) struct Refresher(pub(super) Principal);

impl FromRequestParts<Shared> for Refresher {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        authenticate(parts, api, TokenKind::Refresh).await.map(Self)
    }
}

async fn authenticate(parts: &Parts, api: &Api, kind: TokenKind) -> Result<Principal, ApiError> {
    let token = bearer(parts)?;
    let (claims, version) = match api.parts.signer.check(token, kind, api.parts.clock.now().wall) {
        Ok(accepted) => accepted,
        Err(rejected) if tells_defects_apart(parts.uri.path()) => return Err(rejected.into()),
        Err(rejected) => return Err(ApiError::token(StatusCode::UNAUTHORIZED, rejected.to_string())),
    };
    let Claims { sub, organization, roles, .. } = claims;
    let principal = api
        .parts
        .accounts
        .call(move |accounts, _, _| present(accounts, &sub, organization, !roles.is_empty()));
    // The user is gone, or its password was changed: the token must not outlive either.
    let principal = principal
        .await?
        .filter(|principal| principal.password_version == version)
        .ok_or_else(|| ApiError::token(StatusCode::UNAUTHORIZED, "Token has been revoked"))?;
    if let Some(trail) = parts.extensions.get::<Trail>() {
        trail.leads_to(&principal);
    }
    Ok(principal)
}

/// Who a user is now. Whoever had a role and is no member any more was removed.
fn present(
    accounts: &Accounts,
    name: &str,
    organization: OrganizationId,
    had_roles: bool,
) -> Option<Principal> {
    let is_member = accounts.organization(organization)?.has(accounts.user_named(name)?.id);
    accounts.principal(name, organization).filter(|_| is_member || !had_roles)
}

/// Browsers cannot give a WebSocket a header of their own, only protocols it would like to speak: the token is one of
/// them, `bearer.<token>`, and is never chosen. It stays out of the URL, which ends up in logs.
fn subprotocol(parts: &Parts) -> Option<&str> {
    let offered = parts.headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let offered = offered.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    offered.map(str::trim).find_map(|protocol| protocol.strip_prefix("bearer."))
}

fn bearer(parts: &Parts) -> Result<&str, ApiError> {
    let missing = |text: &str| ApiError::token(StatusCode::UNAUTHORIZED, text);
    let header = parts.headers.get(header::AUTHORIZATION);
    if header.is_none()
        && let Some(token) = subprotocol(parts)
    {
        return Ok(token);
    }
    let header = header.ok_or_else(|| missing("Missing Authorization Header"))?;
    let token = header.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    token.ok_or_else(|| {
        missing("Missing 'Bearer' type in 'Authorization' header. Expected 'Authorization: Bearer <JWT>'")
    })
}

/// The original has two guards: one says 422 to a damaged token, the other 401 to everything
/// (root-api reference, 2.5).
pub(super) fn tells_defects_apart(path: &str) -> bool {
    ["/api/application", "/api/organization", "/api/auth"].iter().any(|prefix| path.starts_with(prefix))
}
