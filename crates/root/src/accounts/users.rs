//! Changes of users and of their places in organisations.

use oak_control::{Entropy, Table};
use oak_model::{Now, OrganizationId, UserId};

use super::state::{AccountRefusal, Accounts, set_password};
use super::types::{Member, Profile, ROOT_ORGANIZATION, Role, User};

/// Most users.
const MAX_USERS: usize = 10_000;

/// What changes about a user; `None` stays.
#[derive(Clone, Debug, Default)]
pub struct UserChange {
    /// Mail address.
    pub email: Option<String>,
    /// Hash of a new password, and whether it is the one of the first login.
    pub password: Option<(String, bool)>,
    /// Roles in an organisation; makes the user a member if it is none yet.
    pub roles: Option<(OrganizationId, Vec<Role>)>,
}

impl Accounts {
    /// Creates a user as a member of an organisation, with roles there.
    ///
    /// # Errors
    /// The name is taken, there are too many users, or the organisation is gone.
    pub fn register(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        profile: Profile,
        password: String,
        (organization, roles): (OrganizationId, Vec<Role>),
    ) -> Result<&User, AccountRefusal> {
        if self.names.contains_key(&profile.name) {
            return Err(AccountRefusal::UserExists);
        }
        if self.users.len() >= MAX_USERS {
            return Err(AccountRefusal::TooMany("10 000 users"));
        }
        let place = self.organizations.get_mut(&organization);
        let place = place.ok_or_else(|| AccountRefusal::UnknownOrganization(organization.to_string()))?;
        let id = UserId::new(now.wall, entropy.next_u64());
        let user = User::new(id, now.wall, profile, password);
        place.members.push(Member { user: id, roles });
        self.outbox.put(Table::User, id, &user);
        self.outbox.put(Table::Organization, organization, place);
        self.names.insert(user.name.clone(), id);
        Ok(self.users.entry(id).or_insert(user))
    }

    /// All users, oldest first.
    pub fn users(&self) -> impl Iterator<Item = &User> {
        self.users.values()
    }

    /// One user.
    #[must_use]
    pub fn user(&self, id: UserId) -> Option<&User> {
        self.users.get(&id)
    }

    /// The organisations a user belongs to, oldest first, with its roles there.
    pub fn memberships(&self, user: UserId) -> impl Iterator<Item = (OrganizationId, &[Role])> {
        self.organizations.values().filter_map(move |organization| {
            let member = organization.members.iter().find(|member| member.user == user)?;
            Some((organization.id, &*member.roles))
        })
    }

    /// Changes a user, everything or nothing.
    ///
    /// # Errors
    /// The user or the organisation is gone, or nobody could administer the system any more.
    pub fn change_user(&mut self, name: &str, change: UserChange) -> Result<(), AccountRefusal> {
        let id = *self.names.get(name).ok_or_else(|| AccountRefusal::UnknownUser(name.to_owned()))?;
        if let Some((organization, roles)) = change.roles {
            self.set_roles(organization, id, roles)?;
        }
        let user = self.users.get_mut(&id).ok_or_else(|| AccountRefusal::UnknownUser(name.to_owned()))?;
        let has_changed =
            change.password.is_some() || change.email.as_ref().is_some_and(|email| *email != user.email);
        if let Some(email) = change.email {
            user.email = email;
        }
        if let Some((password, is_default)) = change.password {
            set_password(user, password, is_default);
        }
        if has_changed {
            self.outbox.put(Table::User, id, user);
        }
        Ok(())
    }

    fn set_roles(
        &mut self,
        organization: OrganizationId,
        user: UserId,
        roles: Vec<Role>,
    ) -> Result<(), AccountRefusal> {
        let place = self.organizations.get(&organization);
        let place = place.ok_or_else(|| AccountRefusal::UnknownOrganization(organization.to_string()))?;
        let mut members = place.members.clone();
        match members.iter_mut().find(|member| member.user == user) {
            Some(member) if member.roles == roles => return Ok(()),
            Some(member) => member.roles = roles,
            None => members.push(Member { user, roles }),
        }
        self.check_admins(organization, &members)?;
        self.put_members(organization, members);
        Ok(())
    }

    /// Takes a user out of an organisation. The account stays.
    ///
    /// # Errors
    /// Nobody could administer the system any more.
    pub fn remove_member(
        &mut self,
        organization: OrganizationId,
        user: UserId,
    ) -> Result<(), AccountRefusal> {
        let Some(place) = self.organizations.get(&organization) else { return Ok(()) };
        let members: Vec<_> = place.members.iter().filter(|member| member.user != user).cloned().collect();
        if members.len() == place.members.len() {
            return Ok(());
        }
        self.check_admins(organization, &members)?;
        self.put_members(organization, members);
        Ok(())
    }

    /// Deletes a user everywhere.
    ///
    /// # Errors
    /// There is no such user, or nobody could administer the system any more.
    pub fn delete_user(&mut self, name: &str) -> Result<(), AccountRefusal> {
        let id = *self.names.get(name).ok_or_else(|| AccountRefusal::UnknownUser(name.to_owned()))?;
        self.check_deletion(id)?;
        let places: Vec<_> = self.memberships(id).map(|(organization, _)| organization).collect();
        for organization in places {
            self.remove_member(organization, id)?;
        }
        self.names.remove(name);
        self.users.remove(&id);
        self.outbox.delete(Table::User, id);
        Ok(())
    }

    /// Whether a user can be deleted.
    ///
    /// # Errors
    /// Nobody could administer the system any more.
    pub fn check_deletion(&self, user: UserId) -> Result<(), AccountRefusal> {
        let Some(root) = self.organization_named(ROOT_ORGANIZATION) else { return Ok(()) };
        let left: Vec<_> = root.members.iter().filter(|member| member.user != user).cloned().collect();
        self.check_admins(root.id, &left)
    }

    /// Somebody must be able to administer the system, whatever becomes of the members of an organisation.
    pub(super) fn check_admins(
        &self,
        organization: OrganizationId,
        members: &[Member],
    ) -> Result<(), AccountRefusal> {
        let is_admin = |member: &&Member| member.roles.contains(&Role::Admin);
        let Some(place) = self.organizations.get(&organization) else { return Ok(()) };
        if place.name != ROOT_ORGANIZATION || members.iter().any(|member| is_admin(&member)) {
            return Ok(());
        }
        let former = place.members.iter().find(is_admin).and_then(|member| self.users.get(&member.user));
        match former {
            Some(user) => Err(AccountRefusal::LastAdmin(user.name.clone())),
            None => Ok(()),
        }
    }

    pub(super) fn put_members(&mut self, organization: OrganizationId, members: Vec<Member>) {
        if let Some(place) = self.organizations.get_mut(&organization) {
            place.members = members;
            self.outbox.put(Table::Organization, organization, place);
        }
    }
}

#[cfg(test)]
mod tests {
    use oak_control::{Machine, SeededEntropy};

    use super::*;

    fn seeded() -> (Accounts, OrganizationId, SeededEntropy) {
        let (mut accounts, mut entropy) = (Accounts::default(), SeededEntropy::new(1));
        accounts.seed(Now::default(), &mut entropy, "hash".into());
        let root = accounts.organization_named("root").unwrap().id;
        (accounts, root, entropy)
    }

    fn profile(name: &str) -> Profile {
        Profile { name: name.into(), email: String::new(), created_at: None }
    }

    #[test]
    fn a_name_is_given_once_and_free_again_after_its_user_was_deleted() {
        let (mut accounts, root, mut entropy) = seeded();
        let mut register = |accounts: &mut Accounts, at| {
            let now = Now { wall: oak_model::WallTime(at), ..Now::default() };
            accounts
                .register(now, &mut entropy, profile("bob"), "h".into(), (root, vec![]))
                .map(|user| user.password_version)
        };
        let first = register(&mut accounts, 1000).unwrap();
        assert_eq!(register(&mut accounts, 2000), Err(AccountRefusal::UserExists));
        accounts.delete_user("bob").unwrap();
        assert!(!accounts.organization_named("root").unwrap().members.iter().any(|m| m.roles.is_empty()));
        assert_ne!(register(&mut accounts, 3000).unwrap(), first, "old tokens are not those of the new bob");
    }

    #[test]
    fn the_last_admin_of_root_can_neither_leave_nor_lose_the_role() {
        let (mut accounts, root, mut entropy) = seeded();
        let refused = Err(AccountRefusal::LastAdmin("Admin".into()));
        let admin = accounts.user_named("Admin").unwrap().id;
        assert_eq!(accounts.delete_user("Admin"), refused);
        assert_eq!(accounts.remove_member(root, admin), refused);
        let demoted =
            UserChange { roles: Some((root, vec![])), email: Some("x@y".into()), ..UserChange::default() };
        let _ = accounts.take_outbox();
        assert_eq!(accounts.change_user("Admin", demoted.clone()), refused);
        assert!(accounts.take_outbox().is_empty(), "nothing or everything");
        let roles = vec![Role::Admin];
        accounts.register(Now::default(), &mut entropy, profile("eve"), "h".into(), (root, roles)).unwrap();
        accounts.change_user("Admin", demoted).unwrap();
        accounts.delete_user("Admin").unwrap();
        assert_eq!(accounts.delete_user("eve"), Err(AccountRefusal::LastAdmin("eve".into())));
    }
}
