//! The network of an instance: connections and packets from inside it, without a program in its image.

use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recvfrom, sendto, socket_with,
};

use crate::host::within;
use crate::{Host, containers, soon};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Types of ICMP, and of ICMPv6.
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST6: u8 = 128;
const ECHO_REPLY6: u8 = 129;
/// The longest packet there is.
const LONGEST: usize = 1 << 16;

/// The network of an instance that runs.
#[derive(Debug)]
pub struct Inside {
    network: File,
}

impl Inside {
    /// Of the instance on a machine whose processes have this word in their command lines.
    ///
    /// # Errors
    /// There is none.
    pub fn of(host: &Host, word: &str) -> anyhow::Result<Self> {
        let is_meant = |pid: &i32| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).contains(word)
        };
        let pid = containers(host)?.into_values().flatten().find(is_meant);
        let pid = pid.with_context(|| format!("no instance on {} runs `{word}`", host.name()))?;
        Ok(Self { network: File::open(format!("/proc/{pid}/ns/net"))? })
    }

    /// Takes connections to this port.
    ///
    /// # Errors
    /// The port is taken.
    pub fn listen(&self, port: u16) -> anyhow::Result<TcpListener> {
        Ok(within(&self.network, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))??)
    }

    /// A connection from here.
    ///
    /// # Errors
    /// It is refused, or not accepted in the usual time.
    pub fn connect(&self, to: SocketAddr) -> anyhow::Result<TcpStream> {
        let stream = within(&self.network, || TcpStream::connect_timeout(&to, soon()))?;
        stream.with_context(|| format!("cannot connect to {to}"))
    }

    /// Answers every datagram of either family to this port with itself until the value is dropped.
    ///
    /// # Errors
    /// The port is taken.
    pub fn echo(&self, port: u16) -> anyhow::Result<Echo> {
        let socket = within(&self.network, || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)))??;
        socket.set_read_timeout(Some(PATIENCE))?;
        let ends = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; LONGEST];
            while !flag.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    // Who does not get it asks again.
                    let _ = socket.send_to(buffer.get(..length).unwrap_or_default(), from);
                }
            }
        });
        Ok(Echo { ends, thread: Some(thread) })
    }

    /// Sends a datagram and waits for it to come back from there.
    ///
    /// # Errors
    /// It does not come back within a second.
    pub fn ask_udp(&self, to: SocketAddr) -> anyhow::Result<()> {
        self.ask_udp_with(to, b"are you there?")
    }

    /// As [`Inside::ask_udp`] with these bytes. As usual with Linux they travel in one piece that nobody on the way may
    /// cut (DF) while they are not known to be too long for it.
    ///
    /// # Errors
    /// As [`Inside::ask_udp`].
    pub fn ask_udp_with(&self, to: SocketAddr, bytes: &[u8]) -> anyhow::Result<()> {
        within(&self.network, || {
            let any = match to {
                SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.send_to(bytes, to)?;
            let mut buffer = vec![0; LONGEST];
            let (length, from) = socket.recv_from(&mut buffer).with_context(|| format!("udp to {to}"))?;
            ensure!(from == to && buffer.get(..length) == Some(bytes), "an answer from {from}");
            Ok(())
        })?
    }

    /// Sends an echo request (ICMP or ICMPv6) and waits for its answer.
    ///
    /// # Errors
    /// There is none within a second.
    pub fn ping(&self, to: impl Into<IpAddr>, number: u16) -> anyhow::Result<()> {
        self.ping_with(to, number, 0)
    }

    /// As [`Inside::ping`] with so many bytes behind the header, as `ping -s` does.
    ///
    /// # Errors
    /// As [`Inside::ping`], or the answer is shorter.
    pub fn ping_with(&self, to: impl Into<IpAddr>, number: u16, bytes: usize) -> anyhow::Result<()> {
        let to = to.into();
        let mut request = echo_request(to, number).to_vec();
        // Zeros do not change the sum.
        request.resize(request.len() + bytes, 0);
        within(&self.network, || {
            let (family, protocol) = match to {
                IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
                IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
            };
            let socket = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol))?;
            set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
            sendto(&socket, &request, SendFlags::empty(), &SocketAddr::new(to, 0))?;
            let deadline = Instant::now() + PATIENCE;
            let mut buffer = vec![MaybeUninit::uninit(); LONGEST];
            while Instant::now() < deadline {
                let ((packet, _), _, from) = recvfrom(&socket, buffer.as_mut_slice(), RecvFlags::empty())
                    .with_context(|| format!("no answer to a ping of {to}"))?;
                let from = from.and_then(|from| SocketAddr::try_from(from).ok()).map(|from| from.ip());
                let message = message(packet, to);
                if from == Some(to) && is_answer(message, to, number) {
                    ensure!(message.len() >= request.len(), "{} bytes came back", message.len());
                    return Ok(());
                }
            }
            anyhow::bail!("no answer to a ping of {to}")
        })?
    }
}

/// Type, code, checksum, identifier and sequence number, both the same.
fn echo_request(to: IpAddr, number: u16) -> [u8; 8] {
    let [high, low] = number.to_be_bytes();
    if to.is_ipv6() {
        // Its sum covers addresses: the kernel makes it.
        return [ECHO_REQUEST6, 0, 0, 0, high, low, high, low];
    }
    let mut sum = u32::from(u16::from_be_bytes([ECHO_REQUEST, 0])) + 2 * u32::from(number);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [first, second] = (!(sum as u16)).to_be_bytes();
    [ECHO_REQUEST, 0, first, second, high, low, high, low]
}

/// What is behind the header that only sockets of IPv4 show.
fn message(packet: &[u8], to: IpAddr) -> &[u8] {
    let header = packet.first().filter(|_| to.is_ipv4()).map_or(0, |first| usize::from(first & 0xf) * 4);
    packet.get(header..).unwrap_or_default()
}

fn is_answer(message: &[u8], to: IpAddr, number: u16) -> bool {
    let reply = if to.is_ipv6() { ECHO_REPLY6 } else { ECHO_REPLY };
    let [high, low] = number.to_be_bytes();
    message.first() == Some(&reply) && message.get(4..8) == Some(&[high, low, high, low])
}

/// A port that answers; see [`Inside::echo`].
#[derive(Debug)]
pub struct Echo {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does not panic.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_known_by_its_type_and_number() {
        let four = IpAddr::V4(Ipv4Addr::new(10, 30, 0, 1));
        let mut packet = [0; 28];
        packet[0] = 0x45;
        packet[24..28].copy_from_slice(&[1, 2, 1, 2]);
        let is = |length, number| is_answer(message(&packet[..length], four), four, number);
        assert!(is(28, 0x0102) && !is(28, 0x0103) && !is(20, 0x0102));
        let six = IpAddr::V6(Ipv6Addr::LOCALHOST);
        let answer = [ECHO_REPLY6, 0, 9, 9, 1, 2, 1, 2];
        assert!(is_answer(message(&answer, six), six, 0x0102));
        assert!(!is_answer(&echo_request(six, 0x0102), six, 0x0102));
        // RFC 1071: the sum of all words is all ones.
        let words = echo_request(four, 0xbeef)
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum::<u32>();
        assert_eq!((words & 0xffff) + (words >> 16), 0xffff);
    }
}
