//! What of a service table can be rendered. Pure; entries that cannot work are refused one by one, so that a single bad
//! entry never keeps a node from learning the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};

use oak_model::ipv6;

use crate::config::NetworkConfig;
use crate::error::NetworkError;
use crate::table::{
    Balancing, InstanceAddress, PortMapping, PortProtocol, Service, ServiceTable, TableProblem, Tenant,
};

/// A service that can be rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CheckedService {
    /// At least one; the first names the chain.
    pub(crate) addresses: BTreeSet<Ipv4Addr>,
    pub(crate) ipv6: BTreeSet<Ipv6Addr>,
    pub(crate) policy: Balancing,
    /// At least one, with its weight, which is 1 for policies without weights.
    pub(crate) backends: BTreeMap<Ipv4Addr, u16>,
}

impl CheckedService {
    pub(crate) fn all_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let four = self.addresses.iter().copied().map(IpAddr::V4);
        four.chain(self.ipv6.iter().copied().map(IpAddr::V6))
    }
}

/// A tenant that can be rendered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CheckedTenant {
    /// At least one.
    pub(crate) members: BTreeSet<Ipv4Addr>,
    pub(crate) reaches: BTreeSet<IpAddr>,
    pub(crate) refused: BTreeSet<IpAddr>,
}

/// A table without contradictions, in an order that does not depend on the caller's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CheckedTable {
    /// By first address.
    pub(crate) services: BTreeMap<Ipv4Addr, CheckedService>,
    /// Addresses of services without backends: calls are refused at once, those to unknown addresses wait.
    pub(crate) refused: BTreeSet<IpAddr>,
    /// Instance address to namespace address.
    pub(crate) instances: BTreeMap<Ipv4Addr, Ipv4Addr>,
    /// Namespace address to the instance address it appears as.
    pub(crate) identities: BTreeMap<Ipv4Addr, Ipv4Addr>,
    /// Namespace addresses that exist and are in none of the others.
    pub(crate) elsewhere: BTreeSet<Ipv4Addr>,
    /// Those of the service addresses whose calls wait like those of unknown addresses.
    pub(crate) untold: BTreeSet<IpAddr>,
    /// By their first member.
    pub(crate) tenants: BTreeMap<Ipv4Addr, CheckedTenant>,
    /// Addresses of which it is known who may call them.
    pub(crate) owned: BTreeSet<IpAddr>,
    /// Only mappings with at least one backend.
    pub(crate) ports: BTreeMap<(PortProtocol, u16), BTreeSet<SocketAddrV4>>,
}

impl CheckedTable {
    /// All service and instance addresses that packets may be sent to, if only to be refused.
    pub(crate) fn known_addresses(&self) -> BTreeSet<IpAddr> {
        let all = self.owned.iter().chain(&self.refused).copied();
        all.filter(|address| !self.untold.contains(address)).collect()
    }

    /// Addresses that are refused to some; others may still ask for them.
    pub(crate) fn refused_to_some(&self) -> BTreeSet<IpAddr> {
        self.tenants.values().flat_map(|tenant| &tenant.refused).copied().collect()
    }
}

impl ServiceTable {
    /// Separates what can be rendered from what cannot.
    pub(crate) fn check(
        &self,
        config: &NetworkConfig,
    ) -> Result<(CheckedTable, Vec<TableProblem>), NetworkError> {
        self.check_size()?;
        let mut checking = Checking {
            config,
            taken: BTreeSet::new(),
            with_ipv6: BTreeMap::new(),
            problems: Vec::new(),
            table: CheckedTable::default(),
        };
        for service in &self.services {
            checking.service(service, &self.weights);
        }
        for instance in &self.instances {
            checking.instance(*instance);
        }
        checking.table.elsewhere.extend(&self.elsewhere);
        for tenant in &self.tenants {
            checking.tenant(tenant);
        }
        checking.table.owned = checking.taken_of(&self.owned);
        let untold: BTreeSet<Ipv4Addr> = self.untold.iter().copied().collect();
        for service in &self.services {
            checking.untold(service, &untold);
        }
        let mut mapped = BTreeSet::new();
        for mapping in &self.ports {
            checking.port(mapping, &mut mapped);
        }
        Ok((checking.table, checking.problems))
    }
}

struct Checking<'a> {
    config: &'a NetworkConfig,
    taken: BTreeSet<IpAddr>,
    /// IPv6 addresses that lead where an IPv4 address leads: who may call one may call the others.
    with_ipv6: BTreeMap<Ipv4Addr, BTreeSet<Ipv6Addr>>,
    problems: Vec<TableProblem>,
    table: CheckedTable,
}

impl Checking<'_> {
    fn service(&mut self, service: &Service, weights: &BTreeMap<Ipv4Addr, u16>) {
        let mut addresses = BTreeSet::new();
        for address in &service.addresses {
            if self.claim((*address).into()) {
                addresses.insert(*address);
            }
        }
        let usable = service.ipv6.iter().filter(|_| self.config.ipv6);
        let usable: Vec<Ipv6Addr> = usable.copied().collect();
        let ipv6: BTreeSet<Ipv6Addr> =
            usable.into_iter().filter(|address| self.claim((*address).into())).collect();
        for address in addresses.iter().filter(|_| !ipv6.is_empty()) {
            self.with_ipv6.insert(*address, ipv6.clone());
        }
        let mut backends = BTreeMap::new();
        for backend in &service.backends {
            if self.is_backend(*backend) {
                let weight = weights.get(backend).filter(|_| service.policy == Balancing::Weighted);
                backends.insert(*backend, weight.copied().unwrap_or(1));
            }
        }
        let Some(first) = addresses.first().copied() else {
            return;
        };
        let service = CheckedService { addresses, ipv6, policy: service.policy, backends };
        if service.backends.is_empty() {
            return self.table.refused.extend(service.all_addresses());
        }
        self.table.services.insert(first, service);
    }

    /// Calls of all addresses of a service are told of, or of none.
    fn untold(&mut self, service: &Service, untold: &BTreeSet<Ipv4Addr>) {
        let is_untold = service.addresses.iter().any(|address| untold.contains(address));
        if !is_untold {
            return;
        }
        let four = service.addresses.iter().copied().map(IpAddr::V4);
        let all = four.chain(service.ipv6.iter().copied().map(IpAddr::V6));
        self.table.untold.extend(all.filter(|address| self.taken.contains(address)));
    }

    fn instance(&mut self, address: InstanceAddress) {
        if !self.is_backend(address.namespace) || !self.claim(address.instance.into()) {
            return;
        }
        if self.config.ipv6 {
            let six = BTreeSet::from([ipv6::instance(address.instance)]);
            self.with_ipv6.insert(address.instance, six);
        }
        self.table.instances.insert(address.instance, address.namespace);
        self.table.identities.entry(address.namespace).or_insert(address.instance);
    }

    fn tenant(&mut self, tenant: &Tenant) {
        let mut members = BTreeSet::new();
        for member in &tenant.members {
            if !self.is_backend(*member) {
                continue;
            }
            if self.table.tenants.values().any(|other| other.members.contains(member)) {
                self.problems.push(TableProblem::TwoTenants { address: *member });
            } else {
                members.insert(*member);
            }
        }
        let Some(first) = members.first().copied() else { return };
        let reached = self.services(&tenant.reaches);
        let reaches = reached.iter().flat_map(|address| self.with_ipv6(*address)).collect();
        let refused = self.services(&tenant.refused);
        let refused = refused.iter().flat_map(|address| self.all_forms(*address)).collect();
        self.table.tenants.insert(first, CheckedTenant { members, reaches, refused });
    }

    /// Those of them that are in the service range.
    fn services(&self, addresses: &[Ipv4Addr]) -> Vec<Ipv4Addr> {
        let range = self.config.service_range;
        addresses.iter().copied().filter(|address| range.contains(address)).collect()
    }

    /// An address and the IPv6 addresses that lead to the same.
    fn with_ipv6(&self, address: Ipv4Addr) -> impl Iterator<Item = IpAddr> {
        let six = self.with_ipv6.get(&address).into_iter().flatten();
        [IpAddr::from(address)].into_iter().chain(six.copied().map(IpAddr::V6))
    }

    /// An address of which nothing is known, and all IPv6 addresses that could go with it.
    fn all_forms(&self, address: Ipv4Addr) -> impl Iterator<Item = IpAddr> + use<> {
        let services = oak_model::Balancing::ALL.map(|policy| ipv6::service(policy, address));
        let six = services.into_iter().chain([ipv6::instance(address)]).map(IpAddr::V6);
        let is_wanted = self.config.ipv6;
        [IpAddr::from(address)].into_iter().chain(six.filter(move |_| is_wanted))
    }

    /// Those of them that are in the table, in both families.
    fn taken_of(&self, addresses: &[Ipv4Addr]) -> BTreeSet<IpAddr> {
        let taken = addresses.iter().filter(|address| self.taken.contains(&IpAddr::V4(**address)));
        taken.flat_map(|address| self.with_ipv6(*address)).collect()
    }

    fn port(&mut self, mapping: &PortMapping, mapped: &mut BTreeSet<(PortProtocol, u16)>) {
        let protocol = mapping.protocol;
        let host_port = mapping.host_port;
        if host_port == 0 || mapping.backends.iter().any(|backend| backend.port() == 0) {
            self.problems.push(TableProblem::PortZero { protocol });
            return;
        }
        let NetworkConfig { tunnel_port, encrypted_port, kernel_port, .. } = *self.config;
        let tunnels = [tunnel_port, encrypted_port, kernel_port];
        if protocol == PortProtocol::Udp && tunnels.contains(&host_port) {
            self.problems.push(TableProblem::TunnelPort { host_port });
            return;
        }
        if !mapped.insert((protocol, host_port)) {
            self.problems.push(TableProblem::DuplicatePort { protocol, host_port });
            return;
        }
        let mut backends = BTreeSet::new();
        for backend in &mapping.backends {
            if self.is_backend(*backend.ip()) {
                backends.insert(*backend);
            }
        }
        if !backends.is_empty() {
            self.table.ports.insert((protocol, host_port), backends);
        }
    }

    /// Takes a service or instance address for one entry.
    fn claim(&mut self, address: IpAddr) -> bool {
        let fits = match address {
            IpAddr::V4(address) => self.config.service_range.contains(&address),
            IpAddr::V6(address) => ipv6::SERVICES.contains(&address),
        };
        if !fits {
            self.problems.push(TableProblem::NotServiceAddress { address });
            return false;
        }
        if !self.taken.insert(address) {
            self.problems.push(TableProblem::DuplicateAddress { address });
            return false;
        }
        true
    }

    fn is_backend(&mut self, address: Ipv4Addr) -> bool {
        let fits = self.config.is_namespace_address(address);
        if !fits {
            self.problems.push(TableProblem::NotNamespaceAddress { address });
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NetworkConfig {
        NetworkConfig::new("/var/lib/oak/net", "10.18.0.0/25".parse().unwrap())
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn the_order_of_the_caller_does_not_matter() {
        let one = ServiceTable {
            services: vec![
                Service {
                    addresses: vec![ip("10.30.0.2"), ip("10.30.0.1")],
                    backends: vec![ip("10.18.0.3"), ip("10.18.0.2")],
                    ..Service::default()
                },
                Service {
                    addresses: vec![ip("10.30.0.9")],
                    policy: Balancing::Random,
                    backends: vec![ip("10.18.0.2"), ip("10.18.0.2")],
                    ..Service::default()
                },
            ],
            ..ServiceTable::default()
        };
        let mut other = one.clone();
        other.services.reverse();
        for service in &mut other.services {
            service.addresses.reverse();
            service.backends.reverse();
        }
        assert_eq!(one.check(&config()).unwrap(), other.check(&config()).unwrap());
    }

    #[test]
    fn one_bad_entry_does_not_spoil_the_others() {
        let table = ServiceTable {
            services: vec![
                Service {
                    addresses: vec![ip("192.168.0.1"), ip("10.30.0.1")],
                    backends: vec![ip("8.8.8.8"), ip("10.30.0.7"), ip("10.18.0.2")],
                    ..Service::default()
                },
                Service {
                    addresses: vec![ip("10.30.0.1")],
                    backends: vec![ip("10.18.0.3")],
                    ..Service::default()
                },
            ],
            instances: vec![InstanceAddress { instance: ip("10.30.0.1"), namespace: ip("10.18.0.2") }],
            ports: vec![
                PortMapping {
                    protocol: PortProtocol::Tcp,
                    host_port: 80,
                    backends: vec!["10.18.0.2:8080".parse().unwrap()],
                },
                PortMapping {
                    protocol: PortProtocol::Tcp,
                    host_port: 80,
                    backends: vec!["10.18.0.3:8080".parse().unwrap()],
                },
                PortMapping { protocol: PortProtocol::Udp, host_port: 0, backends: vec![] },
                PortMapping { protocol: PortProtocol::Udp, host_port: 50_103, backends: vec![] },
            ],
            ..ServiceTable::default()
        };
        let (checked, problems) = table.check(&config()).unwrap();
        assert_eq!(problems.len(), 8, "{problems:?}");
        let service = checked.services.get(&ip("10.30.0.1")).unwrap();
        assert_eq!(service.backends, BTreeMap::from([(ip("10.18.0.2"), 1)]));
        assert_eq!(checked.ports.len(), 1);
        assert!(checked.instances.is_empty());
    }

    #[test]
    fn services_without_backends_are_refused() {
        let table = ServiceTable {
            services: vec![Service { addresses: vec![ip("10.30.0.1")], ..Service::default() }],
            ..ServiceTable::default()
        };
        let (checked, problems) = table.check(&config()).unwrap();
        assert!(checked.services.is_empty() && problems.is_empty());
        assert_eq!(checked.refused, BTreeSet::from([ip("10.30.0.1").into()]));
    }

    #[test]
    fn the_first_instance_address_is_the_identity() {
        let table = ServiceTable {
            instances: ["10.30.1.9", "10.30.1.1"]
                .map(|instance| InstanceAddress { instance: ip(instance), namespace: ip("10.18.0.2") })
                .to_vec(),
            ..ServiceTable::default()
        };
        let (checked, _) = table.check(&config()).unwrap();
        assert_eq!(checked.instances.len(), 2);
        assert_eq!(checked.identities.get(&ip("10.18.0.2")), Some(&ip("10.30.1.9")));
    }

    #[test]
    fn who_may_call_an_address_may_call_those_of_ipv6_that_lead_to_the_same() {
        let six = |text: &str| IpAddr::V6(text.parse().unwrap());
        let table = ServiceTable {
            services: vec![Service {
                addresses: vec![ip("10.30.0.1")],
                ipv6: vec!["fdff:2000::1".parse().unwrap()],
                backends: vec![ip("10.18.0.3")],
                ..Service::default()
            }],
            instances: vec![InstanceAddress { instance: ip("10.30.1.3"), namespace: ip("10.18.0.3") }],
            tenants: vec![Tenant {
                members: vec![ip("10.18.0.2")],
                reaches: vec![ip("10.30.0.1")],
                refused: vec![ip("10.30.0.9")],
            }],
            owned: vec![ip("10.30.0.1"), ip("10.30.1.3"), ip("10.30.7.7")],
            ..ServiceTable::default()
        };
        let (checked, _) = table.check(&config()).unwrap();
        let tenant = &checked.tenants[&ip("10.18.0.2")];
        assert_eq!(tenant.reaches, BTreeSet::from([ip("10.30.0.1").into(), six("fdff:2000::1")]));
        assert!(tenant.refused.contains(&six("fdff:2000::9")) && tenant.refused.contains(&six("fdff::9")));
        let owned = [ip("10.30.0.1").into(), ip("10.30.1.3").into(), six("fdff:2000::1"), six("fdff::1:3")];
        assert_eq!(checked.owned, BTreeSet::from(owned));
        let without = NetworkConfig { ipv6: false, ..config() };
        let (checked, _) = table.check(&without).unwrap();
        assert!(checked.owned.iter().chain(&checked.tenants[&ip("10.18.0.2")].refused).all(IpAddr::is_ipv4));
    }

    #[test]
    fn an_instance_is_of_one_tenant() {
        let tenant = |members: &[&str], reaches: &[&str]| Tenant {
            members: members.iter().map(|text| ip(text)).collect(),
            reaches: reaches.iter().map(|text| ip(text)).collect(),
            refused: Vec::new(),
        };
        let table = ServiceTable {
            tenants: vec![
                tenant(&["10.18.0.2", "192.0.2.1"], &["10.30.0.1", "8.8.8.8"]),
                tenant(&["10.18.0.2"], &["10.30.0.2"]),
            ],
            ..ServiceTable::default()
        };
        let (checked, problems) = table.check(&config()).unwrap();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert_eq!(checked.tenants.len(), 1);
        assert_eq!(checked.tenants[&ip("10.18.0.2")].reaches, BTreeSet::from([ip("10.30.0.1").into()]));
    }
}
