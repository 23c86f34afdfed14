//! One link from a child to its parent, as the real one behaves over a network that does not.
//!
//! Within a session order is kept: a lost segment delays everything behind it. A session can die at any moment: what
//! is in flight is lost, or arrives at the parent when it is history already, and each end notices in its own time:
//! at once when it is told, after three missed heartbeats when nobody can tell it.

use std::collections::VecDeque;

use crate::agenda::{Agenda, Event, Who};
use crate::frames::Way;
pub(crate) use crate::frames::{DownFrame, UpFrame, View};
use crate::scenario::LinkModel;
use oak_control::cluster::Parting;

/// An end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Parent,
    Child,
}

/// How often the real link sends heartbeats; three that are missing end a session.
const HEARTBEAT_MS: u64 = 1_500;
const SILENCE_MS: u64 = 3 * HEARTBEAT_MS;
/// Messages of one direction that may be on their way; with more the session ends, as the real link's does: its queue
/// holds a thousand, and the buffers of the connection some thousands more.
const MOST_IN_FLIGHT: usize = 8_192;
/// First wait before a lost segment is sent again.
const RETRANSMIT_MS: u64 = 200;
/// Dead sessions of which something may still arrive.
const LINGERING: usize = 4;

pub(crate) struct Link {
    child: Who,
    pub(crate) model: LinkModel,
    /// The session that really exists.
    wire: Option<u64>,
    pub(crate) above: View,
    pub(crate) below: View,
    up: Way<UpFrame>,
    down: Way<DownFrame>,
    lingering: VecDeque<u64>,
    late_clear: u64,
    attempts: u32,
    waited_ms: u64,
    opened_at: u64,
    /// Since when the child has been out of touch; absent while it is in touch.
    pub(crate) away_since: Option<u64>,
}

impl Link {
    pub(crate) fn new(child: Who, model: LinkModel) -> Self {
        Self {
            child,
            model,
            wire: None,
            above: View::default(),
            below: View::default(),
            up: Way::new(),
            down: Way::new(),
            lingering: VecDeque::new(),
            late_clear: 0,
            attempts: 0,
            waited_ms: 0,
            opened_at: 0,
            away_since: Some(0),
        }
    }

    /// Whether both sides are in the same living session and the child has heard the welcome.
    pub(crate) fn is_up(&self) -> bool {
        self.wire.is_some()
            && self.wire == self.above.session
            && self.wire == self.below.session
            && self.below.welcomed
    }

    pub(crate) fn carries(&self, session: u64) -> bool {
        self.wire == Some(session)
    }

    /// Whether a frame of a dead session may still arrive at the child: it does not know yet that it is dead.
    pub(crate) fn reaches_child(&self, session: u64) -> bool {
        self.carries(session) || (self.lingering.contains(&session) && self.below.session == Some(session))
    }

    pub(crate) const fn is_blocked(&self) -> bool {
        self.up.blocks > 0 || self.down.blocks > 0
    }

    /// Messages on their way or held back, of the fuller direction.
    pub(crate) fn queued(&self) -> usize {
        let up = self.up.in_flight + self.up.stuck.len() + self.below.held_up.len();
        let down = self.down.in_flight + self.down.stuck.len() + self.above.held_down.len();
        up.max(down)
    }

    /// How long the child waits before it dials again: growing bounds with full jitter, as the real link does it.
    pub(crate) fn next_wait(&mut self, agenda: &mut Agenda) -> u64 {
        let limit = if self.waited_ms < 60_000 { 1_000 } else { 30_000 };
        let bound = 100_u64.saturating_mul(1 << self.attempts.min(20)).min(limit);
        self.attempts = self.attempts.saturating_add(1);
        let wait = agenda.between(20, bound);
        self.waited_ms = self.waited_ms.saturating_add(wait);
        wait
    }

    /// The child opens a session.
    pub(crate) fn dial(&mut self, agenda: &mut Agenda) -> u64 {
        let session = agenda.number();
        self.wire = Some(session);
        self.below.open(session);
        self.up.reset(agenda.time);
        self.down.reset(agenda.time);
        self.opened_at = agenda.time;
        if self.model.loss.value() >= 0.05 {
            agenda.after(5 * HEARTBEAT_MS, Event::Heartbeats { child: self.child, session });
        }
        session
    }

    pub(crate) fn hello(&mut self, agenda: &mut Agenda, session: u64, frame: UpFrame) {
        if self.below.session == Some(session) {
            self.transmit_up(agenda, session, frame);
        }
    }

    /// The parent has heard the hello.
    pub(crate) fn opened(&mut self, session: u64) {
        self.above.open(session);
    }

    pub(crate) fn welcome(&mut self, agenda: &mut Agenda, session: u64, frame: DownFrame) {
        if self.above.session != Some(session) || self.above.welcomed {
            return;
        }
        self.above.welcomed = true;
        self.transmit_down(agenda, session, frame);
        for frame in std::mem::take(&mut self.above.held_down) {
            self.transmit_down(agenda, session, frame);
        }
    }

    /// The child has heard the welcome.
    pub(crate) fn welcomed(&mut self, agenda: &mut Agenda, session: u64) {
        self.below.welcomed = true;
        self.away_since = None;
        for frame in std::mem::take(&mut self.below.held_up) {
            self.transmit_up(agenda, session, frame);
        }
    }

    pub(crate) fn send_up(&mut self, agenda: &mut Agenda, frame: UpFrame) {
        match self.below.session {
            Some(session) if self.below.welcomed => self.transmit_up(agenda, session, frame),
            Some(_) => self.below.held_up.push(frame),
            None => {}
        }
    }

    pub(crate) fn send_down(&mut self, agenda: &mut Agenda, session: u64, frame: DownFrame) {
        if self.above.session != Some(session) {
            return;
        }
        if self.above.welcomed {
            self.transmit_down(agenda, session, frame);
        } else {
            self.above.held_down.push(frame);
        }
    }

    fn transmit_up(&mut self, agenda: &mut Agenda, session: u64, frame: UpFrame) {
        if !self.carries(session) {
            return;
        }
        if self.up.blocks > 0 {
            self.up.stuck.push((session, frame));
        } else {
            let arrival = self.arrival(agenda, session, End::Parent);
            self.up.in_flight += 1;
            agenda.at(arrival, Event::Up { child: self.child, session, frame: Box::new(frame) });
        }
        if self.up.in_flight + self.up.stuck.len() > MOST_IN_FLIGHT {
            self.cut(agenda);
        }
    }

    fn transmit_down(&mut self, agenda: &mut Agenda, session: u64, frame: DownFrame) {
        if !self.carries(session) {
            return;
        }
        if self.down.blocks > 0 {
            self.down.stuck.push((session, frame));
        } else {
            let arrival = self.arrival(agenda, session, End::Child);
            self.down.in_flight += 1;
            agenda.at(arrival, Event::Down { child: self.child, session, frame: Box::new(frame) });
        }
        if self.down.in_flight + self.down.stuck.len() > MOST_IN_FLIGHT {
            self.cut(agenda);
        }
    }

    /// When a frame sent now reaches `end`. Segments that get lost are sent again with growing waits, and everything
    /// behind them waits as well; when that takes as long as three heartbeats, the end gives the session up.
    fn arrival(&mut self, agenda: &mut Agenda, session: u64, end: End) -> u64 {
        let model = self.model;
        let mut wait = model.delay.ms + agenda.between(0, model.jitter.ms);
        let mut pause = RETRANSMIT_MS.max(2 * model.delay.ms);
        while wait < 4 * SILENCE_MS && agenda.chance(model.loss.value()) {
            wait += pause;
            pause *= 2;
        }
        let clear = match end {
            End::Parent => &mut self.up.clear,
            End::Child => &mut self.down.clear,
        };
        *clear = (*clear).max(agenda.time + wait);
        let arrival = *clear;
        if arrival > agenda.time + SILENCE_MS + model.delay.ms {
            // Block 0 is never a real one: this silence needs no partition.
            agenda.after(SILENCE_MS, Event::Silence { child: self.child, session, end, block: 0 });
        }
        arrival
    }

    /// A frame that was on its way has arrived.
    pub(crate) const fn landed(&mut self, end: End) {
        match end {
            End::Parent => self.up.in_flight = self.up.in_flight.saturating_sub(1),
            End::Child => self.down.in_flight = self.down.in_flight.saturating_sub(1),
        }
    }

    /// Nothing gets through any more, and nobody is told.
    pub(crate) fn block(&mut self, agenda: &mut Agenda, up: bool, down: bool) {
        for (wanted, end) in [(up, End::Parent), (down, End::Child)] {
            if !wanted {
                continue;
            }
            let number = agenda.number();
            let (blocks, block) = match end {
                End::Parent => (&mut self.up.blocks, &mut self.up.block),
                End::Child => (&mut self.down.blocks, &mut self.down.block),
            };
            *blocks += 1;
            if *blocks > 1 {
                continue;
            }
            *block = number;
            if let Some(session) = self.wire {
                // The last heartbeat got through within the last interval.
                let silent = agenda.between(SILENCE_MS - HEARTBEAT_MS, SILENCE_MS);
                agenda.after(silent, Event::Silence { child: self.child, session, end, block: number });
            }
        }
        self.away_since.get_or_insert(agenda.time);
    }

    /// One partition less. What waited is sent when the sender tries again.
    pub(crate) fn heal(&mut self, agenda: &mut Agenda, up: bool, down: bool) {
        self.up.blocks = self.up.blocks.saturating_sub(u32::from(up));
        self.down.blocks = self.down.blocks.saturating_sub(u32::from(down));
        let retry = agenda.between(RETRANSMIT_MS, 1_500);
        if self.up.blocks == 0 {
            self.up.clear = self.up.clear.max(agenda.time + retry);
            for (session, frame) in std::mem::take(&mut self.up.stuck) {
                self.transmit_up(agenda, session, frame);
            }
        }
        if self.down.blocks == 0 {
            self.down.clear = self.down.clear.max(agenda.time + retry);
            for (session, frame) in std::mem::take(&mut self.down.stuck) {
                self.transmit_down(agenda, session, frame);
            }
        }
        if self.is_up() && !self.is_blocked() {
            self.away_since = None;
        }
    }

    /// The line becomes another one.
    pub(crate) fn degrade(&mut self, agenda: &mut Agenda, model: LinkModel) {
        self.model = model;
        if let Some(session) = self.wire.filter(|_| model.loss.value() >= 0.05) {
            agenda.after(5 * HEARTBEAT_MS, Event::Heartbeats { child: self.child, session });
        }
    }

    /// Whether that silence is real: the session is still the same, and so is the block.
    pub(crate) fn is_silent(&self, session: u64, end: End, block: u64) -> bool {
        let present = match end {
            End::Parent => self.up.block,
            End::Child => self.down.block,
        };
        let blocked = match end {
            End::Parent => self.up.blocks > 0,
            End::Child => self.down.blocks > 0,
        };
        self.carries(session) && (block == 0 || (blocked && block == present))
    }

    /// On a bad line five heartbeats in a row may need so many attempts that the session is given up.
    pub(crate) fn heartbeats(&mut self, agenda: &mut Agenda, session: u64) -> Option<End> {
        let loss = self.model.loss.value();
        if !self.carries(session) || loss < 0.05 {
            return None;
        }
        // Five losses in a row add up to more than three intervals; five heartbeats each way since the last look.
        if agenda.chance(10.0 * loss.powi(5)) {
            return Some(if agenda.chance(0.5) { End::Parent } else { End::Child });
        }
        agenda.after(5 * HEARTBEAT_MS, Event::Heartbeats { child: self.child, session });
        None
    }

    /// The session dies; both sides learn it later.
    pub(crate) fn cut(&mut self, agenda: &mut Agenda) {
        let Some(session) = self.end(agenda) else { return };
        let told = |agenda: &mut Agenda, blocked: bool| {
            if blocked {
                agenda.between(SILENCE_MS - HEARTBEAT_MS, SILENCE_MS)
            } else {
                agenda.between(0, 2_000)
            }
        };
        if self.above.session == Some(session) {
            let blocked = self.up.blocks > 0;
            let delay = told(agenda, blocked);
            let parting = if blocked { Parting::Silent } else { Parting::Broken };
            agenda.after(delay, Event::ParentNotices { child: self.child, session, parting });
        }
        if self.below.session == Some(session) {
            let delay = told(agenda, self.down.blocks > 0);
            agenda.after(delay, Event::ChildNotices { child: self.child, session });
        }
    }

    /// One end has given the session up; returns it. The other end is told, if anything gets to it.
    pub(crate) fn given_up(&mut self, agenda: &mut Agenda, by: End) -> Option<u64> {
        let session = self.end(agenda)?;
        let blocked = match by {
            End::Parent => self.down.blocks > 0,
            End::Child => self.up.blocks > 0,
        };
        let delay = if blocked { agenda.between(0, SILENCE_MS) } else { self.model.delay.ms + 1 };
        let event = match by {
            End::Parent => Event::ChildNotices { child: self.child, session },
            End::Child => Event::ParentNotices { child: self.child, session, parting: Parting::Broken },
        };
        agenda.after(delay, event);
        Some(session)
    }

    fn end(&mut self, agenda: &mut Agenda) -> Option<u64> {
        let session = self.wire.take();
        if let Some(session) = session {
            // Sometimes what is on its way still arrives, when the session is history.
            if agenda.chance(0.3) {
                self.lingering.push_back(session);
                if self.lingering.len() > LINGERING {
                    self.lingering.pop_front();
                }
            }
            if agenda.time.saturating_sub(self.opened_at) >= 10_000 {
                self.attempts = 0;
                self.waited_ms = 0;
            }
        }
        self.up.reset(agenda.time);
        self.down.reset(agenda.time);
        self.away_since.get_or_insert(agenda.time);
        session
    }

    /// When a frame of a dead session arrives at the parent, if it does. In order, as it was sent.
    pub(crate) fn arrives_late(&mut self, agenda: &mut Agenda, session: u64) -> Option<u64> {
        if !self.lingering.contains(&session) {
            return None;
        }
        self.late_clear = self.late_clear.max(agenda.time + agenda.between(0, 4_000));
        Some(self.late_clear)
    }

    pub(crate) fn child_crashed(&mut self, agenda: &mut Agenda) {
        let session = self.below.session;
        self.below = View::default();
        self.attempts = 0;
        self.waited_ms = 0;
        self.cut(agenda);
        // It may have been dead before, and its parent not know it yet: that is under way already.
        debug_assert!(session.is_none() || self.wire.is_none());
    }

    pub(crate) fn parent_crashed(&mut self, agenda: &mut Agenda) {
        self.above = View::default();
        self.cut(agenda);
        // Whatever arrives finds another process.
        self.lingering.clear();
    }

    /// The child lost power: nothing tells the parent.
    pub(crate) fn child_vanished(&mut self, agenda: &mut Agenda) {
        self.below = View::default();
        self.attempts = 0;
        self.waited_ms = 0;
        if let Some(session) = self.end(agenda)
            && self.above.session == Some(session)
        {
            let silent = agenda.between(SILENCE_MS - HEARTBEAT_MS, SILENCE_MS);
            let parting = Parting::Silent;
            agenda.after(silent, Event::ParentNotices { child: self.child, session, parting });
        }
    }

    /// The parent lost power: nothing tells the child.
    pub(crate) fn parent_vanished(&mut self, agenda: &mut Agenda) {
        self.above = View::default();
        if let Some(session) = self.end(agenda)
            && self.below.session == Some(session)
        {
            let silent = agenda.between(SILENCE_MS - HEARTBEAT_MS, SILENCE_MS);
            agenda.after(silent, Event::ChildNotices { child: self.child, session });
        }
        self.lingering.clear();
    }
}
