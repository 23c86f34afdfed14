//! Organisations.

use axum::extract::State;
use oak_model::OrganizationId;
use serde_json::Value;

use super::answer::{Answer, about, message, nested, plain};
use super::body::Object;
use super::caller::Caller;
use super::error::ApiError;
use super::parameter::Parameter;
use super::permission::{Action, Object as About, allowed, check_roles};
use super::{Api, Shared, fields, quotas, record};
use crate::accounts::{AccountRefusal, Accounts, Member, Organization, Principal};

/// `GET /api/organization/`: all for system admins, the own one for those who manage it.
pub(super) async fn list(State(api): State<Shared>, caller: Caller) -> Answer {
    caller.require(Action::ManageMembers)?;
    let principal = caller.0;
    let found = api.parts.accounts.call(move |accounts, _, _| {
        let is_visible = |organization: &&Organization| {
            allowed(&principal, Action::ManageMembers, About::Organization(organization.id))
        };
        accounts.organizations().filter(is_visible).cloned().collect::<Vec<_>>()
    });
    nested(&records(&api, found.await?).await?)
}

/// `GET /api/organization/<id>`: one of them, with quota and usage.
pub(super) async fn show(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(text): Parameter<String>,
) -> Answer {
    let id = visible(&caller, &text)?;
    let found = api.parts.accounts.call(move |accounts, _, _| accounts.organization(id).cloned()).await?;
    let found = found.ok_or_else(|| fields::unknown_organization(&text))?;
    let records = records(&api, vec![found]).await?;
    plain(&records.first())
}

/// `POST /api/organization/` `{name, member?, quota?}` → the id, for system admins.
pub(super) async fn create(State(api): State<Shared>, caller: Caller, body: Object) -> Answer {
    caller.require(Action::ManageOrganizations)?;
    let name = fields::organization_name(&body)?;
    let members = fields::members(&body)?.unwrap_or_default();
    let quota = quotas::read(&body)?.unwrap_or_default();
    let created = api
        .parts
        .accounts
        .call(move |accounts, now, entropy| accounts.create_organization(now, entropy, name, members));
    let id = created.await??;
    let admitted = api.parts.root.call(move |root, _, _| {
        root.admit_organization(id);
        root.set_quota(id, quota);
    });
    admitted.await?;
    about(nested(&id), id)
}

/// `PUT /api/organization/<id>` `{name?, member?, quota?}`; what is left out stays. Clients send back the whole record;
/// `_id` and `usage` in it mean nothing.
pub(super) async fn change(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(text): Parameter<String>,
    body: Object,
) -> Answer {
    let id = visible(&caller, &text)?;
    let name = match body.0.get("name") {
        None => None,
        Some(_) => Some(fields::organization_name(&body)?),
    };
    let members = fields::members(&body)?;
    let quota = quotas::read(&body)?;
    let may_limit = allowed(&caller.0, Action::ManageOrganizations, About::Anything);
    if let Some(quota) = quota
        && !may_limit
        && quota != api.parts.root.call(move |root, _, _| root.quota(id)).await?
    {
        return Err(ApiError::forbidden_because(
            "only an Admin of the organisation `root` can change a quota",
        ));
    }
    let principal = caller.0;
    let changed = api.parts.accounts.call(move |accounts, _, _| {
        check_change(accounts, &principal, id, name.as_deref(), members.as_deref())?;
        Ok::<_, ApiError>(accounts.change_organization(id, name, members)?)
    });
    changed.await??;
    // Others send the quota back as they read it, and it may have been changed since.
    if let Some(quota) = quota.filter(|_| may_limit) {
        api.parts.root.call(move |root, _, _| root.set_quota(id, quota)).await?;
    }
    message("Organization is updated")
}

/// `DELETE /api/organization/<id>`, for system admins. One that has applications stays; users stay in any case.
pub(super) async fn delete(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(text): Parameter<String>,
) -> Answer {
    caller.require(Action::ManageOrganizations)?;
    let id = fields::organization_id(&text)?;
    api.parts.accounts.call(move |accounts, _, _| accounts.check_organization_deletion(id)).await??;
    // From here on nothing can be created in it.
    let retired = api.parts.root.call(move |root, _, _| root.retire_organization(id)).await?;
    retired.map_err(|left| {
        ApiError::conflict(format!("the organisation still has {left} application(s): delete them first"))
    })?;
    match api.parts.accounts.call(move |accounts, _, _| accounts.delete_organization(id)).await? {
        // Somebody else was faster.
        Ok(()) | Err(AccountRefusal::UnknownOrganization(_)) => message("Organization deleted"),
        Err(refusal) => {
            api.parts.root.call(move |root, _, _| root.admit_organization(id)).await?;
            Err(refusal.into())
        }
    }
}

/// The id in a path if the caller manages that organisation. To all others it does not exist, whether or not it does.
fn visible(caller: &Caller, text: &str) -> Result<OrganizationId, ApiError> {
    caller.require(Action::ManageMembers)?;
    let id = fields::organization_id(text)?;
    if allowed(&caller.0, Action::ManageMembers, About::Organization(id)) {
        return Ok(id);
    }
    Err(fields::unknown_organization(text))
}

fn check_change(
    accounts: &Accounts,
    principal: &Principal,
    id: OrganizationId,
    name: Option<&str>,
    members: Option<&[Member]>,
) -> Result<(), ApiError> {
    let unknown = || fields::unknown_organization(&id.to_string());
    let former = accounts.organization(id).ok_or_else(unknown)?;
    if name.is_some_and(|name| name != former.name)
        && !allowed(principal, Action::RenameOrganization, About::Organization(id))
    {
        return Err(ApiError::forbidden_because("only an Admin can rename the organisation"));
    }
    let Some(members) = members else { return Ok(()) };
    let may_add = allowed(principal, Action::ManageOrganizations, About::Organization(id));
    for member in members {
        if !former.has(member.user) && !may_add {
            // To somebody who sees only the own organisation, users of others do not exist.
            return Err(AccountRefusal::UnknownMember(member.user).into());
        }
        check_roles(principal, &former.roles_of(member.user), &member.roles)?;
    }
    let is_kept = |former: &&Member| !members.iter().any(|member| member.user == former.user);
    former.members.iter().filter(is_kept).try_for_each(|gone| check_roles(principal, &gone.roles, &[]))
}

/// Records with quota and usage.
async fn records(api: &Api, organizations: Vec<Organization>) -> Result<Vec<Value>, ApiError> {
    let records = api.parts.root.call(move |root, _, _| {
        let record = |organization: &Organization| {
            let (quota, used) = (root.quota(organization.id), root.consumption(organization.id));
            record::organization(organization, &quota, &used)
        };
        organizations.iter().map(record).collect()
    });
    Ok(records.await?)
}
