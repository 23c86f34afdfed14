//! The device between nodes: VXLAN, whose forwarding table is filled by us and learns nothing.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use crate::Socket;
use crate::link::{CREATE, OAK_GROUP, body};
use crate::route::PERMANENT;
use crate::socket::is_absent;
use crate::wire::{Request, attribute, attributes, ip, u16_at, u16_be, u32_at};

/// Name of the kind of device.
pub const KIND: &str = "vxlan";
const ACK: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
const REPLACE: u16 = ACK | (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
const DUMP: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
/// `IFLA_VXLAN_*` of `linux/if_link.h`.
const ID: u16 = 1;
const LEARNING: u16 = 7;
const PORT: u16 = 15;
const LOCAL6: u16 = 17;
const BRIDGE: u8 = libc::AF_BRIDGE as u8;

/// What packets of a device travel over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// That of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv6() { Self::V6 } else { Self::V4 }
    }
}

/// What tells one VXLAN network from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// Network identifier, 24 bits.
    pub id: u32,
    /// UDP port.
    pub port: u16,
}

/// Where packets to a MAC address are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// The hardware address.
    pub mac: [u8; 6],
    /// The node that has it, in the family the device travels over.
    pub underlay: IpAddr,
}

/// Makes a VXLAN device that is still down and leads nowhere.
pub fn create(
    socket: &mut Socket,
    name: &str,
    mac: [u8; 6],
    mtu: u32,
    vxlan: Vxlan,
    family: Family,
) -> io::Result<()> {
    let data = |data: Request| {
        let data = data.put_u32(ID, vxlan.id).put(LEARNING, &[0]).put(PORT, &vxlan.port.to_be_bytes());
        match family {
            Family::V4 => data,
            // Any address; without it the device would be one of IPv4.
            Family::V6 => data.put(LOCAL6, &Ipv6Addr::UNSPECIFIED.octets()),
        }
    };
    let request = Request::new(libc::RTM_NEWLINK, CREATE, &body(0, 0, 0))
        .put_text(libc::IFLA_IFNAME, name)
        .put_u32(libc::IFLA_GROUP, OAK_GROUP)
        .put_u32(libc::IFLA_MTU, mtu)
        .put(libc::IFLA_ADDRESS, &mac)
        .nest(libc::IFLA_LINKINFO, |info| {
            info.put_text(libc::IFLA_INFO_KIND, KIND).nest(libc::IFLA_INFO_DATA, data)
        });
    socket.change(request)
}

/// Reads the data part of a device's description.
pub(crate) fn parse(data: &[u8]) -> Option<Vxlan> {
    let id = attribute(data, ID).and_then(|value| u32_at(value, 0))?;
    Some(Vxlan { id, port: attribute(data, PORT).and_then(u16_be)? })
}

/// The permanent forwarding entries of a device.
pub fn forwardings(socket: &mut Socket, device: u32) -> io::Result<Vec<Forwarding>> {
    socket.dump(
        || Request::new(libc::RTM_GETNEIGH, DUMP, &entry_body(0)),
        |answer| {
            if u32_at(answer.payload, 4)? != device || u16_at(answer.payload, 8)? & PERMANENT == 0 {
                return None;
            }
            let attributes = attributes(answer.payload.get(12..)?);
            let (mut mac, mut underlay) = (None, None);
            for (kind, value) in attributes {
                match kind {
                    libc::NDA_LLADDR => mac = value.try_into().ok(),
                    libc::NDA_DST => underlay = ip(value),
                    _ => {}
                }
            }
            Some(Forwarding { mac: mac?, underlay: underlay? })
        },
    )
}

/// Makes a forwarding entry, or replaces the one for the same MAC address.
pub fn replace_forwarding(socket: &mut Socket, device: u32, entry: Forwarding) -> io::Result<()> {
    let request = Request::new(libc::RTM_NEWNEIGH, REPLACE, &entry_body(device))
        .put(libc::NDA_LLADDR, &entry.mac)
        .put_address(libc::NDA_DST, entry.underlay);
    socket.change(request)
}

/// Removes a forwarding entry; succeeds if there is none.
pub fn delete_forwarding(socket: &mut Socket, device: u32, entry: Forwarding) -> io::Result<()> {
    let request = Request::new(libc::RTM_DELNEIGH, ACK, &entry_body(device))
        .put(libc::NDA_LLADDR, &entry.mac)
        .put_address(libc::NDA_DST, entry.underlay);
    match socket.change(request) {
        Err(error) if is_absent(&error) => Ok(()),
        outcome => outcome,
    }
}

/// `struct ndmsg`: an entry of the device itself (`NTF_SELF`), not of a bridge above it.
fn entry_body(device: u32) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[0] = BRIDGE;
    bytes[4..8].copy_from_slice(&device.to_ne_bytes());
    bytes[8..10].copy_from_slice(&PERMANENT.to_ne_bytes());
    bytes[10] = libc::NTF_SELF;
    bytes
}
