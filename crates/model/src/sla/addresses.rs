//! The `addresses` of a service: one for each way to choose an instance.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Map, Value};

use crate::{Balancing, ipv6};

use super::errors::Findings;
use super::fields::Fields;
use super::path::Path;
use super::unsupported;

/// Asks for an address without saying which.
const ANY: &str = "auto";

/// The address whose connections are spread in turn, and the others.
type Wishes = (Option<Ipv4Addr>, BTreeMap<Balancing, Option<Ipv4Addr>>);

/// Reads `addresses`.
pub(super) fn read(addresses: &Map<String, Value>, service: &Path<'_>, findings: &mut Findings) -> Wishes {
    let path = service.key("addresses");
    let fields = Fields { map: addresses, path: &path };
    unsupported::check_addresses(fields, findings);
    let (mut usual, mut others) = (None, BTreeMap::new());
    for policy in Balancing::ALL {
        let wish = read_one(fields, policy, findings);
        match (policy, read_ipv6(fields, policy, wish, findings)) {
            (_, None) => {}
            (Balancing::RoundRobin, Some(wish)) => usual = wish,
            (policy, Some(wish)) => {
                others.insert(policy, wish);
            }
        }
    }
    let mut chosen: Vec<Ipv4Addr> = others.values().copied().chain([usual]).flatten().collect();
    chosen.sort_unstable();
    if let Some([twice, _]) = chosen.windows(2).find(|pair| matches!(pair, [one, other] if one == other)) {
        let allowed = format_args!("different addresses; {twice} is there twice");
        findings.expected(path, allowed, &Value::Object(addresses.clone()));
    }
    (usual, others)
}

/// The address asked for, if one is; `Some(None)`: any.
fn read_one(fields: Fields<'_>, policy: Balancing, findings: &mut Findings) -> Option<Option<Ipv4Addr>> {
    let text = fields.text(policy.field(), findings).filter(|text| !text.is_empty())?;
    if text == ANY {
        return Some(None);
    }
    let address = text.parse::<Ipv4Addr>().ok().filter(is_service_address);
    if address.is_none() {
        let otherwise = match policy {
            Balancing::RoundRobin => "or \"\" to let the system choose",
            _ => "\"auto\" to let the system choose, or \"\" for none",
        };
        let allowed = format_args!("an address from 10.30.0.1 to 10.30.255.254, {otherwise}");
        findings.expected(fields.path.key(policy.field()), allowed, &text.into());
    }
    address.map(Some)
}

/// The address asked for with that of IPv6, which is the one that goes with it; given alone it asks for both.
fn read_ipv6(
    fields: Fields<'_>,
    policy: Balancing,
    wish: Option<Option<Ipv4Addr>>,
    findings: &mut Findings,
) -> Option<Option<Ipv4Addr>> {
    let Some(text) = fields.text(policy.field6(), findings).filter(|text| !text.is_empty()) else {
        return wish;
    };
    if text == ANY {
        return wish.or(Some(None));
    }
    let meant = text.parse::<Ipv6Addr>().ok().and_then(ipv6::service_layer).filter(is_service_address);
    let is_of = |four: &Ipv4Addr| text.parse() == Ok(ipv6::service(policy, *four));
    let meant = meant.filter(is_of).filter(|four| wish.flatten().is_none_or(|wished| wished == *four));
    let Some(meant) = meant else {
        let four = wish.flatten().unwrap_or(EXAMPLE);
        let six = ipv6::service(policy, four);
        let allowed = format_args!("the address that goes with that of IPv4 (as {six} with {four}), or \"\"");
        findings.expected(fields.path.key(policy.field6()), allowed, &text.into());
        return wish;
    };
    Some(Some(meant))
}

/// Shows what goes together.
const EXAMPLE: Ipv4Addr = Ipv4Addr::new(10, 30, 55, 55);

/// The first and the last address of `10.30.0.0/16` name the network, not a host.
fn is_service_address(address: &Ipv4Addr) -> bool {
    let [a, b, c, d] = address.octets();
    (a, b) == (10, 30) && (c, d) != (0, 0) && (c, d) != (255, 255)
}
