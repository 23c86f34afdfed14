//! Users, organisations and the roles that connect them. Pure, like the machines of `oak-control`.

use std::collections::{BTreeMap, HashMap};

use oak_control::{CorruptRow, Entropy, Machine, Outbox, Row, Table};
use oak_model::{Moment, Now, OrganizationId, UserId};
use oak_store::Hosted;
use serde::{Deserialize, Serialize};

use crate::calendar;

/// Name of the user that exists from the beginning.
pub const DEFAULT_USER: &str = "Admin";
/// Its password until somebody changes it; works only on the root machine itself.
pub const DEFAULT_PASSWORD: &str = "Admin";
/// Organisation that exists from the beginning, and that a login without organisation means.
pub const ROOT_ORGANIZATION: &str = "root";
/// Longest password, in bytes. Hashing reads all of it.
pub const MAX_PASSWORD_BYTES: usize = 1024;

/// What a user may do in an organisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Everything.
    Admin,
    /// Manages the users of the organisation.
    #[serde(rename = "Organization_Admin")]
    OrganizationAdmin,
    /// Creates and runs applications.
    #[serde(rename = "Application_Provider")]
    ApplicationProvider,
    /// Adds clusters and workers.
    #[serde(rename = "Infrastructure_Provider")]
    InfrastructureProvider,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] =
        [Self::Admin, Self::OrganizationAdmin, Self::ApplicationProvider, Self::InfrastructureProvider];
}

/// A user account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct User {
    /// Identity.
    pub id: UserId,
    /// Login name; owner of applications.
    pub name: String,
    /// Mail address, may be empty.
    #[serde(default)]
    pub email: String,
    /// Hash of the password in PHC form.
    pub password: String,
    /// Counts the changes of the password; tokens name the version they were issued under.
    #[serde(default)]
    pub password_version: u64,
    /// The documented password of the first login is still in use.
    #[serde(default)]
    pub default_password: bool,
    /// `dd/mm/yyyy HH:MM`, as clients expect it.
    #[serde(default)]
    pub created_at: String,
}

/// An organisation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Organization {
    /// Identity.
    pub id: OrganizationId,
    /// Unique name.
    pub name: String,
    /// Who belongs to it.
    #[serde(default)]
    pub members: Vec<Member>,
}

/// A user in an organisation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Who.
    pub user: UserId,
    /// What it may do there.
    pub roles: Vec<Role>,
}

impl Organization {
    /// Roles of a user, empty if it is not a member.
    #[must_use]
    pub fn roles_of(&self, user: UserId) -> Vec<Role> {
        let member = self.members.iter().find(|member| member.user == user);
        member.map(|member| member.roles.clone()).unwrap_or_default()
    }
}

/// What a login is checked against.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Hash of the password in PHC form.
    pub password: String,
    /// See [`User::password_version`].
    pub password_version: u64,
    /// See [`User::default_password`].
    pub default_password: bool,
}

/// A user in the organisation it logged in to, as it is now.
#[derive(Clone, Debug)]
pub struct Principal {
    /// Identity.
    pub user: UserId,
    /// Login name.
    pub name: String,
    /// Organisation.
    pub organization: OrganizationId,
    /// Roles in that organisation.
    pub roles: Vec<Role>,
    /// See [`User::password_version`].
    pub password_version: u64,
}

/// Why accounts do not change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountRefusal {
    /// No such user.
    #[error("there is no user `{0}`")]
    UnknownUser(String),
    /// The password was changed since the old one was checked.
    #[error("the password of `{0}` was changed in the meantime: try again with the present one")]
    Changed(String),
}

/// All accounts.
#[derive(Debug, Default)]
pub struct Accounts {
    users: BTreeMap<UserId, User>,
    names: HashMap<String, UserId>,
    organizations: BTreeMap<OrganizationId, Organization>,
    outbox: Outbox<()>,
}

impl Accounts {
    /// Rebuilds the accounts from stored rows; rows of other tables are left alone.
    ///
    /// # Errors
    /// A row that cannot be read.
    pub fn load(rows: &[Row]) -> Result<Self, CorruptRow> {
        let mut accounts = Self::default();
        for row in rows {
            match row.table {
                Table::User => {
                    let user: User = row.parse()?;
                    accounts.names.insert(user.name.clone(), user.id);
                    accounts.users.insert(user.id, user);
                }
                Table::Organization => {
                    let organization: Organization = row.parse()?;
                    accounts.organizations.insert(organization.id, organization);
                }
                Table::Meta
                | Table::Application
                | Table::Service
                | Table::Instance
                | Table::Cluster
                | Table::Token
                | Table::Worker
                | Table::Placement
                | Table::Workload
                | Table::Departure
                | Table::Event
                | Table::Secret => {}
            }
        }
        Ok(accounts)
    }

    /// Whether [`Accounts::seed`] has something to do: nobody could log in.
    #[must_use]
    pub fn needs_seed(&self) -> bool {
        self.users.is_empty()
    }

    /// Creates the first user in the first organisation with all roles, if there is no user yet. `password` is the
    /// hash of [`DEFAULT_PASSWORD`].
    pub fn seed(&mut self, now: Now, entropy: &mut dyn Entropy, password: String) {
        if !self.needs_seed() {
            return;
        }
        let id = UserId::new(now.wall, entropy.next_u64());
        let user = User {
            id,
            name: DEFAULT_USER.to_owned(),
            email: String::new(),
            password,
            password_version: 0,
            default_password: true,
            created_at: calendar::day_first(now.wall),
        };
        let member = Member { user: id, roles: Role::ALL.to_vec() };
        let existing = self.organization_named(ROOT_ORGANIZATION).map(|organization| organization.id);
        let organization_id = existing.unwrap_or_else(|| OrganizationId::new(now.wall, entropy.next_u64()));
        let organization = self.organizations.entry(organization_id).or_insert_with(|| Organization {
            id: organization_id,
            name: ROOT_ORGANIZATION.to_owned(),
            members: Vec::new(),
        });
        organization.members.push(member);
        self.outbox.put(Table::Organization, organization_id, organization);
        self.outbox.put(Table::User, id, &user);
        self.names.insert(user.name.clone(), id);
        self.users.insert(id, user);
    }

    /// One user.
    #[must_use]
    pub fn user_named(&self, name: &str) -> Option<&User> {
        self.names.get(name).and_then(|id| self.users.get(id))
    }

    /// One organisation.
    #[must_use]
    pub fn organization_named(&self, name: &str) -> Option<&Organization> {
        self.organizations.values().find(|organization| organization.name == name)
    }

    /// All organisations, oldest first.
    pub fn organizations(&self) -> impl Iterator<Item = &Organization> {
        self.organizations.values()
    }

    /// What a login of this name is checked against.
    #[must_use]
    pub fn credentials(&self, name: &str) -> Option<Credentials> {
        self.user_named(name).map(|user| Credentials {
            password: user.password.clone(),
            password_version: user.password_version,
            default_password: user.default_password,
        })
    }

    /// A user in an organisation. Somebody who is not a member has no roles there.
    #[must_use]
    pub fn principal(&self, name: &str, organization: OrganizationId) -> Option<Principal> {
        let user = self.user_named(name)?;
        let organization = self.organizations.get(&organization)?;
        Some(Principal {
            user: user.id,
            name: user.name.clone(),
            organization: organization.id,
            roles: organization.roles_of(user.id),
            password_version: user.password_version,
        })
    }

    /// Stores a new password. `version` is the one under which the old password was checked, so that of two
    /// concurrent changes only one happens. All tokens of the user become invalid.
    ///
    /// # Errors
    /// The user is gone, or its password was changed meanwhile.
    pub fn change_password(
        &mut self,
        name: &str,
        version: u64,
        password: String,
        is_default: bool,
    ) -> Result<(), AccountRefusal> {
        let user = self.names.get(name).and_then(|id| self.users.get_mut(id));
        let user = user.ok_or_else(|| AccountRefusal::UnknownUser(name.to_owned()))?;
        if user.password_version != version {
            return Err(AccountRefusal::Changed(name.to_owned()));
        }
        user.password = password;
        user.password_version += 1;
        user.default_password = is_default;
        self.outbox.put(Table::User, user.id, user);
        Ok(())
    }
}

impl Machine for Accounts {
    type Effect = ();

    fn take_outbox(&mut self) -> Outbox<()> {
        self.outbox.take()
    }

    fn next_deadline(&self) -> Option<Moment> {
        None
    }

    fn tick(&mut self, _now: Now, _entropy: &mut dyn Entropy) {}
}

impl Hosted for Accounts {}

#[cfg(test)]
mod tests {
    use oak_control::SeededEntropy;

    use super::*;

    #[test]
    fn the_first_user_is_created_once_and_survives_in_rows() {
        let mut entropy = SeededEntropy::new(1);
        let mut accounts = Accounts::default();
        accounts.seed(Now::default(), &mut entropy, "hash".into());
        let rows = accounts.take_outbox().rows;
        let mut again = Accounts::load(&rows).unwrap();
        again.seed(Now::default(), &mut entropy, "other".into());
        assert!(again.take_outbox().is_empty());
        let organization = again.organization_named("root").unwrap().id;
        let principal = again.principal("Admin", organization).unwrap();
        assert_eq!(principal.roles, Role::ALL);
        assert!(again.credentials("Admin").unwrap().default_password);
    }

    #[test]
    fn of_two_concurrent_password_changes_one_wins() {
        let mut accounts = Accounts::default();
        accounts.seed(Now::default(), &mut SeededEntropy::new(1), "hash".into());
        accounts.change_password("Admin", 0, "first".into(), false).unwrap();
        let late = accounts.change_password("Admin", 0, "second".into(), false);
        assert_eq!(late, Err(AccountRefusal::Changed("Admin".into())));
        let credentials = accounts.credentials("Admin").unwrap();
        assert_eq!((credentials.password.as_str(), credentials.default_password), ("first", false));
    }
}
