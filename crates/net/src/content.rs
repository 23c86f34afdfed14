//! The part of the nftables table that follows from the service table: elements of maps and sets, and a chain for each
//! choice among several instances. Pure. It is either rendered as a whole or as the difference to another one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::share;
use crate::table::{Balancing, CheckedService, CheckedTable, PortProtocol};

/// A map or set of our table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Set {
    /// Service addresses behind which somebody chooses.
    Services,
    /// Addresses with one instance behind them.
    Instances,
    Refused,
    Untold,
    Identities,
    TcpPorts,
    UdpPorts,
}

impl Set {
    const ALL: [Self; 7] = [
        Self::Services,
        Self::Instances,
        Self::Refused,
        Self::Untold,
        Self::Identities,
        Self::TcpPorts,
        Self::UdpPorts,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Instances => "instances",
            Self::Refused => "refused",
            Self::Untold => "untold",
            Self::Identities => "identities",
            Self::TcpPorts => "tcp_ports",
            Self::UdpPorts => "udp_ports",
        }
    }

    /// Map or set, and the type of its elements.
    const fn kind(self) -> (&'static str, &'static str) {
        match self {
            Self::Services => ("map", "ipv4_addr : verdict"),
            Self::Instances | Self::Identities => ("map", "ipv4_addr : ipv4_addr"),
            Self::Refused | Self::Untold => ("set", "ipv4_addr"),
            Self::TcpPorts | Self::UdpPorts => ("map", "inet_service : verdict"),
        }
    }

    const fn of_ports(protocol: PortProtocol) -> Self {
        match protocol {
            PortProtocol::Tcp => Self::TcpPorts,
            PortProtocol::Udp => Self::UdpPorts,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Address(Ipv4Addr),
    Port(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// Of a set.
    Nothing,
    Address(Ipv4Addr),
    Chain(ChainName),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ChainName {
    Service(Ipv4Addr),
    Port(PortProtocol, u16),
    /// One of the backends of a port.
    Backend(PortProtocol, u16, usize),
}

/// What a chain does, whatever the turn.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Chain {
    /// One instance after the other; who shall get more is there more often.
    InTurn(Vec<Ipv4Addr>),
    Random(Vec<Ipv4Addr>),
    /// By the address of the caller.
    Sticky(Vec<Ipv4Addr>),
    /// The chains of so many backends, one after the other.
    Ports(PortProtocol, u16, usize),
    /// One instance and a port of it.
    Port(PortProtocol, SocketAddrV4),
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    elements: BTreeMap<Set, BTreeMap<Key, Value>>,
    chains: BTreeMap<ChainName, Chain>,
}

impl Content {
    pub(crate) fn new(table: &CheckedTable) -> Self {
        let mut content = Self::default();
        for (first, service) in &table.services {
            content.add_service(*first, service);
        }
        for address in &table.refused {
            content.put(Set::Refused, Key::Address(*address), Value::Nothing);
        }
        for address in &table.untold {
            content.put(Set::Untold, Key::Address(*address), Value::Nothing);
        }
        for (instance, namespace) in &table.instances {
            content.put(Set::Instances, Key::Address(*instance), Value::Address(*namespace));
        }
        for (namespace, instance) in &table.identities {
            content.put(Set::Identities, Key::Address(*namespace), Value::Address(*instance));
        }
        for ((protocol, port), backends) in &table.ports {
            content.add_port(*protocol, *port, backends);
        }
        content
    }

    fn put(&mut self, set: Set, key: Key, value: Value) {
        self.elements.entry(set).or_default().insert(key, value);
    }

    fn add_service(&mut self, first: Ipv4Addr, service: &CheckedService) {
        let backends: Vec<Ipv4Addr> = service.backends.keys().copied().collect();
        // Nothing to choose: no chain either, as for an instance address.
        let (set, value) = match backends[..] {
            [only] => (Set::Instances, Value::Address(only)),
            _ => (Set::Services, Value::Chain(ChainName::Service(first))),
        };
        for address in &service.addresses {
            self.put(set, Key::Address(*address), value);
        }
        if backends.len() == 1 {
            return;
        }
        let chain = match service.policy {
            Balancing::RoundRobin => Chain::InTurn(backends),
            Balancing::Random => Chain::Random(backends),
            Balancing::Weighted => Chain::InTurn(share::in_turn(&service.backends)),
            Balancing::Sticky => Chain::Sticky(share::slots(&backends)),
        };
        self.chains.insert(ChainName::Service(first), chain);
    }

    /// One chain per backend instead of a map to address and port: understood by every nft since 0.9.
    fn add_port(&mut self, protocol: PortProtocol, port: u16, backends: &BTreeSet<SocketAddrV4>) {
        let name = ChainName::Port(protocol, port);
        self.put(Set::of_ports(protocol), Key::Port(port), Value::Chain(name));
        if let (Some(only), 1) = (backends.first(), backends.len()) {
            self.chains.insert(name, Chain::Port(protocol, *only));
            return;
        }
        for (place, backend) in backends.iter().enumerate() {
            self.chains.insert(ChainName::Backend(protocol, port, place), Chain::Port(protocol, *backend));
        }
        self.chains.insert(name, Chain::Ports(protocol, port, backends.len()));
    }

    /// Writes all maps, sets and chains as parts of a table. `turn` says which instance is first, see
    /// [`render`](crate::ruleset::render).
    pub(crate) fn write(&self, out: &mut String, turn: usize) -> fmt::Result {
        let none = BTreeMap::new();
        for set in Set::ALL {
            let (what, kind) = set.kind();
            writeln!(out, "\t{what} {} {{\n\t\ttype {kind}", set.name())?;
            let elements = self.elements.get(&set).unwrap_or(&none);
            // An empty element list is a syntax error.
            if !elements.is_empty() {
                writeln!(out, "\t\telements = {{ {} }}", list(elements.iter().map(element), ",\n\t\t\t"))?;
            }
            writeln!(out, "\t}}")?;
        }
        for (name, chain) in &self.chains {
            writeln!(out, "\tchain {name} {{\n\t\t{}\n\t}}", chain.rule(turn))?;
        }
        Ok(())
    }

    /// The commands that make this content out of `former`; empty if nothing differs.
    pub(crate) fn difference(&self, former: &Self, table: &str, turn: usize) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_difference(&mut out, former, table, turn);
        out
    }

    /// Chains are there before elements lead to them, and go after the last element that did.
    fn write_difference(&self, out: &mut String, former: &Self, table: &str, turn: usize) -> fmt::Result {
        let changed: Vec<_> =
            self.chains.iter().filter(|(name, chain)| former.chains.get(name) != Some(chain)).collect();
        for (name, _) in &changed {
            match former.chains.contains_key(name) {
                true => writeln!(out, "flush chain inet {table} {name}")?,
                false => writeln!(out, "add chain inet {table} {name}")?,
            }
        }
        for (name, chain) in &changed {
            writeln!(out, "add rule inet {table} {name} {}", chain.rule(turn))?;
        }
        let none = BTreeMap::new();
        for set in Set::ALL {
            let before = former.elements.get(&set).unwrap_or(&none);
            let after = self.elements.get(&set).unwrap_or(&none);
            let differs =
                |(key, value): &(&Key, &Value), other: &BTreeMap<Key, Value>| other.get(key) != Some(*value);
            let gone = list(before.iter().filter(|entry| differs(entry, after)).map(element), ", ");
            if !gone.is_empty() {
                writeln!(out, "delete element inet {table} {} {{ {gone} }}", set.name())?;
            }
            let new = list(after.iter().filter(|entry| differs(entry, before)).map(element), ", ");
            if !new.is_empty() {
                writeln!(out, "add element inet {table} {} {{ {new} }}", set.name())?;
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
        Value::Chain(chain) => format!("{key} : goto {chain}"),
    }
}

impl Chain {
    fn rule(&self, turn: usize) -> String {
        match self {
            Self::InTurn(all) => choice("numgen inc", all, turn),
            Self::Random(all) => choice("numgen random", all, turn),
            // A seed of our own: everywhere and after every start the same caller comes to the same place.
            Self::Sticky(all) => {
                let (count, places) = (all.len(), numbered(all.iter()));
                format!("dnat ip to jhash ip saddr mod {count} seed 0x6f616b map {{ {places} }}")
            }
            Self::Ports(protocol, port, count) => {
                let places = (0..*count).map(|place| (place + turn) % count);
                let chains =
                    places.map(|place| format!("goto {}", ChainName::Backend(*protocol, *port, place)));
                format!("numgen inc mod {count} vmap {{ {} }}", numbered(chains))
            }
            Self::Port(protocol, backend) => format!("meta l4proto {protocol} dnat ip to {backend}"),
        }
    }
}

fn choice(how: &str, all: &[Ipv4Addr], turn: usize) -> String {
    let first = turn.checked_rem(all.len()).unwrap_or(0);
    let rotated = all.iter().skip(first).chain(all.iter().take(first));
    format!("dnat ip to {how} mod {} map {{ {} }}", all.len(), numbered(rotated))
}

fn numbered(values: impl Iterator<Item = impl fmt::Display>) -> String {
    list(values.enumerate().map(|(place, value)| format!("{place} : {value}")), ", ")
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Port(port) => port.fmt(f),
        }
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(first) => write!(f, "service-{first}"),
            Self::Port(protocol, port) => write!(f, "port-{protocol}-{port}"),
            Self::Backend(protocol, port, place) => write!(f, "port-{protocol}-{port}-{place}"),
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
            policy,
            backends: backends.iter().map(|text| (ip(text), 1)).collect(),
        }
    }

    fn table(policy: Balancing, backends: &[&str]) -> CheckedTable {
        let services = BTreeMap::from([(ip("10.30.0.1"), service(policy, backends))]);
        CheckedTable { services, ..CheckedTable::default() }
    }

    fn written(table: &CheckedTable, turn: usize) -> String {
        let mut text = String::new();
        Content::new(table).write(&mut text, turn).unwrap();
        text
    }

    fn difference(before: &CheckedTable, after: &CheckedTable) -> Vec<String> {
        let text = Content::new(after).difference(&Content::new(before), "t", 0);
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn all_addresses_of_a_service_share_one_rotation() {
        let text = written(&table(Balancing::RoundRobin, &["10.18.0.2", "10.18.0.3", "10.18.0.4"]), 0);
        assert!(text.contains("10.30.0.1 : goto service-10.30.0.1,"));
        assert!(text.contains("10.30.0.2 : goto service-10.30.0.1 }"));
        assert!(
            text.contains("dnat ip to numgen inc mod 3 map { 0 : 10.18.0.2, 1 : 10.18.0.3, 2 : 10.18.0.4 }")
        );
    }

    #[test]
    fn every_transaction_begins_with_another_backend() {
        let two = table(Balancing::RoundRobin, &["10.18.0.2", "10.18.0.3"]);
        let second = written(&two, 1);
        assert!(second.contains("numgen inc mod 2 map { 0 : 10.18.0.3, 1 : 10.18.0.2 }"));
        assert_eq!(written(&two, 2), written(&two, 0));
    }

    #[test]
    fn a_single_backend_needs_no_choice() {
        let text = written(&table(Balancing::Sticky, &["10.18.0.2"]), 0);
        assert!(text.contains("10.30.0.1 : 10.18.0.2,"));
        assert!(!text.contains("chain") && !text.contains("jhash"));
    }

    #[test]
    fn who_is_sticky_is_chosen_by_its_caller_in_every_turn_alike() {
        let two = table(Balancing::Sticky, &["10.18.0.2", "10.18.0.3"]);
        assert!(
            written(&two, 0).contains("dnat ip to jhash ip saddr mod 64 seed 0x6f616b map { 0 : 10.18.0.")
        );
        assert_eq!(written(&two, 1), written(&two, 0));
    }

    #[test]
    fn ports_with_several_backends_get_a_chain_each() {
        let mut table = CheckedTable::default();
        let backends = ["10.18.0.2:8080", "10.18.0.3:81"];
        table
            .ports
            .insert((PortProtocol::Udp, 53), backends.iter().map(|text| text.parse().unwrap()).collect());
        let text = written(&table, 0);
        assert!(text.contains("53 : goto port-udp-53"));
        assert!(text.contains("numgen inc mod 2 vmap { 0 : goto port-udp-53-0, 1 : goto port-udp-53-1 }"));
        assert!(text.contains("meta l4proto udp dnat ip to 10.18.0.3:81"));
    }

    #[test]
    fn a_difference_names_only_what_differs() {
        let two = table(Balancing::RoundRobin, &["10.18.0.2", "10.18.0.3"]);
        let three = table(Balancing::RoundRobin, &["10.18.0.2", "10.18.0.3", "10.18.0.4"]);
        assert!(difference(&two, &two).is_empty());
        let [flush, rule] = &difference(&two, &three)[..] else { panic!() };
        assert_eq!(flush, "flush chain inet t service-10.30.0.1");
        assert!(rule.starts_with("add rule inet t service-10.30.0.1 dnat ip to numgen inc mod 3"));
        let gone = difference(&two, &CheckedTable::default());
        assert_eq!(
            gone[0],
            "delete element inet t services { 10.30.0.1 : goto service-10.30.0.1, 10.30.0.2 : goto service-10.30.0.1 }"
        );
        assert_eq!(
            gone[1..],
            ["flush chain inet t service-10.30.0.1", "delete chain inet t service-10.30.0.1"]
        );
    }
}
