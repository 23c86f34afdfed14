//! One line of the log.

use oak_model::{OrganizationId, WallTime};
use serde::{Deserialize, Serialize};

/// What happened, before it has a number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Name of the user; for a refused login the name that was given, otherwise `None` when nobody was logged in.
    pub user: Option<Box<str>>,
    /// Organisation the user was logged in to.
    pub organization: Option<OrganizationId>,
    /// Address the request came from.
    pub from: Box<str>,
    /// Method of the request.
    pub method: Box<str>,
    /// Path of the request with the names of its parameters, such as `/api/user/{name}`.
    pub route: Box<str>,
    /// Path of the request as it was.
    pub path: Box<str>,
    /// What was created, if that does not stand in the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<Box<str>>,
    /// Status of the answer.
    pub status: u16,
    /// How many refusals before this one were not recorded because there were too many.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unrecorded: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form serde wants")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Event {
    /// Whether the request was carried out.
    #[must_use]
    pub const fn was_done(&self) -> bool {
        self.status < 400
    }
}

/// An event with its place in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Place in the log; grows.
    pub number: u64,
    /// When.
    pub at: WallTime,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}
