//! Who may do what: the one place where it is decided. `docs/api.md` shows the same as a table, and the test
//! `permissions` holds every route against it.
//!
//! A caller acts in the organisation it logged in to. An `Admin` of the organisation `root` may do everything; all
//! others do not reach beyond their organisation, and what is there looks as if it did not exist.

use oak_model::{Application, OrganizationId};

use super::error::ApiError;
use crate::accounts::{Principal, Role};

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// See applications, services, instances, and their output.
    ViewApplications,
    /// Create applications.
    CreateApplications,
    /// Change and delete applications and services, deploy and undeploy instances, work inside of them.
    ChangeApplications,
    /// See workers.
    ViewInfrastructure,
    /// Make join tokens, open, close and empty workers.
    ManageInfrastructure,
    /// Remove clusters and workers.
    RemoveInfrastructure,
    /// See an organisation with its members; register users, change their roles, remove them.
    ManageMembers,
    /// Give an organisation another name.
    RenameOrganization,
    /// Create and delete organisations, set quotas, take in users of other organisations.
    ManageOrganizations,
    /// Read the audit log.
    ReadAudit,
}

/// What it is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Object<'a> {
    /// Nothing in particular: is there anything of the own organisation on which the action is allowed?
    Anything,
    /// An application, with its services and instances.
    Application(&'a Application),
    /// An organisation.
    Organization(OrganizationId),
}

/// Whether somebody may do something.
pub(super) fn allowed(principal: &Principal, action: Action, object: Object<'_>) -> bool {
    if principal.is_system_admin() {
        return true;
    }
    let is_near = match object {
        Object::Anything => true,
        Object::Application(application) => application.organization == Some(principal.organization),
        Object::Organization(id) => id == principal.organization,
    };
    is_near
        && match action {
            Action::ViewApplications => {
                principal.has(Role::Admin)
                    || principal.has(Role::OrganizationAdmin)
                    || principal.has(Role::ApplicationProvider) && is_shared(principal, object)
            }
            Action::CreateApplications | Action::ChangeApplications => {
                principal.has(Role::Admin)
                    || principal.has(Role::ApplicationProvider) && is_shared(principal, object)
            }
            Action::ViewInfrastructure => {
                principal.has(Role::InfrastructureProvider)
                    || principal.in_root && principal.has(Role::ApplicationProvider)
            }
            Action::ManageInfrastructure => principal.has(Role::InfrastructureProvider),
            Action::ManageMembers => principal.has(Role::Admin) || principal.has(Role::OrganizationAdmin),
            Action::RenameOrganization | Action::ReadAudit => principal.has(Role::Admin),
            Action::RemoveInfrastructure | Action::ManageOrganizations => false,
        }
}

/// The members of an organisation share its applications. `root` is where everybody is who has no organisation of
/// their own; there everybody has their own.
fn is_shared(principal: &Principal, object: Object<'_>) -> bool {
    match object {
        Object::Application(application) if principal.in_root => application.owner == principal.name,
        Object::Application(_) | Object::Anything | Object::Organization(_) => true,
    }
}

/// Whether somebody who manages members may give a role. Nobody gives what it does not have itself, and only the
/// system admins let somebody at the machines, which all organisations share.
fn may_give(principal: &Principal, role: Role) -> bool {
    principal.is_system_admin()
        || match role {
            Role::Admin => principal.has(Role::Admin),
            Role::OrganizationAdmin | Role::ApplicationProvider => true,
            Role::InfrastructureProvider => false,
        }
}

/// Whether somebody who manages members may take a role away.
fn may_take(principal: &Principal, role: Role) -> bool {
    principal.has(Role::Admin) || may_give(principal, role)
}

/// Refuses a change of the roles of a member, the first role named that cannot be given or taken.
pub(super) fn check_roles(principal: &Principal, former: &[Role], roles: &[Role]) -> Result<(), ApiError> {
    let given = roles.iter().find(|role| !former.contains(role) && !may_give(principal, **role));
    let taken = former.iter().find(|role| !roles.contains(role) && !may_take(principal, **role));
    match given.or(taken) {
        Some(role) => Err(ApiError::forbidden_because(format!(
            "you cannot give or take the role {}: ask an Admin of the organisation `root`",
            role.as_str()
        ))),
        None => Ok(()),
    }
}

/// Whether somebody who manages members may change mail address and password of a user, which is as good as logging in
/// as that user: only if it is in no other organisation and could have been given all its roles.
pub(super) fn may_change_account<'a>(
    principal: &Principal,
    memberships: impl IntoIterator<Item = (OrganizationId, &'a [Role])>,
) -> bool {
    principal.is_system_admin()
        || memberships.into_iter().all(|(organization, roles)| {
            organization == principal.organization && roles.iter().all(|role| may_give(principal, *role))
        })
}

#[cfg(test)]
mod tests {
    use oak_model::UserId;

    use super::*;

    fn principal(in_root: bool, roles: &[Role]) -> Principal {
        Principal {
            user: UserId::from_parts(1, 1),
            name: "bob".into(),
            organization: OrganizationId::from_parts(1, u64::from(!in_root)),
            in_root,
            roles: roles.to_vec(),
            password_version: 0,
        }
    }

    #[test]
    fn nobody_gets_beyond_the_own_roles() {
        let admin = principal(false, &[Role::Admin]);
        let manager = principal(false, &[Role::OrganizationAdmin]);
        assert!(check_roles(&admin, &[], &[Role::Admin, Role::OrganizationAdmin]).is_ok());
        assert!(check_roles(&admin, &[], &[Role::InfrastructureProvider]).is_err());
        assert!(check_roles(&admin, &[Role::InfrastructureProvider], &[]).is_ok());
        assert!(check_roles(&manager, &[], &[Role::Admin]).is_err());
        assert!(check_roles(&manager, &[Role::Admin], &[]).is_err());
        assert!(check_roles(&manager, &[Role::Admin], &[Role::Admin, Role::ApplicationProvider]).is_ok());
        let root_manager = principal(true, &[Role::OrganizationAdmin]);
        assert!(check_roles(&root_manager, &[], &[Role::Admin]).is_err());
    }

    #[test]
    fn accounts_of_more_powerful_users_are_out_of_reach() {
        let admin = principal(false, &[Role::Admin]);
        let (here, root) = (OrganizationId::from_parts(1, 1), OrganizationId::from_parts(1, 0));
        assert!(may_change_account(&admin, [(here, &[Role::Admin][..])]));
        assert!(!may_change_account(&admin, [(here, &[][..]), (root, &[][..])]));
        assert!(!may_change_account(&admin, [(here, &[Role::InfrastructureProvider][..])]));
        let manager = principal(false, &[Role::OrganizationAdmin]);
        assert!(!may_change_account(&manager, [(here, &[Role::Admin][..])]));
        assert!(may_change_account(&principal(true, &[Role::Admin]), [(here, &[][..]), (root, &[][..])]));
    }
}
