//! The part of the nftables table that follows from the service table: elements of maps and sets, and a chain for each
//! choice among several instances. Pure. It is either rendered as a whole or as the difference to another one.

mod sets;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use sets::{Family, Kind, Set};

use crate::check::{CheckedService, CheckedTable, CheckedTenant};
use crate::share;
use crate::table::{Balancing, PortProtocol};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Address(IpAddr),
    Port(u16),
    Place(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// Of a set.
    Nothing,
    Address(IpAddr),
    Chain(ChainName),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ChainName {
    Service(Ipv4Addr),
    Port(PortProtocol, u16),
    /// One of the backends of a port.
    Backend(PortProtocol, u16, usize),
    /// What the tenant with this first member calls.
    Reach(Ipv4Addr),
    /// What it calls and was not translated.
    Wait(Ipv4Addr),
}

/// What a chain does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chain {
    /// Chooses one of so many places from the first one on.
    Places(Choice, u32, usize),
    /// The chains of so many backends, one after the other.
    Ports(PortProtocol, u16, usize),
    /// One instance and a port of it.
    Port(PortProtocol, SocketAddrV4),
    /// Translates what the tenant reaches.
    Reach(Ipv4Addr),
    /// Lets wait what nobody knows yet; the rest is refused to the tenant.
    Wait(Ipv4Addr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// One after the other; who shall get more is there more often.
    InTurn,
    Random,
    /// By the address of the caller.
    Sticky,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    ipv6: bool,
    elements: BTreeMap<Set, BTreeMap<Key, Value>>,
    chains: BTreeMap<ChainName, Chain>,
}

impl Content {
    /// With or without everything of IPv6.
    pub(crate) fn new(table: &CheckedTable, ipv6: bool) -> Self {
        let mut content = Self { ipv6, ..Self::default() };
        for (first, service) in &table.services {
            content.add_service(*first, service);
        }
        let lists =
            [(Kind::Refused, &table.refused), (Kind::Untold, &table.untold), (Kind::Owned, &table.owned)];
        for (kind, addresses) in lists {
            content.put_all(kind, addresses);
        }
        for family in content.families() {
            for (instance, node) in &table.instances {
                let node = Value::Address(family.node(*node));
                content.put(Kind::Instances, family.instance(*instance), node);
            }
            for (node, instance) in &table.identities {
                let instance = Value::Address(family.instance(*instance));
                content.put(Kind::Identities, family.node(*node), instance);
            }
        }
        for ((protocol, port), backends) in &table.ports {
            content.add_port(*protocol, *port, backends);
        }
        for (first, tenant) in &table.tenants {
            content.add_tenant(*first, tenant);
        }
        content
    }

    const fn families(&self) -> &'static [Family] {
        Family::all(self.ipv6)
    }

    /// What is there: the fixed ones, and the others that have elements.
    fn sets(&self) -> BTreeSet<Set> {
        Set::fixed(self.families()).chain(self.elements.keys().copied()).collect()
    }

    fn put(&mut self, kind: Kind, address: IpAddr, value: Value) {
        let family = Family::of(address);
        if self.families().contains(&family) {
            self.put_in(kind.of(family), Key::Address(address), value);
        }
    }

    fn put_all(&mut self, kind: Kind, addresses: &BTreeSet<IpAddr>) {
        for address in addresses {
            self.put(kind, *address, Value::Nothing);
        }
    }

    fn put_in(&mut self, set: Set, key: Key, value: Value) {
        self.elements.entry(set).or_default().insert(key, value);
    }

    fn add_service(&mut self, first: Ipv4Addr, service: &CheckedService) {
        let backends: Vec<Ipv4Addr> = service.backends.keys().copied().collect();
        // Nothing to choose: no chain either, as for an instance address.
        for address in service.all_addresses() {
            match backends[..] {
                [only] => {
                    let node = Value::Address(Family::of(address).node(only));
                    self.put(Kind::Instances, address, node);
                }
                _ => self.put(Kind::Services, address, Value::Chain(ChainName::Service(first))),
            }
        }
        if backends.len() == 1 {
            return;
        }
        let (choice, places) = match service.policy {
            Balancing::RoundRobin => (Choice::InTurn, backends),
            Balancing::Random => (Choice::Random, backends),
            Balancing::Weighted => (Choice::InTurn, share::in_turn(&service.backends)),
            Balancing::Sticky => (Choice::Sticky, share::slots(&backends)),
        };
        let start = first_place(first);
        for family in self.families() {
            for (place, backend) in (start..).zip(&places) {
                let node = Value::Address(family.node(*backend));
                self.put_in(Kind::Places(part(start)).of(*family), Key::Place(place), node);
            }
        }
        let chain = Chain::Places(choice, start, places.len());
        self.chains.insert(ChainName::Service(first), chain);
    }

    /// One chain per backend instead of a map to address and port: understood by every nft since 0.9.
    fn add_port(&mut self, protocol: PortProtocol, port: u16, backends: &BTreeSet<SocketAddrV4>) {
        let name = ChainName::Port(protocol, port);
        self.put_in(Set::ports(protocol), Key::Port(port), Value::Chain(name));
        if let (Some(only), 1) = (backends.first(), backends.len()) {
            self.chains.insert(name, Chain::Port(protocol, *only));
            return;
        }
        for (place, backend) in backends.iter().enumerate() {
            self.chains.insert(ChainName::Backend(protocol, port, place), Chain::Port(protocol, *backend));
        }
        self.chains.insert(name, Chain::Ports(protocol, port, backends.len()));
    }

    /// Two look-ups decide, however many may be called: who calls, and whether that reaches it.
    fn add_tenant(&mut self, first: Ipv4Addr, tenant: &CheckedTenant) {
        let (reach, wait) = (ChainName::Reach(first), ChainName::Wait(first));
        self.chains.insert(reach, Chain::Reach(first));
        self.chains.insert(wait, Chain::Wait(first));
        for family in self.families() {
            for member in &tenant.members {
                self.put(Kind::Tenants, family.node(*member), Value::Chain(reach));
                self.put(Kind::Waiters, family.node(*member), Value::Chain(wait));
            }
            // The chains name these sets even if they are empty.
            for kind in [Kind::Reaches(first), Kind::Denied(first)] {
                self.elements.entry(kind.of(*family)).or_default();
            }
        }
        self.put_all(Kind::Reaches(first), &tenant.reaches);
        self.put_all(Kind::Denied(first), &tenant.refused);
    }

    /// Writes all maps, sets and chains as parts of a table.
    pub(crate) fn write(&self, out: &mut String) -> fmt::Result {
        let none = BTreeMap::new();
        for set in self.sets() {
            writeln!(out, "\t{} {set} {{\n\t\t{}", set.what(), set.elements())?;
            let elements = self.elements.get(&set).unwrap_or(&none);
            // An empty element list is a syntax error.
            if !elements.is_empty() {
                writeln!(out, "\t\telements = {{ {} }}", list(elements.iter().map(element), ",\n\t\t\t"))?;
            }
            writeln!(out, "\t}}")?;
        }
        for (name, chain) in &self.chains {
            let rules = list(chain.rules(self.families()).into_iter(), "\n\t\t");
            writeln!(out, "\tchain {name} {{\n\t\t{rules}\n\t}}")?;
        }
        Ok(())
    }

    /// The commands that make this content out of `former`; empty if nothing differs.
    pub(crate) fn difference(&self, former: &Self, table: &str) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_difference(&mut out, former, table);
        out
    }

    /// Chains are there before elements lead to them, and go after the last element that did.
    fn write_difference(&self, out: &mut String, former: &Self, table: &str) -> fmt::Result {
        let (sets, former_sets) = (self.sets(), former.sets());
        for set in sets.difference(&former_sets) {
            writeln!(out, "add {} inet {table} {set} {{ {} ; }}", set.what(), set.elements())?;
        }
        let changed: Vec<_> =
            self.chains.iter().filter(|(name, chain)| former.chains.get(name) != Some(chain)).collect();
        for (name, _) in &changed {
            match former.chains.contains_key(name) {
                true => writeln!(out, "flush chain inet {table} {name}")?,
                false => writeln!(out, "add chain inet {table} {name}")?,
            }
        }
        for (name, chain) in &changed {
            for rule in chain.rules(self.families()) {
                writeln!(out, "add rule inet {table} {name} {rule}")?;
            }
        }
        let none = BTreeMap::new();
        for set in sets.union(&former_sets) {
            let before = former.elements.get(set).unwrap_or(&none);
            let after = self.elements.get(set).unwrap_or(&none);
            let differs =
                |(key, value): &(&Key, &Value), other: &BTreeMap<Key, Value>| other.get(key) != Some(*value);
            let gone = list(before.iter().filter(|entry| differs(entry, after)).map(element), ", ");
            if !gone.is_empty() {
                writeln!(out, "delete element inet {table} {set} {{ {gone} }}")?;
            }
            let new = list(after.iter().filter(|entry| differs(entry, before)).map(element), ", ");
            if !new.is_empty() {
                writeln!(out, "add element inet {table} {set} {{ {new} }}")?;
            }
        }
        // One that chooses among others goes before these.
        let gone: Vec<_> = former.chains.keys().filter(|name| !self.chains.contains_key(name)).collect();
        for name in &gone {
            writeln!(out, "flush chain inet {table} {name}")?;
        }
        for name in gone {
            writeln!(out, "delete chain inet {table} {name}")?;
        }
        for set in former_sets.difference(&sets) {
            writeln!(out, "delete {} inet {table} {set}", set.what())?;
        }
        Ok(())
    }
}

fn list(parts: impl Iterator<Item = String>, separator: &str) -> String {
    parts.collect::<Vec<_>>().join(separator)
}

fn element((key, value): (&Key, &Value)) -> String {
    match value {
        Value::Nothing => key.to_string(),
        Value::Address(address) => format!("{key} : {address}"),
        Value::Chain(chain) => format!("{key} : {} {chain}", chain.verdict()),
    }
}

/// Every service has places of its own, more than it can need, so that one does not move those of others.
fn first_place(service: Ipv4Addr) -> u32 {
    service.to_bits() << 16
}

/// The map with these places, one of 64.
const fn part(start: u32) -> u8 {
    (start >> 16) as u8 & 63
}

impl Chain {
    fn rules(self, families: &[Family]) -> Vec<String> {
        let each = |rule: &dyn Fn(Family) -> String| families.iter().map(|family| rule(*family)).collect();
        match self {
            Self::Places(choice, start, count) => each(&|family| choice.rule(start, count, family)),
            Self::Port(protocol, backend) => each(&|family| {
                format!("meta l4proto {protocol} dnat {} to {}", family.keyword(), family.port_of(backend))
            }),
            Self::Reach(first) => each(&|family| {
                format!("{} daddr @{} goto translate", family.keyword(), Kind::Reaches(first).of(family))
            }),
            Self::Wait(first) => {
                let verdicts = [
                    (Kind::Reaches(first), "accept"),
                    (Kind::Denied(first), "goto refuse"),
                    (Kind::Owned, "goto refuse"),
                ];
                let rule = |family: Family, (kind, verdict): (Kind, &str)| {
                    format!("{} daddr @{} {verdict}", family.keyword(), kind.of(family))
                };
                let rules = families.iter().flat_map(|family| verdicts.map(|verdict| rule(*family, verdict)));
                rules.chain(["accept".to_owned()]).collect()
            }
            // The chains that it leads to have both families.
            Self::Ports(protocol, port, count) => {
                let chain = |place| format!("{place} : goto {}", ChainName::Backend(protocol, port, place));
                vec![format!("numgen inc mod {count} vmap {{ {} }}", list((0..count).map(chain), ", "))]
            }
        }
    }
}

impl Choice {
    fn rule(self, start: u32, count: usize, family: Family) -> String {
        let (ip, places) = (family.keyword(), Kind::Places(part(start)).of(family));
        let number = match self {
            Self::InTurn => format!("numgen inc mod {count}"),
            Self::Random => format!("numgen random mod {count}"),
            // With a seed of our own: everywhere and after every start the same caller comes to the same place.
            Self::Sticky => format!("jhash {ip} saddr mod {count} seed 0x6f616b"),
        };
        format!("dnat {ip} to {number} offset {start} map @{places}")
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Port(port) => port.fmt(f),
            Self::Place(place) => place.fmt(f),
        }
    }
}

impl ChainName {
    /// How elements lead to it. What a tenant does not reach may still be a port of this host.
    const fn verdict(self) -> &'static str {
        match self {
            Self::Reach(_) => "jump",
            Self::Service(_) | Self::Port(..) | Self::Backend(..) | Self::Wait(_) => "goto",
        }
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(first) => write!(f, "service-{first}"),
            Self::Port(protocol, port) => write!(f, "port-{protocol}-{port}"),
            Self::Backend(protocol, port, place) => write!(f, "port-{protocol}-{port}-{place}"),
            Self::Reach(first) => write!(f, "reach-{first}"),
            Self::Wait(first) => write!(f, "wait-{first}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn service(policy: Balancing, backends: &[&str]) -> CheckedService {
        CheckedService {
            addresses: BTreeSet::from([ip("10.30.0.1"), ip("10.30.0.2")]),
            ipv6: BTreeSet::from(["fdff:2000::1".parse().unwrap()]),
            policy,
            backends: backends.iter().map(|text| (ip(text), 1)).collect(),
        }
    }

    fn table(policy: Balancing, backends: &[&str]) -> CheckedTable {
        let services = BTreeMap::from([(ip("10.30.0.1"), service(policy, backends))]);
        CheckedTable { services, ..CheckedTable::default() }
    }

    fn written(table: &CheckedTable) -> String {
        let mut text = String::new();
        Content::new(table, false).write(&mut text).unwrap();
        text
    }

    fn difference(before: &CheckedTable, after: &CheckedTable) -> Vec<String> {
        let text = Content::new(after, false).difference(&Content::new(before, false), "t");
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn all_addresses_of_a_service_share_one_rotation() {
        let text = written(&table(Balancing::RoundRobin, &["10.18.0.2", "10.18.0.3", "10.18.0.4"]));
        assert!(text.contains("10.30.0.1 : goto service-10.30.0.1,"));
        assert!(text.contains("10.30.0.2 : goto service-10.30.0.1 }"));
        assert!(text.contains("65536 : 10.18.0.2,") && text.contains("65538 : 10.18.0.4 }"));
        assert!(text.contains("dnat ip to numgen inc mod 3 offset 65536 map @places-1\n"));
    }

    #[test]
    fn a_single_backend_needs_no_choice() {
        let text = written(&table(Balancing::Sticky, &["10.18.0.2"]));
        assert!(text.contains("10.30.0.1 : 10.18.0.2,"));
        assert!(!text.contains("chain") && !text.contains("jhash"));
    }

    #[test]
    fn who_is_sticky_is_chosen_by_its_caller() {
        let text = written(&table(Balancing::Sticky, &["10.18.0.2", "10.18.0.3"]));
        assert!(text.contains("dnat ip to jhash ip saddr mod 64 seed 0x6f616b offset 65536 map @places-1\n"));
    }

    #[test]
    fn ports_with_several_backends_get_a_chain_each() {
        let mut table = CheckedTable::default();
        let backends = ["10.18.0.2:8080", "10.18.0.3:81"];
        table
            .ports
            .insert((PortProtocol::Udp, 53), backends.iter().map(|text| text.parse().unwrap()).collect());
        let text = written(&table);
        assert!(text.contains("53 : goto port-udp-53"));
        assert!(text.contains("numgen inc mod 2 vmap { 0 : goto port-udp-53-0, 1 : goto port-udp-53-1 }"));
        assert!(text.contains("meta l4proto udp dnat ip to 10.18.0.3:81"));
    }

    #[test]
    fn a_difference_names_only_what_differs() {
        let two = table(Balancing::RoundRobin, &["10.18.0.2", "10.18.0.3"]);
        let three = table(Balancing::RoundRobin, &["10.18.0.2", "10.18.0.3", "10.18.0.4"]);
        assert!(difference(&two, &two).is_empty());
        let [flush, rule, place] = &difference(&two, &three)[..] else { panic!() };
        assert_eq!(flush, "flush chain inet t service-10.30.0.1");
        assert!(rule.starts_with("add rule inet t service-10.30.0.1 dnat ip to numgen inc mod 3"));
        assert_eq!(place, "add element inet t places-1 { 65538 : 10.18.0.4 }");
        let others = table(Balancing::RoundRobin, &["10.18.0.2", "10.18.0.4"]);
        let [gone, new] = &difference(&two, &others)[..] else { panic!() };
        assert_eq!(gone, "delete element inet t places-1 { 65537 : 10.18.0.3 }");
        assert_eq!(new, "add element inet t places-1 { 65537 : 10.18.0.4 }");
        let gone = difference(&two, &CheckedTable::default());
        assert_eq!(
            gone[0],
            "delete element inet t services { 10.30.0.1 : goto service-10.30.0.1, 10.30.0.2 : goto service-10.30.0.1 }"
        );
        assert_eq!(gone[1], "delete element inet t places-1 { 65536 : 10.18.0.2, 65537 : 10.18.0.3 }");
        assert_eq!(
            gone[2..4],
            ["flush chain inet t service-10.30.0.1", "delete chain inet t service-10.30.0.1"]
        );
    }

    #[test]
    fn a_tenant_is_told_as_a_difference() {
        let tenant = |members: &[&str], reaches: &[&str]| CheckedTenant {
            members: members.iter().map(|text| ip(text)).collect(),
            reaches: reaches.iter().map(|text| ip(text).into()).collect(),
            refused: BTreeSet::new(),
        };
        let with = |tenant: CheckedTenant| CheckedTable {
            tenants: BTreeMap::from([(ip("10.18.0.2"), tenant)]),
            ..CheckedTable::default()
        };
        let one = with(tenant(&["10.18.0.2"], &["10.30.0.1"]));
        let new = difference(&CheckedTable::default(), &one);
        assert!(new.contains(&"add set inet t reaches-10.18.0.2 { type ipv4_addr ; }".to_owned()));
        assert!(new.contains(&"add set inet t denied-10.18.0.2 { type ipv4_addr ; }".to_owned()), "if empty");
        assert!(new.contains(&"add element inet t tenants { 10.18.0.2 : jump reach-10.18.0.2 }".to_owned()));
        let more = with(tenant(&["10.18.0.2", "10.18.0.3"], &["10.30.0.1", "10.30.0.2"]));
        let changes = [
            "add element inet t tenants { 10.18.0.3 : jump reach-10.18.0.2 }",
            "add element inet t waiters { 10.18.0.3 : goto wait-10.18.0.2 }",
            "add element inet t reaches-10.18.0.2 { 10.30.0.2 }",
        ];
        assert_eq!(difference(&one, &more), changes);
        let gone = difference(&one, &CheckedTable::default());
        assert_eq!(gone.last().map(String::as_str), Some("delete set inet t denied-10.18.0.2"));
    }

    #[test]
    fn every_choice_is_there_for_both_families() {
        let mut two = table(Balancing::Sticky, &["10.18.0.2", "10.18.0.130"]);
        two.instances.insert(ip("10.30.1.2"), ip("10.18.0.2"));
        two.ports.insert((PortProtocol::Tcp, 80), BTreeSet::from(["10.18.0.2:81".parse().unwrap()]));
        let mut text = String::new();
        Content::new(&two, true).write(&mut text).unwrap();
        assert!(text.contains("fdff:2000::1 : goto service-10.30.0.1 "));
        assert!(
            text.contains("dnat ip6 to jhash ip6 saddr mod 64 seed 0x6f616b offset 65536 map @places6-1")
        );
        assert!(text.contains("65536 : fc00::"));
        assert!(text.contains("fdff::1:2 : fc00::2 "));
        assert!(text.contains("meta l4proto tcp dnat ip6 to [fc00::2]:81"));
        assert!(!written(&two).contains("fdff"), "without IPv6 there is nothing of it");
    }
}
