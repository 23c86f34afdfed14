//! What the threads of the data path share. Readers take read locks for moments; only the control thread writes, and
//! that is rare.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use ring::aead::LessSafeKey;
use rustix::time::{ClockId, clock_gettime};

use super::control::Order;
use crate::allowed::Allowed;
use crate::core::gate::Gate;
use crate::core::timers::{REJECT_AFTER, Traffic};
use crate::core::{Established, PeerId};
use crate::noise::cipher;
use crate::path::Way;
use crate::replay::Replay;

/// Packets that wait for a session of one peer; beyond that the oldest is dropped.
const WAITING: usize = 128;
/// Counters stop long before they could repeat (white paper, section 6.1).
const LAST_COUNTER: u64 = u64::MAX - (1 << 13);

/// Milliseconds since boot, sleep included; never 0.
pub(crate) fn now() -> u64 {
    now_us() / 1000 + 1
}

/// Microseconds since boot, sleep included.
pub(crate) fn now_us() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds * 1_000_000 + nanoseconds / 1000
}

/// Locks; a thread that panicked has left nothing half-done in these short sections.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value that is replaced as a whole.
#[derive(Debug, Default)]
pub(crate) struct Published<T>(RwLock<T>);

impl<T: Clone> Published<T> {
    pub(crate) fn get(&self) -> T {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = value;
    }
}

/// What went in one direction since the engine started.
#[derive(Debug, Default)]
pub(crate) struct Direction {
    pub(crate) bytes: AtomicU64,
    /// When the last packet went; 0 is never.
    last: AtomicU64,
    /// When the first packet with data went since anything went in the other direction.
    data_since: AtomicU64,
}

/// Counters of a peer, since the engine started.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sent: Direction,
    pub(crate) received: Direction,
    /// Packets that could not be sent.
    pub(crate) lost_sending: AtomicU64,
    /// Datagrams that were damaged, forged or repeated.
    pub(crate) refused: AtomicU64,
    /// Packets whose inner source is not the peer's.
    pub(crate) foreign: AtomicU64,
}

/// A peer on the data path.
pub(crate) struct PeerShared {
    pub(crate) id: PeerId,
    pub(crate) name: String,
    /// Where its packets go.
    pub(crate) way: Published<Option<Way>>,
    pub(crate) session: Published<Option<Arc<Session>>>,
    /// Longest inner packet that fits; the device's own limit if there is no smaller one.
    pub(crate) limit: AtomicU32,
    /// When the control thread may be told again that packets come by another way.
    pub(crate) came_next: AtomicU64,
    pub(crate) counters: Counters,
    /// Whole inner packets. Whoever holds the lock may decide whether there is a session.
    pub(crate) waiting: Mutex<VecDeque<Vec<u8>>>,
}

impl PeerShared {
    pub(crate) fn new(id: PeerId, name: String) -> Self {
        Self {
            id,
            name,
            way: Published(RwLock::new(None)),
            session: Published(RwLock::new(None)),
            limit: AtomicU32::new(u32::MAX),
            came_next: AtomicU64::new(0),
            counters: Counters::default(),
            waiting: Mutex::new(VecDeque::new()),
        }
    }

    /// The session to send with, if it is young enough.
    pub(crate) fn usable(&self, now: u64) -> Option<Arc<Session>> {
        self.session.get().filter(|session| session.is_usable(now))
    }

    /// Keeps a packet until there is a session; the lock is the caller's.
    pub(crate) fn wait(&self, waiting: &mut VecDeque<Vec<u8>>, packet: Vec<u8>) {
        if waiting.len() >= WAITING {
            waiting.pop_front();
            self.counters.lost_sending.fetch_add(1, Relaxed);
        }
        waiting.push_back(packet);
    }

    /// Notes what was sent; `data` tells packets from keepalives.
    pub(crate) fn sent(&self, now: u64, bytes: usize, data: bool) {
        self.counters.sent.note(now, bytes, data, &self.counters.received);
    }

    /// Notes what was received.
    pub(crate) fn received(&self, now: u64, bytes: usize, data: bool) {
        self.counters.received.note(now, bytes, data, &self.counters.sent);
    }

    pub(crate) fn traffic(&self) -> Traffic {
        let Counters { sent, received, .. } = &self.counters;
        Traffic {
            last_sent: sent.last.load(Relaxed),
            last_received: received.last.load(Relaxed),
            owed_since: received.data_since.load(Relaxed),
            unanswered_since: sent.data_since.load(Relaxed),
        }
    }

    /// A new session is an answer: an older question for one is settled.
    pub(crate) fn answered(&self) {
        self.counters.sent.data_since.store(0, Relaxed);
    }
}

impl Direction {
    fn note(&self, now: u64, bytes: usize, data: bool, opposite: &Self) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
        self.last.store(now, Relaxed);
        // Mostly nothing changes, and a cache line that is only read stays where the other threads can read it, too.
        if opposite.data_since.load(Relaxed) != 0 {
            opposite.data_since.store(0, Relaxed);
        }
        if data && self.data_since.load(Relaxed) == 0 {
            self.data_since.store(now, Relaxed);
        }
    }
}

/// Keys and counters of a session.
pub(crate) struct Session {
    pub(crate) peer: Arc<PeerShared>,
    pub(crate) local: u32,
    pub(crate) remote: u32,
    pub(crate) send: LessSafeKey,
    pub(crate) receive: LessSafeKey,
    pub(crate) replay: Mutex<Replay>,
    /// False until the first packet of a session we responded to.
    pub(crate) confirmed: AtomicBool,
    pub(crate) is_closed: AtomicBool,
    counter: AtomicU64,
    created: u64,
}

impl Session {
    pub(crate) fn new(peer: Arc<PeerShared>, session: &Established) -> Self {
        Self {
            peer,
            local: session.local,
            remote: session.keys.remote,
            send: cipher(&session.keys.send),
            receive: cipher(&session.keys.receive),
            replay: Mutex::new(Replay::default()),
            confirmed: AtomicBool::new(session.is_initiator),
            is_closed: AtomicBool::new(false),
            counter: AtomicU64::new(0),
            created: session.created,
        }
    }

    pub(crate) fn is_usable(&self, now: u64) -> bool {
        now.saturating_sub(self.created) < REJECT_AFTER
            && !self.is_closed.load(Relaxed)
            && self.counter.load(Relaxed) < LAST_COUNTER
    }

    /// Reserves numbers for packets.
    pub(crate) fn reserve(&self, count: usize) -> u64 {
        self.counter.fetch_add(count as u64, Relaxed)
    }
}

/// Who has which inner addresses.
#[derive(Default)]
pub(crate) struct Routes {
    pub(crate) allowed: Allowed<usize>,
    pub(crate) peers: Vec<Arc<PeerShared>>,
}

impl Routes {
    pub(crate) fn peer_of(&self, address: IpAddr) -> Option<&Arc<PeerShared>> {
        self.peers.get(self.allowed.peer_of(address)?)
    }
}

/// Everything shared.
pub(crate) struct Shared {
    pub(crate) routes: Published<Arc<Routes>>,
    pub(crate) sessions: Published<Arc<HashMap<u32, Arc<Session>>>>,
    pub(crate) orders: SyncSender<Order>,
    /// Handshake messages that wait for the control thread.
    pub(crate) handshakes: AtomicUsize,
    /// Answers of relays that wait for it.
    pub(crate) registrations: AtomicUsize,
    /// What they have to pass before.
    pub(crate) gate: Mutex<Gate>,
    pub(crate) mtu: u32,
}

impl Shared {
    pub(crate) fn new(orders: SyncSender<Order>, gate: Gate, mtu: u32) -> Self {
        Self {
            routes: Published::default(),
            sessions: Published::default(),
            orders,
            handshakes: AtomicUsize::new(0),
            registrations: AtomicUsize::new(0),
            gate: Mutex::new(gate),
            mtu,
        }
    }
}
