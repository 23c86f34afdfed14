//! Users, for those who manage them.

use axum::extract::State;
use oak_model::OrganizationId;
use serde_json::Value;

use super::answer::{Answer, about, plain};
use super::auth::MAX_NAME_BYTES;
use super::body::Object;
use super::caller::Caller;
use super::error::ApiError;
use super::parameter::Parameter;
use super::permission::{Action, Object as About, allowed, check_roles, may_change_account};
use super::{Api, Shared, fields, record};
use crate::accounts::{
    AccountRefusal, Accounts, DEFAULT_PASSWORD, DEFAULT_USER, MAX_PASSWORD_BYTES, Principal, Profile, User,
    UserChange,
};

/// `POST /api/auth/register` `{name, password, email?, roles?, created_at?, organization?}` → the user, a member of
/// the caller's organisation; system admins may name another one by its id.
pub(super) async fn register(State(api): State<Shared>, caller: Caller, body: Object) -> Answer {
    caller.require(Action::ManageMembers)?;
    let profile = Profile {
        name: fields::user_name(&body)?,
        email: fields::email(&body)?.unwrap_or_default(),
        created_at: fields::created_at(&body)?,
    };
    let password = body.text("password", MAX_PASSWORD_BYTES)?.to_owned();
    let roles = fields::roles(body.0.get("roles"), "roles")?.unwrap_or_default();
    check_roles(&caller.0, &[], &roles)?;
    let organization = chosen_organization(&api, &caller, &body).await?;
    let name = profile.name.clone();
    // The hash costs much; it is computed only for a name that is free.
    if api.parts.accounts.call(move |accounts, _, _| accounts.user_named(&name).is_some()).await? {
        return Err(AccountRefusal::UserExists.into());
    }
    let hash = api.parts.passwords.hash(password).await?;
    let name = profile.name.clone();
    let created = api.parts.accounts.call(move |accounts, now, entropy| {
        let user = accounts.register(now, entropy, profile, hash, (organization, roles.clone()))?;
        Ok::<_, AccountRefusal>(record::user(user, Some(&roles)))
    });
    let user = created.await??;
    let registered = name.clone();
    api.parts.root.call(move |root, _, _| root.admit_owner(&registered)).await?;
    about(plain(&user), name)
}

async fn chosen_organization(api: &Api, caller: &Caller, body: &Object) -> Result<OrganizationId, ApiError> {
    let Some(text) = body.optional_text("organization", MAX_NAME_BYTES)? else {
        return Ok(caller.0.organization);
    };
    let id = fields::organization_id(text)?;
    let is_visible = allowed(&caller.0, Action::ManageMembers, About::Organization(id));
    let exists = api.parts.accounts.call(move |accounts, _, _| accounts.organization(id).is_some()).await?;
    if is_visible && exists { Ok(id) } else { Err(fields::unknown_organization(text)) }
}

/// `GET /api/users/`: all for system admins, without roles; for others who manage members those of their organisation.
pub(super) async fn list(State(api): State<Shared>, caller: Caller) -> Answer {
    caller.require(Action::ManageMembers)?;
    let principal = caller.0;
    plain(&api.parts.accounts.call(move |accounts, _, _| visible_users(accounts, &principal)).await?)
}

/// `GET /api/users/<organisation>`: its members, with their roles there.
pub(super) async fn list_of_organization(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(text): Parameter<String>,
) -> Answer {
    caller.require(Action::ManageMembers)?;
    let id = fields::organization_id(&text)?;
    if !allowed(&caller.0, Action::ManageMembers, About::Organization(id)) {
        return Err(fields::unknown_organization(&text));
    }
    let users = api.parts.accounts.call(move |accounts, _, _| members_of(accounts, id)).await?;
    plain(&users.ok_or_else(|| fields::unknown_organization(&text))?)
}

/// `PUT /api/user/<name>` `{email?, password?, roles?}` → `"ok"`; what is left out stays. Roles are those in the
/// organisation of the caller. Clients send back the whole record: the name must be the same, `_id` and `created_at` mean
/// nothing, and a hash in the place of a password means that it stays.
pub(super) async fn change(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(name): Parameter<String>,
    body: Object,
) -> Answer {
    caller.require(Action::ManageMembers)?;
    if body.optional_text("name", 1024)?.is_some_and(|given| given != name) {
        return Err(ApiError::field("name", "cannot be changed: register another user"));
    }
    let email = fields::email(&body)?;
    let password = body.nullable_text("password", MAX_PASSWORD_BYTES)?.filter(|text| !is_hash(text));
    let roles = fields::roles(body.0.get("roles"), "roles")?;
    let mut change = UserChange {
        email,
        password: password.map(|_| (String::new(), false)),
        roles: roles.map(|roles| (caller.0.organization, roles)),
    };
    // The hash costs much; it is computed only for a change that is allowed, and that is checked again afterwards.
    let (principal, wanted, checked) = (caller.0.clone(), name.clone(), change.clone());
    api.parts
        .accounts
        .call(move |accounts, _, _| check_change(accounts, &principal, &wanted, &checked))
        .await??;
    if let Some(password) = password {
        let is_default = name == DEFAULT_USER && password == DEFAULT_PASSWORD;
        change.password = Some((api.parts.passwords.hash(password.to_owned()).await?, is_default));
    }
    let principal = caller.0;
    let changed = api.parts.accounts.call(move |accounts, _, _| {
        check_change(accounts, &principal, &name, &change)?;
        Ok::<_, ApiError>(accounts.change_user(&name, change)?)
    });
    changed.await??;
    plain(&"ok")
}

/// `DELETE /api/user/<name>` → the remaining users. A user who is in other organisations, too, only leaves this one,
/// unless a system admin asks. One who has applications stays.
pub(super) async fn delete(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(name): Parameter<String>,
) -> Answer {
    caller.require(Action::ManageMembers)?;
    let (principal, wanted) = (caller.0.clone(), name.clone());
    let found_out = api.parts.accounts.call(move |accounts, _, _| removal(accounts, &principal, &wanted));
    match found_out.await?? {
        Removal::Leave => {
            let (principal, wanted) = (caller.0.clone(), name);
            let left = api.parts.accounts.call(move |accounts, _, _| {
                let user = found(accounts, &principal, &wanted)?.id;
                removal(accounts, &principal, &wanted)?;
                Ok::<_, ApiError>(accounts.remove_member(principal.organization, user)?)
            });
            left.await??;
        }
        Removal::Delete => delete_account(&api, &caller, &name).await?,
    }
    let principal = caller.0;
    plain(&api.parts.accounts.call(move |accounts, _, _| visible_users(accounts, &principal)).await?)
}

async fn delete_account(api: &Api, caller: &Caller, name: &str) -> Result<(), ApiError> {
    let owner = name.to_owned();
    // From here on it can create nothing.
    let retired = api.parts.root.call(move |root, _, _| root.retire_owner(&owner)).await?;
    retired.map_err(|left| {
        ApiError::conflict(format!("user `{name}` still has {left} application(s): delete them first"))
    })?;
    let (principal, wanted) = (caller.0.clone(), name.to_owned());
    let deleted =
        api.parts.accounts.call(move |accounts, _, _| match removal(accounts, &principal, &wanted)? {
            Removal::Delete => Ok::<_, ApiError>(accounts.delete_user(&wanted)?),
            Removal::Leave => Err(AccountRefusal::Changed(wanted).into()),
        });
    let deleted = deleted.await?;
    if deleted.is_err() {
        let owner = name.to_owned();
        api.parts.root.call(move |root, _, _| root.admit_owner(&owner)).await?;
    }
    deleted
}

enum Removal {
    /// The account goes.
    Delete,
    /// Only the membership in the organisation of the caller goes.
    Leave,
}

fn removal(accounts: &Accounts, principal: &Principal, name: &str) -> Result<Removal, ApiError> {
    let user = found(accounts, principal, name)?;
    let roles = accounts.organization(principal.organization).map(|place| place.roles_of(user.id));
    check_roles(principal, &roles.unwrap_or_default(), &[])?;
    accounts.check_deletion(user.id)?;
    let is_only_here = accounts.memberships(user.id).all(|(id, _)| id == principal.organization);
    if is_only_here || principal.is_system_admin() { Ok(Removal::Delete) } else { Ok(Removal::Leave) }
}

/// A user the caller manages. Others do not exist for it.
fn found<'a>(accounts: &'a Accounts, principal: &Principal, name: &str) -> Result<&'a User, ApiError> {
    let is_visible = |user: &&User| {
        principal.is_system_admin()
            || accounts.organization(principal.organization).is_some_and(|place| place.has(user.id))
    };
    accounts.user_named(name).filter(is_visible).ok_or_else(|| fields::unknown_user(name))
}

fn check_change(
    accounts: &Accounts,
    principal: &Principal,
    name: &str,
    change: &UserChange,
) -> Result<(), ApiError> {
    let user = found(accounts, principal, name)?;
    if let Some((organization, roles)) = &change.roles {
        let former = accounts.organization(*organization).map(|place| place.roles_of(user.id));
        check_roles(principal, &former.unwrap_or_default(), roles)?;
    }
    let account_changes =
        change.password.is_some() || change.email.as_ref().is_some_and(|email| *email != user.email);
    if account_changes && !may_change_account(principal, accounts.memberships(user.id)) {
        return Err(ApiError::forbidden_because(
            "this user has other roles or is in other organisations: an Admin of the organisation `root` can change \
             its mail address and password",
        ));
    }
    Ok(())
}

fn visible_users(accounts: &Accounts, principal: &Principal) -> Vec<Value> {
    if principal.is_system_admin() {
        return accounts.users().map(|user| record::user(user, None)).collect();
    }
    members_of(accounts, principal.organization).unwrap_or_default()
}

fn members_of(accounts: &Accounts, id: OrganizationId) -> Option<Vec<Value>> {
    let members = accounts.organization(id)?.members.iter();
    let records =
        members.filter_map(|member| Some(record::user(accounts.user(member.user)?, Some(&member.roles))));
    Some(records.collect())
}

/// What old dashboards send back: the hash the original's lists leaked, or one of ours.
fn is_hash(text: &str) -> bool {
    text.starts_with("pbkdf2:sha256:") || text.starts_with("$argon2id$")
}
