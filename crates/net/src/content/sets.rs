//! The maps and sets of our table that follow from the service table. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use oak_model::ipv6;

use crate::table::PortProtocol;

/// Which of the two an address is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    Four,
    Six,
}

/// A map or set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Set {
    kind: Kind,
    family: Family,
}

/// What is in a map or set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Service addresses behind which somebody chooses.
    Services,
    /// Addresses with one instance behind them.
    Instances,
    /// What the choices among several lead to. A map for each choice, and a map for all of them, would both make the kernel
    /// slow: it looks at all maps for each new one, and at all users of a map for each further one.
    Places(u8),
    Refused,
    Untold,
    /// Addresses of which it is known who may call them.
    Owned,
    /// Who calls, and the chain of what it reaches.
    Tenants,
    /// Who calls what was not translated, and the chain of what becomes of that.
    Waiters,
    /// What the tenant with this first member may call.
    Reaches(Ipv4Addr),
    /// What it asked for in vain.
    Denied(Ipv4Addr),
    /// As whom instances are seen.
    Identities,
    /// Ports of the host, of both families.
    Ports(PortProtocol),
}

impl Set {
    /// Those that are there even if they are empty.
    pub(super) fn fixed(families: &[Family]) -> impl Iterator<Item = Self> {
        const KINDS: [Kind; 8] = [
            Kind::Services,
            Kind::Instances,
            Kind::Refused,
            Kind::Untold,
            Kind::Owned,
            Kind::Tenants,
            Kind::Waiters,
            Kind::Identities,
        ];
        let both = families.iter().flat_map(|family| KINDS.map(|kind| kind.of(*family)));
        both.chain([PortProtocol::Tcp, PortProtocol::Udp].map(Self::ports))
    }

    pub(super) const fn ports(protocol: PortProtocol) -> Self {
        Kind::Ports(protocol).of(Family::Four)
    }

    /// Map or set.
    pub(super) const fn what(self) -> &'static str {
        match self.kind {
            Kind::Refused | Kind::Untold | Kind::Owned | Kind::Reaches(_) | Kind::Denied(_) => "set",
            Kind::Services
            | Kind::Instances
            | Kind::Places(_)
            | Kind::Tenants
            | Kind::Waiters
            | Kind::Identities
            | Kind::Ports(_) => "map",
        }
    }

    /// The types of its elements.
    pub(super) fn elements(self) -> String {
        let ip = self.family.keyword();
        let address = match self.family {
            Family::Four => "ipv4_addr",
            Family::Six => "ipv6_addr",
        };
        match self.kind {
            Kind::Refused | Kind::Untold | Kind::Owned | Kind::Reaches(_) | Kind::Denied(_) => {
                format!("type {address}")
            }
            Kind::Services | Kind::Tenants | Kind::Waiters => format!("type {address} : verdict"),
            Kind::Instances | Kind::Identities => format!("type {address} : {address}"),
            // The type of a number that is drawn has no name.
            Kind::Places(_) => format!("typeof numgen inc mod 2 : {ip} daddr"),
            Kind::Ports(_) => "type inet_service : verdict".to_owned(),
        }
    }
}

impl Kind {
    pub(super) const fn of(self, family: Family) -> Set {
        Set { kind: self, family }
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let six = match self.family {
            Family::Four => "",
            Family::Six => "6",
        };
        match self.kind {
            Kind::Services => write!(f, "services{six}"),
            Kind::Instances => write!(f, "instances{six}"),
            Kind::Places(part) => write!(f, "places{six}-{part}"),
            Kind::Refused => write!(f, "refused{six}"),
            Kind::Untold => write!(f, "untold{six}"),
            Kind::Owned => write!(f, "owned{six}"),
            Kind::Tenants => write!(f, "tenants{six}"),
            Kind::Waiters => write!(f, "waiters{six}"),
            Kind::Reaches(first) => write!(f, "reaches{six}-{first}"),
            Kind::Denied(first) => write!(f, "denied{six}-{first}"),
            Kind::Identities => write!(f, "identities{six}"),
            Kind::Ports(protocol) => write!(f, "{protocol}_ports"),
        }
    }
}

impl Family {
    /// Those of a table with or without IPv6.
    pub(super) const fn all(ipv6: bool) -> &'static [Self] {
        if ipv6 { &[Self::Four, Self::Six] } else { &[Self::Four] }
    }

    pub(super) const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Four,
            IpAddr::V6(_) => Self::Six,
        }
    }

    pub(super) const fn keyword(self) -> &'static str {
        match self {
            Self::Four => "ip",
            Self::Six => "ip6",
        }
    }

    /// The address of an instance's namespace.
    pub(super) fn node(self, namespace: Ipv4Addr) -> IpAddr {
        match self {
            Self::Four => namespace.into(),
            Self::Six => ipv6::node(namespace).into(),
        }
    }

    /// The address by which one instance is called, and as which it is seen.
    pub(super) fn instance(self, instance: Ipv4Addr) -> IpAddr {
        match self {
            Self::Four => instance.into(),
            Self::Six => ipv6::instance(instance).into(),
        }
    }

    pub(super) fn port_of(self, backend: SocketAddrV4) -> SocketAddr {
        SocketAddr::new(self.node(*backend.ip()), backend.port())
    }
}
