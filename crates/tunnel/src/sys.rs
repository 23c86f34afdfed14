//! System calls that the safe interfaces do not offer: the TUN device, and datagrams in batches with their
//! segmentation (`udp(7)`: `UDP_SEGMENT`, `UDP_GRO`).
#![allow(unsafe_code, reason = "ioctl, sendmmsg and recvmmsg take structures of the kernel")]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{from_mut, null_mut};

use libc::{c_int, c_void, iovec, mmsghdr, msghdr, sockaddr_in6};

const TUNSETIFF: libc::Ioctl = 0x4004_54ca_u32 as libc::Ioctl;
const TUNSETPERSIST: libc::Ioctl = 0x4004_54cb_u32 as libc::Ioctl;
const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0_u32 as libc::Ioctl;
const TUNSETVNETHDRSZ: libc::Ioctl = 0x4004_54d8_u32 as libc::Ioctl;
/// Checksums, TCP over IPv4 and IPv6.
const OFFLOAD_TCP: c_int = 0x01 | 0x02 | 0x04;
/// UDP over IPv4 and IPv6 (Linux 6.2).
const OFFLOAD_UDP: c_int = 0x20 | 0x40;
const UDP_SEGMENT: c_int = 103;
const UDP_GRO: c_int = 104;

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

fn option(fd: &OwnedFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let length = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads one integer.
    let set =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast::<c_void>(), length) };
    check(set)?;
    Ok(())
}

/// A socket for both families on a port that several of them share; `buffer` is in bytes.
pub(crate) fn open_udp(port: u16, buffer: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the descriptor is new and ours.
    let fd = unsafe {
        let raw = check(libc::socket(libc::AF_INET6, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?;
        OwnedFd::from_raw_fd(raw)
    };
    option(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)?;
    option(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    for (forced, usual) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
    {
        option(&fd, libc::SOL_SOCKET, forced, buffer)
            .or_else(|_| option(&fd, libc::SOL_SOCKET, usual, buffer))?;
    }
    // Without it (Linux before 5.0) datagrams come one by one.
    let _ = option(&fd, libc::IPPROTO_UDP, UDP_GRO, 1);
    let any = to_sockaddr(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port));
    let length = size_of::<sockaddr_in6>() as libc::socklen_t;
    // SAFETY: the kernel reads the address.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const any).cast(), length) })?;
    Ok(fd)
}

/// The address as one of IPv6; IPv4 is mapped.
fn to_sockaddr(address: SocketAddr) -> sockaddr_in6 {
    let (ip, flow, scope) = match address {
        SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0, 0),
        SocketAddr::V6(v6) => (*v6.ip(), v6.flowinfo(), v6.scope_id()),
    };
    // SAFETY: the structure is plain bytes.
    let mut raw: sockaddr_in6 = unsafe { zeroed() };
    raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
    raw.sin6_port = address.port().to_be();
    raw.sin6_flowinfo = flow;
    raw.sin6_addr.s6_addr = ip.octets();
    raw.sin6_scope_id = scope;
    raw
}

fn from_sockaddr(raw: &sockaddr_in6) -> SocketAddr {
    let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
    let port = u16::from_be(raw.sin6_port);
    match ip.to_ipv4_mapped() {
        Some(v4) => SocketAddr::new(IpAddr::V4(v4), port),
        None => SocketAddrV6::new(ip, port, 0, raw.sin6_scope_id).into(),
    }
}

/// Datagrams of one size (the last may be shorter) to one address.
pub(crate) struct Train<'a> {
    pub(crate) to: SocketAddr,
    pub(crate) bytes: &'a [u8],
    /// Size of each; `bytes.len()` if there is only one.
    pub(crate) segment: usize,
}

/// Room for one control message of an integer, aligned as the kernel wants it.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 32]);

/// Most trains of one call of `send`.
const SEND_MOST: usize = 64;

/// Sends trains; returns how many were sent before one failed, and that failure.
pub(crate) fn send(fd: &OwnedFd, trains: &[Train<'_>]) -> (usize, Option<io::Error>) {
    let trains = &trains[..trains.len().min(SEND_MOST)];
    let mut names: [sockaddr_in6; SEND_MOST];
    let mut pieces: [iovec; SEND_MOST];
    let mut messages: [mmsghdr; SEND_MOST];
    // SAFETY: all three are plain bytes and null pointers.
    unsafe {
        names = zeroed();
        pieces = zeroed();
        messages = zeroed();
    }
    let mut controls = [Control([0; 32]); SEND_MOST];
    for (place, train) in trains.iter().enumerate() {
        names[place] = to_sockaddr(train.to);
        pieces[place] =
            iovec { iov_base: train.bytes.as_ptr().cast_mut().cast(), iov_len: train.bytes.len() };
        let header: &mut msghdr = &mut messages[place].msg_hdr;
        header.msg_name = from_mut(&mut names[place]).cast();
        header.msg_namelen = size_of::<sockaddr_in6>() as libc::socklen_t;
        header.msg_iov = from_mut(&mut pieces[place]);
        header.msg_iovlen = 1;
        if train.segment < train.bytes.len() {
            header.msg_control = controls[place].0.as_mut_ptr().cast();
            // SAFETY: `Control` has room for the header and an integer, and is aligned.
            unsafe {
                header.msg_controllen = libc::CMSG_SPACE(2) as _;
                let control = libc::CMSG_FIRSTHDR(header);
                (*control).cmsg_level = libc::IPPROTO_UDP;
                (*control).cmsg_type = UDP_SEGMENT;
                (*control).cmsg_len = libc::CMSG_LEN(2) as _;
                libc::CMSG_DATA(control).cast::<u16>().write_unaligned(train.segment as u16);
            }
        }
    }
    let count = trains.len() as libc::c_uint;
    // SAFETY: the first `count` messages point to names, pieces and controls that live here.
    let sent = unsafe { libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
    match usize::try_from(sent) {
        Ok(sent) => (sent, None),
        Err(_) => (0, Some(io::Error::last_os_error())),
    }
}

/// Datagrams of one address, one behind the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    pub(crate) from: SocketAddr,
    /// Where in the buffer.
    pub(crate) start: usize,
    pub(crate) length: usize,
    /// Size of each but the last.
    pub(crate) segment: usize,
}

/// Messages of one call of `receive`, and room for each.
pub(crate) const RECEIVE_MOST: usize = 16;
pub(crate) const RECEIVE_ROOM: usize = 1 << 16;

/// Waits for datagrams and takes as many as are there. `buffer` has `RECEIVE_MOST * RECEIVE_ROOM` bytes.
pub(crate) fn receive(fd: &OwnedFd, buffer: &mut [u8], received: &mut Vec<Received>) -> io::Result<()> {
    received.clear();
    let mut names: [sockaddr_in6; RECEIVE_MOST];
    let mut pieces: [iovec; RECEIVE_MOST];
    let mut messages: [mmsghdr; RECEIVE_MOST];
    // SAFETY: all three are plain bytes and null pointers.
    unsafe {
        names = zeroed();
        pieces = zeroed();
        messages = zeroed();
    }
    let mut controls = [Control([0; 32]); RECEIVE_MOST];
    let rooms = buffer.chunks_exact_mut(RECEIVE_ROOM).take(RECEIVE_MOST);
    let mut count = 0;
    for (place, room) in rooms.enumerate() {
        pieces[place] = iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
        let header: &mut msghdr = &mut messages[place].msg_hdr;
        header.msg_name = from_mut(&mut names[place]).cast();
        header.msg_namelen = size_of::<sockaddr_in6>() as libc::socklen_t;
        header.msg_iov = from_mut(&mut pieces[place]);
        header.msg_iovlen = 1;
        header.msg_control = controls[place].0.as_mut_ptr().cast();
        header.msg_controllen = size_of::<Control>() as _;
        count += 1;
    }
    let flags = libc::MSG_WAITFORONE as _;
    // SAFETY: the first `count` messages point to names, pieces and controls that live here.
    let got = unsafe { libc::recvmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count, flags, null_mut()) };
    for place in 0..usize::try_from(check(got)?).unwrap_or(0) {
        let length = messages[place].msg_len as usize;
        let segment = segment_of(&messages[place].msg_hdr).filter(|segment| *segment > 0).unwrap_or(length);
        let start = place * RECEIVE_ROOM;
        received.push(Received { from: from_sockaddr(&names[place]), start, length, segment });
    }
    Ok(())
}

fn segment_of(header: &msghdr) -> Option<usize> {
    // SAFETY: the kernel has filled in the control messages, whose memory the caller holds.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while let Some(message) = control.as_ref() {
            if message.cmsg_level == libc::IPPROTO_UDP && message.cmsg_type == UDP_GRO {
                return usize::try_from(libc::CMSG_DATA(control).cast::<c_int>().read_unaligned()).ok();
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    None
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
