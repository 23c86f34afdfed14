//! Fields of accounts in request bodies.

use lettre::Address;
use oak_model::{OrganizationId, UserId};
use serde_json::Value;

use super::body::Object;
use super::error::ApiError;
use crate::accounts::{Member, Role};

/// Longest names of new users and organisations, bytes.
const MAX_NAME_BYTES: usize = 64;
/// Longest mail address, bytes (RFC 5321).
const MAX_EMAIL_BYTES: usize = 254;

/// The name of a new user: it stands in paths, in tokens and in records of applications.
pub(super) fn user_name(body: &Object) -> Result<String, ApiError> {
    let name = body.text("name", MAX_NAME_BYTES)?;
    let is_allowed =
        |letter: char| !letter.is_control() && !letter.is_whitespace() && !"/\\?#%".contains(letter);
    if name.chars().all(is_allowed) && !matches!(name, "." | "..") {
        return Ok(name.to_owned());
    }
    Err(ApiError::field("name", "must not contain blanks, control characters and / \\ ? # %"))
}

/// The name of an organisation.
pub(super) fn organization_name(body: &Object) -> Result<String, ApiError> {
    let name = body.text("name", MAX_NAME_BYTES)?;
    if name.trim() == name && !name.chars().any(char::is_control) {
        return Ok(name.to_owned());
    }
    Err(ApiError::field("name", "must not begin or end with blanks, nor contain control characters"))
}

/// A mail address; `Some("")` takes it away, `None`: not given.
pub(super) fn email(body: &Object) -> Result<Option<String>, ApiError> {
    match body.0.get("email") {
        None => Ok(None),
        Some(_) => match body.optional_text("email", MAX_EMAIL_BYTES)? {
            None => Ok(Some(String::new())),
            Some(text) if text.parse::<Address>().is_ok() => Ok(Some(text.to_owned())),
            Some(_) => {
                Err(ApiError::field("email", "must be a mail address, such as bob@example.org, or empty"))
            }
        },
    }
}

/// When the dashboard says that an account was made: `dd/MM/yyyy HH:mm`.
pub(super) fn created_at(body: &Object) -> Result<Option<String>, ApiError> {
    let Some(text) = body.optional_text("created_at", 16)? else { return Ok(None) };
    let is_date = text.len() == 16
        && text.bytes().zip("00/00/0000 00:00".bytes()).all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            other => byte == other,
        });
    if is_date {
        return Ok(Some(text.to_owned()));
    }
    Err(ApiError::field("created_at", "must be a time such as 31/01/2026 10:00, or left out"))
}

/// Roles; `None`: not given.
pub(super) fn roles(value: Option<&Value>, place: &str) -> Result<Option<Vec<Role>>, ApiError> {
    let names = match value {
        None => return Ok(None),
        Some(Value::Array(names)) => names,
        Some(_) => return Err(ApiError::field(place, "must be a list of roles")),
    };
    let mut roles = Vec::new();
    for name in names {
        let role = Role::ALL.into_iter().find(|role| name.as_str() == Some(role.as_str()));
        let role = role.ok_or_else(|| {
            let known = Role::ALL.map(Role::as_str).join(", ");
            ApiError::field(place, &format!("must hold only the roles {known}"))
        })?;
        if !roles.contains(&role) {
            roles.push(role);
        }
    }
    Ok(Some(roles))
}

/// The members of an organisation; `None`: not given.
pub(super) fn members(body: &Object) -> Result<Option<Vec<Member>>, ApiError> {
    let list = match body.0.get("member") {
        None => return Ok(None),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(ApiError::field("member", "must be a list")),
    };
    let members = list.iter().enumerate().map(|(index, item)| {
        let place = format!("member[{index}]");
        let user: Option<UserId> = item.get("user_id").and_then(Value::as_str).and_then(|id| id.parse().ok());
        // Without its roles a member would lose them.
        let roles = roles(item.get("roles"), &place)?;
        let form = "must be {\"user_id\": <id of a user>, \"roles\": [<role>, …]}";
        let (user, roles) = user.zip(roles).ok_or_else(|| ApiError::field(&place, form))?;
        Ok(Member { user, roles })
    });
    members.collect::<Result<Vec<_>, ApiError>>().map(Some)
}

/// An organisation in a path. What cannot be an id is one that does not exist.
pub(super) fn organization_id(text: &str) -> Result<OrganizationId, ApiError> {
    text.parse().map_err(|_| unknown_organization(text))
}

/// Unknown ones and those of others, to which the same is said.
pub(super) fn unknown_organization(text: &str) -> ApiError {
    ApiError::not_found(format!("there is no organisation `{}`", super::clusters::shortened(text)))
}

/// Unknown ones and those of others, to which the same is said.
pub(super) fn unknown_user(name: &str) -> ApiError {
    ApiError::not_found(format!("there is no user `{}`", super::clusters::shortened(name)))
}
