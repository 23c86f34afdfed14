//! Whether the kernel's WireGuard carries the packets to a peer. Two engines whose kernels can do that tell each other so
//! behind their questions and answers ([`super::probe`]), and each decides for its own direction:
//!
//! ```text
//! user ──both are ready──► trying ──packets arrive in both directions──► kernel
//!  ▲                         │                                             │
//!  └───── not any more ready, or nothing arrives (then not again for a while) ◄┘
//! ```
//!
//! Which packets go where is a question of routes only, so that connections do not notice; what arrives is taken in every
//! state. Counters of both sides tell an interrupted lane from one that has nothing to say.

use std::net::SocketAddr;

/// So long a first packet may take; the kernel repeats a handshake after 5 s.
const TRY: u64 = 16_000;
/// Nothing is tried again sooner …
const SETTLE: u64 = 2_000;
/// … and after a failure not before this time, twice as long with each, at most …
const BACK_OFF: u64 = 30_000;
/// … so many doublings. They are forgotten once the lane has worked for this long.
const DOUBLINGS: u32 = 6;
const WORKED: u64 = 300_000;
/// The other side reads its counters once per second: later news than this after a packet counts that packet.
const COUNTED: u64 = 900;
/// Without news of the other engine, which may be starting again, a lane without answers is given up after this time:
/// the kernel itself says something after 10 s and has a new handshake after 15.
const DEAF: u64 = 20_000;
/// Who sends nothing for this long is owed nothing.
const QUIET: u64 = 3_000;
/// The other side is told of a change so often, until it has answered.
const TELLS: u32 = 5;

/// What a peer has said last, on the path in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) at: u64,
    /// It would use the lane.
    pub(crate) is_ready: bool,
    /// Its UDP port.
    pub(crate) port: u16,
    /// It sees this node at an address of its own: no NAT in between changes what this node sends.
    pub(crate) sees_own: bool,
    /// Bytes it has sent and received through the lane.
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

/// What the kernel says of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// It has keys to encrypt with.
    pub(crate) has_session: bool,
}

/// What a decision is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Where the peer is, if that is an address of its own and both keys are known to both.
    pub(crate) path: Option<SocketAddr>,
    /// Packets of full length have passed there.
    pub(crate) is_wide: bool,
    /// None since the engine has started, or since the path has changed.
    pub(crate) heard: Option<Heard>,
    /// None if the kernel does not know the peer.
    pub(crate) counts: Option<Counts>,
}

/// What has to be done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Tell the kernel of the peer; something has to be sent every second.
    Try(SocketAddr),
    /// Send the peer's packets through the kernel.
    Use,
    /// Both sides had time to see that packets arrive: nothing has to be sent any more without traffic.
    Rest,
    /// Send them through this process.
    Leave(Why),
    /// Ask the peer, which tells it how things are here.
    Ask,
}

/// Why a lane is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It is not a pair for the lane any more, on one of the two sides.
    Unfit,
    /// Nothing arrives.
    Dead,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    User,
    Trying {
        since: u64,
        to: SocketAddr,
        received: u64,
        peer_received: u64,
    },
    Kernel {
        since: u64,
        to: SocketAddr,
        rests: bool,
    },
}

/// State of one peer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lane {
    stage: Stage,
    retry_at: u64,
    failures: u32,
    watch: Watch,
    told: Told,
}

/// What the peer was told last, and how often.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    is_ready: bool,
    at: u64,
    times: u32,
}

impl Lane {
    /// Of a lane that an earlier engine has left in use.
    pub(crate) fn adopted(now: u64, to: SocketAddr) -> Self {
        let told = Told { is_ready: true, at: now, times: 0 };
        Self { stage: Stage::Kernel { since: now, to, rests: true }, told, ..Self::default() }
    }

    /// Whether the peer's packets go through the kernel.
    pub(crate) fn is_used(&self) -> bool {
        matches!(self.stage, Stage::Kernel { .. })
    }

    /// Whether the kernel's counters matter.
    pub(crate) fn is_watched(&self) -> bool {
        self.stage != Stage::User
    }

    /// Whether this node would use the lane: what the peer is told.
    pub(crate) fn is_ready(&self, now: u64, facts: &Facts) -> bool {
        let is_seen = facts.heard.map_or(self.is_used(), |heard| heard.sees_own);
        let may_begin = self.is_watched() || (facts.is_wide && now >= self.retry_at);
        facts.path.is_some() && is_seen && may_begin
    }

    /// Looks at the clock and at everything else.
    pub(crate) fn tick(&mut self, now: u64, facts: &Facts) -> Vec<Step> {
        let mut steps: Vec<Step> = self.decide(now, facts).into_iter().collect();
        let is_ready = self.is_ready(now, facts);
        if is_ready != self.told.is_ready {
            self.told = Told { is_ready, at: now, times: 0 };
        }
        // Once more than it takes: an answer may be to a question before.
        let has_answered = facts.heard.is_some_and(|heard| heard.at > self.told.at);
        let tells = if has_answered { 2 } else { TELLS };
        if self.told.at != 0 && self.told.times < tells {
            self.told.times += 1;
            steps.push(Step::Ask);
        }
        steps.dedup();
        steps
    }

    fn decide(&mut self, now: u64, facts: &Facts) -> Option<Step> {
        let target = self.target(now, facts);
        match self.stage {
            Stage::User => {
                let (to, heard) = target.zip(facts.heard)?;
                let received = facts.counts.unwrap_or_default().received;
                self.stage = Stage::Trying { since: now, to, received, peer_received: heard.received };
                Some(Step::Try(to))
            }
            Stage::Trying { to, .. } if target != Some(to) => Some(self.leave(now, Why::Unfit)),
            Stage::Trying { since, to, received, peer_received } => {
                let counts = facts.counts.unwrap_or_default();
                let arrives = counts.has_session && counts.received != received;
                let is_heard =
                    facts.heard.is_some_and(|heard| heard.at > since && heard.received != peer_received);
                if arrives && is_heard {
                    self.stage = Stage::Kernel { since: now, to, rests: false };
                    self.watch = Watch { sent: counts.sent, received: counts.received, ..Watch::default() };
                    return Some(Step::Use);
                }
                Some(if now >= since + TRY { self.leave(now, Why::Dead) } else { Step::Ask })
            }
            Stage::Kernel { since, to, rests } => {
                let is_same = match facts.heard {
                    Some(_) => target == Some(to),
                    None => facts.path.is_some_and(|path| path.ip() == to.ip()),
                };
                let Some(counts) = facts.counts.filter(|_| is_same) else {
                    return Some(self.leave(now, Why::Unfit));
                };
                if now >= since + WORKED {
                    self.failures = 0;
                }
                if !rests && now >= since + TRY {
                    self.stage = Stage::Kernel { since, to, rests: true };
                    return Some(Step::Rest);
                }
                match self.watch.judge(now, &counts, facts.heard) {
                    Verdict::Fine => None,
                    Verdict::Doubtful => Some(Step::Ask),
                    Verdict::Dead => Some(self.leave(now, Why::Dead)),
                }
            }
        }
    }

    /// Where the kernel shall send to, if both sides are ready.
    fn target(&self, now: u64, facts: &Facts) -> Option<SocketAddr> {
        let heard = facts.heard.filter(|heard| heard.is_ready && heard.port != 0)?;
        let mut to = facts.path.filter(|_| self.is_ready(now, facts))?;
        to.set_port(heard.port);
        Some(to)
    }

    fn leave(&mut self, now: u64, why: Why) -> Step {
        self.stage = Stage::User;
        self.retry_at = now + SETTLE;
        if why == Why::Dead {
            self.retry_at = now + (BACK_OFF << self.failures.min(DOUBLINGS));
            self.failures += 1;
        }
        Step::Leave(why)
    }
}

/// Whether what is sent arrives.
#[derive(Clone, Copy, Debug, Default)]
struct Watch {
    sent: u64,
    received: u64,
    last_sent: u64,
    /// When something was sent while nothing came.
    silent_since: Option<u64>,
    base: Option<Base>,
}

/// How things were at a moment of the silence.
#[derive(Clone, Copy, Debug)]
struct Base {
    heard: Heard,
    sent: u64,
    /// When more had been sent.
    more_at: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    Doubtful,
    Dead,
}

impl Watch {
    fn judge(&mut self, now: u64, counts: &Counts, heard: Option<Heard>) -> Verdict {
        let (has_sent, has_received) = (counts.sent != self.sent, counts.received != self.received);
        (self.sent, self.received) = (counts.sent, counts.received);
        if has_sent {
            self.last_sent = now;
        }
        let is_owed = now < self.last_sent + QUIET;
        let since = match self.silent_since {
            _ if has_received || !is_owed => {
                (self.silent_since, self.base) = (None, None);
                return Verdict::Fine;
            }
            None => {
                self.silent_since = Some(now);
                return Verdict::Doubtful;
            }
            Some(since) => since,
        };
        let Some(heard) = heard.filter(|heard| heard.at > since) else {
            return if now >= since + DEAF { Verdict::Dead } else { Verdict::Doubtful };
        };
        let fresh = Base { heard, sent: counts.sent, more_at: None };
        let base = self.base.get_or_insert(fresh);
        if base.more_at.is_none() && counts.sent != base.sent {
            base.more_at = Some(now);
        }
        // It has sent, and nothing came.
        let loses = heard.at >= base.heard.at + COUNTED && heard.sent != base.heard.sent;
        // This side has sent, and it has counted since.
        let has_counted = base.more_at.is_some_and(|more_at| heard.at >= more_at + COUNTED);
        if loses || (has_counted && heard.received == base.heard.received) {
            return Verdict::Dead;
        }
        if has_counted {
            self.base = Some(fresh);
        }
        Verdict::Doubtful
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
