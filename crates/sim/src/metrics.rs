//! What is measured of a run: how many instances run, how long they are down, what travels and what piles up.

use std::collections::{BTreeMap, HashMap};

use oak_model::InstanceKey;

use crate::agenda::{ProcessChange, ProcessEvent};
use crate::timeline::Timeline;

/// What is known of one instance.
#[derive(Default)]
pub(crate) struct Track {
    /// The user wants it, and it has not completed.
    pub(crate) wanted: bool,
    pub(crate) asked_at: u64,
    /// It has run once.
    pub(crate) ran: bool,
    /// Its processes, with their workers.
    pub(crate) processes: Vec<(usize, u64)>,
    /// Since when it has no process although it ran before.
    pub(crate) down_since: Option<u64>,
    /// It did not end by itself.
    taken: bool,
    /// It was placed on another worker; since when the former one was away.
    moved_from: Option<u64>,
}

/// A look at the system.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Sample {
    /// When, milliseconds.
    pub at_ms: u64,
    /// Instances the users want and have been promised.
    pub wanted: usize,
    /// Those of them that have a process somewhere.
    pub running: usize,
    /// Processes of each cluster, in the order of the scenario.
    pub by_cluster: Vec<usize>,
}

#[derive(Default)]
pub(crate) struct Metrics {
    pub(crate) tracks: HashMap<InstanceKey, Track>,
    pub(crate) wanted: usize,
    pub(crate) running: usize,
    /// Wanted instances that ran before and do not now.
    pub(crate) down: usize,
    /// Milliseconds from the wish to the first process.
    pub(crate) starts: Vec<u64>,
    /// Milliseconds without a process, of instances whose processes were taken from them.
    pub(crate) recoveries: Vec<u64>,
    /// Milliseconds from the loss of contact with a worker to the process on another one.
    pub(crate) moves: Vec<u64>,
    pub(crate) placements: u64,
    placements_before: u64,
    pub(crate) most_placements_per_second: u64,
    pub(crate) exits: u64,
    pub(crate) samples: Vec<Sample>,
    pub(crate) by_cluster: Vec<usize>,
    /// All that were wanted ran at the same time once.
    pub(crate) was_complete: bool,
    /// Smallest share of wanted instances that ran, after that; with its time.
    pub(crate) least_running: Option<(f64, u64)>,
    pub(crate) messages: BTreeMap<&'static str, u64>,
    pub(crate) peaks: BTreeMap<&'static str, usize>,
    pub(crate) random_faults: BTreeMap<&'static str, u64>,
    pub(crate) timeline: Timeline,
}

impl Metrics {
    /// The user was promised an instance.
    pub(crate) fn want(&mut self, now: u64, key: InstanceKey) {
        let track = self.tracks.entry(key).or_default();
        if !track.wanted {
            track.wanted = true;
            track.asked_at = now;
            self.wanted += 1;
            self.running += usize::from(!track.processes.is_empty());
        }
    }

    /// The user does not want an instance any more, or it has completed.
    pub(crate) fn unwant(&mut self, key: InstanceKey) {
        let Some(track) = self.tracks.get_mut(&key).filter(|track| track.wanted) else { return };
        track.wanted = false;
        self.wanted -= 1;
        self.running -= usize::from(!track.processes.is_empty());
        self.down -= usize::from(track.down_since.take().is_some());
        if track.processes.is_empty() {
            self.tracks.remove(&key);
        }
    }

    /// A cluster placed an instance on another worker than before, which has been away since `away_since`.
    pub(crate) fn moved(&mut self, key: InstanceKey, away_since: Option<u64>) {
        if let Some(track) = self.tracks.get_mut(&key) {
            track.moved_from = away_since;
        }
    }

    pub(crate) fn process(&mut self, now: u64, cluster: usize, change: ProcessChange) {
        match change.what {
            ProcessEvent::Began => self.began(now, change),
            ProcessEvent::Completed | ProcessEvent::Exited | ProcessEvent::Taken => self.ended(now, change),
        }
        if let Some(count) = self.by_cluster.get_mut(cluster) {
            match change.what {
                ProcessEvent::Began => *count += 1,
                _ => *count = count.saturating_sub(1),
            }
        }
    }

    fn began(&mut self, now: u64, change: ProcessChange) {
        let track = self.tracks.entry(change.key).or_default();
        track.processes.push((change.worker, change.process));
        if let Some(away_since) = track.moved_from.take() {
            self.moves.push(now.saturating_sub(away_since));
        }
        if track.processes.len() > 1 || !track.wanted {
            return;
        }
        self.running += 1;
        if !track.ran {
            track.ran = true;
            self.starts.push(now.saturating_sub(track.asked_at));
        } else if let Some(since) = track.down_since.take() {
            self.down -= 1;
            if track.taken {
                self.recoveries.push(now.saturating_sub(since));
            }
            if self.down == 0 {
                self.timeline.all_up(now);
            }
        }
    }

    fn ended(&mut self, now: u64, change: ProcessChange) {
        if change.what == ProcessEvent::Exited {
            self.exits += 1;
        }
        let Some(track) = self.tracks.get_mut(&change.key) else { return };
        track.processes.retain(|(_, process)| *process != change.process);
        if !track.processes.is_empty() {
            return;
        }
        if !track.wanted {
            self.tracks.remove(&change.key);
            return;
        }
        self.running -= 1;
        if change.what == ProcessEvent::Completed {
            track.wanted = false;
            self.wanted -= 1;
            self.tracks.remove(&change.key);
            return;
        }
        track.down_since = Some(now);
        track.taken = change.what == ProcessEvent::Taken;
        self.down += 1;
        self.timeline.down(self.down);
    }

    pub(crate) fn count(&mut self, kind: &'static str) {
        *self.messages.entry(kind).or_default() += 1;
    }

    pub(crate) fn peak(&mut self, queue: &'static str, length: usize) {
        if length > 0 {
            let peak = self.peaks.entry(queue).or_default();
            *peak = (*peak).max(length);
        }
    }

    /// A second has gone by.
    pub(crate) fn pulse(&mut self, now: u64, sample: bool) {
        let placed = self.placements - self.placements_before;
        self.placements_before = self.placements;
        self.most_placements_per_second = self.most_placements_per_second.max(placed);
        self.was_complete |= self.wanted > 0 && self.running == self.wanted;
        if self.was_complete && self.wanted > 0 {
            #[allow(clippy::cast_precision_loss, reason = "a number of instances is small")]
            let share = self.running as f64 / self.wanted as f64;
            if self.least_running.is_none_or(|(least, _)| share < least) {
                self.least_running = Some((share, now));
            }
        }
        if sample {
            let by_cluster = self.by_cluster.clone();
            self.samples.push(Sample { at_ms: now, wanted: self.wanted, running: self.running, by_cluster });
        }
    }
}
