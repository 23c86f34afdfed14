//! The network of a node as the kernel has it, for people who look from outside: whoever calls this needs no agent, and
//! nothing is changed. Blocking.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use oak_model::ipv6;

use crate::config::NetworkConfig;
use crate::error::{NetworkError, Tried};
use crate::links::Attached;
use crate::names::{device_name, parking_name, short_id};
use crate::netlink::{Socket, link, route};
use crate::nft;
use crate::record::StateDirectory;

/// What is kept of a node's network, and what the kernel says about it.
#[derive(Clone, Debug)]
pub struct Look {
    directory: StateDirectory,
    config: NetworkConfig,
}

/// The rules as they were at one moment.
#[derive(Debug)]
pub struct Rules<'a> {
    config: &'a NetworkConfig,
    /// As `nft` writes them.
    text: String,
    /// Whether packets to unknown addresses wait: an agent that can be told of them runs.
    parks: bool,
}

/// What becomes of a packet of an instance before it is routed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It gets a new destination.
    Chosen(Chosen),
    /// The address belongs to a tenant that has not exported it.
    OtherTenant,
    /// Nothing takes connections there, or nobody knew the address when the agent asked.
    Refused,
    /// The address is not known here: the packet waits while the agent asks.
    Waits,
    /// The address is not known here, and nobody can be told of the call.
    Unknown,
    /// Addresses of nodes are not called directly.
    NodeAddress,
    /// This node has no IPv6.
    NoIpv6,
    /// It is for this machine or for somebody outside; it leaves with the machine's address.
    Outside,
}

/// Among which instances an address chooses, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// How it chooses.
    pub choice: Choice,
    /// Their namespace addresses, each with its share of new flows in parts of [`Self::total`].
    pub shares: BTreeMap<Ipv4Addr, usize>,
}

/// How an address chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// There is only one.
    Only,
    /// One after the other.
    InTurn,
    /// At random.
    Random,
    /// By the address of the caller.
    Sticky,
}

impl Chosen {
    /// All shares together.
    #[must_use]
    pub fn total(&self) -> usize {
        self.shares.values().sum()
    }
}

impl Look {
    /// The network that was opened last with this state directory; none if there was none.
    #[must_use]
    pub fn at(state_directory: &Path) -> Option<Self> {
        let directory = StateDirectory::new(state_directory);
        let config = directory.network()?.config;
        Some(Self { directory, config })
    }

    /// The settings in force.
    #[must_use]
    pub const fn config(&self) -> &NetworkConfig {
        &self.config
    }

    /// All instances that have a network, each with its device on the host.
    ///
    /// # Errors
    /// The state directory cannot be read.
    pub fn attached(&self) -> Result<Vec<(Attached, String)>, NetworkError> {
        let ids = self.directory.short_ids()?.into_iter();
        let found = ids.filter_map(|short| {
            let record = self.directory.attachment(&short)?;
            let device = device_name(&self.config.bridge, &short_id(&record.id));
            let namespace = self.directory.namespace(&short);
            Some((Attached { id: record.id, address: record.address, namespace }, device))
        });
        Ok(found.collect())
    }

    /// The rules in the kernel.
    ///
    /// # Errors
    /// `nft` is missing, may not be used, or there are no rules.
    pub fn rules(&self) -> Result<Rules<'_>, NetworkError> {
        let text = nft::list(&format!("list table inet {}\n", self.config.table))?;
        let mut socket = Socket::route().tried(|| "open a netlink socket".to_owned())?;
        let parking = link::find(&mut socket, &parking_name(&self.config.bridge))
            .tried(|| "look for a device".to_owned())?;
        Ok(Rules { config: &self.config, text, parks: parking.is_some() })
    }

    /// The device by which an address is reached; none if it is not.
    ///
    /// # Errors
    /// The kernel's tables cannot be read.
    pub fn device_to(&self, address: IpAddr) -> Result<Option<String>, NetworkError> {
        let mut socket = Socket::route().tried(|| "open a netlink socket".to_owned())?;
        let routes = route::routes(&mut socket).tried(|| "list routes".to_owned())?;
        let fits = routes.into_iter().filter(|route| route.destination.contains(&address));
        let Some(best) = fits.max_by_key(|route| (route.destination.prefix_len(), u32::MAX - route.metric))
        else {
            return Ok(None);
        };
        let links = link::all(&mut socket).tried(|| "list devices".to_owned())?;
        Ok(links.into_iter().find(|link| link.index == best.device).map(|link| link.name))
    }
}

impl Rules<'_> {
    /// What happens to the first packet from an instance of this node to an address.
    #[must_use]
    pub fn fate(&self, source: Ipv4Addr, destination: IpAddr) -> Fate {
        let (is_service, is_node) = match destination {
            IpAddr::V4(address) => (
                self.config.service_range.contains(&address),
                self.config.node_range.contains(&address) && address != self.config.gateway(),
            ),
            IpAddr::V6(_) if !self.config.ipv6 => return Fate::NoIpv6,
            IpAddr::V6(address) => (
                ipv6::SERVICES.contains(&address),
                ipv6::NODES.contains(&address) && address != self.config.gateway6(),
            ),
        };
        match (is_service, is_node) {
            (true, _) => self.fate_of_call(source, destination),
            (false, true) => Fate::NodeAddress,
            (false, false) => Fate::Outside,
        }
    }

    fn fate_of_call(&self, source: Ipv4Addr, destination: IpAddr) -> Fate {
        if self.has("refused", destination) {
            return Fate::Refused;
        }
        let tenant =
            self.value("tenants", source.into()).and_then(|verdict| verdict.strip_prefix("jump reach-"));
        if let Some(tenant) = tenant {
            if self.has_of(tenant, "denied", destination) {
                return Fate::Refused;
            }
            if !self.has_of(tenant, "reaches", destination) && self.has("owned", destination) {
                return Fate::OtherTenant;
            }
        }
        if self.parks && self.has("untold", destination) {
            return Fate::Waits;
        }
        match self.chosen(destination) {
            Some(chosen) => Fate::Chosen(chosen),
            None if self.parks => Fate::Waits,
            None => Fate::Unknown,
        }
    }

    /// Where packets to a service or instance address go; none if the address is not known or has no backends.
    #[must_use]
    pub fn chosen(&self, address: IpAddr) -> Option<Chosen> {
        let Some(verdict) = self.value("services", address) else {
            let only = node_of(self.value("instances", address)?)?;
            return Some(Chosen { choice: Choice::Only, shares: BTreeMap::from([(only, 1)]) });
        };
        let chain = block(&self.text, "chain", verdict.strip_prefix("goto ")?);
        let rule = chain.lines().find_map(|line| Places::of(line, address))?;
        let mut shares = BTreeMap::new();
        for backend in rule.backends(&self.text) {
            *shares.entry(backend).or_default() += 1;
        }
        (!shares.is_empty()).then_some(Chosen { choice: rule.choice, shares })
    }

    fn has(&self, set: &str, address: IpAddr) -> bool {
        self.lists(&of_family(set, address), address)
    }

    /// Whether a set that a tenant has of its own has an address.
    fn has_of(&self, tenant: &str, set: &str, address: IpAddr) -> bool {
        self.lists(&format!("{}-{tenant}", of_family(set, address)), address)
    }

    fn lists(&self, set: &str, address: IpAddr) -> bool {
        elements(block(&self.text, "set", set)).any(|element| element.parse() == Ok(address))
    }

    fn value(&self, map: &str, address: IpAddr) -> Option<&str> {
        let map = of_family(map, address);
        pairs(block(&self.text, "map", &map))
            .find_map(|(key, value)| (key.parse() == Ok(address)).then_some(value))
    }
}

/// The rule of a chain that chooses.
#[derive(Debug)]
struct Places<'a> {
    choice: Choice,
    map: &'a str,
    first: u32,
    count: u32,
}

impl<'a> Places<'a> {
    /// Reads a line such as `dnat ip to numgen inc mod 2 offset 65536 map @places-1`, if it is for this family.
    fn of(line: &'a str, address: IpAddr) -> Option<Self> {
        let family = if address.is_ipv4() { "dnat ip to " } else { "dnat ip6 to " };
        let rule = line.trim().strip_prefix(family)?;
        let choice = match rule.split(' ').next()? {
            "jhash" => Choice::Sticky,
            _ if rule.starts_with("numgen random") => Choice::Random,
            _ => Choice::InTurn,
        };
        let after = |word: &str| {
            let mut words = rule.split(' ').skip_while(move |found| *found != word);
            words.nth(1)
        };
        Some(Self {
            choice,
            map: after("map")?.strip_prefix('@')?,
            first: after("offset").map_or(Some(0), |text| text.parse().ok())?,
            count: after("mod")?.parse().ok()?,
        })
    }

    /// The namespace address at each of its places.
    fn backends(&self, rules: &'a str) -> impl Iterator<Item = Ipv4Addr> + use<'a> {
        let places = self.first..self.first.saturating_add(self.count);
        let is_mine = move |key: &str| key.parse().is_ok_and(|place| places.contains(&place));
        let all = pairs(block(rules, "map", self.map));
        all.filter(move |(key, _)| is_mine(key)).filter_map(|(_, value)| node_of(value))
    }
}

/// The set or map for the family of an address.
fn of_family(name: &str, address: IpAddr) -> String {
    if address.is_ipv4() { name.to_owned() } else { format!("{name}6") }
}

/// The IPv4 address of a namespace that is listed with one of its two addresses.
fn node_of(listed: &str) -> Option<Ipv4Addr> {
    match listed.parse().ok()? {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => ipv6::node_layer(address),
    }
}

/// The part of a listing between the braces of `kind name { … }`.
fn block<'a>(rules: &'a str, kind: &str, name: &str) -> &'a str {
    let begin = format!("\t{kind} {name} {{\n");
    let Some((_, after)) = rules.split_once(&begin) else { return "" };
    after.split_once("\n\t}").map_or(after, |(inside, _)| inside)
}

/// The elements of a listed set or map.
fn elements(block: &str) -> impl Iterator<Item = &str> {
    let list = block.split_once("elements = {").map_or("", |(_, after)| after);
    let list = list.split_once('}').map_or(list, |(inside, _)| inside);
    list.split(',').map(str::trim)
}

/// The elements of a listed map.
fn pairs(block: &str) -> impl Iterator<Item = (&str, &str)> {
    elements(block).filter_map(|element| element.split_once(" : "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "table inet oakestra {
\tmap services {
\t\ttype ipv4_addr : verdict
\t\telements = { 10.30.0.1 : goto service-10.30.0.1,
\t\t\t     10.30.0.2 : goto service-10.30.0.2 }
\t}

\tmap instances {
\t\ttype ipv4_addr : ipv4_addr
\t\telements = { 10.30.0.7 : 10.18.0.2 }
\t}

\tmap places-1 {
\t\ttypeof numgen inc mod 2 : ip daddr
\t\telements = { 65536 : 10.18.0.2, 65537 : 10.18.0.3,
\t\t\t     65538 : 10.18.0.3, 131072 : 10.18.0.9 }
\t}

\tmap services6 {
\t\ttype ipv6_addr : verdict
\t\telements = { fdff:2000::1 : goto service-10.30.0.1 }
\t}

\tmap places6-1 {
\t\ttypeof numgen inc mod 2 : ip6 daddr
\t\telements = { 65536 : fc00::2, 65537 : fc00::3, 65538 : fc00::3 }
\t}

\tset refused {
\t\ttype ipv4_addr
\t\telements = { 10.30.0.8 }
\t}

\tset untold {
\t\ttype ipv4_addr
\t\telements = { 10.30.0.2,
\t\t\t     10.30.0.5 }
\t}

\tset refused6 {
\t\ttype ipv6_addr
\t}

\tset owned {
\t\ttype ipv4_addr
\t\telements = { 10.30.0.1, 10.30.0.7 }
\t}

\tset owned6 {
\t\ttype ipv6_addr
\t\telements = { fdff:2000::1, fdff::7 }
\t}

\tmap tenants {
\t\ttype ipv4_addr : verdict
\t\telements = { 10.18.0.5 : jump reach-10.18.0.5, 10.18.0.6 : jump reach-10.18.0.6 }
\t}

\tset reaches-10.18.0.5 {
\t\ttype ipv4_addr
\t\telements = { 10.30.0.1, 10.30.0.7 }
\t}

\tset reaches6-10.18.0.5 {
\t\ttype ipv6_addr
\t\telements = { fdff:2000::1, fdff::7 }
\t}

\tset denied-10.18.0.6 {
\t\ttype ipv4_addr
\t\telements = { 10.30.9.9 }
\t}

\tset denied6-10.18.0.6 {
\t\ttype ipv6_addr
\t\telements = { fdff:2000::9:9 }
\t}

\tchain service-10.30.0.1 {
\t\tdnat ip to numgen inc mod 3 offset 65536 map @places-1
\t\tdnat ip6 to numgen inc mod 3 offset 65536 map @places6-1
\t}

\tchain service-10.30.0.2 {
\t\tdnat ip to jhash ip saddr mod 1 seed 0x6f616b offset 131072 map @places-1
\t}
}
";

    fn fate(destination: &str, parks: bool) -> Fate {
        fate_of("10.18.0.5", destination, parks)
    }

    fn fate_of(source: &str, destination: &str, parks: bool) -> Fate {
        let config = NetworkConfig::new("/nowhere", "10.18.0.0/25".parse().unwrap());
        let config = NetworkConfig { ipv6: true, ..config };
        let rules = Rules { config: &config, text: LISTING.to_owned(), parks };
        rules.fate(source.parse().unwrap(), destination.parse().unwrap())
    }

    fn chosen(choice: Choice, shares: &[(&str, usize)]) -> Fate {
        let shares = shares.iter().map(|(address, share)| (address.parse().unwrap(), *share)).collect();
        Fate::Chosen(Chosen { choice, shares })
    }

    #[test]
    fn an_address_leads_to_its_own_places_with_their_shares() {
        let expected = chosen(Choice::InTurn, &[("10.18.0.2", 1), ("10.18.0.3", 2)]);
        assert_eq!(fate("10.30.0.1", true), expected);
        assert_eq!(fate("fdff:2000::1", true), expected, "both families lead to the same instances");
        assert_eq!(fate("10.30.0.7", true), chosen(Choice::Only, &[("10.18.0.2", 1)]));
    }

    #[test]
    fn what_leads_nowhere_is_told_apart() {
        assert_eq!(fate("10.30.0.8", true), Fate::Refused);
        assert_eq!(fate("10.30.9.9", true), Fate::Waits);
        assert_eq!(fate("10.30.9.9", false), Fate::Unknown);
        assert_eq!(fate("fdff:2000::9:9", true), Fate::Waits);
        assert_eq!(fate("10.18.0.2", true), Fate::NodeAddress);
        assert_eq!(fate("fc00::2", true), Fate::NodeAddress);
        assert_eq!(fate("10.18.0.1", true), Fate::Outside, "the gateway is the machine itself");
        assert_eq!(fate("192.0.2.1", true), Fate::Outside);
    }

    #[test]
    fn what_others_have_is_refused_in_both_families() {
        for address in ["10.30.0.1", "fdff:2000::1", "10.30.0.7", "fdff::7"] {
            assert_eq!(fate_of("10.18.0.6", address, true), Fate::OtherTenant, "{address}");
        }
        for address in ["10.30.9.9", "fdff:2000::9:9"] {
            assert_eq!(fate_of("10.18.0.6", address, true), Fate::Refused, "{address}");
        }
    }

    #[test]
    fn calls_that_somebody_is_told_of_wait_only_as_long_as_there_is_somebody() {
        assert_eq!(fate("10.30.0.2", true), Fate::Waits);
        assert_eq!(fate("10.30.0.2", false), chosen(Choice::Sticky, &[("10.18.0.9", 1)]));
    }
}
