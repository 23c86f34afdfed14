//! What is made once per node: the forwarding setting, the gateway device, its address and the route to
//! service addresses.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use oak_model::ipv6;
use tracing::debug;

use crate::config::NetworkConfig;
use crate::error::{NetworkError, Tried};
use crate::names::mac;
use crate::netlink::Socket;
use crate::netlink::link;
use crate::netlink::route::{self, PrefixRoute, Route};
use crate::record::{NetworkRecord, StateDirectory, current_boot};
use crate::ruleset;
use crate::sysctl::{self, ChangedSetting, FORWARD6, IP_FORWARD};

/// Metric of the bridge's route to service addresses, by which packets are refused.
const REFUSING_METRIC: u32 = 2_000;
/// Metric of the route by which packets to unknown addresses wait; smaller, so it counts while it is there.
pub(crate) const PARKING_METRIC: u32 = 1_000;

/// Whether the kernel still has what the last agent made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Same settings, same version, same boot: rules that exist are the right ones, but for a further subnet, which the
    /// first table brings.
    Adopted,
    Fresh,
}

/// Records the settings, then changes what is not of a device of ours.
pub(crate) fn prepare(config: &NetworkConfig, directory: &StateDirectory) -> Result<Start, NetworkError> {
    let boot = current_boot();
    let previous = directory.network().filter(|record| record.boot == boot);
    let start = match &previous {
        Some(record) if config.extends(&record.config) && record.rules == ruleset::VERSION => Start::Adopted,
        _ => Start::Fresh,
    };
    let mut changed_settings = previous.map_or_else(Vec::new, |record| record.changed_settings);
    let mut wanted = vec![(IP_FORWARD.to_owned(), "1")];
    if config.ipv6 && sysctl::read(FORWARD6)? != "1" {
        // Before packets are forwarded, or a route that was learned would be lost in between.
        wanted.extend(sysctl::router_settings().into_iter().map(|name| (name, "2")));
        wanted.push((FORWARD6.to_owned(), "1"));
    }
    let mut changes = Vec::new();
    for (name, ours) in wanted {
        let before = sysctl::read(&name)?;
        if before == ours {
            continue;
        }
        if !changed_settings.iter().any(|s| s.name == name) {
            changed_settings.push(ChangedSetting { name: name.clone(), before, ours: ours.to_owned() });
        }
        changes.push((name, ours));
    }
    let rules = ruleset::VERSION;
    directory.write_network(&NetworkRecord { config: config.clone(), boot, changed_settings, rules })?;
    for (name, ours) in changes {
        sysctl::write(&name, ours)?;
    }
    Ok(start)
}

/// Refuses a host that uses the ranges of services or of this node's instances for something else: its own traffic
/// would come to us, or ours would go there.
pub(crate) fn check_ranges(socket: &mut Socket, config: &NetworkConfig) -> Result<(), NetworkError> {
    let routes = route::routes(socket).tried(|| "list routes".to_owned())?;
    let links = link::all(socket).tried(|| "list devices".to_owned())?;
    let mut ours = vec![IpNet::V4(config.service_range)];
    ours.extend(config.subnets().map(IpNet::V4));
    ours.extend(config.subnets6().map(IpNet::V6));
    for route in routes {
        let range = ours.iter().copied().find(|range| range.contains(&route.destination));
        let device = links.iter().find(|link| link.index == route.device).map(|link| &link.name);
        // All devices of this node begin with the name of the gateway's.
        if let (Some(range), Some(device)) = (range, device.filter(|name| !name.starts_with(&config.bridge)))
        {
            return Err(NetworkError::RangeInUse { used: route.destination, device: device.clone(), range });
        }
    }
    Ok(())
}

/// Makes or adopts the gateway device, its address and the route to service addresses.
pub(crate) fn ensure_gateway(socket: &mut Socket, config: &NetworkConfig) -> Result<(), NetworkError> {
    let device = ensure_bridge(socket, config)?;
    let name = &config.bridge;
    let what = || format!("configure device {name}");
    let gateway = config.gateway();
    let mut own = vec![IpNet::V4(Ipv4Net::new_assert(gateway, config.subnet.prefix_len()))];
    if config.ipv6 {
        own.extend(
            ipv6::node_network(config.subnet)
                .map(|subnet| IpNet::from(Ipv6Net::new_assert(config.gateway6(), subnet.prefix_len()))),
        );
    }
    for own in &own {
        route::add_address(socket, device, *own, PrefixRoute::Connected).tried(what)?;
    }
    for other in route::addresses(socket, device).tried(what)? {
        if !own.contains(&other) {
            route::delete_address(socket, device, other).tried(what)?;
        }
    }
    let more = config.subnets().skip(1).map(IpNet::V4).chain(config.subnets6().skip(1).map(IpNet::V6));
    let more = more.map(|destination| Route { destination, device, gateway: None, source: None, metric: 0 });
    for route in more.chain(to_services(config, device, REFUSING_METRIC)) {
        route::replace_route(socket, &route).tried(what)?;
    }
    // Earlier versions had no metric, and their route would go before that of the parking.
    let source = Some(gateway.into());
    let old = Route { destination: config.service_range.into(), device, gateway: None, source, metric: 0 };
    if route::routes(socket).tried(what)?.contains(&old) {
        route::delete_route(socket, &old).tried(what)?;
    }
    // Nobody answers on this device, so one short question tells the host that an address is free;
    // the usual three seconds would make probes of a removed instance hang.
    let families = if config.ipv6 { &["ipv4", "ipv6"][..] } else { &["ipv4"] };
    for family in families {
        for (setting, value) in [("mcast_solicit", "1"), ("retrans_time_ms", "20")] {
            if let Err(error) = sysctl::write(&format!("{family}/neigh/{name}/{setting}"), value) {
                debug!(%error, "addresses without instance time out slowly");
            }
        }
    }
    Ok(())
}

/// Routes to service addresses by a device.
pub(crate) fn to_services(config: &NetworkConfig, device: u32, metric: u32) -> Vec<Route> {
    let four = Route {
        destination: config.service_range.into(),
        device,
        gateway: None,
        source: Some(config.gateway().into()),
        metric,
    };
    let six = config.ipv6.then(|| Route {
        destination: ipv6::SERVICES.into(),
        source: Some(config.gateway6().into()),
        ..four
    });
    [Some(four), six].into_iter().flatten().collect()
}

/// The index of the gateway device, which is made if it does not exist.
fn ensure_bridge(socket: &mut Socket, config: &NetworkConfig) -> Result<u32, NetworkError> {
    let name = &config.bridge;
    let what = || format!("make device {name}");
    if link::find(socket, name).tried(what)?.is_none() {
        link::create_bridge(socket, name, mac(config.gateway()), config.mtu).tried(what)?;
    }
    let foreign = || NetworkError::ForeignDevice { device: name.clone() };
    let bridge = link::find(socket, name).tried(what)?.filter(|link| link.is_ours("bridge"));
    let bridge = bridge.ok_or_else(foreign)?;
    if bridge.mtu != config.mtu {
        link::set_mtu(socket, bridge.index, config.mtu).tried(what)?;
    }
    if !bridge.is_up {
        let _ = link::forbid_link_local(socket, bridge.index);
        link::set_up(socket, bridge.index).tried(what)?;
    }
    Ok(bridge.index)
}
