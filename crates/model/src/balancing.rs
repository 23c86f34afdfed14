//! How one of the instances of a service is chosen for a new connection. Each way has addresses and a name of its own.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A way to choose. The decision is made on the node of the caller, once for each connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balancing {
    /// One after the other.
    #[default]
    RoundRobin,
    /// One on the node with the shortest measured round trip; the caller's own node is the closest.
    Closest,
    /// One after the other, those that use little of their processor share more often.
    LeastLoaded,
    /// The same caller comes to the same instance as long as that takes connections.
    Sticky,
    /// One on the caller's own node; one of the others only if there is none.
    LocalFirst,
}

impl Balancing {
    /// All of them, the usual one first.
    pub const ALL: [Self; 5] =
        [Self::RoundRobin, Self::Closest, Self::LeastLoaded, Self::Sticky, Self::LocalFirst];

    /// The label in front of a service's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Closest => "closest",
            Self::LeastLoaded => "least-loaded",
            Self::Sticky => "sticky",
            Self::LocalFirst => "local-first",
        }
    }

    /// The field of a descriptor's `addresses` that asks for an IPv4 address.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::RoundRobin => "rr_ip",
            Self::Closest => "closest_ip",
            Self::LeastLoaded => "least_loaded_ip",
            Self::Sticky => "sticky_ip",
            Self::LocalFirst => "local_first_ip",
        }
    }

    /// The same for the IPv6 address that goes with it.
    #[must_use]
    pub const fn field6(self) -> &'static str {
        match self {
            Self::RoundRobin => "rr_ip_v6",
            Self::Closest => "closest_ip_v6",
            Self::LeastLoaded => "least_loaded_ip_v6",
            Self::Sticky => "sticky_ip_v6",
            Self::LocalFirst => "local_first_ip_v6",
        }
    }

    /// `IpType` of the API; the first two are those of the original.
    #[must_use]
    pub const fn ip_type(self) -> &'static str {
        match self {
            Self::RoundRobin => "RR",
            Self::Closest => "Closest",
            Self::LeastLoaded => "LeastLoaded",
            Self::Sticky => "Sticky",
            Self::LocalFirst => "LocalFirst",
        }
    }
}

impl fmt::Display for Balancing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_the_name() {
        for policy in Balancing::ALL {
            assert_eq!(serde_json::to_value(policy).unwrap(), policy.name());
        }
    }
}
