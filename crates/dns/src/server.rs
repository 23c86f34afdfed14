//! The sockets: who may ask, how much at a time, and what is answered at once or later.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use ipnet::IpNet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::answer::{self, Incoming, Reply};
use crate::forward::{Forwarder, Upstreams};
use crate::limits::{Limits, Turns};
use crate::lookup::{BoundedLookup, Lookup};
use crate::zone::Zone;

/// Pause after a failure of a socket that may last, for example without free file descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// Where a name server listens, for whom, and whom it asks.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Address and port, for UDP and TCP.
    pub listen: SocketAddr,
    /// Only queries from these addresses are answered; nothing else is even refused.
    pub clients: Vec<IpNet>,
    /// Who knows names that are not ours. Servers among `clients` are left out: that would be ourselves.
    pub upstreams: Upstreams,
    /// Bounds.
    pub limits: Limits,
}

/// Why a name server does not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({protocol})")]
pub struct DnsError {
    address: SocketAddr,
    protocol: &'static str,
    source: io::Error,
}

impl DnsError {
    /// Whether another program has the address.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }
}

/// A running name server. Ends when it is dropped.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl DnsServer {
    /// Starts to answer from the newest zone.
    ///
    /// # Errors
    /// The address is not there or not free.
    pub async fn start(
        config: DnsConfig,
        zone: watch::Receiver<Arc<Zone>>,
        lookup: Arc<dyn Lookup>,
    ) -> Result<Self, DnsError> {
        let failed = |address, protocol| move |source| DnsError { address, protocol, source };
        let listener = TcpListener::bind(config.listen).await.map_err(failed(config.listen, "TCP"))?;
        // With port 0 both get the same one.
        let address = listener.local_addr().map_err(failed(config.listen, "TCP"))?;
        let socket = UdpSocket::bind(address).await.map_err(failed(address, "UDP"))?;
        let limits = config.limits.clone();
        let server = Arc::new(Server {
            zone,
            lookup: BoundedLookup::new(lookup, &limits),
            forwarder: Forwarder::new(config.upstreams, config.clients.clone(), limits.clone()),
            waiting: Turns::new(limits.waiting, limits.waiting_per_source),
            connections: Turns::new(limits.connections, limits.connections_per_source),
            clients: config.clients,
            limits,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(datagrams(Arc::clone(&server), Arc::new(socket)));
        tasks.spawn(streams(server, listener));
        Ok(Self { address, _tasks: tasks })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

struct Server {
    zone: watch::Receiver<Arc<Zone>>,
    lookup: BoundedLookup,
    forwarder: Forwarder,
    waiting: Arc<Turns>,
    connections: Arc<Turns>,
    clients: Vec<IpNet>,
    limits: Limits,
}

impl Server {
    fn is_client(&self, source: IpAddr) -> bool {
        self.clients.iter().any(|net| net.contains(&source))
    }

    fn zone(&self) -> Arc<Zone> {
        Arc::clone(&self.zone.borrow())
    }

    /// The answer that needs nobody else.
    fn at_once(&self, query: &Message, asker: IpAddr) -> Option<Message> {
        match answer::reply(&self.zone(), query, asker) {
            Reply::Ready(answer) => Some(answer),
            Reply::Foreign => self.forwarder.cached(query),
            Reply::Unknown(_) => None,
        }
    }

    /// The answer for which somebody else is asked.
    async fn later(&self, query: &Message, asker: IpAddr) -> Message {
        let zone = self.zone();
        let question = match answer::reply(&zone, query, asker) {
            Reply::Ready(answer) => return answer,
            Reply::Foreign => return self.forwarder.resolve(query).await,
            Reply::Unknown(question) => question,
        };
        let found = self.lookup.find(&question, asker).await;
        match found.map(|service| answer::reply(&zone.with(service), query, asker)) {
            Some(Reply::Ready(answer)) => answer,
            _ => answer::negative(&zone, query, ResponseCode::NXDomain),
        }
    }

    async fn answer(&self, query: &Message, asker: IpAddr) -> Message {
        if let Some(answer) = self.at_once(query, asker) {
            return answer;
        }
        match self.waiting.take(asker) {
            Some(_turn) => self.later(query, asker).await,
            None => answer::with_code(query, ResponseCode::ServFail),
        }
    }
}

/// Answers datagrams, most of them right here.
async fn datagrams(server: Arc<Server>, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0_u8; usize::from(server.limits.query_bytes).saturating_add(1)];
    let mut waiting = JoinSet::new();
    loop {
        // Both branches can be dropped at any point without losing anything.
        let (length, source) = tokio::select! {
            Some(_) = waiting.join_next() => continue,
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                Err(error) => {
                    debug!(%error, "no datagram");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
        };
        let too_large = length > usize::from(server.limits.query_bytes);
        let Some(bytes) = buffer.get(..length).filter(|_| !too_large) else { continue };
        if !server.is_client(source.ip()) {
            continue;
        }
        let query = match answer::read(bytes) {
            Incoming::Ignore => continue,
            Incoming::Refuse(answer) => {
                let limit = usize::from(server.limits.udp_answer_bytes);
                send(&socket, &answer, limit, source).await;
                continue;
            }
            Incoming::Ask(query) => query,
        };
        let limit = answer::udp_limit(&query, server.limits.udp_answer_bytes);
        if let Some(answer) = server.at_once(&query, source.ip()) {
            send(&socket, &answer, limit, source).await;
            continue;
        }
        let Some(turn) = server.waiting.take(source.ip()) else {
            send(&socket, &answer::with_code(&query, ResponseCode::ServFail), limit, source).await;
            continue;
        };
        let (server, socket) = (Arc::clone(&server), Arc::clone(&socket));
        waiting.spawn(async move {
            let _turn = turn;
            let answer = server.later(&query, source.ip()).await;
            send(&socket, &answer, limit, source).await;
        });
    }
}

async fn send(socket: &UdpSocket, answer: &Message, limit: usize, to: SocketAddr) {
    let Some(bytes) = answer::write(answer, limit) else { return };
    if let Err(error) = socket.send_to(&bytes, to).await {
        debug!(%to, %error, "an answer was not sent");
    }
}

/// Takes connections.
async fn streams(server: Arc<Server>, listener: TcpListener) {
    let mut open = JoinSet::new();
    loop {
        // Both branches can be dropped at any point without losing anything.
        let accepted = tokio::select! {
            Some(_) = open.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, source) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "no connection to the name server");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if !server.is_client(source.ip()) {
            continue;
        }
        let Some(turn) = server.connections.take(source.ip()) else { continue };
        let server = Arc::clone(&server);
        open.spawn(async move {
            let _turn = turn;
            if let Err(error) = converse(&server, stream, source.ip()).await {
                debug!(%source, %error, "a connection ended");
            }
        });
    }
}

/// Answers one query after the other until the asker goes or says nothing for a while.
async fn converse(server: &Server, mut stream: TcpStream, asker: IpAddr) -> io::Result<()> {
    loop {
        let Some(bytes) = timeout(server.limits.idle, receive(&mut stream, &server.limits)).await?? else {
            return Ok(());
        };
        let answer = match answer::read(&bytes) {
            Incoming::Ignore => return Ok(()),
            Incoming::Refuse(answer) => answer,
            Incoming::Ask(query) => server.answer(&query, asker).await,
        };
        let Some(bytes) = answer::write(&answer, u16::MAX.into()) else { return Ok(()) };
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        let message = [&length.to_be_bytes(), bytes.as_slice()].concat();
        // Who does not read what they asked for is cut off like who says nothing.
        timeout(server.limits.idle, stream.write_all(&message)).await??;
    }
}

/// The next message; none at the end of the connection or if it is too large.
async fn receive(stream: &mut TcpStream, limits: &Limits) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > limits.query_bytes {
        return Ok(None);
    }
    let mut bytes = vec![0; length.into()];
    stream.read_exact(&mut bytes).await?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests;
