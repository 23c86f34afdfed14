//! Addresses, routes and permanent neighbours of a device.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::Socket;
use crate::socket::is_absent;
use crate::wire::{Request, attributes, ip, u16_at, u32_at};

const ACK: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
const REPLACE: u16 = ACK | (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
const DUMP: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
const INET: u8 = libc::AF_INET as u8;
const INET6: u8 = libc::AF_INET6 as u8;
/// In questions: of whichever family.
const ANY: u8 = libc::AF_UNSPEC as u8;
/// What IPv6 makes of a metric that is not given.
const USUAL_METRIC6: u32 = 1024;
/// Routing protocol number on our routes, so that `ip route` tells them from others'.
const OAK_PROTOCOL: u8 = 111;
/// `NUD_PERMANENT` of `linux/neighbour.h`.
pub(crate) const PERMANENT: u16 = 0x80;

/// `RTNH_F_ONLINK` of `linux/rtnetlink.h`.
const ONLINK: u32 = 4;

/// A unicast route out of one device, in the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where packets go.
    pub destination: IpNet,
    /// Index of the device they leave by.
    pub device: u32,
    /// The neighbour they are handed to; none: the destination is the neighbour.
    pub gateway: Option<IpAddr>,
    /// Address that the host's own packets get.
    pub source: Option<IpAddr>,
    /// Of two routes to the same destination the one with the smaller metric counts; 0: the usual one.
    pub metric: u32,
}

/// Whether the kernel makes the route to the address's subnet by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefixRoute {
    /// It does.
    Connected,
    /// It does not.
    None,
}

/// The addresses of a device.
pub fn addresses(socket: &mut Socket, device: u32) -> io::Result<Vec<IpNet>> {
    socket.dump(
        || Request::new(libc::RTM_GETADDR, DUMP, &address_body(ANY, 0, 0)),
        |answer| {
            let prefix = *answer.payload.get(1)?;
            if u32_at(answer.payload, 4)? != device {
                return None;
            }
            // IPv6 has only the other one.
            let own = |wanted| {
                let mut all = attributes(answer.payload.get(8..)?);
                all.find(|(kind, _)| *kind == wanted).and_then(|(_, value)| ip(value))
            };
            IpNet::new(own(libc::IFA_LOCAL).or_else(|| own(libc::IFA_ADDRESS))?, prefix).ok()
        },
    )
}

/// Gives a device an address; succeeds if it has it.
pub fn add_address(
    socket: &mut Socket,
    device: u32,
    address: IpNet,
    prefix_route: PrefixRoute,
) -> io::Result<()> {
    let body = address_body(family(address.addr()), address.prefix_len(), device);
    let mut request = Request::new(libc::RTM_NEWADDR, REPLACE, &body)
        .put_address(libc::IFA_LOCAL, address.addr())
        .put_address(libc::IFA_ADDRESS, address.addr());
    if address.addr().is_ipv4() {
        request = request.put_address(libc::IFA_BROADCAST, address.broadcast());
    }
    let bare = if prefix_route == PrefixRoute::None { libc::IFA_F_NOPREFIXROUTE } else { 0 };
    // Nobody else can have an address of ours, and nobody would answer.
    let unasked = if address.addr().is_ipv6() { libc::IFA_F_NODAD } else { 0 };
    if bare | unasked != 0 {
        request = request.put_u32(libc::IFA_FLAGS, bare | unasked);
    }
    socket.change(request)
}

/// Takes an address from a device; succeeds if it does not have it.
pub fn delete_address(socket: &mut Socket, device: u32, address: IpNet) -> io::Result<()> {
    let body = address_body(family(address.addr()), address.prefix_len(), device);
    let request = Request::new(libc::RTM_DELADDR, ACK, &body).put_address(libc::IFA_LOCAL, address.addr());
    match socket.change(request) {
        Err(error) if is_absent(&error) => Ok(()),
        outcome => outcome,
    }
}

/// Makes a route or replaces the one with the same destination and metric.
pub fn replace_route(socket: &mut Socket, route: &Route) -> io::Result<()> {
    let scope = match route.gateway {
        Some(_) => libc::RT_SCOPE_UNIVERSE,
        None => libc::RT_SCOPE_LINK,
    };
    let prefix = route.destination.prefix_len();
    let table = libc::RT_TABLE_MAIN;
    // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags.
    let family = family(route.destination.addr());
    let mut body = [family, prefix, 0, 0, table, OAK_PROTOCOL, scope, libc::RTN_UNICAST, 0, 0, 0, 0];
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
pub fn routes(socket: &mut Socket) -> io::Result<Vec<Route>> {
    let mut all = routes_of(socket, INET)?;
    // A kernel without IPv6 has none.
    all.extend(routes_of(socket, INET6).unwrap_or_default());
    Ok(all)
}

fn routes_of(socket: &mut Socket, family: u8) -> io::Result<Vec<Route>> {
    let wanted = [family, 0, 0, 0, libc::RT_TABLE_MAIN, 0, 0, 0, 0, 0, 0, 0];
    let everywhere = match family {
        INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    socket.dump(
        || Request::new(libc::RTM_GETROUTE, DUMP, &wanted),
        |answer| {
            let [of, prefix, _, _, libc::RT_TABLE_MAIN, ..] = *answer.payload else {
                return None;
            };
            if of != family {
                return None;
            }
            let (mut destination, mut device) = (everywhere, 0);
            let (mut gateway, mut source, mut metric) = (None, None, 0);
            for (kind, value) in attributes(answer.payload.get(12..)?) {
                match kind {
                    libc::RTA_DST => destination = ip(value)?,
                    libc::RTA_OIF => device = u32_at(value, 0)?,
                    libc::RTA_GATEWAY => gateway = ip(value),
                    libc::RTA_PRIORITY => metric = u32_at(value, 0)?,
                    libc::RTA_PREFSRC => source = ip(value),
                    _ => {}
                }
            }
            let destination = IpNet::new(destination, prefix).ok()?;
            if family == INET6 && metric == USUAL_METRIC6 {
                metric = 0;
            }
            Some(Route { destination, device, gateway, source, metric })
        },
    )
}

/// Removes a route; succeeds if there is none.
pub fn delete_route(socket: &mut Socket, route: &Route) -> io::Result<()> {
    let prefix = route.destination.prefix_len();
    // Scope 255 (nowhere): whatever scope it has.
    let family = family(route.destination.addr());
    let body = [family, prefix, 0, 0, libc::RT_TABLE_MAIN, 0, 255, libc::RTN_UNICAST, 0, 0, 0, 0];
    // Zero would be whichever comes first.
    let metric = if family == INET6 && route.metric == 0 { USUAL_METRIC6 } else { route.metric };
    let request = Request::new(libc::RTM_DELROUTE, ACK, &body)
        .put_address(libc::RTA_DST, route.destination.network())
        .put_u32(libc::RTA_OIF, route.device)
        .put_u32(libc::RTA_PRIORITY, metric);
    match socket.change(request) {
        Err(error) if is_absent(&error) => Ok(()),
        outcome => outcome,
    }
}

/// A neighbour whose MAC address was told for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address.
    pub mac: [u8; 6],
}

/// The neighbours of a device that were told for good.
pub fn neighbours(socket: &mut Socket, device: u32) -> io::Result<Vec<Neighbour>> {
    socket.dump(
        || Request::new(libc::RTM_GETNEIGH, DUMP, &neighbour_body(ANY, 0)),
        |answer| {
            if u32_at(answer.payload, 4)? != device || u16_at(answer.payload, 8)? & PERMANENT == 0 {
                return None;
            }
            let (mut found, mut mac) = (None, None);
            for (kind, value) in attributes(answer.payload.get(12..)?) {
                match kind {
                    libc::NDA_DST => found = ip(value),
                    libc::NDA_LLADDR => mac = value.try_into().ok(),
                    _ => {}
                }
            }
            Some(Neighbour { address: found?, mac: mac? })
        },
    )
}

/// Tells a device the MAC address of a neighbour for good, so that nobody has to ask.
pub fn replace_neighbour(
    socket: &mut Socket,
    device: u32,
    neighbour: IpAddr,
    mac: [u8; 6],
) -> io::Result<()> {
    let request = Request::new(libc::RTM_NEWNEIGH, REPLACE, &neighbour_body(family(neighbour), device))
        .put_address(libc::NDA_DST, neighbour)
        .put(libc::NDA_LLADDR, &mac);
    socket.change(request)
}

/// Takes a neighbour from a device; succeeds if it does not have it.
pub fn delete_neighbour(socket: &mut Socket, device: u32, neighbour: IpAddr) -> io::Result<()> {
    let body = neighbour_body(family(neighbour), device);
    let request = Request::new(libc::RTM_DELNEIGH, ACK, &body).put_address(libc::NDA_DST, neighbour);
    match socket.change(request) {
        Err(error) if is_absent(&error) => Ok(()),
        outcome => outcome,
    }
}

/// `struct ndmsg`: family, 3 bytes padding, ifindex, state, flags, type.
fn neighbour_body(family: u8, device: u32) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[0] = family;
    bytes[4..8].copy_from_slice(&device.to_ne_bytes());
    bytes[8..10].copy_from_slice(&PERMANENT.to_ne_bytes());
    bytes
}

/// `struct ifaddrmsg`.
fn address_body(family: u8, prefix: u8, device: u32) -> [u8; 8] {
    let mut bytes = [family, prefix, 0, 0, 0, 0, 0, 0];
    bytes[4..8].copy_from_slice(&device.to_ne_bytes());
    bytes
}

const fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => INET,
        IpAddr::V6(_) => INET6,
    }
}
