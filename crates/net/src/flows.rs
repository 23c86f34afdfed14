//! Which tracked flows contradict the service table. The kernel keeps sending a known flow where it
//! was sent first; UDP and ping clients that keep their ports would never leave a dead backend.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use crate::check::CheckedTable;
use crate::config::NetworkConfig;
use crate::netlink::conntrack::Flow;
use crate::table::PortProtocol;

/// A checked table, indexed for judging flows.
#[derive(Debug)]
pub(crate) struct FlowJudge<'a> {
    config: &'a NetworkConfig,
    table: &'a CheckedTable,
    known: BTreeSet<Ipv4Addr>,
    dialled: BTreeSet<Ipv4Addr>,
    /// Addresses of services that lead somewhere.
    services: BTreeSet<Ipv4Addr>,
    /// Backends that any address leads to.
    ready: BTreeSet<Ipv4Addr>,
}

impl<'a> FlowJudge<'a> {
    pub(crate) fn new(config: &'a NetworkConfig, table: &'a CheckedTable) -> Self {
        let known = known_addresses(table);
        let services = table.services.values().flat_map(|service| &service.addresses).copied().collect();
        let ready = table.services.values().flat_map(|service| service.backends.keys()).copied().collect();
        Self { config, table, known, dialled: dialled(table), services, ready }
    }

    /// Whether the flow should be forgotten.
    ///
    /// A backend that is nowhere in the table is gone: all its flows go. One that only lost a service
    /// keeps its TCP connections, so that it can finish them; other protocols cannot tell an old
    /// conversation from a new one and are moved.
    pub(crate) fn is_stale(&self, flow: &Flow) -> bool {
        let backend = flow.reply.source;
        if self.dialled.contains(&backend) && is_untranslated(flow, backend) {
            return true;
        }
        if flow.original.destination == backend {
            return self.is_missed_port(flow) || self.is_missed_by_a_peer(flow);
        }
        if !self.config.is_namespace_address(backend) {
            return false;
        }
        if !self.known.contains(&backend) {
            return true;
        }
        flow.protocol != PortProtocol::Tcp.number() && !self.is_in_table(flow)
    }

    fn is_in_table(&self, flow: &Flow) -> bool {
        let dialled = flow.original.destination;
        let backend = flow.reply.source;
        if self.config.service_range.contains(&dialled) {
            // An instance that takes connections keeps those it has, although the policy of the address may send new
            // ones elsewhere by now. It is in one service, whose address was dialled.
            let by_service = self.services.contains(&dialled) && self.ready.contains(&backend);
            return by_service || self.table.instances.get(&dialled) == Some(&backend);
        }
        let Some(protocol) = protocol(flow.protocol) else {
            return true;
        };
        let port = (protocol, flow.original.destination_port);
        let target = SocketAddrV4::new(backend, flow.reply.source_port);
        self.table.ports.get(&port).is_some_and(|backends| backends.contains(&target))
    }

    /// A flow that another node has sent to an instance that is gone.
    fn is_missed_by_a_peer(&self, flow: &Flow) -> bool {
        let (client, backend) = (flow.original.source, flow.original.destination);
        self.config.is_assignable(backend)
            && self.config.node_range.contains(&client)
            && self.config.subnet_of(client).is_none()
            && !self.known.contains(&backend)
    }

    /// A UDP flow to a mapped port that began before the mapping: it would never reach the instance.
    /// Only flows without any translation, which nobody misses.
    fn is_missed_port(&self, flow: &Flow) -> bool {
        let port = (PortProtocol::Udp, flow.original.destination_port);
        flow.protocol == PortProtocol::Udp.number()
            && flow.original.source == flow.reply.destination
            && self.config.subnet_of(flow.original.destination).is_none()
            && self.table.ports.contains_key(&port)
    }
}

/// Whether a flow to this service or instance address began before the address was known: it would never
/// reach an instance.
pub(crate) fn is_untranslated(flow: &Flow, dialled: Ipv4Addr) -> bool {
    flow.original.destination == dialled && flow.reply.source == dialled
}

/// Whether going from `before` to `after` can leave flows that contradict `after`.
pub(crate) fn may_strand_flows(before: Option<&CheckedTable>, after: &CheckedTable) -> bool {
    let Some(before) = before else {
        return true;
    };
    let lost_address = before.services.iter().any(|(first, old)| {
        after.services.get(first).is_none_or(|new| {
            !old.addresses.is_subset(&new.addresses)
                || old.backends.keys().any(|backend| !new.backends.contains_key(backend))
        })
    });
    let lost_instance =
        before.instances.iter().any(|(instance, namespace)| after.instances.get(instance) != Some(namespace));
    let lost_elsewhere = !before.elsewhere.is_subset(&after.elsewhere);
    let is_news = !after.known_addresses().is_subset(&before.known_addresses());
    is_news || lost_address || lost_instance || lost_elsewhere || before.ports != after.ports
}

/// Flows of IPv6 are shown with the IPv4 addresses that go with theirs.
fn dialled(table: &CheckedTable) -> BTreeSet<Ipv4Addr> {
    let four = |address: IpAddr| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    };
    table.known_addresses().into_iter().filter_map(four).collect()
}

fn known_addresses(table: &CheckedTable) -> BTreeSet<Ipv4Addr> {
    let services = table.services.values().flat_map(|s| s.backends.keys());
    let ports = table.ports.values().flatten().map(SocketAddrV4::ip);
    services.chain(table.instances.values()).chain(&table.elsewhere).chain(ports).copied().collect()
}

fn protocol(number: u8) -> Option<PortProtocol> {
    [PortProtocol::Tcp, PortProtocol::Udp].into_iter().find(|protocol| protocol.number() == number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::conntrack::Direction;
    use crate::table::{InstanceAddress, PortMapping, Service, ServiceTable};

    const TCP: u8 = 6;
    const UDP: u8 = 17;

    fn config() -> NetworkConfig {
        NetworkConfig::new("/var/lib/oak/net", "10.18.0.0/25".parse().unwrap())
    }

    fn table(ready: &[&str]) -> CheckedTable {
        let table = ServiceTable {
            services: vec![Service {
                addresses: vec!["10.30.0.1".parse().unwrap()],
                backends: ready.iter().map(|text| text.parse().unwrap()).collect(),
                ..Service::default()
            }],
            instances: vec![InstanceAddress {
                instance: "10.30.1.2".parse().unwrap(),
                namespace: "10.18.0.2".parse().unwrap(),
            }],
            owned: ["10.30.0.1", "10.30.1.2"].map(|text| text.parse().unwrap()).to_vec(),
            ports: vec![PortMapping {
                protocol: PortProtocol::Udp,
                host_port: 53,
                backends: vec!["10.18.0.2:5353".parse().unwrap()],
            }],
            ..ServiceTable::default()
        };
        table.check(&config()).unwrap().0
    }

    fn flow(protocol: u8, from: &str, dialled: &str, backend: &str) -> Flow {
        let [from, dialled, backend] =
            [from, dialled, backend].map(|text| text.parse::<SocketAddrV4>().unwrap());
        let direction = |source: SocketAddrV4, destination: SocketAddrV4| Direction {
            source: *source.ip(),
            destination: *destination.ip(),
            source_port: source.port(),
            destination_port: destination.port(),
        };
        Flow { protocol, original: direction(from, dialled), reply: direction(backend, from) }
    }

    fn is_stale(table: &CheckedTable, flow: &Flow) -> bool {
        FlowJudge::new(&config(), table).is_stale(flow)
    }

    #[test]
    fn flows_to_a_vanished_backend_go() {
        for protocol in [TCP, UDP] {
            let old = flow(protocol, "10.18.0.9:4000", "10.30.0.1:80", "10.18.0.3:80");
            assert!(is_stale(&table(&["10.18.0.2"]), &old));
            assert!(!is_stale(&table(&["10.18.0.2", "10.18.0.3"]), &old));
        }
    }

    #[test]
    fn a_backend_that_is_not_ready_finishes_its_tcp_connections_only() {
        let not_ready = table(&["10.18.0.3"]);
        let tcp = flow(TCP, "10.18.0.9:4000", "10.30.0.1:80", "10.18.0.2:80");
        let udp = flow(UDP, "10.18.0.9:4000", "10.30.0.1:80", "10.18.0.2:80");
        assert!(!is_stale(&not_ready, &tcp));
        assert!(is_stale(&not_ready, &udp));
    }

    #[test]
    fn flows_stay_when_the_policy_of_their_address_sends_new_ones_elsewhere() {
        let service = |address: &str, backends: &[&str]| Service {
            addresses: vec![address.parse().unwrap()],
            backends: backends.iter().map(|text| text.parse().unwrap()).collect(),
            ..Service::default()
        };
        let table = ServiceTable {
            services: vec![
                service("10.30.0.1", &["10.18.0.2", "10.18.3.2"]),
                service("10.30.0.2", &["10.18.3.2"]),
            ],
            ..ServiceTable::default()
        };
        let table = table.check(&config()).unwrap().0;
        let closest_until_now = flow(UDP, "10.18.0.9:4000", "10.30.0.2:80", "10.18.0.2:80");
        assert!(!is_stale(&table, &closest_until_now));
    }

    #[test]
    fn other_traffic_is_left_alone() {
        let table = table(&["10.18.0.2"]);
        let foreign = flow(UDP, "192.0.2.1:9", "192.0.2.7:80", "172.17.0.2:80");
        let egress = flow(TCP, "10.18.0.2:4000", "198.51.100.1:443", "198.51.100.1:443");
        let own = flow(UDP, "10.18.0.9:1", "10.30.1.2:2", "10.18.0.2:2");
        let mapped = flow(UDP, "192.0.2.1:9", "192.0.2.2:53", "10.18.0.2:5353");
        for kept in [foreign, egress, own, mapped] {
            assert!(!is_stale(&table, &kept), "{kept:?}");
        }
    }

    #[test]
    fn flows_of_other_nodes_stay_as_long_as_the_instance() {
        let table = table(&["10.18.0.2"]);
        for protocol in [TCP, UDP] {
            let unknown = flow(protocol, "10.18.3.2:9", "10.18.0.2:53", "10.18.0.2:53");
            let mut known = unknown;
            known.reply.destination = "10.30.1.9".parse().unwrap();
            let gone = flow(protocol, "10.18.3.2:9", "10.18.0.7:53", "10.18.0.7:53");
            assert!(!is_stale(&table, &unknown) && !is_stale(&table, &known));
            assert!(is_stale(&table, &gone));
            let to_another_node = flow(protocol, "10.18.0.2:9", "10.30.0.1:80", "10.18.3.2:80");
            assert!(is_stale(&table, &to_another_node));
        }
    }

    #[test]
    fn udp_that_came_before_its_port_mapping_is_sent_anew() {
        let early = flow(UDP, "192.0.2.1:9", "192.0.2.2:53", "192.0.2.2:53");
        assert!(is_stale(&table(&["10.18.0.2"]), &early));
    }

    #[test]
    fn flows_that_came_before_their_address_was_known_are_sent_anew() {
        for protocol in [TCP, UDP] {
            let early = flow(protocol, "10.18.0.2:9", "10.30.0.1:53", "10.30.0.1:53");
            assert!(is_stale(&table(&["10.18.0.2"]), &early));
            assert!(is_stale(&table(&[]), &early));
            assert!(!is_stale(&CheckedTable::default(), &early));
        }
        let after = table(&["10.18.0.2"]);
        assert!(may_strand_flows(Some(&CheckedTable::default()), &after));
    }

    #[test]
    fn only_losses_new_addresses_and_port_changes_need_a_look_at_all_flows() {
        let one = table(&["10.18.0.2"]);
        let two = table(&["10.18.0.2", "10.18.0.3"]);
        assert!(!may_strand_flows(Some(&one), &two));
        assert!(may_strand_flows(Some(&two), &one));
        assert!(may_strand_flows(None, &one));
    }
}
