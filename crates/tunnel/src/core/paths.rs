//! Which path to a peer is used: the best one that answers.
//!
//! Engines ask each other "do you hear me on this path?" inside their sessions ([`super::probe`]). A path is changed
//!
//! * to a better one (earlier in the list) as soon as it has answered: nodes behind NATs ask at about the same time,
//!   because new paths and new traffic begin a series of quick questions, and so open their NATs for each other;
//! * to any that answers, when data was sent, nothing comes back, and the current one does not answer either;
//! * to where the peer's packets come from, if that is better, or if the current one does not answer. Two nodes may
//!   so use different paths, if both paths work in both directions.
//!
//! Peers that do not answer questions (every other WireGuard) are where their packets come from.

use super::timers::Traffic;
use crate::path::{Path, Way};

/// Without traffic for this long nothing is asked.
const ACTIVE: u64 = 20_000;
/// A path that answered is asked again after this time.
const AGAIN: u64 = 10_000;
/// Data that was sent and not answered for this long makes the current path suspicious …
const SUSPECT: u64 = 1_500;
/// … and after this time without its answer any other will do.
const PATIENCE: u64 = 500;
/// The others are asked this often then.
const SEARCH: u64 = 1_000;
/// Packets come by a worse path: the current one has so long to answer.
const DOUBT: u64 = 400;
/// It answered: packets by that same worse path are no reason to ask again for this long.
const TRUST: u64 = 5_000;
/// A question is repeated at the earliest after this time.
const GAP: u64 = 200;
/// Outer packets of which size are tried, after what the system thinks: some networks swallow longer ones in silence.
const WIDTHS: [u32; 4] = [u32::MAX, 1420, 1360, 1280];
/// A packet of the full size is repeated after this time …
const WIDTH_GAP: u64 = 400;
/// … and so often, before a smaller size is used.
const WIDTH_TRIES: u32 = 3;
/// A size that passed is tried again after this time, and a larger one.
const WIDTH_AGAIN: u64 = 60_000;

/// A path and what is known of it.
#[derive(Clone, Debug)]
struct Candidate {
    path: Path,
    asked: u64,
    next: u64,
    unanswered: u32,
    /// When it answered last; 0 is never.
    answered: u64,
    round_trip_us: Option<u32>,
}

/// The size of packets that gets through the current path.
#[derive(Clone, Copy, Debug, Default)]
struct Width {
    step: usize,
    next: u64,
    misses: u32,
    first_miss: u64,
    passed: bool,
}

/// All paths of a peer.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    listed: Vec<Candidate>,
    /// Where the peer was found although it is not listed.
    found: Option<Candidate>,
    current: Option<(Way, u64)>,
    /// The peer is an engine like this one.
    understands: bool,
    /// A worse way by which packets came, and since when.
    doubt: Option<(Way, u64)>,
    /// The last such way, and when the current one has answered nevertheless.
    dispelled: Option<(Path, u64)>,
    /// Whatever answers is better than the current one.
    is_lost: bool,
    width: Width,
}

/// A question to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) way: Way,
    /// For a question of full size: which size.
    pub(crate) step: Option<usize>,
}

/// What follows from a look at the clock.
#[derive(Debug, Default)]
pub(crate) struct Due {
    pub(crate) ask: Vec<Ask>,
    pub(crate) moved: Option<Way>,
    /// The size changed.
    pub(crate) resized: bool,
    /// Data is sent and nothing answers.
    pub(crate) lost: bool,
}

impl Candidate {
    fn new(path: Path, now: u64) -> Self {
        Self { path, asked: 0, next: now, unanswered: 0, answered: 0, round_trip_us: None }
    }

    fn ask(&mut self, now: u64) {
        self.asked = now;
        self.unanswered = self.unanswered.saturating_add(1);
        self.next = now
            + match self.unanswered {
                0..=4 => 250,
                5..=8 => 1_000,
                9..=11 => 5_000,
                _ => 60_000,
            };
    }
}

impl Paths {
    /// Sets the list, best first. Returns where to send now, if that has changed.
    pub(crate) fn configure(&mut self, now: u64, paths: &[Path]) -> Option<Way> {
        let mut before = std::mem::take(&mut self.listed);
        before.extend(self.found.take());
        for path in paths {
            let known = before.iter().position(|candidate| candidate.path == *path);
            let known = known.map(|place| before.swap_remove(place));
            self.listed.push(known.unwrap_or_else(|| Candidate::new(*path, now)));
        }
        match self.current {
            Some((way, _)) => {
                self.found = before.into_iter().find(|candidate| candidate.path == way.path);
                None
            }
            None => paths.first().and_then(|path| self.take(now, Way::from(*path))),
        }
    }

    /// Where to send.
    pub(crate) fn current(&self) -> Option<Way> {
        self.current.map(|(way, _)| way)
    }

    /// Since when the current path is used.
    pub(crate) fn since(&self) -> Option<u64> {
        self.current.map(|(_, since)| since)
    }

    /// Round trip of the current path in microseconds, if it answered.
    pub(crate) fn round_trip_us(&self) -> Option<u32> {
        self.candidate(&self.current()?.path)?.round_trip_us
    }

    /// The largest outer packet that gets through the current path, as far as this side found out.
    pub(crate) fn width(&self) -> u32 {
        width_of(self.width.step)
    }

    /// Whether packets of the full length were seen to pass; none if they were not, or if that is not known yet.
    pub(crate) fn passes_full_size(&self) -> Option<bool> {
        let Width { step, passed, .. } = self.width;
        (step > 0 || passed).then_some(step == 0)
    }

    /// Every way, the current one first.
    pub(crate) fn all(&self) -> Vec<Way> {
        let current = self.current();
        let others = self.listed.iter().map(|candidate| candidate.path);
        let others = others.filter(|path| current.is_none_or(|way| way.path != *path)).map(Way::from);
        current.into_iter().chain(others).collect()
    }

    /// Uses this way whatever is known.
    pub(crate) fn take(&mut self, now: u64, way: Way) -> Option<Way> {
        let before = self.current.replace((way, now));
        if before.is_some_and(|(old, _)| old == way) {
            self.current = before;
            return None;
        }
        match before {
            // Another of our own addresses: still the same path.
            Some((old, since)) if old.path == way.path => self.current = Some((way, since)),
            _ => {
                self.doubt = None;
                self.dispelled = None;
                self.is_lost = false;
                self.width = Width { next: now, ..Width::default() };
                if self.candidate(&way.path).is_none() {
                    self.found = Some(Candidate::new(way.path, now));
                }
                if let Some(candidate) = self.candidate_mut(&way.path) {
                    candidate.next = now;
                }
            }
        }
        Some(way)
    }

    /// Our own address is none any more.
    pub(crate) fn forget_local(&mut self, now: u64) -> Option<Way> {
        let way = self.current()?;
        self.take(now, Way::from(way.path))
    }

    /// An authentic packet of the peer came by another way than the current one.
    pub(crate) fn came(&mut self, now: u64, way: Way) -> Option<Way> {
        let Some((current, _)) = self.current else { return self.take(now, way) };
        let is_better = self.rank(&way.path) < self.rank(&current.path);
        if current.path == way.path || is_better || self.is_lost || !self.understands {
            return self.take(now, way);
        }
        let is_old_news = self.dispelled.is_some_and(|(path, at)| path == way.path && now < at + TRUST);
        if self.doubt.is_none() && !is_old_news {
            self.doubt = Some((way, now));
            if let Some(candidate) = self.candidate_mut(&current.path) {
                candidate.next = now;
            }
        }
        None
    }

    /// Whether the clock has to be looked at soon.
    pub(crate) fn is_urgent(&self) -> bool {
        self.doubt.is_some()
    }

    /// The peer asked by this way.
    pub(crate) fn questioned(&mut self, now: u64, way: Way) {
        self.understands = true;
        let is_current = |path: &Path| self.current.is_some_and(|(current, _)| current.path == *path);
        if self.candidate(&way.path).is_none() {
            let may_forget = self.found.as_ref().is_none_or(|found| !is_current(&found.path));
            if way.path.is_direct() && may_forget {
                self.found = Some(Candidate::new(way.path, now));
            }
        } else if !is_current(&way.path)
            && let Some(candidate) = self.candidate_mut(&way.path)
        {
            // It gets through to us, so ours may get through now.
            candidate.next = candidate.next.min(now.max(candidate.asked + GAP));
        }
    }

    /// The peer answered by this way, to a question of this size, after this time. True if the size has changed.
    pub(crate) fn answered(
        &mut self,
        now: u64,
        way: Way,
        round_trip_us: u32,
        step: Option<usize>,
    ) -> (Option<Way>, bool) {
        self.understands = true;
        let Some(candidate) = self.candidate_mut(&way.path) else { return (None, false) };
        candidate.unanswered = 0;
        candidate.answered = now;
        candidate.next = candidate.next.max(now + AGAIN);
        let smooth = |old: u32| u32::try_from((u64::from(old) * 7 + u64::from(round_trip_us)) / 8);
        candidate.round_trip_us =
            Some(candidate.round_trip_us.map_or(round_trip_us, |old| smooth(old).unwrap_or(old)));
        let Some((current, _)) = self.current else { return (self.take(now, way), false) };
        if current.path == way.path {
            if let Some((doubted, _)) = self.doubt.take() {
                self.dispelled = Some((doubted.path, now));
            }
            self.is_lost = false;
            return (None, step.is_some_and(|step| self.passed(now, step)));
        }
        let is_better = self.rank(&way.path) < self.rank(&current.path);
        (if is_better || self.is_lost { self.take(now, way) } else { None }, false)
    }

    /// A packet of this size got through the current path.
    fn passed(&mut self, now: u64, step: usize) -> bool {
        if step > self.width.step {
            return false;
        }
        let is_larger = step < self.width.step;
        self.width = Width { step, next: now + WIDTH_AGAIN, passed: true, ..Width::default() };
        is_larger
    }

    /// Looks at the clock; there is a session.
    pub(crate) fn tick(&mut self, now: u64, is_kept_alive: bool, traffic: &Traffic) -> Due {
        let mut due = Due::default();
        if let Some((way, since)) = self.doubt
            && now >= since + DOUBT
        {
            due.moved = self.take(now, way);
        }
        let Some((current, _)) = self.current else { return due };
        let newest = traffic.last_sent.max(traffic.last_received);
        if !is_kept_alive && now.saturating_sub(newest) > ACTIVE {
            return due;
        }
        due.lost = self.suspect(now, &current, traffic);
        self.ask_paths(now, &current, &mut due);
        if self.understands {
            self.ask_width(now, &current, &mut due);
        }
        due
    }

    /// Asks on a path that lets data go unanswered; true once it does not answer either.
    fn suspect(&mut self, now: u64, current: &Way, traffic: &Traffic) -> bool {
        let Some(candidate) = self.candidate_mut(&current.path) else { return false };
        if traffic.unanswered_since == 0 {
            return false;
        }
        let silent_since = traffic.unanswered_since.max(candidate.answered);
        if now < silent_since + SUSPECT {
            return false;
        }
        candidate.next = candidate.next.min(candidate.asked + GAP);
        let is_lost = self.understands && now >= silent_since + SUSPECT + PATIENCE;
        self.is_lost |= is_lost;
        is_lost
    }

    fn ask_paths(&mut self, now: u64, current: &Way, due: &mut Due) {
        let limit = if self.is_lost { usize::MAX } else { self.rank(&current.path) };
        let relay = self.first_relay();
        let (is_lost, understands) = (self.is_lost, self.understands);
        let listed = self.listed.iter_mut().enumerate().map(|(place, one)| (rank_listed(place), one));
        let found = self.found.iter_mut().map(|one| (rank_found(&one.path, relay), one));
        for (rank, candidate) in listed.chain(found) {
            let is_current = candidate.path == current.path;
            if !is_current && (!understands || rank > limit) {
                continue;
            }
            let hurries = is_lost && now >= candidate.asked + SEARCH;
            if now >= candidate.next || hurries {
                candidate.ask(now);
                let way = if is_current { *current } else { Way::from(candidate.path) };
                due.ask.push(Ask { way, step: None });
            }
        }
    }

    fn ask_width(&mut self, now: u64, current: &Way, due: &mut Due) {
        let Some(answered) = self.candidate(&current.path).map(|candidate| candidate.answered) else {
            return;
        };
        if answered == 0 || now < self.width.next {
            return;
        }
        let width = &mut self.width;
        if width.misses >= WIDTH_TRIES {
            // Short ones get through and long ones do not.
            let is_narrow = answered > width.first_miss && width.step + 1 < WIDTHS.len();
            let step = width.step + usize::from(is_narrow);
            due.resized = is_narrow;
            *width = Width { step, next: now, ..Width::default() };
        }
        if width.passed && width.step > 0 {
            due.ask.push(Ask { way: *current, step: Some(width.step - 1) });
        }
        if width.misses == 0 {
            width.first_miss = now;
        }
        width.misses += 1;
        width.next = now + WIDTH_GAP;
        due.ask.push(Ask { way: *current, step: Some(width.step) });
        if width.misses > 1
            && let Some(candidate) = self.candidate_mut(&current.path)
        {
            candidate.next = candidate.next.min(candidate.asked + WIDTH_GAP);
        }
    }

    /// Smaller is better.
    fn rank(&self, path: &Path) -> usize {
        match self.listed.iter().position(|candidate| candidate.path == *path) {
            Some(place) => rank_listed(place),
            None => rank_found(path, self.first_relay()),
        }
    }

    fn first_relay(&self) -> usize {
        let relay = self.listed.iter().position(|candidate| !candidate.path.is_direct());
        relay.unwrap_or(self.listed.len())
    }

    fn candidate(&self, path: &Path) -> Option<&Candidate> {
        self.listed.iter().chain(&self.found).find(|candidate| candidate.path == *path)
    }

    fn candidate_mut(&mut self, path: &Path) -> Option<&mut Candidate> {
        self.listed.iter_mut().chain(&mut self.found).find(|candidate| candidate.path == *path)
    }
}

/// The outer size of a step.
pub(crate) fn width_of(step: usize) -> u32 {
    WIDTHS.get(step).copied().unwrap_or(u32::MAX)
}

fn rank_listed(place: usize) -> usize {
    2 * place + 1
}

/// What nobody told us of is behind every direct path of the list and before its relays.
fn rank_found(path: &Path, first_relay: usize) -> usize {
    if path.is_direct() { 2 * first_relay } else { usize::MAX }
}

#[cfg(test)]
#[path = "paths_tests.rs"]
mod tests;
