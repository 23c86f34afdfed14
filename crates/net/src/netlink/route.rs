//! IPv4 addresses, routes and permanent neighbours of a device.

use std::io;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::Socket;
use super::socket::is_absent;
use super::wire::{Request, address, attributes, u16_at, u32_at};

const ACK: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
const REPLACE: u16 = ACK | (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
const DUMP: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
const INET: u8 = libc::AF_INET as u8;
/// Routing protocol number on our routes, so that `ip route` tells them from others'.
const OAK_PROTOCOL: u8 = 111;
/// `NUD_PERMANENT` of `linux/neighbour.h`.
pub(super) const PERMANENT: u16 = 0x80;

/// `RTNH_F_ONLINK` of `linux/rtnetlink.h`.
const ONLINK: u32 = 4;

/// A unicast route out of one device, in the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) destination: Ipv4Net,
    pub(crate) device: u32,
    pub(crate) gateway: Option<Ipv4Addr>,
    /// Address that the host's own packets get.
    pub(crate) source: Option<Ipv4Addr>,
    /// Of two routes to the same destination the one with the smaller metric counts.
    pub(crate) metric: u32,
}

/// Whether the kernel makes the route to the address's subnet by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PrefixRoute {
    Connected,
    None,
}

/// The addresses of a device.
pub(crate) fn addresses(socket: &mut Socket, device: u32) -> io::Result<Vec<Ipv4Net>> {
    socket.dump(
        || Request::new(libc::RTM_GETADDR, DUMP, &address_body(0, 0)),
        |answer| {
            let prefix = *answer.payload.get(1)?;
            if u32_at(answer.payload, 4)? != device {
                return None;
            }
            let local = attributes(answer.payload.get(8..)?)
                .find(|(kind, _)| *kind == libc::IFA_LOCAL)
                .and_then(|(_, value)| address(value))?;
            Ipv4Net::new(local, prefix).ok()
        },
    )
}

/// Gives a device an address; succeeds if it has it.
pub(crate) fn add_address(
    socket: &mut Socket,
    device: u32,
    address: Ipv4Net,
    prefix_route: PrefixRoute,
) -> io::Result<()> {
    let body = address_body(address.prefix_len(), device);
    let mut request = Request::new(libc::RTM_NEWADDR, REPLACE, &body)
        .put_address(libc::IFA_LOCAL, address.addr())
        .put_address(libc::IFA_ADDRESS, address.addr())
        .put_address(libc::IFA_BROADCAST, address.broadcast());
    if prefix_route == PrefixRoute::None {
        request = request.put_u32(libc::IFA_FLAGS, libc::IFA_F_NOPREFIXROUTE);
    }
    socket.change(request)
}

/// Takes an address from a device; succeeds if it does not have it.
pub(crate) fn delete_address(socket: &mut Socket, device: u32, address: Ipv4Net) -> io::Result<()> {
    let body = address_body(address.prefix_len(), device);
    let request = Request::new(libc::RTM_DELADDR, ACK, &body).put_address(libc::IFA_LOCAL, address.addr());
    match socket.change(request) {
        Err(error) if is_absent(&error) => Ok(()),
        outcome => outcome,
    }
}

/// Makes a route or replaces the one with the same destination and metric.
pub(crate) fn replace_route(socket: &mut Socket, route: &Route) -> io::Result<()> {
    let scope = match route.gateway {
        Some(_) => libc::RT_SCOPE_UNIVERSE,
        None => libc::RT_SCOPE_LINK,
    };
    let prefix = route.destination.prefix_len();
    let table = libc::RT_TABLE_MAIN;
    // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags.
    let mut body = [INET, prefix, 0, 0, table, OAK_PROTOCOL, scope, libc::RTN_UNICAST, 0, 0, 0, 0];
    if route.gateway.is_some() {
        // Gateways are neighbours, though no address of the device says so.
        body[8..12].copy_from_slice(&ONLINK.to_ne_bytes());
    }
    let mut request = Request::new(libc::RTM_NEWROUTE, REPLACE, &body)
        .put_address(libc::RTA_DST, route.destination.network())
        .put_u32(libc::RTA_OIF, route.device);
    if let Some(gateway) = route.gateway {
        request = request.put_address(libc::RTA_GATEWAY, gateway);
    }
    if let Some(source) = route.source {
        request = request.put_address(libc::RTA_PREFSRC, source);
    }
    if route.metric != 0 {
        request = request.put_u32(libc::RTA_PRIORITY, route.metric);
    }
    socket.change(request)
}

/// All routes of the main table. Those that do not leave by one device have device 0.
pub(crate) fn routes(socket: &mut Socket) -> io::Result<Vec<Route>> {
    let wanted = [INET, 0, 0, 0, libc::RT_TABLE_MAIN, 0, 0, 0, 0, 0, 0, 0];
    socket.dump(
        || Request::new(libc::RTM_GETROUTE, DUMP, &wanted),
        |answer| {
            let [INET, prefix, _, _, libc::RT_TABLE_MAIN, ..] = *answer.payload else {
                return None;
            };
            let (mut destination, mut device) = (Ipv4Addr::UNSPECIFIED, 0);
            let (mut gateway, mut source, mut metric) = (None, None, 0);
            for (kind, value) in attributes(answer.payload.get(12..)?) {
                match kind {
                    libc::RTA_DST => destination = address(value)?,
                    libc::RTA_OIF => device = u32_at(value, 0)?,
                    libc::RTA_GATEWAY => gateway = address(value),
                    libc::RTA_PRIORITY => metric = u32_at(value, 0)?,
                    libc::RTA_PREFSRC => source = address(value),
                    _ => {}
                }
            }
            let destination = Ipv4Net::new(destination, prefix).ok()?;
            Some(Route { destination, device, gateway, source, metric })
        },
    )
}

/// Removes a route; succeeds if there is none. Metric 0 stands for the smallest there is.
pub(crate) fn delete_route(socket: &mut Socket, route: &Route) -> io::Result<()> {
    let prefix = route.destination.prefix_len();
    // Scope 255 (nowhere): whatever scope it has.
    let body = [INET, prefix, 0, 0, libc::RT_TABLE_MAIN, 0, 255, libc::RTN_UNICAST, 0, 0, 0, 0];
    let request = Request::new(libc::RTM_DELROUTE, ACK, &body)
        .put_address(libc::RTA_DST, route.destination.network())
        .put_u32(libc::RTA_OIF, route.device)
        .put_u32(libc::RTA_PRIORITY, route.metric);
    match socket.change(request) {
        Err(error) if is_absent(&error) => Ok(()),
        outcome => outcome,
    }
}

/// A neighbour whose MAC address was told for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Neighbour {
    pub(crate) address: Ipv4Addr,
    pub(crate) mac: [u8; 6],
}

/// The neighbours of a device that were told for good.
pub(crate) fn neighbours(socket: &mut Socket, device: u32) -> io::Result<Vec<Neighbour>> {
    socket.dump(
        || Request::new(libc::RTM_GETNEIGH, DUMP, &neighbour_body(0)),
        |answer| {
            if u32_at(answer.payload, 4)? != device || u16_at(answer.payload, 8)? & PERMANENT == 0 {
                return None;
            }
            let (mut found, mut mac) = (None, None);
            for (kind, value) in attributes(answer.payload.get(12..)?) {
                match kind {
                    libc::NDA_DST => found = address(value),
                    libc::NDA_LLADDR => mac = value.try_into().ok(),
                    _ => {}
                }
            }
            Some(Neighbour { address: found?, mac: mac? })
        },
    )
}

/// Tells a device the MAC address of a neighbour for good, so that nobody has to ask.
pub(crate) fn replace_neighbour(
    socket: &mut Socket,
    device: u32,
    neighbour: Ipv4Addr,
    mac: [u8; 6],
) -> io::Result<()> {
    let request = Request::new(libc::RTM_NEWNEIGH, REPLACE, &neighbour_body(device))
        .put_address(libc::NDA_DST, neighbour)
        .put(libc::NDA_LLADDR, &mac);
    socket.change(request)
}

/// Takes a neighbour from a device; succeeds if it does not have it.
pub(crate) fn delete_neighbour(socket: &mut Socket, device: u32, neighbour: Ipv4Addr) -> io::Result<()> {
    let request =
        Request::new(libc::RTM_DELNEIGH, ACK, &neighbour_body(device)).put_address(libc::NDA_DST, neighbour);
    match socket.change(request) {
        Err(error) if is_absent(&error) => Ok(()),
        outcome => outcome,
    }
}

/// `struct ndmsg`: family, 3 bytes padding, ifindex, state, flags, type.
fn neighbour_body(device: u32) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[0] = INET;
    bytes[4..8].copy_from_slice(&device.to_ne_bytes());
    bytes[8..10].copy_from_slice(&PERMANENT.to_ne_bytes());
    bytes
}

/// `struct ifaddrmsg`.
fn address_body(prefix: u8, device: u32) -> [u8; 8] {
    let mut bytes = [INET, prefix, 0, 0, 0, 0, 0, 0];
    bytes[4..8].copy_from_slice(&device.to_ne_bytes());
    bytes
}
