//! IPv4 addresses, routes and permanent neighbours of a device.

use std::io;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::Socket;
use super::socket::is_absent;
use super::wire::{Request, address, attributes, u32_at};

const ACK: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
const REPLACE: u16 = ACK | (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
const DUMP: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
const INET: u8 = libc::AF_INET as u8;
/// Routing protocol number on our routes, so that `ip route` tells them from others'.
const OAK_PROTOCOL: u8 = 111;
/// `NUD_PERMANENT` of `linux/neighbour.h`.
const PERMANENT: u16 = 0x80;

/// A unicast route out of one device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) destination: Ipv4Net,
    pub(crate) device: u32,
    pub(crate) gateway: Option<Ipv4Addr>,
    /// Address that the host's own packets get.
    pub(crate) source: Option<Ipv4Addr>,
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

/// Makes a route or replaces the one to the same destination.
pub(crate) fn replace_route(socket: &mut Socket, route: &Route) -> io::Result<()> {
    let scope = match route.gateway {
        Some(_) => libc::RT_SCOPE_UNIVERSE,
        None => libc::RT_SCOPE_LINK,
    };
    let prefix = route.destination.prefix_len();
    let table = libc::RT_TABLE_MAIN;
    // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags.
    let body = [INET, prefix, 0, 0, table, OAK_PROTOCOL, scope, libc::RTN_UNICAST, 0, 0, 0, 0];
    let mut request = Request::new(libc::RTM_NEWROUTE, REPLACE, &body)
        .put_address(libc::RTA_DST, route.destination.network())
        .put_u32(libc::RTA_OIF, route.device);
    if let Some(gateway) = route.gateway {
        request = request.put_address(libc::RTA_GATEWAY, gateway);
    }
    if let Some(source) = route.source {
        request = request.put_address(libc::RTA_PREFSRC, source);
    }
    socket.change(request)
}

/// Tells a device the MAC address of a neighbour for good, so that nobody has to ask.
pub(crate) fn replace_neighbour(
    socket: &mut Socket,
    device: u32,
    neighbour: Ipv4Addr,
    mac: [u8; 6],
) -> io::Result<()> {
    // struct ndmsg: family, 3 bytes padding, ifindex, state, flags, type.
    let mut body = [0; 12];
    body[0] = INET;
    body[4..8].copy_from_slice(&device.to_ne_bytes());
    body[8..10].copy_from_slice(&PERMANENT.to_ne_bytes());
    let request = Request::new(libc::RTM_NEWNEIGH, REPLACE, &body)
        .put_address(libc::NDA_DST, neighbour)
        .put(libc::NDA_LLADDR, &mac);
    socket.change(request)
}

/// `struct ifaddrmsg`.
fn address_body(prefix: u8, device: u32) -> [u8; 8] {
    let mut bytes = [INET, prefix, 0, 0, 0, 0, 0, 0];
    bytes[4..8].copy_from_slice(&device.to_ne_bytes());
    bytes
}
