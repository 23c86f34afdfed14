//! Changes of organisations.

use std::collections::HashSet;

use oak_control::{Entropy, Table};
use oak_model::{Now, OrganizationId};

use super::state::{AccountRefusal, Accounts};
use super::types::{Member, Organization, ROOT_ORGANIZATION};

/// Most organisations.
const MAX_ORGANIZATIONS: usize = 1000;

impl Accounts {
    /// Creates an organisation.
    ///
    /// # Errors
    /// The name is taken, a member does not exist, or there are too many.
    pub fn create_organization(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        name: String,
        members: Vec<Member>,
    ) -> Result<OrganizationId, AccountRefusal> {
        if self.organization_named(&name).is_some() {
            return Err(AccountRefusal::OrganizationExists(name));
        }
        if self.organizations.len() >= MAX_ORGANIZATIONS {
            return Err(AccountRefusal::TooMany("1000 organisations"));
        }
        self.check_members(&members)?;
        let id = OrganizationId::new(now.wall, entropy.next_u64());
        let organization = Organization { id, name, members };
        self.outbox.put(Table::Organization, id, &organization);
        self.organizations.insert(id, organization);
        Ok(id)
    }

    /// One organisation.
    #[must_use]
    pub fn organization(&self, id: OrganizationId) -> Option<&Organization> {
        self.organizations.get(&id)
    }

    /// Changes name and members of an organisation, both or none.
    ///
    /// # Errors
    /// It is gone, the name is taken or fixed, a member does not exist, or nobody could administer the system any more.
    pub fn change_organization(
        &mut self,
        id: OrganizationId,
        name: Option<String>,
        members: Option<Vec<Member>>,
    ) -> Result<(), AccountRefusal> {
        let unknown = || AccountRefusal::UnknownOrganization(id.to_string());
        let former = self.organizations.get(&id).ok_or_else(unknown)?;
        let name = name.filter(|name| *name != former.name);
        if name.is_some() && former.name == ROOT_ORGANIZATION {
            return Err(AccountRefusal::RootOrganization);
        }
        if let Some(name) = name.as_ref().filter(|name| self.organization_named(name).is_some()) {
            return Err(AccountRefusal::OrganizationExists(name.clone()));
        }
        if let Some(members) = &members {
            self.check_members(members)?;
            self.check_admins(id, members)?;
        }
        let organization = self.organizations.get_mut(&id).ok_or_else(unknown)?;
        if let Some(name) = name {
            organization.name = name;
        }
        if let Some(members) = members {
            organization.members = members;
        }
        self.outbox.put(Table::Organization, id, organization);
        Ok(())
    }

    /// Deletes an organisation. Its users stay.
    ///
    /// # Errors
    /// It is the first one, or gone.
    pub fn delete_organization(&mut self, id: OrganizationId) -> Result<(), AccountRefusal> {
        self.check_organization_deletion(id)?;
        self.organizations.remove(&id);
        self.outbox.delete(Table::Organization, id);
        Ok(())
    }

    /// Whether an organisation can be deleted.
    ///
    /// # Errors
    /// It is the first one, or gone.
    pub fn check_organization_deletion(&self, id: OrganizationId) -> Result<(), AccountRefusal> {
        match self.organizations.get(&id) {
            None => Err(AccountRefusal::UnknownOrganization(id.to_string())),
            Some(organization) if organization.name == ROOT_ORGANIZATION => {
                Err(AccountRefusal::RootOrganization)
            }
            Some(_) => Ok(()),
        }
    }

    fn check_members(&self, members: &[Member]) -> Result<(), AccountRefusal> {
        let mut seen = HashSet::new();
        for member in members {
            if !self.users.contains_key(&member.user) {
                return Err(AccountRefusal::UnknownMember(member.user));
            }
            if !seen.insert(member.user) {
                return Err(AccountRefusal::MemberTwice(member.user));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use oak_control::SeededEntropy;
    use oak_model::UserId;

    use super::super::types::Role;
    use super::*;

    #[test]
    fn names_are_unique_and_root_keeps_its_own() {
        let (mut accounts, mut entropy) = (Accounts::default(), SeededEntropy::new(1));
        accounts.seed(Now::default(), &mut entropy, "hash".into());
        let mut create = |accounts: &mut Accounts, name: &str| {
            accounts.create_organization(Now::default(), &mut entropy, name.into(), Vec::new())
        };
        let lab = create(&mut accounts, "lab").unwrap();
        let exists = |name: &str| Err(AccountRefusal::OrganizationExists(name.into()));
        assert_eq!(create(&mut accounts, "lab").map(|_| ()), exists("lab"));
        assert_eq!(accounts.change_organization(lab, Some("root".into()), None), exists("root"));
        let root = accounts.organization_named("root").unwrap().id;
        let fixed = Err(AccountRefusal::RootOrganization);
        assert_eq!(accounts.change_organization(root, Some("other".into()), None), fixed);
        assert_eq!(accounts.delete_organization(root), fixed);
        accounts.change_organization(root, Some("root".into()), None).unwrap();
        accounts.delete_organization(lab).unwrap();
        create(&mut accounts, "lab").unwrap();
    }

    #[test]
    fn members_exist_and_stand_there_once() {
        let (mut accounts, mut entropy) = (Accounts::default(), SeededEntropy::new(1));
        accounts.seed(Now::default(), &mut entropy, "hash".into());
        let admin = Member { user: accounts.user_named("Admin").unwrap().id, roles: vec![Role::Admin] };
        let nobody = Member { user: UserId::from_parts(9, 9), roles: Vec::new() };
        let root = accounts.organization_named("root").unwrap().id;
        let mut change = |members: Vec<Member>| accounts.change_organization(root, None, Some(members));
        let (first, second) = (admin.clone(), admin.clone());
        assert_eq!(change(vec![first, second]), Err(AccountRefusal::MemberTwice(admin.user)));
        let unknown = AccountRefusal::UnknownMember(nobody.user);
        assert_eq!(change(vec![admin, nobody]), Err(unknown));
        assert_eq!(change(Vec::new()), Err(AccountRefusal::LastAdmin("Admin".into())));
    }
}
