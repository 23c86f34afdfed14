//! Network devices: finding, making and removing them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, poll};

use crate::Socket;
use crate::socket::is_absent;
use crate::vxlan::{self, Vxlan};
use crate::wire::{Request, attribute, attributes, text, u32_at};

/// Device group of everything this crate makes ("oak" in ASCII): tells ours from others' even if a
/// crash left a device half configured, because the kernel sets it at creation.
pub const OAK_GROUP: u32 = 0x006f_616b;

const ACK: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
pub(crate) const CREATE: u16 = ACK | (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
const DUMP: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
/// `VETH_INFO_PEER` of `linux/veth.h`.
const VETH_INFO_PEER: u16 = 1;
/// `IFLA_INET6_ADDR_GEN_MODE` and its value "none" of `linux/if_link.h`.
const INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_NONE: u8 = 1;
const BODY: usize = 16;
/// Usually well below a millisecond.
const RUNNING_PATIENCE: Duration = Duration::from_millis(500);

/// What we need to know about a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number in the kernel.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `bridge`, `veth`, …; empty for physical devices.
    pub kind: String,
    /// See [`OAK_GROUP`].
    pub group: u32,
    /// Longest packet in bytes.
    pub mtu: u32,
    /// All zeros for devices without.
    pub mac: [u8; 6],
    /// Of a VXLAN device.
    pub vxlan: Option<Vxlan>,
    /// Text of [`set_alias`].
    pub alias: String,
    /// Whether it is switched on.
    pub is_up: bool,
    /// Up, and the kernel has noticed that the other end is up too.
    pub is_running: bool,
}

impl Link {
    /// Whether this crate made the device, and as what.
    pub fn is_ours(&self, kind: &str) -> bool {
        self.group == OAK_GROUP && self.kind == kind
    }
}

/// A veth pair to be made: one end here, `eth0` in another namespace.
#[derive(Debug)]
pub struct VethPair<'a> {
    /// Of the end here.
    pub name: &'a str,
    /// Of the end here.
    pub mac: [u8; 6],
    /// Of the other end.
    pub peer_mac: [u8; 6],
    /// Where the other end goes.
    pub peer_namespace: BorrowedFd<'a>,
    /// Of both ends, bytes.
    pub mtu: u32,
}

/// The device of that name, if there is one.
pub fn find(socket: &mut Socket, name: &str) -> io::Result<Option<Link>> {
    let request = Request::new(libc::RTM_GETLINK, ACK, &body(0, 0, 0)).put_text(libc::IFLA_IFNAME, name);
    match socket.query(request, |answer| parse(answer.payload)) {
        Err(error) if is_absent(&error) => Ok(None),
        outcome => outcome,
    }
}

/// All devices of the namespace.
pub fn all(socket: &mut Socket) -> io::Result<Vec<Link>> {
    socket.dump(|| Request::new(libc::RTM_GETLINK, DUMP, &body(0, 0, 0)), |answer| parse(answer.payload))
}

/// Makes a bridge that is still down.
pub fn create_bridge(socket: &mut Socket, name: &str, mac: [u8; 6], mtu: u32) -> io::Result<()> {
    let request = Request::new(libc::RTM_NEWLINK, CREATE, &body(0, 0, 0))
        .put_text(libc::IFLA_IFNAME, name)
        .put_u32(libc::IFLA_GROUP, OAK_GROUP)
        .put_u32(libc::IFLA_MTU, mtu)
        .put(libc::IFLA_ADDRESS, &mac)
        .nest(libc::IFLA_LINKINFO, |info| info.put_text(libc::IFLA_INFO_KIND, "bridge"));
    socket.change(request)
}

/// Makes a veth pair; both ends are still down.
pub fn create_veth(socket: &mut Socket, pair: &VethPair<'_>) -> io::Result<()> {
    let peer = |data: Request| {
        data.nest(VETH_INFO_PEER, |peer| {
            peer.raw(&body(0, 0, 0))
                .put_text(libc::IFLA_IFNAME, "eth0")
                .put_u32(libc::IFLA_MTU, pair.mtu)
                .put(libc::IFLA_ADDRESS, &pair.peer_mac)
                .put_u32(libc::IFLA_NET_NS_FD, pair.peer_namespace.as_raw_fd().cast_unsigned())
        })
    };
    let request = Request::new(libc::RTM_NEWLINK, CREATE, &body(0, 0, 0))
        .put_text(libc::IFLA_IFNAME, pair.name)
        .put_u32(libc::IFLA_GROUP, OAK_GROUP)
        .put_u32(libc::IFLA_MTU, pair.mtu)
        .put(libc::IFLA_ADDRESS, &pair.mac)
        .nest(libc::IFLA_LINKINFO, |info| {
            info.put_text(libc::IFLA_INFO_KIND, "veth").nest(libc::IFLA_INFO_DATA, peer)
        });
    socket.change(request)
}

/// Sets a device up.
pub fn set_up(socket: &mut Socket, index: u32) -> io::Result<()> {
    let up = libc::IFF_UP as u32;
    socket.change(Request::new(libc::RTM_NEWLINK, ACK, &body(index, up, up)))
}

/// Sets a device up that neither asks for neighbours nor answers who asks: all it needs was told.
pub fn set_up_without_arp(socket: &mut Socket, index: u32) -> io::Result<()> {
    let flags = (libc::IFF_UP | libc::IFF_NOARP) as u32;
    socket.change(Request::new(libc::RTM_NEWLINK, ACK, &body(index, flags, flags)))
}

/// Waits until a device really sends; returns whether it does. A worker of the kernel puts a device into
/// operation some time after its other end came up, and until then packets are dropped without a word:
/// a first TCP packet would be repeated only after a second.
pub fn await_running(socket: &mut Socket, name: &str) -> io::Result<bool> {
    let deadline = Instant::now() + RUNNING_PATIENCE;
    loop {
        if find(socket, name)?.is_some_and(|link| link.is_running) {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        let moment = Timespec { tv_sec: 0, tv_nsec: 500_000 };
        let _ = poll(&mut [], Some(&moment));
    }
}

/// Gives a device the text that `ip link` shows as its alias.
pub fn set_alias(socket: &mut Socket, index: u32, alias: &str) -> io::Result<()> {
    let request =
        Request::new(libc::RTM_NEWLINK, ACK, &body(index, 0, 0)).put(libc::IFLA_IFALIAS, alias.as_bytes());
    socket.change(request)
}

/// Makes a device that was not made by netlink one of ours.
pub fn take_into_group(socket: &mut Socket, index: u32) -> io::Result<()> {
    let request =
        Request::new(libc::RTM_NEWLINK, ACK, &body(index, 0, 0)).put_u32(libc::IFLA_GROUP, OAK_GROUP);
    socket.change(request)
}

/// Changes the MTU of a device.
pub fn set_mtu(socket: &mut Socket, index: u32, mtu: u32) -> io::Result<()> {
    let request = Request::new(libc::RTM_NEWLINK, ACK, &body(index, 0, 0)).put_u32(libc::IFLA_MTU, mtu);
    socket.change(request)
}

/// Keeps the kernel from giving the device an IPv6 link-local address, over which an instance could
/// reach services of the host. Fails on kernels without IPv6, where nothing needs to be kept.
pub fn forbid_link_local(socket: &mut Socket, index: u32) -> io::Result<()> {
    let inet6 = u16::try_from(libc::AF_INET6).unwrap_or(10);
    let request = Request::new(libc::RTM_NEWLINK, ACK, &body(index, 0, 0))
        .nest(libc::IFLA_AF_SPEC, |families| {
            families.nest(inet6, |family| family.put(INET6_ADDR_GEN_MODE, &[ADDR_GEN_NONE]))
        });
    socket.change(request)
}

/// Removes a device, and the peer of a veth; succeeds if it is already gone.
pub fn delete(socket: &mut Socket, index: u32) -> io::Result<()> {
    match socket.change(Request::new(libc::RTM_DELLINK, ACK, &body(index, 0, 0))) {
        Err(error) if is_absent(&error) => Ok(()),
        outcome => outcome,
    }
}

/// Removes every device of our group at once: one grace period of the kernel for all of them.
pub fn delete_group(socket: &mut Socket) -> io::Result<()> {
    let request = Request::new(libc::RTM_DELLINK, ACK, &body(0, 0, 0)).put_u32(libc::IFLA_GROUP, OAK_GROUP);
    match socket.change(request) {
        Err(error) if is_absent(&error) => Ok(()),
        outcome => outcome,
    }
}

/// `struct ifinfomsg`.
pub(crate) fn body(index: u32, flags: u32, change: u32) -> [u8; BODY] {
    let mut bytes = [0; BODY];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

fn parse(payload: &[u8]) -> Option<Link> {
    let flags = u32_at(payload, 8)?;
    let mut link = Link {
        index: u32_at(payload, 4)?,
        name: String::new(),
        kind: String::new(),
        group: 0,
        mtu: 0,
        mac: [0; 6],
        vxlan: None,
        alias: String::new(),
        is_up: flags & libc::IFF_UP as u32 != 0,
        is_running: flags & libc::IFF_RUNNING as u32 != 0,
    };
    for (kind, value) in attributes(payload.get(BODY..)?) {
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_ADDRESS => link.mac = value.try_into().unwrap_or_default(),
            libc::IFLA_GROUP => link.group = u32_at(value, 0)?,
            libc::IFLA_IFALIAS => link.alias = text(value),
            libc::IFLA_MTU => link.mtu = u32_at(value, 0)?,
            libc::IFLA_LINKINFO => {
                link.kind = attribute(value, libc::IFLA_INFO_KIND).map_or_else(String::new, text);
                let data = attribute(value, libc::IFLA_INFO_DATA).filter(|_| link.kind == vxlan::KIND);
                link.vxlan = data.and_then(vxlan::parse);
            }
            _ => {}
        }
    }
    Some(link)
}
