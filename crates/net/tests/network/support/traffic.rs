//! Small servers and clients that live in a namespace. A socket stays in the namespace it was opened
//! in, so only opening needs a thread there.

use std::io::{self, Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream, UdpSocket,
};
use std::path::Path;
use std::sync::Arc;
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, ipproto};

/// Longest wait for something that should happen.
pub(crate) const SOON: Duration = Duration::from_secs(5);
/// A refusal is quicker than that; a lost packet is not.
pub(crate) const AT_ONCE: Duration = Duration::from_millis(500);
/// How long to look for something that should not happen.
const NEVER: Duration = Duration::from_millis(300);

/// Where a socket is opened.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    Host,
    Namespace(&'a Path),
}

impl Place<'_> {
    fn open<T: Send>(self, work: impl FnOnce() -> T + Send) -> T {
        match self {
            Place::Host => work(),
            Place::Namespace(path) => oak_net::run_in(path, work).unwrap(),
        }
    }
}

/// A TCP server that answers every connection with its name and the address it sees.
pub(crate) struct TcpServer {
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
    pub(crate) port: u16,
}

impl TcpServer {
    pub(crate) fn start(place: Place<'_>, address: impl Into<IpAddr>, port: u16, name: &str) -> Self {
        let address = address.into();
        let listener = place.open(|| listen(address, port));
        let port = listener.local_addr().unwrap().port();
        let listener = Arc::new(listener);
        let name = name.to_owned();
        let accepting = Arc::clone(&listener);
        let thread = spawn(move || {
            while let Ok((mut stream, peer)) = accepting.accept() {
                let _ = write!(stream, "{name} {}", peer.ip());
            }
        });
        Self { listener, thread: Some(thread), port }
    }
}

/// A port that was given up may be held for a moment by a program that another test is starting.
fn listen(address: IpAddr, port: u16) -> TcpListener {
    let deadline = Instant::now() + SOON;
    loop {
        match TcpListener::bind((address, port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {}
            outcome => return outcome.unwrap(),
        }
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        // Makes the blocking accept fail.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Connects and reads what the server says.
pub(crate) fn ask_tcp(from: Place<'_>, address: impl Into<IpAddr>, port: u16) -> io::Result<String> {
    let mut stream = connect(from, address, port, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

pub(crate) fn connect(
    from: Place<'_>,
    address: impl Into<IpAddr>,
    port: u16,
    patience: Duration,
) -> io::Result<TcpStream> {
    let target = SocketAddr::new(address.into(), port);
    from.open(|| TcpStream::connect_timeout(&target, patience))
}

/// Whether connecting is refused quickly instead of timing out.
pub(crate) fn is_refused_tcp(from: Place<'_>, address: impl Into<IpAddr>, port: u16) -> bool {
    match connect(from, address, port, AT_ONCE) {
        Ok(_) => false,
        Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
    }
}

/// A UDP server that answers every datagram with its name and the address it sees.
pub(crate) struct UdpServer {
    socket: Arc<UdpSocket>,
    thread: Option<JoinHandle<()>>,
}

impl UdpServer {
    pub(crate) fn start(place: Place<'_>, address: impl Into<IpAddr>, port: u16, name: &str) -> Self {
        let address = address.into();
        let socket = place.open(|| UdpSocket::bind((address, port)).unwrap());
        let socket = Arc::new(socket);
        let name = name.to_owned();
        let receiving = Arc::clone(&socket);
        let thread = spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, peer)) = receiving.recv_from(&mut buffer) {
                if length == 0 {
                    break;
                }
                let _ = receiving.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
            }
        });
        Self { socket, thread: Some(thread) }
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        // Wakes the receiver, though an unconnected socket reports an error.
        let _ = rustix::net::shutdown(&*self.socket, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A UDP client that keeps its port.
pub(crate) struct UdpClient {
    socket: UdpSocket,
    target: SocketAddr,
}

impl UdpClient {
    pub(crate) fn open(from: Place<'_>, address: impl Into<IpAddr>, port: u16) -> Self {
        let target = SocketAddr::new(address.into(), port);
        let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = from.open(|| UdpSocket::bind(any).unwrap());
        // Connected, so that only answers from the called address count and refusals are reported.
        socket.connect(target).unwrap();
        Self { socket, target }
    }

    pub(crate) fn ask(&self) -> io::Result<String> {
        self.ask_for(AT_ONCE)
    }

    /// Sends repeatedly until an answer or refusal comes: UDP may lose, tests may not.
    pub(crate) fn ask_for(&self, patience: Duration) -> io::Result<String> {
        self.socket.set_read_timeout(Some(patience))?;
        self.socket.send(b"who is there")?;
        let mut buffer = [0; 2048];
        let length = self.socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned())
    }

    pub(crate) fn target(&self) -> SocketAddr {
        self.target
    }
}

/// Whether a datagram sent from a socket bound to `source` ever arrives at `receiver`.
pub(crate) fn arrives(from: Place<'_>, source: Ipv4Addr, receiver: &UdpSocket) -> bool {
    let target = receiver.local_addr().unwrap();
    let sender = from.open(|| UdpSocket::bind((source, 0)).unwrap());
    sender.send_to(b"x", target).unwrap();
    receiver.set_read_timeout(Some(NEVER)).unwrap();
    receiver.recv_from(&mut [0; 16]).is_ok()
}

/// Sends one ICMPv6 echo request; true if the answer comes from the called address.
pub(crate) fn ping6(from: Place<'_>, address: Ipv6Addr, size: usize) -> bool {
    let icmp = Some(ipproto::ICMPV6);
    let socket = from.open(|| rustix::net::socket(AddressFamily::INET6, SocketType::RAW, icmp).unwrap());
    rustix::net::connect(&socket, &SocketAddrV6::new(address, 0, 0, 0)).unwrap();
    let timeout = rustix::net::sockopt::Timeout::Recv;
    rustix::net::sockopt::set_socket_timeout(&socket, timeout, Some(AT_ONCE)).unwrap();
    // Type 128, id 0x6f61, sequence 1; the kernel fills in the checksum.
    let mut request = vec![128, 0, 0, 0, 0x6f, 0x61, 0, 1];
    request.resize(size.max(8), 0);
    rustix::net::send(&socket, &request, rustix::net::SendFlags::empty()).unwrap();
    let mut answer = vec![0; size + 128];
    loop {
        let flags = rustix::net::RecvFlags::empty();
        let Ok((length, _)) = rustix::net::recv(&socket, &mut answer[..], flags) else {
            return false;
        };
        if answer[0] == 129 && answer[4..6] == [0x6f, 0x61] && length == request.len() {
            return true;
        }
    }
}

/// Sends one ICMP echo request of `size` bytes; true if the answer comes from the called address.
pub(crate) fn ping(from: Place<'_>, address: Ipv4Addr, size: usize) -> bool {
    let socket =
        from.open(|| rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).unwrap());
    let target = SocketAddrV4::new(address, 0);
    rustix::net::connect(&socket, &target).unwrap();
    let timeout = rustix::net::sockopt::Timeout::Recv;
    rustix::net::sockopt::set_socket_timeout(&socket, timeout, Some(AT_ONCE)).unwrap();
    // Type 8, code 0, checksum, id 0x6f61, sequence 1, zeros.
    let mut request = vec![8, 0, 0, 0, 0x6f, 0x61, 0, 1];
    request.resize(size.max(8), 0);
    let sum: u32 = 0x0800 + 0x6f61 + 1;
    let checksum = !(u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap());
    request[2..4].copy_from_slice(&checksum.to_be_bytes());
    rustix::net::send(&socket, &request, rustix::net::SendFlags::empty()).unwrap();
    let mut answer = vec![0; size + 128];
    loop {
        let flags = rustix::net::RecvFlags::empty();
        let Ok((length, _)) = rustix::net::recv(&socket, &mut answer[..], flags) else {
            return false;
        };
        // 20 bytes of IP header, then type 0 and our id.
        if answer[20] == 0 && answer[24..26] == [0x6f, 0x61] && length == 20 + request.len() {
            return true;
        }
    }
}
