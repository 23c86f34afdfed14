//! Names of applications, services and namespaces, and the four-part job name made of them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Name or namespace of an application or a service: 1–30 ASCII letters and digits
/// (root-api reference, 9.3; the pattern `^[a-zA-Z0-9]{1,30}$`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Box<str>);

/// A text does not follow the rule for names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not a valid name: use 1 to 30 letters and digits (a-z, A-Z, 0-9)")]
pub struct InvalidName {
    found: String,
}

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let valid = (1..=30).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !valid {
            return Err(InvalidName { found: text.chars().take(60).collect() });
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.into()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `application.namespace.service.namespace`: how the overlay and the original know a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JobName {
    /// Name of the application.
    pub application: Name,
    /// Namespace of the application.
    pub application_namespace: Name,
    /// Name of the service.
    pub service: Name,
    /// Namespace of the service.
    pub service_namespace: Name,
}

impl JobName {
    /// Whether `name` is `service.namespace.application.namespace`, the order of names on the network, in any case.
    #[must_use]
    pub fn is_dns_name(&self, name: &str) -> bool {
        let labels = [&self.service, &self.service_namespace, &self.application, &self.application_namespace];
        let mut parts = name.split('.');
        let fits = labels
            .iter()
            .all(|label| parts.next().is_some_and(|part| part.eq_ignore_ascii_case(label.as_str())));
        fits && parts.next().is_none()
    }
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{}.{}.{}",
            self.application, self.application_namespace, self.service, self.service_namespace
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_exactly_one_to_thirty_letters_and_digits() {
        for good in ["a", "Nginx1", "0", "abcdefghijklmnopqrstuvwxyz0123"] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "a-b", "a.b", "ä", "a\n", " a", "abcdefghijklmnopqrstuvwxyz01234"] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }
}
