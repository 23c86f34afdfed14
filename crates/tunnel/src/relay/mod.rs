//! A relay: a UDP port that passes datagrams on between two nodes that cannot reach each other. It sees nothing but
//! lengths and times, because what it passes on is encrypted between the nodes, and it passes on only what comes from
//! where one node of a known pair is to where the other one is.

pub(crate) mod keys;
pub(crate) mod registration;
pub(crate) mod table;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use self::table::Table;
use crate::engine::outgoing::send_trains;
use crate::engine::shared::{lock, now};
use crate::key::PresharedKey;
use crate::path::tag_of;
use crate::sys::udp::{RECEIVE_MOST, RECEIVE_ROOM, Received, Train, Udp};

/// Nodes of one relay at most.
pub const MAX_NODES: usize = 16_384;
/// Pairs of one relay at most.
pub const MAX_PAIRS: usize = 65_536;
/// Receive and send buffers.
const BUFFER: i32 = 4 << 20;
/// How long an ended relay may still wait for datagrams.
const PATIENCE: Duration = Duration::from_millis(250);

/// What may go through a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayLimits {
    /// Bytes per second of one pair, both directions together.
    pub pair_bytes_per_second: u64,
    /// Bytes per second of all pairs.
    pub bytes_per_second: u64,
    /// Longest datagram in bytes.
    pub longest: usize,
}

impl Default for RelayLimits {
    /// 80 Mbit/s for a pair, 800 Mbit/s for all, packets as on Ethernet.
    fn default() -> Self {
        Self { pair_bytes_per_second: 10_000_000, bytes_per_second: 100_000_000, longest: 1500 }
    }
}

/// Who may use a relay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayMembers {
    /// Numbers of nodes, each with the key with which it tells where it is ([`crate::Relay`]).
    pub nodes: BTreeMap<u64, PresharedKey>,
    /// Tags of pairs ([`crate::Path::Relayed`]), each with the numbers of its two nodes.
    pub pairs: BTreeMap<u64, [u64; 2]>,
}

/// Members that cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidMembers {
    /// See [`MAX_NODES`] and [`MAX_PAIRS`].
    #[error("more than {MAX_NODES} nodes or {MAX_PAIRS} pairs")]
    TooMany,
    /// A pair is two different nodes of the list.
    #[error("pair {0} is not of two different nodes that are listed")]
    Pair(u64),
}

/// What a relay has done since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayCounts {
    /// Nodes that have told where they are, and where that is.
    pub present: BTreeMap<u64, SocketAddr>,
    /// Bytes passed on.
    pub forwarded_bytes: u64,
    /// Trains and registrations from strangers, or too long.
    pub refused: u64,
    /// Trains dropped because of [`RelayLimits`].
    pub over_limit: u64,
}

/// A relay that runs, on a thread of its own, until it is dropped.
pub struct RelayServer {
    table: Arc<Mutex<Table>>,
    address: SocketAddr,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl RelayServer {
    /// Listens on the address (`[::]:port` for both families, or for IPv4 if the machine has no other); without members nothing is passed on.
    pub fn start(listen: SocketAddr, limits: RelayLimits) -> io::Result<Self> {
        let socket = Udp::bind(listen, BUFFER)?;
        socket.set_patience(PATIENCE)?;
        let address = socket.address()?;
        let table = Arc::new(Mutex::new(Table::new(now(), limits, fresh())));
        let ends = Arc::new(AtomicBool::new(false));
        let (shared, flag) = (Arc::clone(&table), Arc::clone(&ends));
        let work = move || run(&socket, &shared, &flag);
        let thread = Some(Builder::new().name("relay".to_owned()).spawn(work)?);
        Ok(Self { table, address, ends, thread })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces all members; those that stay go on undisturbed.
    pub fn set(&self, members: &RelayMembers) -> Result<(), InvalidMembers> {
        lock(&self.table).set(now(), members)
    }

    /// What it has done.
    pub fn counts(&self) -> RelayCounts {
        let table = lock(&self.table);
        let counts = table.counts;
        RelayCounts {
            present: table.present(now()),
            forwarded_bytes: counts.forwarded_bytes,
            refused: counts.refused,
            over_limit: counts.over_limit,
        }
    }
}

impl Drop for RelayServer {
    fn drop(&mut self) {
        self.ends.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn fresh() -> [u8; 32] {
    let mut bytes = [0; 32];
    StdRng::from_os_rng().fill_bytes(&mut bytes);
    bytes
}

fn run(socket: &Udp, table: &Mutex<Table>, ends: &AtomicBool) {
    let mut buffer = vec![0; RECEIVE_MOST * RECEIVE_ROOM];
    let mut received = Vec::with_capacity(RECEIVE_MOST);
    while !ends.load(Relaxed) {
        // Errors are time-outs, and those of datagrams sent before (ICMP).
        if socket.receive(&mut buffer, &mut received).is_err() {
            continue;
        }
        let at = now();
        let mut trains = Vec::with_capacity(received.len());
        let mut answers = Vec::new();
        {
            let mut table = lock(table);
            table.renew(at, fresh);
            for train in &received {
                sort(at, &mut table, &buffer, train, &mut trains, &mut answers);
            }
        }
        for (from, answer) in &answers {
            // From the address that was asked, or a NAT would not let it in.
            let train =
                Train { to: from.from, local: from.local, ecn: 0, bytes: answer, segment: answer.len() };
            trains.push(train);
        }
        // What the system refuses is lost, as on any network.
        send_trains(socket, &mut trains);
    }
}

/// Sorts the datagrams of one sender into what is passed on and what is answered.
pub(crate) fn sort<'a>(
    at: u64,
    table: &mut Table,
    buffer: &'a [u8],
    received: &Received,
    trains: &mut Vec<Train<'a>>,
    answers: &mut Vec<(Received, [u8; registration::LENGTH])>,
) {
    let whole = &buffer[received.start..received.start + received.length];
    let mut rest = whole;
    while !rest.is_empty() {
        let first = &rest[..received.segment.min(rest.len())];
        let Some(tag) = tag_of(first) else {
            if let Some(answer) = table.register(at, (received.from, received.local), first) {
                answers.push((*received, answer));
            }
            rest = &rest[first.len()..];
            continue;
        };
        let same = rest.chunks(received.segment).take_while(|datagram| tag_of(datagram) == Some(tag));
        let (bytes, others) = rest.split_at(same.map(<[u8]>::len).sum());
        if let Some((to, local)) = table.forward(at, received.from, tag, (first.len(), bytes.len())) {
            trains.push(Train { to, local, ecn: received.ecn, bytes, segment: received.segment });
        }
        rest = others;
    }
}
