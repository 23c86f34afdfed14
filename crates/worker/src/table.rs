//! What the state machine wants to be reachable, in the words of the node's network.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};

use oak_control::worker::{NetworkTable, TenantTable};
use oak_model::{Protocol, ipv6};
use oak_net::{Balancing, InstanceAddress, PortMapping, PortProtocol, Service, ServiceTable, Tenant};

/// Everything of a table, as the kernel is told it.
pub(crate) fn service_table(table: &NetworkTable) -> ServiceTable {
    ServiceTable {
        services: table
            .services
            .iter()
            .map(|(address, backends)| Service {
                addresses: vec![*address],
                ipv6: ipv6_of(table, *address, backends),
                policy: balancing(policy(table, *address)),
                backends: backends.clone(),
            })
            .collect(),
        instances: table
            .instances
            .iter()
            .map(|(instance, namespace)| InstanceAddress { instance: *instance, namespace: *namespace })
            .collect(),
        elsewhere: table.elsewhere.iter().copied().collect(),
        untold: table.untold.iter().copied().collect(),
        tenants: table.tenants.values().map(tenant).collect(),
        owned: table.owned.iter().copied().collect(),
        ports: table
            .ports
            .iter()
            .map(|(port, backends)| PortMapping {
                protocol: match port.protocol {
                    Protocol::Tcp => PortProtocol::Tcp,
                    Protocol::Udp => PortProtocol::Udp,
                },
                host_port: port.host,
                backends: backends
                    .iter()
                    .map(|address| SocketAddrV4::new(*address, port.container))
                    .collect(),
            })
            .collect(),
        weights: table.weights.clone(),
    }
}

fn policy(table: &NetworkTable, address: Ipv4Addr) -> oak_model::Balancing {
    table.policies.get(&address).copied().unwrap_or_default()
}

/// The IPv6 addresses that lead to the same instances. Where none leads to any, all of those are refused that could be
/// meant.
fn ipv6_of(table: &NetworkTable, address: Ipv4Addr, backends: &[Ipv4Addr]) -> Vec<Ipv6Addr> {
    if !backends.is_empty() {
        return vec![ipv6::service(policy(table, address), address)];
    }
    let services = oak_model::Balancing::ALL.map(|policy| ipv6::service(policy, address));
    services.into_iter().chain([ipv6::instance(address)]).collect()
}

/// What is left for the kernel to choose.
const fn balancing(policy: oak_model::Balancing) -> Balancing {
    match policy {
        oak_model::Balancing::RoundRobin
        | oak_model::Balancing::Closest
        | oak_model::Balancing::LocalFirst => Balancing::RoundRobin,
        oak_model::Balancing::LeastLoaded => Balancing::Weighted,
        oak_model::Balancing::Sticky => Balancing::Sticky,
    }
}

fn tenant(table: &TenantTable) -> Tenant {
    let list = |addresses: &BTreeSet<Ipv4Addr>| addresses.iter().copied().collect();
    Tenant { members: list(&table.members), reaches: list(&table.reaches), refused: list(&table.refused) }
}
