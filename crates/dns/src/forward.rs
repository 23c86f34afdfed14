//! Names that are not ours: asked at the host's own resolvers, from the host.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use ipnet::IpNet;
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::answer;
use crate::cache::{Cache, CacheKey};
use crate::limits::Limits;
use crate::resolv::HostResolver;

/// The port of name servers.
const PORT: u16 = 53;
/// How old what we know of the host's file may be.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Largest answer over UDP, bytes: more than any resolver sends to the size we offer.
const MAX_UDP: usize = 4096;
/// A file of resolvers that is larger is something else, bytes.
const MAX_FILE: u64 = 64 * 1024;

/// Who is asked about names that are not ours.
#[derive(Clone, Debug)]
pub enum Upstreams {
    /// Those in a file like `/etc/resolv.conf`, read again when it changes.
    File(PathBuf),
    /// Always these.
    Fixed(Vec<SocketAddr>),
}

/// What was last read of the file.
#[derive(Debug, Default)]
struct Known {
    looked: Option<Instant>,
    stamp: Option<(SystemTime, u64)>,
    servers: Vec<SocketAddr>,
}

/// Asks others.
#[derive(Debug)]
pub(crate) struct Forwarder {
    upstreams: Upstreams,
    /// Addresses that lead back here.
    ours: Vec<IpNet>,
    limits: Limits,
    known: Mutex<Known>,
    cache: Mutex<Cache>,
    random: Mutex<StdRng>,
}

impl Forwarder {
    pub(crate) fn new(upstreams: Upstreams, ours: Vec<IpNet>, limits: Limits) -> Self {
        Self {
            upstreams,
            ours,
            known: Mutex::default(),
            cache: Mutex::new(Cache::new(&limits)),
            random: Mutex::new(StdRng::from_os_rng()),
            limits,
        }
    }

    /// An answer that is here already.
    pub(crate) fn cached(&self, query: &Message) -> Option<Message> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = cache.get(&CacheKey::of(query)?, Instant::now())?;
        Some(for_asker(query, kept))
    }

    /// Asks one resolver after the other, twice each as far as time allows. Nobody answers: SERVFAIL.
    pub(crate) async fn resolve(&self, query: &Message) -> Message {
        let until = Instant::now() + self.limits.upstream_total;
        let servers = self.servers();
        for server in servers.iter().chain(&servers) {
            let now = Instant::now();
            if now >= until {
                break;
            }
            let until = until.min(now + self.limits.upstream_timeout);
            match self.ask(query, *server, until).await {
                Ok(answer) => {
                    self.keep(query, &answer);
                    return for_asker(query, answer);
                }
                Err(error) => debug!(%server, %error, "a resolver of this machine did not answer"),
            }
        }
        answer::with_code(query, ResponseCode::ServFail)
    }

    fn keep(&self, query: &Message, answer: &Message) {
        let is_small = answer.to_vec().is_ok_and(|bytes| bytes.len() <= self.limits.cache_answer_bytes);
        if let Some(key) = CacheKey::of(query).filter(|_| is_small) {
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            cache.put(key, answer, Instant::now());
        }
    }

    /// The resolvers, never ourselves.
    fn servers(&self) -> Vec<SocketAddr> {
        let path = match &self.upstreams {
            Upstreams::Fixed(servers) => return servers.clone(),
            Upstreams::File(path) => path,
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if known.looked.is_some_and(|looked| now.duration_since(looked) < LOOK_AGAIN) {
            return known.servers.clone();
        }
        known.looked = Some(now);
        let stamp = fs::metadata(path).and_then(|facts| Ok((facts.modified()?, facts.len()))).ok();
        if stamp.is_none() || stamp != known.stamp {
            let is_sane = stamp.is_some_and(|(_, length)| length <= MAX_FILE);
            let text = if is_sane { fs::read_to_string(path).unwrap_or_default() } else { String::new() };
            let servers: Vec<SocketAddr> = HostResolver::parse(&text)
                .servers
                .into_iter()
                .filter(|server| !self.ours.iter().any(|net| net.contains(server)))
                .map(|server| SocketAddr::new(server, PORT))
                .collect();
            if servers != known.servers {
                debug!(?servers, "resolvers of this machine");
                self.cache.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
            known.servers = servers;
            known.stamp = stamp;
        }
        known.servers.clone()
    }

    /// One try with one resolver: UDP, and TCP if the answer does not fit.
    async fn ask(&self, query: &Message, server: SocketAddr, until: Instant) -> io::Result<Message> {
        let question = self.question(query)?;
        let bytes = question.to_vec().map_err(io::Error::other)?;
        let answer = timeout_at(until, ask_by_datagram(&question, &bytes, server)).await??;
        let answer = if answer.metadata.truncation {
            timeout_at(until, ask_by_stream(&question, &bytes, server)).await??
        } else {
            answer
        };
        match answer.metadata.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => Ok(answer),
            // Another one may do better.
            code => Err(io::Error::other(format!("it answered {code}"))),
        }
    }

    /// The same question under another number. The kernel adds a random port, so that nobody can guess both.
    fn question(&self, query: &Message) -> io::Result<Message> {
        let number = self.random.lock().unwrap_or_else(PoisonError::into_inner).next_u32();
        let id = u16::try_from(number & 0xffff).map_err(io::Error::other)?;
        let mut question = Message::new(id, MessageType::Query, OpCode::Query);
        question.metadata.recursion_desired = query.metadata.recursion_desired;
        question.metadata.checking_disabled = query.metadata.checking_disabled;
        question.metadata.authentic_data = query.metadata.authentic_data;
        question.queries.extend(query.queries.first().cloned());
        if let Some(asked) = &query.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(self.limits.udp_answer_bytes);
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            question.edns = Some(edns);
        }
        Ok(question)
    }
}

/// What somebody else answered, as the answer to this query.
pub(crate) fn for_asker(query: &Message, theirs: Message) -> Message {
    let mut answer = answer::with_code(query, theirs.metadata.response_code);
    answer.metadata.authentic_data = theirs.metadata.authentic_data;
    answer.answers = theirs.answers;
    answer.authorities = theirs.authorities;
    answer.additionals = theirs.additionals;
    answer
}

/// Whether this answers that question; anything else may be forged or late.
pub(crate) fn fits(answer: &Message, question: &Message) -> bool {
    answer.metadata.message_type == MessageType::Response
        && answer.metadata.op_code == OpCode::Query
        && answer.metadata.id == question.metadata.id
        && answer.queries == question.queries
}

async fn ask_by_datagram(question: &Message, bytes: &[u8], server: SocketAddr) -> io::Result<Message> {
    let any = match server.ip() {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // A connected socket takes datagrams of this server only, and hears that nobody listens there.
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = [0_u8; MAX_UDP];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..length).and_then(|bytes| Message::from_vec(bytes).ok());
        if let Some(answer) = answer.filter(|answer| fits(answer, question)) {
            return Ok(answer);
        }
    }
}

async fn ask_by_stream(question: &Message, bytes: &[u8], server: SocketAddr) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    let answer = Message::from_vec(&answer).map_err(io::Error::other)?;
    if fits(&answer, question) { Ok(answer) } else { Err(io::Error::other("it answered something else")) }
}

#[cfg(test)]
pub(crate) mod tests;
