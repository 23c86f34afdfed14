//! IPv6 addresses of services, instances and nodes. Each goes with an IPv4 address and follows from it, so whoever knows one
//! knows the other, and nothing has to be stored or told (ranges: network reference, 2.1).
//!
//! ```text
//!  10.30.55.56   an instance                     fdff::55:56
//!  10.30.55.55   a service, in turn              fdff:2000::55:55
//!  10.18.0.130   in the second node's subnet     fc00::102
//! ```
//!
//! Numbers of services and instances are the decimal ones, so that people see which belong together.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::Balancing;

/// All addresses of services and instances.
pub const SERVICES: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfdff, 0, 0, 0, 0, 0, 0, 0), 16);
/// The addresses of all nodes that go with an IPv4 address.
pub const NODES: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 107);

/// First node subnet, which has the first range of `NODES`.
const FIRST_NODE: u32 = 0x0a12_0000;
/// Addresses of nodes differ in so many bits.
const NODE_BITS: u32 = 0x000f_ffff;
/// A node's subnet in IPv4 has this many bits for hosts, and one bit more in IPv6.
const HOST_BITS: u32 = 7;

/// The address of an instance that goes with its IPv4 address.
#[must_use]
pub const fn instance(address: Ipv4Addr) -> Ipv6Addr {
    numbered(0, address)
}

/// The address of a service that goes with the IPv4 address of this policy.
#[must_use]
pub const fn service(policy: Balancing, address: Ipv4Addr) -> Ipv6Addr {
    numbered(range(policy), address)
}

/// Second part of the addresses of a policy. The first three are those of the original, the others are behind what it has
/// names for.
const fn range(policy: Balancing) -> u16 {
    match policy {
        Balancing::Closest => 0x1000,
        Balancing::RoundRobin => 0x2000,
        Balancing::LeastLoaded => 0x3000,
        Balancing::Sticky => 0x5000,
        Balancing::LocalFirst => 0x6000,
    }
}

const fn numbered(range: u16, address: Ipv4Addr) -> Ipv6Addr {
    let [_, _, c, d] = address.octets();
    Ipv6Addr::new(0xfdff, range, 0, 0, 0, 0, decimal(c), decimal(d))
}

/// The number whose hexadecimal digits are the decimal ones.
const fn decimal(number: u8) -> u16 {
    let number = number as u16;
    ((number / 100) << 8) | ((number / 10 % 10) << 4) | (number % 10)
}

/// The IPv4 address that goes with an address of a service or an instance, and whether that is one of an instance.
#[must_use]
pub fn service_layer(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [0xfdff, range, 0, 0, 0, 0, c, d] = address.segments() else { return None };
    let is_known = range == 0 || Balancing::ALL.iter().any(|policy| self::range(*policy) == range);
    let number = |digits: u16| {
        let (hundreds, tens, ones) = (digits >> 8, (digits >> 4) & 15, digits & 15);
        let is_decimal = tens < 10 && ones < 10;
        u8::try_from(hundreds * 100 + tens * 10 + ones).ok().filter(|_| is_decimal)
    };
    Some(Ipv4Addr::new(10, 30, number(c)?, number(d)?)).filter(|_| is_known)
}

/// The address in the subnet of a node that goes with its IPv4 address.
#[must_use]
pub const fn node(address: Ipv4Addr) -> Ipv6Addr {
    let offset = address.to_bits().wrapping_sub(FIRST_NODE) & NODE_BITS;
    let (subnet, host) = (offset >> HOST_BITS, offset & ((1 << HOST_BITS) - 1));
    Ipv6Addr::from_bits(NODES.addr().to_bits() | ((subnet << (HOST_BITS + 1)) | host) as u128)
}

/// The IPv4 address that goes with one in the subnet of a node.
#[must_use]
pub fn node_layer(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let low = u32::try_from(address.to_bits() & u128::from(u32::MAX)).ok()?;
    let (subnet, host) = (low >> (HOST_BITS + 1), low & ((1 << (HOST_BITS + 1)) - 1));
    if !NODES.contains(&address) || host >> HOST_BITS != 0 {
        return None;
    }
    let offset = ((subnet << HOST_BITS) | host).wrapping_add(FIRST_NODE & NODE_BITS) & NODE_BITS;
    Some(Ipv4Addr::from_bits((FIRST_NODE & !NODE_BITS) | offset))
}

/// The network of a node that goes with its IPv4 subnet: `/120` for `/25`, as in the original.
#[must_use]
pub fn node_network(subnet: Ipv4Net) -> Option<Ipv6Net> {
    let free = 32_u8.saturating_sub(subnet.prefix_len());
    // A whole subnet, or several, has the free half of each as well.
    let bits = if u32::from(free) >= HOST_BITS { free + 1 } else { free };
    Ipv6Net::new(node(subnet.network()), 128 - bits).ok()
}

/// Whether others can send to this address of a node: link-local ones mean something on one link only and not without
/// naming the device there, and those of instances and services lead through the tunnel itself.
#[must_use]
pub fn is_underlay(address: Ipv6Addr) -> bool {
    let is_local = address.is_unspecified() || address.is_loopback() || address.is_unicast_link_local();
    let is_other = address.is_multicast() || address.to_ipv4_mapped().is_some();
    !(is_local || is_other || NODES.contains(&address) || SERVICES.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_those_of_the_original() {
        assert_eq!(instance(v4("10.30.0.11")).to_string(), "fdff::11");
        assert_eq!(service(Balancing::RoundRobin, v4("10.30.55.55")).to_string(), "fdff:2000::55:55");
        assert_eq!(service(Balancing::Closest, v4("10.30.255.254")).to_string(), "fdff:1000::255:254");
        assert_eq!(node(v4("10.18.0.2")).to_string(), "fc00::2");
        assert_eq!(node(v4("10.18.0.130")).to_string(), "fc00::102");
        let network = |text: &str| node_network(text.parse().unwrap()).unwrap().to_string();
        assert_eq!(network("10.18.0.0/25"), "fc00::/120");
        assert_eq!(network("10.18.0.128/25"), "fc00::100/120");
        assert_eq!(network("10.18.2.0/24"), "fc00::400/119");
        assert_eq!(network("10.18.0.64/26"), "fc00::40/122");
    }

    #[test]
    fn addresses_that_mean_nothing_to_others_are_known() {
        for address in ["2001:db8::1", "fd00::1", "fc00:1::1"] {
            assert!(is_underlay(address.parse().unwrap()), "{address}");
        }
        for address in
            ["::", "::1", "fe80::1", "ff02::1", "fc00::1", "fdff::1", "fdff:2000::1", "::ffff:192.0.2.1"]
        {
            assert!(!is_underlay(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn both_ways_lead_to_the_same_address() {
        for low in 0..=u16::MAX {
            let [c, d] = low.to_be_bytes();
            let address = Ipv4Addr::new(10, 30, c, d);
            assert_eq!(service_layer(instance(address)), Some(address));
            assert_eq!(service_layer(service(Balancing::Sticky, address)), Some(address));
            for second in [16, 18, 29, 31] {
                let address = Ipv4Addr::new(10, second, c, d);
                assert_eq!(node_layer(node(address)), Some(address));
            }
        }
        for other in ["fdff:4000::1", "fdff:2000::a", "fdff::300", "fdff:0:1::1", "fc00::1", "2001:db8::1"] {
            assert_eq!(service_layer(other.parse().unwrap()), None, "{other}");
        }
        for other in ["fc00::80", "fc01::1", "fdff::1", "fc00::1:0:0"] {
            assert_eq!(node_layer(other.parse().unwrap()), None, "{other}");
        }
    }
}
