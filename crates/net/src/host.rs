//! What is made once per node: the forwarding setting, the gateway device, its address and the route to
//! service addresses.

use ipnet::Ipv4Net;
use tracing::debug;

use crate::config::NetworkConfig;
use crate::error::{NetworkError, Tried};
use crate::names::mac;
use crate::netlink::Socket;
use crate::netlink::link;
use crate::netlink::route::{self, PrefixRoute, Route};
use crate::record::{NetworkRecord, StateDirectory, current_boot};
use crate::ruleset;
use crate::sysctl::{self, ChangedSetting, IP_FORWARD};

/// Metric of the bridge's route to service addresses, by which packets are refused.
const REFUSING_METRIC: u32 = 2_000;
/// Metric of the route by which packets to unknown addresses wait; smaller, so it counts while it is there.
pub(crate) const PARKING_METRIC: u32 = 1_000;

/// Whether the kernel still has what the last agent made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Same settings, same version, same boot: rules that exist are the right ones.
    Adopted,
    Fresh,
}

/// Records the settings, then changes what is not of a device of ours.
pub(crate) fn prepare(config: &NetworkConfig, directory: &StateDirectory) -> Result<Start, NetworkError> {
    let boot = current_boot();
    let previous = directory.network().filter(|record| record.boot == boot);
    let start = match &previous {
        Some(record) if record.config == *config && record.rules == ruleset::VERSION => Start::Adopted,
        _ => Start::Fresh,
    };
    let mut changed_settings = previous.map_or_else(Vec::new, |record| record.changed_settings);
    let forwarding = sysctl::read(IP_FORWARD)?;
    let must_change = forwarding != "1";
    if must_change && !changed_settings.iter().any(|s| s.name == IP_FORWARD) {
        changed_settings.push(ChangedSetting {
            name: IP_FORWARD.to_owned(),
            before: forwarding,
            ours: "1".to_owned(),
        });
    }
    let rules = ruleset::VERSION;
    directory.write_network(&NetworkRecord { config: config.clone(), boot, changed_settings, rules })?;
    if must_change {
        sysctl::write(IP_FORWARD, "1")?;
    }
    Ok(start)
}

/// Makes or adopts the gateway device, its address and the route to service addresses.
pub(crate) fn ensure_gateway(socket: &mut Socket, config: &NetworkConfig) -> Result<(), NetworkError> {
    let device = ensure_bridge(socket, config)?;
    let name = &config.bridge;
    let what = || format!("configure device {name}");
    let gateway = config.gateway();
    let own = Ipv4Net::new_assert(gateway, config.subnet.prefix_len());
    route::add_address(socket, device, own, PrefixRoute::Connected).tried(what)?;
    for other in route::addresses(socket, device).tried(what)? {
        if other != own {
            route::delete_address(socket, device, other).tried(what)?;
        }
    }
    let to_services = Route {
        destination: config.service_range,
        device,
        gateway: None,
        source: Some(gateway),
        metric: REFUSING_METRIC,
    };
    route::replace_route(socket, &to_services).tried(what)?;
    // Earlier versions had no metric, and their route would go before that of the parking.
    let old = Route { metric: 0, ..to_services };
    if route::routes(socket).tried(what)?.contains(&old) {
        route::delete_route(socket, &old).tried(what)?;
    }
    // Nobody answers on this device, so one short question tells the host that an address is free;
    // the usual three seconds would make probes of a removed instance hang.
    for (setting, value) in [("mcast_solicit", "1"), ("retrans_time_ms", "20")] {
        if let Err(error) = sysctl::write(&format!("ipv4/neigh/{name}/{setting}"), value) {
            debug!(%error, "addresses without instance time out slowly");
        }
    }
    Ok(())
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
