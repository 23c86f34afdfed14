//! A UDP socket that sends and receives trains of datagrams (`udp(7)`: `UDP_SEGMENT`, `UDP_GRO`), and with each its
//! own address of this machine (`IP_PKTINFO`, `IPV6_PKTINFO`) and its congestion mark (`IP_TOS`, `IPV6_TCLASS`).

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{from_mut, null_mut};
use std::time::Duration;

use libc::{c_int, c_void, in_pktinfo, in6_pktinfo, iovec, mmsghdr, msghdr, sockaddr_in, sockaddr_in6};

use super::check;

const UDP_SEGMENT: c_int = 103;
const UDP_GRO: c_int = 104;
/// The congestion mark in the byte of IPv4's type of service and IPv6's traffic class (RFC 3168).
const ECN: u8 = 3;

/// A socket for both families, or for IPv4 only.
#[derive(Debug)]
pub(crate) struct Udp {
    fd: OwnedFd,
    is_v6: bool,
}

/// Datagrams of one size (the last may be shorter) to one address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Train<'a> {
    pub(crate) to: SocketAddr,
    /// Own address to send from; the system chooses one if there is none.
    pub(crate) local: Option<IpAddr>,
    /// Congestion mark.
    pub(crate) ecn: u8,
    pub(crate) bytes: &'a [u8],
    /// Size of each; `bytes.len()` if there is only one.
    pub(crate) segment: usize,
}

/// Datagrams of one address, one behind the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    pub(crate) from: SocketAddr,
    /// Own address to which they were sent.
    pub(crate) local: Option<IpAddr>,
    /// Congestion mark, the same of all.
    pub(crate) ecn: u8,
    /// Where in the buffer.
    pub(crate) start: usize,
    pub(crate) length: usize,
    /// Size of each but the last.
    pub(crate) segment: usize,
}

/// Most trains of one call of `send`.
const SEND_MOST: usize = 16;
/// Messages of one call of `receive`, and room for each.
pub(crate) const RECEIVE_MOST: usize = 16;
pub(crate) const RECEIVE_ROOM: usize = 1 << 16;

/// Room for the control messages of one message, aligned as the kernel wants it.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 128]);

impl Udp {
    /// A socket at a port of all addresses, which several sockets of this process share; `buffer` is in bytes.
    pub(crate) fn shared(port: u16, buffer: c_int) -> io::Result<Self> {
        Self::open((Ipv6Addr::UNSPECIFIED, port).into(), Some(libc::SO_REUSEPORT), buffer)
    }

    /// A socket at an address that nobody else has; `[::]` stands for both families.
    pub(crate) fn bind(address: SocketAddr, buffer: c_int) -> io::Result<Self> {
        Self::open(address, None, buffer)
    }

    /// For all addresses it is IPv4 only if the kernel has no IPv6.
    fn open(address: SocketAddr, sharing: Option<c_int>, buffer: c_int) -> io::Result<Self> {
        let has_no_v6 = |error: &io::Error| {
            matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
        };
        match Self::open_family(address, sharing, buffer) {
            Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && has_no_v6(&error) => {
                let address = (Ipv4Addr::UNSPECIFIED, address.port()).into();
                Self::open_family(address, sharing, buffer)
            }
            other => other,
        }
    }

    fn open_family(address: SocketAddr, sharing: Option<c_int>, buffer: c_int) -> io::Result<Self> {
        let is_v6 = address.is_ipv6();
        let family = if is_v6 { libc::AF_INET6 } else { libc::AF_INET };
        // SAFETY: no pointers; the descriptor is new and ours.
        let fd = unsafe {
            let raw = check(libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?;
            OwnedFd::from_raw_fd(raw)
        };
        let socket = Self { fd, is_v6 };
        let mut wanted = vec![(libc::IPPROTO_IP, libc::IP_RECVTOS, 1)];
        wanted.extend(sharing.map(|option| (libc::SOL_SOCKET, option, 1)));
        if is_v6 {
            wanted.push((libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0));
            wanted.push((libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1));
            wanted.push((libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1));
        } else {
            wanted.push((libc::IPPROTO_IP, libc::IP_PKTINFO, 1));
        }
        for (level, name, value) in wanted {
            socket.option(level, name, value)?;
        }
        for (forced, usual) in
            [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
        {
            let limited = |_| socket.option(libc::SOL_SOCKET, usual, buffer);
            socket.option(libc::SOL_SOCKET, forced, buffer).or_else(limited)?;
        }
        // Without it (Linux before 5.0) datagrams come one by one.
        let _ = socket.option(libc::IPPROTO_UDP, UDP_GRO, 1);
        let (name, length) = socket.name(address)?;
        // SAFETY: the kernel reads the address.
        check(unsafe { libc::bind(socket.fd.as_raw_fd(), (&raw const name).cast(), length) })?;
        Ok(socket)
    }

    /// Whether it reaches IPv6, too.
    pub(crate) fn has_ipv6(&self) -> bool {
        self.is_v6
    }

    /// Its own address.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        // SAFETY: the structure is plain bytes.
        let mut name: sockaddr_in6 = unsafe { zeroed() };
        let mut length = size_of::<sockaddr_in6>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes.
        check(unsafe {
            libc::getsockname(self.fd.as_raw_fd(), from_mut(&mut name).cast(), &raw mut length)
        })?;
        Ok(from_name(&name))
    }

    /// Lets `receive` return `WouldBlock` after this time.
    pub(crate) fn set_patience(&self, limit: Duration) -> io::Result<()> {
        let time = libc::timeval {
            tv_sec: limit.as_secs() as libc::time_t,
            tv_usec: limit.subsec_micros() as libc::suseconds_t,
        };
        self.set(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &time)
    }

    fn option(&self, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
        self.set(level, name, &value)
    }

    fn set<T>(&self, level: c_int, name: c_int, value: &T) -> io::Result<()> {
        let length = size_of::<T>() as libc::socklen_t;
        let value = std::ptr::from_ref(value).cast::<c_void>();
        // SAFETY: the kernel reads `length` bytes of the value.
        check(unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, name, value, length) })?;
        Ok(())
    }

    /// The address in the form of this socket's family: IPv4 is mapped into IPv6.
    fn name(&self, address: SocketAddr) -> io::Result<(sockaddr_in6, libc::socklen_t)> {
        // SAFETY: the structure is plain bytes.
        let mut raw: sockaddr_in6 = unsafe { zeroed() };
        if self.is_v6 {
            let (ip, flow, scope) = match address {
                SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0, 0),
                SocketAddr::V6(v6) => (*v6.ip(), v6.flowinfo(), v6.scope_id()),
            };
            raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            raw.sin6_port = address.port().to_be();
            raw.sin6_flowinfo = flow;
            raw.sin6_addr.s6_addr = ip.octets();
            raw.sin6_scope_id = scope;
            return Ok((raw, size_of::<sockaddr_in6>() as libc::socklen_t));
        }
        let SocketAddr::V4(v4) = address else {
            return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
        };
        // SAFETY: an address of IPv4 is shorter than one of IPv6 and needs no other alignment.
        let short = unsafe { &mut *from_mut(&mut raw).cast::<sockaddr_in>() };
        short.sin_family = libc::AF_INET as libc::sa_family_t;
        short.sin_port = v4.port().to_be();
        short.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
        Ok((raw, size_of::<sockaddr_in>() as libc::socklen_t))
    }

    /// Sends trains; returns how many were sent before one failed, and that failure.
    pub(crate) fn send(&self, trains: &[Train<'_>]) -> (usize, Option<io::Error>) {
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
        let mut controls = [Control([0; 128]); SEND_MOST];
        let mut count = 0;
        for (place, train) in trains.iter().enumerate() {
            let length;
            (names[place], length) = match self.name(train.to) {
                Ok(name) => name,
                Err(error) if place == 0 => return (0, Some(error)),
                // It is the first one of the next call.
                Err(_) => break,
            };
            pieces[place] =
                iovec { iov_base: train.bytes.as_ptr().cast_mut().cast(), iov_len: train.bytes.len() };
            let header: &mut msghdr = &mut messages[place].msg_hdr;
            header.msg_name = from_mut(&mut names[place]).cast();
            header.msg_namelen = length;
            header.msg_iov = from_mut(&mut pieces[place]);
            header.msg_iovlen = 1;
            let used = self.describe(train, &mut controls[place]);
            if used > 0 {
                header.msg_control = controls[place].0.as_mut_ptr().cast();
                header.msg_controllen = used as _;
            }
            count += 1;
        }
        // SAFETY: the first `count` messages point to names, pieces and controls that live here.
        let sent = unsafe { libc::sendmmsg(self.fd.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
        match usize::try_from(sent) {
            Ok(sent) => (sent, None),
            Err(_) => (0, Some(io::Error::last_os_error())),
        }
    }

    /// Writes the control messages of a train; returns their length.
    fn describe(&self, train: &Train<'_>, control: &mut Control) -> usize {
        let mut used = 0;
        if train.segment < train.bytes.len() {
            push(control, &mut used, (libc::IPPROTO_UDP, UDP_SEGMENT), train.segment as u16);
        }
        if train.ecn != 0 {
            let kind = if train.to.is_ipv4() {
                (libc::IPPROTO_IP, libc::IP_TOS)
            } else {
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
            };
            push(control, &mut used, kind, c_int::from(train.ecn & ECN));
        }
        match train.local {
            Some(local) if self.is_v6 => {
                let ip = match local {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => ip,
                };
                // SAFETY: the structure is plain bytes.
                let mut info: in6_pktinfo = unsafe { zeroed() };
                info.ipi6_addr.s6_addr = ip.octets();
                push(control, &mut used, (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO), info);
            }
            Some(IpAddr::V4(local)) => {
                // SAFETY: the structure is plain bytes.
                let mut info: in_pktinfo = unsafe { zeroed() };
                info.ipi_spec_dst.s_addr = u32::from_ne_bytes(local.octets());
                push(control, &mut used, (libc::IPPROTO_IP, libc::IP_PKTINFO), info);
            }
            _ => {}
        }
        used
    }

    /// Waits for datagrams and takes as many as are there. `buffer` has `RECEIVE_MOST * RECEIVE_ROOM` bytes.
    pub(crate) fn receive(&self, buffer: &mut [u8], received: &mut Vec<Received>) -> io::Result<()> {
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
        let mut controls = [Control([0; 128]); RECEIVE_MOST];
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
        let raw = self.fd.as_raw_fd();
        // SAFETY: the first `count` messages point to names, pieces and controls that live here.
        let got = unsafe { libc::recvmmsg(raw, messages.as_mut_ptr(), count, flags, null_mut()) };
        for place in 0..usize::try_from(check(got)?).unwrap_or(0) {
            let length = messages[place].msg_len as usize;
            let mut train = Received {
                from: from_name(&names[place]),
                local: None,
                ecn: 0,
                start: place * RECEIVE_ROOM,
                length,
                segment: length,
            };
            understand(&messages[place].msg_hdr, &mut train);
            received.push(train);
        }
        Ok(())
    }
}

/// Appends a control message.
fn push<T>(control: &mut Control, used: &mut usize, (level, kind): (c_int, c_int), value: T) {
    let length = size_of::<T>() as libc::c_uint;
    // SAFETY: no pointers.
    let (space, whole) = unsafe { (libc::CMSG_SPACE(length) as usize, libc::CMSG_LEN(length)) };
    let Some(room) = control.0.get_mut(*used..*used + space) else { return };
    // SAFETY: `room` has the length that the macros ask for, and begins at a multiple of 8.
    unsafe {
        let message = room.as_mut_ptr().cast::<libc::cmsghdr>();
        (*message).cmsg_level = level;
        (*message).cmsg_type = kind;
        (*message).cmsg_len = whole as _;
        libc::CMSG_DATA(message).cast::<T>().write_unaligned(value);
    }
    *used += space;
}

/// Reads the control messages of a train.
fn understand(header: &msghdr, train: &mut Received) {
    // SAFETY: the kernel has filled in the control messages, whose memory the caller holds.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(header);
        while let Some(message) = next.as_ref() {
            let data = libc::CMSG_DATA(message);
            match (message.cmsg_level, message.cmsg_type) {
                (libc::IPPROTO_UDP, UDP_GRO) => {
                    let segment = data.cast::<c_int>().read_unaligned();
                    if segment > 0 {
                        train.segment = segment.unsigned_abs() as usize;
                    }
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => train.ecn = *data & ECN,
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    train.ecn = (data.cast::<c_int>().read_unaligned() & c_int::from(ECN)) as u8;
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<in_pktinfo>().read_unaligned();
                    train.local = Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<in6_pktinfo>().read_unaligned();
                    train.local = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).to_canonical());
                }
                _ => {}
            }
            next = libc::CMSG_NXTHDR(header, message);
        }
    }
}

fn from_name(raw: &sockaddr_in6) -> SocketAddr {
    if c_int::from(raw.sin6_family) == libc::AF_INET {
        // SAFETY: the family says that it is a shorter address of IPv4.
        let short = unsafe { &*std::ptr::from_ref(raw).cast::<sockaddr_in>() };
        let ip = Ipv4Addr::from(short.sin_addr.s_addr.to_ne_bytes());
        return SocketAddrV4::new(ip, u16::from_be(short.sin_port)).into();
    }
    let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
    let port = u16::from_be(raw.sin6_port);
    match ip.to_ipv4_mapped() {
        Some(v4) => SocketAddrV4::new(v4, port).into(),
        None => SocketAddrV6::new(ip, port, 0, raw.sin6_scope_id).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends from one socket to another and returns what came.
    fn pass(from: &Udp, to: &Udp, train: Train<'_>) -> Received {
        let (sent, error) = from.send(&[train]);
        assert!(sent == 1, "{error:?}");
        let mut buffer = vec![0; RECEIVE_MOST * RECEIVE_ROOM];
        let mut received = Vec::new();
        to.set_patience(Duration::from_secs(5)).unwrap();
        to.receive(&mut buffer, &mut received).unwrap();
        let first = received[0];
        assert_eq!(&buffer[first.start..first.start + first.length], &train.bytes[..first.length]);
        first
    }

    #[test]
    fn an_address_has_one_owner_unless_it_is_shared() {
        let alone = Udp::bind("[::]:0".parse().unwrap(), 1 << 16).unwrap();
        assert!(Udp::bind(alone.address().unwrap(), 1 << 16).is_err());
        let shared = Udp::shared(0, 1 << 16).unwrap();
        assert!(Udp::shared(shared.address().unwrap().port(), 1 << 16).is_ok());
    }

    #[test]
    fn both_kinds_of_socket_tell_and_choose_addresses_and_marks() {
        let any = |address: &str| Udp::bind(address.parse().unwrap(), 1 << 16).unwrap();
        let (v4, both) = (any("0.0.0.0:0"), any("[::]:0"));
        assert!(both.has_ipv6() && !v4.has_ipv6());
        for (from, to) in [(&v4, &both), (&both, &v4), (&both, &both)] {
            let port = to.address().unwrap().port();
            let local: IpAddr = "127.0.0.7".parse().unwrap();
            let target = SocketAddr::new("127.0.0.9".parse().unwrap(), port);
            let train = Train { to: target, local: Some(local), ecn: 2, bytes: b"abc", segment: 3 };
            let got = pass(from, to, train);
            assert_eq!((got.from.ip(), got.local, got.ecn), (local, Some(target.ip()), 2));
            let got = pass(from, to, Train { local: None, ecn: 0, ..train });
            assert_eq!(got.ecn, 0);
        }
        let v6: SocketAddr = ("::1".parse::<IpAddr>().unwrap(), 9).into();
        let (sent, error) = v4.send(&[Train { to: v6, local: None, ecn: 0, bytes: b"x", segment: 1 }]);
        assert_eq!((sent, error.unwrap().raw_os_error()), (0, Some(libc::EAFNOSUPPORT)));
    }
}
