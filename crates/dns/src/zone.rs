//! The names of one moment: built once, read by every query, replaced as a whole.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::IpNet;
use oak_model::{ApplicationId, Balancing, JobName, Protocol};

use crate::entry::{InstanceEntry, ServiceEntry};
use crate::lookup::Question;

/// How long answers about our names may be kept, seconds. Short, so that answers follow the table.
pub(crate) const TTL_S: u32 = 1;

/// The top of all our names.
const TOP: &str = "oak";
/// The name server's own name, below the top.
const SERVER: &str = "ns";

/// What a [`Zone`] is built from.
#[derive(Clone, Debug, Default)]
pub struct ZoneContent {
    /// Grows with every change.
    pub serial: u32,
    /// Address of the name server itself.
    pub server: Option<IpAddr>,
    /// All services known here. Names that differ only in case are one name for DNS; the older application has it.
    pub services: Vec<ServiceEntry>,
    /// Which application the asker of a source address belongs to.
    pub askers: HashMap<IpAddr, ApplicationId>,
    /// Ranges whose addresses are all ours: questions for their names are never forwarded.
    pub ranges: Vec<IpNet>,
}

/// An immutable snapshot of all names.
#[derive(Debug, Default)]
pub struct Zone {
    serial: u32,
    server: Option<IpAddr>,
    /// By lower-case `service.ns.application.ns`; of several, the oldest application first.
    services: HashMap<String, Vec<ServiceEntry>>,
    /// Names above services, lower-case and without the top: they exist but have no records.
    parents: HashSet<String>,
    names: HashMap<IpAddr, Vec<Named>>,
    askers: HashMap<IpAddr, ApplicationId>,
    ranges: Vec<IpNet>,
}

/// The name of an address.
#[derive(Debug)]
struct Named {
    application: ApplicationId,
    name: Name,
    hidden_from: BTreeSet<ApplicationId>,
}

/// What a zone says to a question.
#[derive(Debug, PartialEq)]
pub(crate) enum Found {
    /// The answer, and records that save the next question.
    Records { answers: Vec<Record>, additionals: Vec<Record> },
    /// The name exists, without records of this type.
    NoData,
    /// There is no such name.
    NoName,
    /// It would be ours, but this node does not know it.
    Unknown(Question),
    /// Not one of our names.
    Foreign,
}

impl Zone {
    /// Builds the snapshot.
    #[must_use]
    pub fn new(content: ZoneContent) -> Self {
        let ZoneContent { serial, server, services, askers, ranges } = content;
        let mut zone = Self { serial, server, askers, ranges, ..Self::default() };
        for entry in services {
            zone.add(entry);
        }
        for service in zone.services.values_mut().flatten() {
            service.instances.sort_by_key(|instance| instance.number);
            service.ports.sort_unstable();
            service.ports.dedup();
        }
        zone.names = names(zone.services.values().flatten());
        zone
    }

    fn add(&mut self, entry: ServiceEntry) {
        let key = key(&entry.name);
        let mut rest = key.as_str();
        while let Some((_, parent)) = rest.split_once('.') {
            self.parents.insert(parent.to_owned());
            rest = parent;
        }
        let same_name = self.services.entry(key).or_default();
        match same_name.iter_mut().find(|known| known.application == entry.application) {
            Some(known) => merge(known, entry),
            None => {
                same_name.push(entry);
                same_name.sort_by_key(|service| service.application);
            }
        }
    }

    /// Answers a question of `asker`.
    pub(crate) fn find(&self, name: &Name, kind: RecordType, asker: IpAddr) -> Found {
        let Some(labels) = labels(name) else { return Found::Foreign };
        match labels.split_last() {
            Some((top, below)) if top == TOP => self.find_below(name, below, kind, asker),
            Some((top, _)) if top == "arpa" => self.find_reverse(name, kind, asker),
            _ => Found::Foreign,
        }
    }

    fn find_below(&self, name: &Name, labels: &[String], kind: RecordType, asker: IpAddr) -> Found {
        if labels.is_empty() {
            let wanted = [
                (RecordType::SOA, self.soa_data().map(RData::SOA)),
                (RecordType::NS, server_name().map(|server| RData::NS(NS(server)))),
            ];
            let records = wanted.into_iter().filter(|(of, _)| matches(kind, *of));
            return records_or_none(name, records.filter_map(|(_, data)| data).collect());
        }
        if labels == [SERVER] {
            return addresses(name, self.server, kind);
        }
        let Some(split) = labels.len().checked_sub(4) else {
            let exists = self.parents.contains(&labels.join("."));
            return if exists { Found::NoData } else { Found::NoName };
        };
        let (prefix, of_service) = labels.split_at(split);
        let is_name = |label: &String| label.parse::<oak_model::Name>().is_ok();
        if prefix.len() > 2 || !of_service.iter().all(is_name) {
            return Found::NoName;
        }
        let key = of_service.join(".");
        let unknown = || Found::Unknown(Question::Service(key.clone()));
        match self.service(&key, asker) {
            Some(service) => find_in(service, name, prefix, kind).unwrap_or_else(unknown),
            None => unknown(),
        }
    }

    /// The service of that name: the asker's own one, else the oldest.
    fn service(&self, key: &str, asker: IpAddr) -> Option<&ServiceEntry> {
        let all = self.services.get(key)?;
        let own = self.askers.get(&asker);
        let mut seen = all.iter().filter(|service| own.is_none_or(|own| !service.hidden_from.contains(own)));
        let first = seen.clone().next();
        seen.find(|service| Some(&service.application) == own).or(first)
    }

    fn find_reverse(&self, name: &Name, kind: RecordType, asker: IpAddr) -> Found {
        let Ok(net) = name.parse_arpa_name() else { return Found::Foreign };
        if net.prefix_len() != net.max_prefix_len() {
            // Part of an address: the names of a whole range are below it.
            let is_ours = self.ranges.iter().any(|range| range.contains(&net));
            return if is_ours { Found::NoData } else { Found::Foreign };
        }
        let address = net.addr();
        let Some(names) = self.names.get(&address) else {
            let is_ours = self.ranges.iter().any(|range| range.contains(&address));
            return if is_ours { Found::Unknown(Question::Address(address)) } else { Found::Foreign };
        };
        if !matches(kind, RecordType::PTR) {
            return Found::NoData;
        }
        let own = self.askers.get(&asker);
        let mut seen = names.iter().filter(|one| own.is_none_or(|own| !one.hidden_from.contains(own)));
        let first = seen.clone().next();
        let found = seen.find(|one| Some(&one.application) == own).or(first);
        let Some(found) = found else { return Found::Unknown(Question::Address(address)) };
        let data = [RData::PTR(PTR(found.name.clone()))];
        records_or_none(name, data.into_iter().collect())
    }

    /// The start of authority for a negative answer about `name`.
    pub(crate) fn authority(&self, name: &Name) -> Option<Record> {
        let owner = match name.parse_arpa_name() {
            // Zones of addresses end at a whole label.
            Ok(net) => {
                let range = self.ranges.iter().find(|range| range.contains(&net))?;
                let bits_per_label = if range.addr().is_ipv4() { 8 } else { 4 };
                let of_range = range.prefix_len().div_ceil(bits_per_label);
                let of_name = net.prefix_len().div_ceil(bits_per_label);
                name.trim_to(usize::from(of_range.min(of_name)).saturating_add(2))
            }
            Err(_) => Name::from_ascii("oak.").ok()?,
        };
        Some(Record::from_rdata(owner, TTL_S, RData::SOA(self.soa_data()?)))
    }

    fn soa_data(&self) -> Option<SOA> {
        let responsible = Name::from_ascii("hostmaster.oak.").ok()?;
        Some(SOA::new(server_name()?, responsible, self.serial, 1, 1, 60, TTL_S))
    }

    /// Who may ask what differently: for zones that are made of one found service.
    pub(crate) fn with(&self, service: ServiceEntry) -> Self {
        Self::new(ZoneContent {
            serial: self.serial,
            server: self.server,
            services: vec![service],
            askers: self.askers.clone(),
            ranges: self.ranges.clone(),
        })
    }
}

fn server_name() -> Option<Name> {
    Name::from_ascii("ns.oak.").ok()
}

/// The labels in lower case; none if one of them is no text, which no name of ours and no address has.
fn labels(name: &Name) -> Option<Vec<String>> {
    name.iter().map(|label| Some(str::from_utf8(label).ok()?.to_ascii_lowercase())).collect()
}

fn key(name: &JobName) -> String {
    let JobName { application, application_namespace, service, service_namespace } = name;
    format!("{service}.{service_namespace}.{application}.{application_namespace}").to_ascii_lowercase()
}

fn merge(known: &mut ServiceEntry, more: ServiceEntry) {
    for address in more.addresses {
        if !known.addresses.contains(&address) {
            known.addresses.push(address);
        }
    }
    for instance in more.instances {
        match known.instances.iter_mut().find(|one| one.number == instance.number) {
            // While it moves it is at two places.
            Some(one) => {
                one.serves |= instance.serves;
                for address in instance.addresses {
                    if !one.addresses.contains(&address) {
                        one.addresses.push(address);
                    }
                }
            }
            None => known.instances.push(instance),
        }
    }
    known.ports.extend(more.ports);
}

/// Names of addresses; the name of the service itself comes before those of its instances.
fn names<'a>(services: impl Iterator<Item = &'a ServiceEntry>) -> HashMap<IpAddr, Vec<Named>> {
    let mut names: HashMap<IpAddr, Vec<Named>> = HashMap::new();
    for service in services {
        let Some(own) = full_name(&service.name) else { continue };
        let named = |name: Name| Named {
            application: service.application,
            name,
            hidden_from: service.hidden_from.clone(),
        };
        for one in &service.addresses {
            let name = match one.policy {
                Balancing::RoundRobin => own.clone(),
                policy => own.prepend_label(policy.name()).unwrap_or_else(|_| own.clone()),
            };
            names.entry(one.address).or_default().push(named(name));
        }
        for instance in &service.instances {
            let Ok(name) = own.prepend_label(instance.number.to_string()) else { continue };
            for address in &instance.addresses {
                names.entry(*address).or_default().push(named(name.clone()));
            }
        }
    }
    for of_address in names.values_mut() {
        of_address.sort_by_key(|one| one.application);
    }
    names
}

fn full_name(name: &JobName) -> Option<Name> {
    let JobName { application, application_namespace, service, service_namespace } = name;
    let text = format!("{service}.{service_namespace}.{application}.{application_namespace}.{TOP}.");
    Name::from_ascii(text).ok()
}

/// Looks below the name of a service; none if there is nothing of that name.
fn find_in(service: &ServiceEntry, name: &Name, prefix: &[String], kind: RecordType) -> Option<Found> {
    match prefix {
        [] => {
            let first = service.addresses.first().map(|one| &one.policy);
            let of_first = service.addresses.iter().filter(|one| Some(&one.policy) == first);
            Some(addresses(name, of_first.map(|one| one.address), kind))
        }
        [port, protocol] => find_port(service, name, port, protocol_of(protocol)?, kind),
        [label] if label.starts_with('_') => {
            let protocol = protocol_of(label)?;
            service.ports.iter().any(|port| port.protocol == protocol).then_some(Found::NoData)
        }
        [label] if label.starts_with(|first: char| first.is_ascii_digit()) => {
            let instance = instance(service, label)?;
            Some(addresses(name, instance.addresses.iter().copied(), kind))
        }
        [policy] => {
            let mut of_policy = service.addresses.iter().filter(|one| one.policy.name() == policy).peekable();
            of_policy.peek()?;
            Some(addresses(name, of_policy.map(|one| one.address), kind))
        }
        _ => None,
    }
}

/// `2` is instance number 2, `02` is not.
fn instance<'a>(service: &'a ServiceEntry, label: &str) -> Option<&'a InstanceEntry> {
    let number: u32 = label.parse().ok()?;
    service.instances.iter().find(|one| one.number == number && number.to_string() == label)
}

fn protocol_of(label: &str) -> Option<Protocol> {
    match label {
        "_tcp" => Some(Protocol::Tcp),
        "_udp" => Some(Protocol::Udp),
        _ => None,
    }
}

/// `_port` stands for every port, `_8080` for this one.
fn find_port(
    service: &ServiceEntry,
    name: &Name,
    label: &str,
    protocol: Protocol,
    kind: RecordType,
) -> Option<Found> {
    let wanted = label.strip_prefix('_')?;
    let is_wanted = |port: u16| wanted == "port" || port.to_string() == wanted;
    let of_protocol = service.ports.iter().filter(|port| port.protocol == protocol);
    let ports: Vec<u16> = of_protocol.map(|port| port.port).filter(|port| is_wanted(*port)).collect();
    if ports.is_empty() {
        return None;
    }
    if !matches(kind, RecordType::SRV) {
        return Some(Found::NoData);
    }
    let own = full_name(&service.name)?;
    let (mut answers, mut additionals) = (Vec::new(), Vec::new());
    for instance in service.instances.iter().filter(|instance| instance.serves) {
        let Ok(target) = own.prepend_label(instance.number.to_string()) else { continue };
        for port in &ports {
            let data = RData::SRV(SRV::new(0, 1, *port, target.clone()));
            answers.push(Record::from_rdata(name.clone(), TTL_S, data));
        }
        let to_target = |address: &IpAddr| Record::from_rdata(target.clone(), TTL_S, data_of(*address));
        additionals.extend(instance.addresses.iter().map(to_target));
    }
    let nobody = answers.is_empty();
    Some(if nobody { Found::NoData } else { Found::Records { answers, additionals } })
}

fn matches(asked: RecordType, of: RecordType) -> bool {
    asked == of || asked == RecordType::ANY
}

fn data_of(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

fn addresses(name: &Name, all: impl IntoIterator<Item = IpAddr>, kind: RecordType) -> Found {
    let of_kind =
        |address: &IpAddr| matches(kind, if address.is_ipv4() { RecordType::A } else { RecordType::AAAA });
    records_or_none(name, all.into_iter().filter(of_kind).map(data_of).collect())
}

/// The records carry the name as it was asked, so that its spelling comes back.
fn records_or_none(name: &Name, data: Vec<RData>) -> Found {
    if data.is_empty() {
        return Found::NoData;
    }
    let answers = data.into_iter().map(|data| Record::from_rdata(name.clone(), TTL_S, data)).collect();
    Found::Records { answers, additionals: Vec::new() }
}

#[cfg(test)]
pub(crate) mod tests;
