//! The seam for NAT traversal: datagrams of the same UDP port that are not WireGuard's, exchanged with one local
//! program through a datagram socket. Form: address (16 bytes, IPv4 mapped), port (2 bytes, big endian), frame.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex};

use super::shared::lock;
use crate::path::{FIRST_FRAME, Path};

/// Bytes in front of a frame.
pub(crate) const ADDRESS: usize = 18;
/// Longest frame, so that one always fits into one packet.
pub const MAX_FRAME: usize = 1200;

/// Writes an address in front of a frame.
pub(crate) fn wrap(address: SocketAddr, frame: &[u8]) -> Vec<u8> {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut message = ip.octets().to_vec();
    message.extend_from_slice(&address.port().to_be_bytes());
    message.extend_from_slice(frame);
    message
}

/// Takes the address off a frame.
pub(crate) fn unwrap(message: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let (ip, rest) = message.split_first_chunk::<16>()?;
    let (port, frame) = rest.split_first_chunk::<2>()?;
    let ip = Ipv6Addr::from(*ip).to_canonical();
    Some((SocketAddr::new(ip, u16::from_be_bytes(*port)), frame))
}

/// The engine's end.
pub(crate) struct Frames {
    socket: UnixDatagram,
    /// Whoever sent last gets what is received.
    listener: Mutex<Option<PathBuf>>,
}

impl Frames {
    pub(crate) fn bind(path: &FilePath) -> io::Result<Self> {
        let _ = std::fs::remove_file(path);
        let socket = UnixDatagram::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { socket, listener: Mutex::new(None) })
    }

    /// Passes a frame on; if the listener does not keep up, or there is none, it is dropped.
    pub(crate) fn received(&self, from: SocketAddr, frame: &[u8]) {
        if frame.len() > MAX_FRAME {
            return;
        }
        let listener = lock(&self.listener).clone();
        if let Some(listener) = listener {
            let message = wrap(from, frame);
            let flags = rustix::net::SendFlags::DONTWAIT;
            if let Ok(address) = rustix::net::SocketAddrUnix::new(&listener) {
                let _ = rustix::net::sendto(&self.socket, &message, flags, &address);
            }
        }
    }

    /// Sends what the local program gives.
    pub(crate) fn run(self: Arc<Self>, udp: &OwnedFd) -> io::Result<()> {
        let mut buffer = [0; ADDRESS + MAX_FRAME];
        loop {
            let (length, from) = self.socket.recv_from(&mut buffer)?;
            if let Some(path) = from.as_pathname() {
                *lock(&self.listener) = Some(path.to_owned());
            }
            let Some((to, frame)) = unwrap(&buffer[..length]) else { continue };
            if frame.first().is_some_and(|first| *first >= FIRST_FRAME) {
                let _ = super::outgoing::send_alone(udp, &Path::Direct(to), frame);
            }
        }
    }
}
