//! What a zone is made of: services with their addresses, instances and ports, from wherever.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use oak_model::{ApplicationId, JobName, Protocol};

/// A service as others find it by name. Entries of one service from several sources are put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Application it belongs to. Two owners may use the same names; who asks gets their own application first.
    pub application: ApplicationId,
    /// Its name.
    pub name: JobName,
    /// Its addresses with the policy each one stands for. The first policy is the one of the plain name.
    pub addresses: Vec<PolicyAddress>,
    /// The instances known here.
    pub instances: Vec<InstanceEntry>,
    /// Ports inside its instances, as far as the descriptor names them.
    pub ports: Vec<ServicePort>,
}

/// An address of a service and what decides there which instance answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyAddress {
    /// The policy.
    pub policy: PolicyName,
    /// The address.
    pub address: IpAddr,
}

/// One instance of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceEntry {
    /// Its number.
    pub number: u32,
    /// Its own addresses, at most one per family.
    pub addresses: Vec<IpAddr>,
    /// Whether it takes new connections.
    pub serves: bool,
}

/// A port inside the instances of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePort {
    /// Transport protocol.
    pub protocol: Protocol,
    /// 1–65535.
    pub port: u16,
}

/// Name of a balancing policy: 1–63 lower-case letters, digits and `-`, starting with a letter. It therefore never
/// looks like the number of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PolicyName(Cow<'static, str>);

/// A text is no policy name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a policy name: use 1 to 63 lower-case letters, digits and `-`, starting with a letter")]
pub struct InvalidPolicyName(String);

impl PolicyName {
    /// The next instance in turn.
    pub const ROUND_ROBIN: Self = Self(Cow::Borrowed("round-robin"));

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PolicyName {
    type Err = InvalidPolicyName;
    fn from_str(text: &str) -> Result<Self, InvalidPolicyName> {
        let is_plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let valid = text.len() <= 63
            && text.starts_with(|first: char| first.is_ascii_lowercase())
            && text.bytes().all(is_plain);
        if !valid {
            return Err(InvalidPolicyName(text.chars().take(80).collect()));
        }
        Ok(Self(Cow::Owned(text.to_owned())))
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_never_looks_like_a_number_or_several_labels() {
        for good in ["round-robin", "closest", "p2"] {
            assert!(good.parse::<PolicyName>().is_ok(), "{good}");
        }
        for bad in ["", "2", "2nd", "a.b", "Closest", "_tcp", &"x".repeat(64)] {
            assert!(bad.parse::<PolicyName>().is_err(), "{bad}");
        }
    }
}
