//! What accounts consist of.

use oak_model::{OrganizationId, UserId, WallTime};
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
    /// Everything in the organisation; in the organisation `root` everything everywhere.
    Admin,
    /// Manages the users of the organisation.
    #[serde(rename = "Organization_Admin")]
    OrganizationAdmin,
    /// Creates and runs applications.
    #[serde(rename = "Application_Provider")]
    ApplicationProvider,
    /// Adds clusters and workers, and empties workers.
    #[serde(rename = "Infrastructure_Provider")]
    InfrastructureProvider,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] =
        [Self::Admin, Self::OrganizationAdmin, Self::ApplicationProvider, Self::InfrastructureProvider];

    /// Name in tokens and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "Admin",
            Self::OrganizationAdmin => "Organization_Admin",
            Self::ApplicationProvider => "Application_Provider",
            Self::InfrastructureProvider => "Infrastructure_Provider",
        }
    }
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
    /// An unused link for a forgotten password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reset: Option<Reset>,
}

/// A link for a forgotten password; only its hash is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reset {
    /// SHA-256 of the token in the link, hexadecimal.
    pub(super) hash: String,
    /// End of its life.
    pub(super) expires: WallTime,
}

impl User {
    /// A user with a new password.
    #[must_use]
    pub fn new(id: UserId, now: WallTime, profile: Profile, password: String) -> Self {
        Self {
            id,
            name: profile.name,
            email: profile.email,
            password,
            // Not zero: tokens of a former user of this name must not be accepted.
            password_version: now.0,
            default_password: false,
            created_at: profile.created_at.unwrap_or_else(|| calendar::day_first(now)),
            reset: None,
        }
    }
}

/// What is known about a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Login name.
    pub name: String,
    /// Mail address, may be empty.
    pub email: String,
    /// See [`User::created_at`]; `None`: now.
    pub created_at: Option<String>,
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
    /// Whether a user is a member.
    #[must_use]
    pub fn has(&self, user: UserId) -> bool {
        self.members.iter().any(|member| member.user == user)
    }

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
    /// Whether that is the organisation `root`.
    pub in_root: bool,
    /// Roles in that organisation.
    pub roles: Vec<Role>,
    /// See [`User::password_version`].
    pub password_version: u64,
}

impl Principal {
    /// Whether everything is open to it: an `Admin` of the organisation `root`.
    #[must_use]
    pub fn is_system_admin(&self) -> bool {
        self.in_root && self.has(Role::Admin)
    }

    /// Whether it has a role in the organisation it logged in to.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}
