//! WireGuard devices of the kernel: made like other devices, set up and read by generic netlink (`linux/wireguard.h`).

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::Duration;

use ipnet::IpNet;

use crate::Socket;
use crate::link::{CREATE, OAK_GROUP, body};
use crate::wire::{Request, attribute, attributes, ip, u16_at, u32_at, u64_at};

/// Name of the kind of device.
pub const KIND: &str = "wireguard";
/// Bytes of every key.
pub const KEY: usize = 32;

const ACK: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
const DUMP: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
/// The family that knows the numbers of the others (`linux/genetlink.h`), its question and the attributes of that.
const CONTROLLER: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `struct genlmsghdr`: command, version, two bytes of nothing.
const BODY: usize = 4;
const VERSION: u8 = 1;
const GET_DEVICE: u8 = 0;
const SET_DEVICE: u8 = 1;
/// `WGDEVICE_A_*`.
const INDEX: u16 = 1;
const PRIVATE_KEY: u16 = 3;
const PUBLIC_KEY: u16 = 4;
const LISTEN_PORT: u16 = 6;
const PEERS: u16 = 8;
/// `WGPEER_A_*`, and flags of a peer.
const PEER_KEY: u16 = 1;
const PRESHARED_KEY: u16 = 2;
const FLAGS: u16 = 3;
const ENDPOINT: u16 = 4;
const KEEPALIVE: u16 = 5;
const LAST_HANDSHAKE: u16 = 6;
const RECEIVED: u16 = 7;
const SENT: u16 = 8;
const ALLOWED: u16 = 9;
const REMOVE: u32 = 1;
const REPLACE_ALLOWED: u32 = 2;
const UPDATE_ONLY: u32 = 4;
/// `WGALLOWEDIP_A_*`.
const FAMILY: u16 = 1;
const ADDRESS: u16 = 2;
const MASK: u16 = 3;

/// What a device is told of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its key.
    pub public_key: [u8; KEY],
    /// Mixed into handshakes; zeros: none.
    pub preshared_key: [u8; KEY],
    /// Where it is.
    pub endpoint: SocketAddr,
    /// Seconds between keepalives; 0: none without traffic.
    pub keepalive_s: u16,
    /// What goes to it, and may come from it.
    pub networks: Vec<IpNet>,
}

/// What a device knows of a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerState {
    /// Its key.
    pub public_key: [u8; KEY],
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// When the last handshake was completed, since 1970; zero if there was none.
    pub last_handshake: Duration,
    /// Bytes of its datagrams without headers of IP and UDP, since the device knows the peer.
    pub received: u64,
    /// The same for what was sent to it.
    pub sent: u64,
}

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Key of this node; none if it was not told any.
    pub public_key: Option<[u8; KEY]>,
    /// UDP port.
    pub port: u16,
    /// All peers.
    pub peers: Vec<PeerState>,
}

/// Makes a device that is still down and knows nothing. It belongs to the namespace of the socket.
///
/// # Errors
/// `EOPNOTSUPP` if the kernel has no WireGuard.
pub fn create(socket: &mut Socket, name: &str, mtu: u32) -> io::Result<()> {
    let request = Request::new(libc::RTM_NEWLINK, CREATE, &body(0, 0, 0))
        .put_text(libc::IFLA_IFNAME, name)
        .put_u32(libc::IFLA_GROUP, OAK_GROUP)
        .put_u32(libc::IFLA_MTU, mtu)
        .nest(libc::IFLA_LINKINFO, |info| info.put_text(libc::IFLA_INFO_KIND, KIND));
    socket.change(request)
}

/// Speaks with the kernel's WireGuard.
#[derive(Debug)]
pub struct Control {
    socket: Socket,
    family: u16,
}

impl Control {
    /// Through a generic socket.
    ///
    /// # Errors
    /// `ENOENT` if the kernel has no WireGuard.
    pub fn new(mut socket: Socket) -> io::Result<Self> {
        let request = Request::new(CONTROLLER, ACK, &[GET_FAMILY, VERSION, 0, 0]).put_text(FAMILY_NAME, KIND);
        let number = |payload: &[u8]| attribute(payload.get(BODY..)?, FAMILY_ID).and_then(|id| u16_at(id, 0));
        let family = socket.query(request, |answer| number(answer.payload))?;
        Ok(Self { socket, family: family.ok_or(io::ErrorKind::NotFound)? })
    }

    /// Gives a device its key and port. Another key than before ends all its sessions.
    ///
    /// # Errors
    /// `EADDRINUSE` if somebody has the port.
    pub fn set_device(&mut self, index: u32, private_key: &[u8; KEY], port: u16) -> io::Result<()> {
        let request = self.change(index).put(PRIVATE_KEY, private_key).put(LISTEN_PORT, &port.to_ne_bytes());
        self.socket.change(request)
    }

    /// Makes a peer, or changes it; its session stays.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_peer(&mut self, index: u32, peer: &Peer) -> io::Result<()> {
        let request = self.change(index).nest(PEERS, |peers| peers.nest(0, |request| write(request, peer)));
        self.socket.change(request)
    }

    /// Changes how often a peer gets a keepalive, if it is known.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_keepalive(&mut self, index: u32, peer: &[u8; KEY], seconds: u16) -> io::Result<()> {
        let keepalive = |peer: Request| peer.put(KEEPALIVE, &seconds.to_ne_bytes());
        self.change_peer(index, peer, UPDATE_ONLY, keepalive)
    }

    /// Removes a peer, if it is known.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_peer(&mut self, index: u32, peer: &[u8; KEY]) -> io::Result<()> {
        self.change_peer(index, peer, REMOVE, |peer| peer)
    }

    /// Reads a device.
    ///
    /// # Errors
    /// There is none with that index, or it is of another kind.
    pub fn device(&mut self, index: u32) -> io::Result<Device> {
        let family = self.family;
        let request = || Request::new(family, DUMP, &[GET_DEVICE, VERSION, 0, 0]).put_u32(INDEX, index);
        let parts = self.socket.dump(request, |answer| parse(answer.payload))?;
        Ok(parts.into_iter().fold(Device::default(), join))
    }

    fn change(&self, index: u32) -> Request {
        Request::new(self.family, ACK, &[SET_DEVICE, VERSION, 0, 0]).put_u32(INDEX, index)
    }

    fn change_peer(
        &mut self,
        index: u32,
        key: &[u8; KEY],
        flags: u32,
        more: impl FnOnce(Request) -> Request,
    ) -> io::Result<()> {
        let peer = |peer: Request| more(peer.put(PEER_KEY, key).put_u32(FLAGS, flags));
        let request = self.change(index).nest(PEERS, |peers| peers.nest(0, peer));
        self.socket.change(request)
    }
}

fn write(request: Request, peer: &Peer) -> Request {
    let network = |list: Request, network: &IpNet| {
        list.nest(0, |one| {
            let (family, address) = match network {
                IpNet::V4(_) => (libc::AF_INET, network.network()),
                IpNet::V6(_) => (libc::AF_INET6, network.network()),
            };
            let family = u16::try_from(family).unwrap_or_default();
            let one = one.put(FAMILY, &family.to_ne_bytes()).put_address(ADDRESS, address);
            one.put(MASK, &[network.prefix_len()])
        })
    };
    request
        .put(PEER_KEY, &peer.public_key)
        .put(PRESHARED_KEY, &peer.preshared_key)
        .put_u32(FLAGS, REPLACE_ALLOWED)
        .put(ENDPOINT, &write_endpoint(peer.endpoint))
        .put(KEEPALIVE, &peer.keepalive_s.to_ne_bytes())
        .nest(ALLOWED, |list| peer.networks.iter().fold(list, network))
}

/// `struct sockaddr_in` or `struct sockaddr_in6`.
fn write_endpoint(endpoint: SocketAddr) -> Vec<u8> {
    let family = if endpoint.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut bytes = u16::try_from(family).unwrap_or_default().to_ne_bytes().to_vec();
    bytes.extend(endpoint.port().to_be_bytes());
    match endpoint {
        SocketAddr::V4(endpoint) => {
            bytes.extend(endpoint.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(endpoint) => {
            bytes.extend(endpoint.flowinfo().to_be_bytes());
            bytes.extend(endpoint.ip().octets());
            bytes.extend(endpoint.scope_id().to_ne_bytes());
        }
    }
    bytes
}

fn parse_endpoint(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    match i32::from(u16_at(bytes, 0)?) {
        libc::AF_INET => match ip(bytes.get(4..8)?)? {
            IpAddr::V4(address) => Some(SocketAddrV4::new(address, port).into()),
            IpAddr::V6(_) => None,
        },
        libc::AF_INET6 => match ip(bytes.get(8..24)?)? {
            IpAddr::V6(address) => Some(SocketAddrV6::new(address, port, 0, u32_at(bytes, 24)?).into()),
            IpAddr::V4(_) => None,
        },
        _ => None,
    }
}

/// One message of a device; a device with many peers has several.
fn parse(payload: &[u8]) -> Option<Device> {
    let mut device = Device::default();
    for (kind, value) in attributes(payload.get(BODY..)?) {
        match kind {
            PUBLIC_KEY => device.public_key = value.try_into().ok(),
            LISTEN_PORT => device.port = u16_at(value, 0)?,
            PEERS => device.peers.extend(attributes(value).filter_map(|(_, peer)| parse_peer(peer))),
            _ => {}
        }
    }
    Some(device)
}

fn parse_peer(peer: &[u8]) -> Option<PeerState> {
    let mut state =
        PeerState { public_key: attribute(peer, PEER_KEY)?.try_into().ok()?, ..PeerState::default() };
    for (kind, value) in attributes(peer) {
        match kind {
            ENDPOINT => state.endpoint = parse_endpoint(value),
            // Seconds and nanoseconds, 64 bits each.
            LAST_HANDSHAKE => {
                let nanoseconds = u32::try_from(u64_at(value, 8)?).ok()?;
                state.last_handshake = Duration::from_secs(u64_at(value, 0)?)
                    .saturating_add(Duration::from_nanos(u64::from(nanoseconds)));
            }
            RECEIVED => state.received = u64_at(value, 0)?,
            SENT => state.sent = u64_at(value, 0)?,
            _ => {}
        }
    }
    Some(state)
}

/// Puts the messages of a device together. A peer whose networks did not fit into one goes on in the next one, where
/// nothing else is said of it.
fn join(mut device: Device, part: Device) -> Device {
    device.public_key = device.public_key.or(part.public_key);
    device.port = device.port.max(part.port);
    let last = device.peers.last().map(|peer| peer.public_key);
    device.peers.extend(part.peers.into_iter().filter(|peer| Some(peer.public_key) != last));
    device
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

    use super::*;
    use crate::wire::answers;

    fn answer(sequence: u32, kind: u16, fill: impl FnOnce(Request) -> Request) -> Vec<u8> {
        fill(Request::new(kind, 0, &[GET_DEVICE, VERSION, 0, 0])).finish(sequence)
    }

    fn done(sequence: u32) -> Vec<u8> {
        Request::new(libc::NLMSG_DONE as u16, 0, &[0; 4]).finish(sequence)
    }

    /// A socket whose kernel says this, and that kernel's end.
    fn played(answers: &[Vec<u8>]) -> (Socket, std::os::fd::OwnedFd) {
        let flags = SocketFlags::NONBLOCK;
        let (ours, kernels) = socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None).unwrap();
        for answer in answers {
            send(&kernels, answer, SendFlags::empty()).unwrap();
        }
        (Socket::of(ours), kernels)
    }

    fn peer(number: u8, endpoint: SocketAddr) -> Peer {
        Peer {
            public_key: [number; KEY],
            preshared_key: [0; KEY],
            endpoint,
            keepalive_s: 1,
            networks: vec!["10.18.0.0/25".parse().unwrap(), "fc00::/120".parse().unwrap()],
        }
    }

    #[test]
    fn the_kernel_is_asked_for_the_number_of_its_wireguard_and_then_by_that_number() {
        let family = answer(1, CONTROLLER, |request| request.put(FAMILY_ID, &33_u16.to_ne_bytes()));
        let acknowledged = Request::new(libc::NLMSG_ERROR as u16, 0, &[0; 20]).finish(1);
        let (socket, kernel) = played(&[family, acknowledged]);
        let mut control = Control::new(socket).unwrap();
        assert!(control.remove_peer(7, &[5; KEY]).is_err(), "nobody answers");
        let mut bytes = [0; 512];
        recv(&kernel, &mut bytes[..], RecvFlags::empty()).unwrap();
        recv(&kernel, &mut bytes[..], RecvFlags::empty()).unwrap();
        let asked = answers(&bytes).next().unwrap();
        assert_eq!((asked.kind, asked.payload[0]), (33, SET_DEVICE));
        let attributes = &asked.payload[BODY..];
        assert_eq!(u32_at(attribute(attributes, INDEX).unwrap(), 0), Some(7));
        let peer = attribute(attribute(attributes, PEERS).unwrap(), 0).unwrap();
        assert_eq!(attribute(peer, PEER_KEY).unwrap(), [5; KEY]);
        assert_eq!(u32_at(attribute(peer, FLAGS).unwrap(), 0), Some(REMOVE));
    }

    #[test]
    fn a_kernel_without_wireguard_says_so() {
        let refused = Request::new(libc::NLMSG_ERROR as u16, 0, &(-libc::ENOENT).to_ne_bytes()).finish(1);
        let (socket, _kernel) = played(&[refused]);
        assert!(crate::is_absent(&Control::new(socket).unwrap_err()));
    }

    #[test]
    fn a_device_with_many_peers_comes_in_several_messages() {
        let endpoint = "192.0.2.1:50106".parse().unwrap();
        let counted = |request: Request, number: u8| {
            let request = write(request, &peer(number, endpoint)).put(RECEIVED, &5_u64.to_ne_bytes());
            let time = [3_u64.to_ne_bytes(), 4_u64.to_ne_bytes()].concat();
            request.put(SENT, &6_u64.to_ne_bytes()).put(LAST_HANDSHAKE, &time)
        };
        let first = answer(1, 33, |request| {
            let request = request.put(PUBLIC_KEY, &[9; KEY]).put(LISTEN_PORT, &50_106_u16.to_ne_bytes());
            request
                .nest(PEERS, |peers| peers.nest(0, |peer| counted(peer, 1)).nest(0, |peer| counted(peer, 2)))
        });
        let second = answer(1, 33, |request| {
            request.nest(PEERS, |peers| {
                let rest = |peer: Request| peer.put(PEER_KEY, &[2; KEY]).nest(ALLOWED, |list| list);
                peers.nest(0, rest).nest(0, |peer| counted(peer, 3))
            })
        });
        let (socket, _kernel) = played(&[first, second, done(1)]);
        let device = Control { socket, family: 33 }.device(7).unwrap();
        assert_eq!((device.public_key, device.port), (Some([9; KEY]), 50_106));
        let state = |number: u8| PeerState {
            public_key: [number; KEY],
            endpoint: Some(endpoint),
            last_handshake: Duration::new(3, 4),
            received: 5,
            sent: 6,
        };
        assert_eq!(device.peers, [state(1), state(2), state(3)]);
    }

    proptest! {
        #[test]
        fn an_endpoint_is_read_as_it_was_written(v4: bool, bits: u128, port: u16, scope: u32) {
            let endpoint: SocketAddr = if v4 {
                SocketAddrV4::new(u32::try_from(bits >> 96).unwrap().into(), port).into()
            } else {
                SocketAddrV6::new(bits.into(), port, 0, scope).into()
            };
            prop_assert_eq!(parse_endpoint(&write_endpoint(endpoint)), Some(endpoint));
        }

        #[test]
        fn any_answer_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..300), place in 0_usize..200, byte: u8) {
            let _ = parse(&bytes);
            let _ = parse_peer(&bytes);
            let _ = parse_endpoint(&bytes);
            let whole = peer(1, "[2001:db8::1]:5".parse().unwrap());
            let mut damaged = answer(1, 33, |request| {
                request.nest(PEERS, |peers| peers.nest(0, |request| write(request, &whole)))
            });
            if let Some(place) = damaged.get_mut(place) {
                *place = byte;
            }
            for answer in answers(&damaged) {
                let _ = parse(answer.payload);
            }
        }
    }
}
