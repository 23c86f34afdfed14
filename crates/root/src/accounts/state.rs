//! Users, organisations and the roles that connect them: what there is. Pure, like the machines of `oak-control`.

use std::collections::{BTreeMap, HashMap};

use oak_control::{CorruptRow, Entropy, Machine, Outbox, Row, Table};
use oak_model::{Moment, Now, OrganizationId, UserId};
use oak_store::Hosted;

use super::types::{
    Credentials, DEFAULT_USER, Member, Organization, Principal, Profile, ROOT_ORGANIZATION, Role, User,
};

/// Why accounts do not change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountRefusal {
    /// No such user.
    #[error("there is no user `{0}`")]
    UnknownUser(String),
    /// The name of a user is taken.
    #[error("Username already exists")]
    UserExists,
    /// The name of an organisation is taken.
    #[error("there is an organisation `{0}` already: choose another name, or rename that one first")]
    OrganizationExists(String),
    /// No such organisation.
    #[error("there is no organisation `{0}`")]
    UnknownOrganization(String),
    /// A list of members names somebody who does not exist.
    #[error("there is no user with the id {0}")]
    UnknownMember(UserId),
    /// A list of members names somebody twice.
    #[error("user {0} is in the list of members twice")]
    MemberTwice(UserId),
    /// Nobody could administer the system any more.
    #[error("`{0}` is the last Admin of the organisation `root`: make somebody else Admin there first")]
    LastAdmin(String),
    /// The organisation `root` is needed.
    #[error("the organisation `root` cannot be renamed or deleted: logins without an organisation mean it")]
    RootOrganization,
    /// There are enough.
    #[error("there are {0} already, which is the most there can be: delete some that are not needed")]
    TooMany(&'static str),
    /// The link was never given out, or used before.
    #[error("Link invalid! Please request a new one!")]
    UnknownLink,
    /// The link is too old.
    #[error("Link expired! Please request a new one!")]
    ExpiredLink,
    /// The password was changed since the old one was checked.
    #[error("the password of `{0}` was changed in the meantime: try again with the present one")]
    Changed(String),
}

/// All accounts.
#[derive(Debug, Default)]
pub struct Accounts {
    pub(super) users: BTreeMap<UserId, User>,
    pub(super) names: HashMap<String, UserId>,
    pub(super) organizations: BTreeMap<OrganizationId, Organization>,
    pub(super) outbox: Outbox<()>,
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
                | Table::Call
                | Table::KnownService
                | Table::Backend
                | Table::Peer
                | Table::Workload
                | Table::Departure
                | Table::Event
                | Table::Secret
                | Table::Quota
                | Table::Audit => {}
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
        let profile = Profile { name: DEFAULT_USER.to_owned(), email: String::new(), created_at: None };
        let user = User { default_password: true, ..User::new(id, now.wall, profile, password) };
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

    /// Which organisation a user logs in to. Without a name it is `root` for its members, and for others the oldest
    /// of theirs. One of which the user is no member looks like one that does not exist; only `root` takes everybody,
    /// but without roles.
    #[must_use]
    pub fn login_organization(&self, user: &str, wanted: Option<&str>) -> Option<OrganizationId> {
        let user = self.user_named(user)?.id;
        let root = self.organization_named(ROOT_ORGANIZATION);
        let chosen = match wanted {
            Some(ROOT_ORGANIZATION) => root,
            Some(name) => self.organization_named(name).filter(|organization| organization.has(user)),
            None => {
                let home = root.filter(|root| root.has(user));
                home.or_else(|| self.organizations().find(|organization| organization.has(user))).or(root)
            }
        };
        chosen.map(|organization| organization.id)
    }

    /// A user in an organisation. Only `root` takes those who are no members, and they have no roles there.
    #[must_use]
    pub fn principal(&self, name: &str, organization: OrganizationId) -> Option<Principal> {
        let user = self.user_named(name)?;
        let organization = self.organizations.get(&organization)?;
        let in_root = organization.name == ROOT_ORGANIZATION;
        if !in_root && !organization.has(user.id) {
            return None;
        }
        Some(Principal {
            user: user.id,
            name: user.name.clone(),
            organization: organization.id,
            in_root,
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
        set_password(user, password, is_default);
        self.outbox.put(Table::User, user.id, user);
        Ok(())
    }
}

/// Ends the validity of all tokens and of an open link for a forgotten password, too.
pub(super) fn set_password(user: &mut User, password: String, is_default: bool) {
    user.password = password;
    user.password_version += 1;
    user.default_password = is_default;
    user.reset = None;
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
        let version = accounts.credentials("Admin").unwrap().password_version;
        accounts.change_password("Admin", version, "first".into(), false).unwrap();
        let late = accounts.change_password("Admin", version, "second".into(), false);
        assert_eq!(late, Err(AccountRefusal::Changed("Admin".into())));
        let credentials = accounts.credentials("Admin").unwrap();
        assert_eq!((credentials.password.as_str(), credentials.default_password), ("first", false));
    }
}
