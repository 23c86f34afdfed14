//! Datagrams on their way out: encrypted in place in one buffer, sent as trains of equal size.

use std::io;
use std::sync::atomic::Ordering::Relaxed;

use ring::aead::Aad;

use super::shared::Session;
use crate::noise::{DATA_HEADER, TAG, TYPE_DATA, nonce};
use crate::packet::ecn;
use crate::path::Way;
use crate::sys::udp::{Train, Udp};

/// Room for a few of the kernel's large packets.
const ARENA: usize = 320 << 10;
/// A train fits into one IP packet of the kernel …
const TRAIN_BYTES: usize = 65_000;
/// … and has no more datagrams than Linux before 6.9 takes.
const TRAIN_LENGTH: usize = 64;

struct Run {
    to: Way,
    ecn: u8,
    from: usize,
    bytes: usize,
    segment: usize,
    count: usize,
    is_open: bool,
}

/// A batch of datagrams.
pub(crate) struct Outgoing {
    arena: Vec<u8>,
    used: usize,
    runs: Vec<Run>,
}

/// What could not be sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) lost: usize,
    /// A train was refused as a whole: the way is narrower than we thought.
    pub(crate) too_long: bool,
    /// The own address of the way was refused; the datagrams went out from another one.
    pub(crate) sourceless: bool,
}

/// Bytes of a data message with a packet of this length: padded to 16, but not beyond `mtu`.
pub(crate) fn padded(length: usize, mtu: u32) -> usize {
    length.next_multiple_of(16).min(length.max(mtu as usize))
}

impl Outgoing {
    pub(crate) fn new() -> Self {
        Self { arena: vec![0; ARENA], used: 0, runs: Vec::new() }
    }

    /// Bytes that wait to be sent.
    pub(crate) fn bytes(&self) -> usize {
        self.used
    }

    /// Whether a datagram of this size has room.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.used + bytes <= ARENA
    }

    /// Adds a data message; `write` fills in the packet (`length` bytes) and the rest is padding.
    pub(crate) fn add(
        &mut self,
        session: &Session,
        counter: u64,
        (to, ecn): (&Way, u8),
        (length, padded): (usize, usize),
        write: impl FnOnce(&mut [u8]),
    ) {
        let size = DATA_HEADER + padded + TAG;
        let Some(datagram) = self.slot(to, ecn, size) else { return };
        datagram[..4].copy_from_slice(&[TYPE_DATA, 0, 0, 0]);
        datagram[4..8].copy_from_slice(&session.remote.to_le_bytes());
        datagram[8..DATA_HEADER].copy_from_slice(&counter.to_le_bytes());
        let (text, tag) = datagram[DATA_HEADER..].split_at_mut(padded);
        write(&mut text[..length]);
        text[length..].fill(0);
        // The only error is a text of more than 256 GB; such a datagram would be refused by the other side.
        if let Ok(sealed) = session.send.seal_in_place_separate_tag(nonce(counter), Aad::empty(), text) {
            tag.copy_from_slice(sealed.as_ref());
        }
    }

    /// Room for a datagram, behind the header of its path.
    fn slot(&mut self, to: &Way, ecn: u8, size: usize) -> Option<&mut [u8]> {
        let overhead = to.path.overhead();
        let whole = overhead + size;
        if !self.has_room(whole) {
            return None;
        }
        let from = self.used;
        match self.runs.last_mut() {
            Some(run)
                if run.is_open
                    && run.to == *to
                    && run.ecn == ecn
                    && whole <= run.segment
                    && run.count < TRAIN_LENGTH
                    && run.bytes + whole <= TRAIN_BYTES =>
            {
                run.is_open = whole == run.segment;
                run.bytes += whole;
                run.count += 1;
            }
            _ => {
                self.runs.push(Run {
                    to: *to,
                    ecn,
                    from,
                    bytes: whole,
                    segment: whole,
                    count: 1,
                    is_open: true,
                });
            }
        }
        self.used += whole;
        let area = &mut self.arena[from..from + whole];
        if let Some(header) = to.path.header() {
            area[..overhead].copy_from_slice(&header);
        }
        Some(&mut area[overhead..])
    }

    /// Sends everything.
    pub(crate) fn send(&mut self, socket: &Udp) -> Outcome {
        let mut trains: Vec<Train<'_>> = Vec::with_capacity(self.runs.len());
        trains.extend(self.runs.iter().map(|run| Train {
            to: run.to.path.address(),
            local: run.to.local,
            ecn: run.ecn,
            bytes: &self.arena[run.from..run.from + run.bytes],
            segment: run.segment,
        }));
        let outcome = send_trains(socket, &mut trains);
        self.runs.clear();
        self.used = 0;
        outcome
    }
}

/// Sends trains: those that are refused as a whole, one by one, and without their own address if that is the reason.
pub(crate) fn send_trains(socket: &Udp, trains: &mut [Train<'_>]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut rest = trains;
    while let Some(first) = rest.first().copied() {
        let skip = match socket.send(rest) {
            (0, Some(error)) if error.kind() == io::ErrorKind::Interrupted => 0,
            (0, Some(error)) if first.local.is_some() && is_source(&error) => {
                outcome.sourceless = true;
                // The others to the same place have the same address.
                for train in rest.iter_mut().filter(|train| train.local == first.local) {
                    train.local = None;
                }
                0
            }
            (0, Some(error)) => {
                outcome.too_long |= is_too_long(&error);
                outcome.lost += one_by_one(socket, &first, &error);
                1
            }
            (sent, _) => sent.max(1),
        };
        rest = rest.get_mut(skip..).unwrap_or_default();
    }
    outcome
}

fn is_too_long(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMSGSIZE | libc::EINVAL))
}

/// Whether the own address may be the reason: it was taken away, or its network was.
fn is_source(error: &io::Error) -> bool {
    let reasons = [libc::EINVAL, libc::EADDRNOTAVAIL, libc::ENETUNREACH, libc::EHOSTUNREACH];
    error.raw_os_error().is_some_and(|code| reasons.contains(&code))
}

/// Sends a refused train's datagrams alone, so that the kernel may fragment them. Returns how many were lost.
fn one_by_one(socket: &Udp, train: &Train<'_>, error: &io::Error) -> usize {
    let may_help = is_too_long(error) || error.raw_os_error() == Some(libc::EIO);
    let count = train.bytes.len().div_ceil(train.segment.max(1));
    if count == 1 && !is_too_long(error) || !may_help {
        return count;
    }
    let datagrams = train.bytes.chunks(train.segment);
    datagrams
        .filter(|bytes| send_one(socket, &Train { bytes, segment: bytes.len(), ..*train }).is_err())
        .count()
}

fn send_one(socket: &Udp, train: &Train<'_>) -> io::Result<()> {
    match socket.send(std::slice::from_ref(train)) {
        (_, Some(error)) => Err(error),
        _ => Ok(()),
    }
}

/// Sends a single datagram over a path.
pub(crate) fn send_alone(socket: &Udp, to: &Way, datagram: &[u8]) -> io::Result<()> {
    let wrapped = to.path.header().map(|header| [&header, datagram].concat());
    let bytes = wrapped.as_deref().unwrap_or(datagram);
    let train = Train { to: to.path.address(), local: to.local, ecn: 0, bytes, segment: bytes.len() };
    match send_one(socket, &train) {
        Err(error) if train.local.is_some() && is_source(&error) => {
            send_one(socket, &Train { local: None, ..train })
        }
        other => other,
    }
}

/// Encrypts and sends whole inner packets in order, or a keepalive if there is none.
pub(crate) fn send_packets(
    outgoing: &mut Outgoing,
    socket: &Udp,
    session: &Session,
    mtu: u32,
    packets: impl ExactSizeIterator<Item = Vec<u8>>,
    now: u64,
) {
    let peer = &session.peer;
    let Some(way) = peer.way.get() else { return };
    let count = packets.len();
    let counter = session.reserve(count.max(1));
    let longest = mtu.min(peer.limit.load(Relaxed));
    let mut bytes = 0;
    if count == 0 {
        outgoing.add(session, counter, (&way, 0), (0, 0), |_| {});
    }
    for (number, packet) in packets.enumerate() {
        bytes += packet.len();
        if !outgoing.has_room(packet.len() + 128) {
            outgoing.send(socket);
        }
        let size = (packet.len(), padded(packet.len(), longest));
        let to = (&way, ecn::of(&packet));
        outgoing.add(session, counter + number as u64, to, size, |out| out.copy_from_slice(&packet));
    }
    let outcome = outgoing.send(socket);
    peer.counters.lost_sending.fetch_add(outcome.lost as u64, Relaxed);
    peer.sent(now, bytes, count > 0);
}

/// Sends a question or an answer to a peer, `length` bytes long. It counts as no traffic: nothing that is due because
/// of traffic is due because of it.
pub(crate) fn send_probe(
    outgoing: &mut Outgoing,
    socket: &Udp,
    session: &Session,
    to: &Way,
    probe: &[u8],
    length: usize,
) {
    let size = (probe.len(), length.max(probe.len()));
    outgoing.add(session, session.reserve(1), (to, 0), size, |out| out.copy_from_slice(probe));
    outgoing.send(socket);
}
