//! System calls that the safe interfaces do not offer: the TUN device, datagrams in batches, the width of a way.
#![allow(unsafe_code, reason = "ioctl, sendmmsg and recvmmsg take structures of the kernel")]

pub(crate) mod udp;

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::from_mut;

use libc::c_int;

const TUNSETIFF: libc::Ioctl = 0x4004_54ca_u32 as libc::Ioctl;
const TUNSETPERSIST: libc::Ioctl = 0x4004_54cb_u32 as libc::Ioctl;
const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0_u32 as libc::Ioctl;
const TUNSETVNETHDRSZ: libc::Ioctl = 0x4004_54d8_u32 as libc::Ioctl;
/// Checksums, TCP over IPv4 and IPv6.
const OFFLOAD_TCP: c_int = 0x01 | 0x02 | 0x04;
/// UDP over IPv4 and IPv6 (Linux 6.2).
const OFFLOAD_UDP: c_int = 0x20 | 0x40;

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn name_request(name: &str) -> libc::ifreq {
    // SAFETY: the structure is plain bytes.
    let mut request: libc::ifreq = unsafe { zeroed() };
    // The last byte stays zero; names were checked to be shorter.
    for (place, byte) in request.ifr_name.iter_mut().take(15).zip(name.bytes()) {
        *place = byte.cast_signed() as libc::c_char;
    }
    request
}

/// Opens one queue of a TUN device, which is made if it does not exist and stays when it is closed.
pub(crate) fn open_tun(name: &str) -> io::Result<OwnedFd> {
    let file = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let fd = OwnedFd::from(file);
    let mut request = name_request(name);
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    let raw = fd.as_raw_fd();
    // SAFETY: the kernel reads and writes this structure only.
    check(unsafe { libc::ioctl(raw, TUNSETIFF, from_mut(&mut request)) })?;
    let mut size: c_int = crate::packet::vnet::VNET as c_int;
    // SAFETY: the kernel reads one integer.
    check(unsafe { libc::ioctl(raw, TUNSETVNETHDRSZ, from_mut(&mut size)) })?;
    // SAFETY: the argument is a number.
    let both = check(unsafe { libc::ioctl(raw, TUNSETOFFLOAD, OFFLOAD_TCP | OFFLOAD_UDP) });
    if both.is_err() {
        // SAFETY: as above.
        check(unsafe { libc::ioctl(raw, TUNSETOFFLOAD, OFFLOAD_TCP) })?;
    }
    set_persistent(&fd, true)?;
    Ok(fd)
}

/// Whether the device stays when its last queue is closed.
pub(crate) fn set_persistent(tun: &OwnedFd, stays: bool) -> io::Result<()> {
    // SAFETY: the argument is a number.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETPERSIST, c_int::from(stays)) })?;
    Ok(())
}

/// Sets the MTU and switches the device on.
pub(crate) fn bring_up(name: &str, mtu: u32) -> io::Result<()> {
    let socket = std::net::UdpSocket::bind(("::", 0)).or_else(|_| std::net::UdpSocket::bind("0.0.0.0:0"))?;
    let raw = socket.as_raw_fd();
    let mut request = name_request(name);
    request.ifr_ifru.ifru_mtu = mtu.cast_signed();
    // SAFETY: the kernel reads and writes this structure only.
    check(unsafe { libc::ioctl(raw, libc::SIOCSIFMTU as libc::Ioctl, from_mut(&mut request)) })?;
    let mut request = name_request(name);
    // SAFETY: as above.
    check(unsafe { libc::ioctl(raw, libc::SIOCGIFFLAGS as libc::Ioctl, from_mut(&mut request)) })?;
    // SAFETY: the kernel has just written this field.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    // SAFETY: as above.
    check(unsafe { libc::ioctl(raw, libc::SIOCSIFFLAGS as libc::Ioctl, from_mut(&mut request)) })?;
    Ok(())
}

/// The longest packet that goes to `address` in one piece, IP header included, as far as the kernel knows.
pub(crate) fn path_mtu(address: SocketAddr) -> io::Result<u32> {
    let any: SocketAddr = if address.is_ipv4() {
        (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.connect(address)?;
    let (level, name) = if address.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_MTU)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU)
    };
    let mut value: c_int = 0;
    let mut length = size_of::<c_int>() as libc::socklen_t;
    let raw = socket.as_raw_fd();
    // SAFETY: the kernel writes one integer.
    check(unsafe { libc::getsockopt(raw, level, name, from_mut(&mut value).cast(), &raw mut length) })?;
    Ok(u32::try_from(value).unwrap_or(0))
}
