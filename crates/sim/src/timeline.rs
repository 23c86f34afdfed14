//! Faults and what came of them, in order of time. Many equal things at about the same time are one line.

use std::collections::BTreeMap;

use serde::Serialize;

/// A line of the timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// When it began, milliseconds.
    pub from_ms: u64,
    /// When the last of it happened, milliseconds.
    pub to_ms: u64,
    /// Whether it was done to the system; otherwise it is what the system did.
    pub is_fault: bool,
    /// What.
    pub text: String,
}

/// What follows from faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Consequence {
    WorkerLost,
    WorkerBack,
    ClusterLost,
    ClusterBack,
    Moved,
    Ended,
    NoPlace,
}

/// Equal consequences that are no further apart are one line, milliseconds.
const TOGETHER_MS: u64 = 3_000;
/// Lines kept; a soak of random faults has no end of them.
const MOST_LINES: usize = 10_000;

#[derive(Default)]
pub(crate) struct Timeline {
    lines: Vec<Moment>,
    bursts: BTreeMap<(Consequence, String), Burst>,
    episode: Option<Episode>,
    pub(crate) left_out: u64,
}

struct Burst {
    line: usize,
    count: u64,
    last: u64,
}

/// From a fault until everything runs again.
struct Episode {
    fault: String,
    at: u64,
    worst: usize,
}

impl Timeline {
    pub(crate) fn lines(&self) -> &[Moment] {
        &self.lines
    }

    fn push(&mut self, now: u64, is_fault: bool, text: String) -> Option<usize> {
        if self.lines.len() >= MOST_LINES {
            self.left_out += 1;
            return None;
        }
        self.lines.push(Moment { from_ms: now, to_ms: now, is_fault, text });
        Some(self.lines.len() - 1)
    }

    /// Something is done to the system.
    pub(crate) fn fault(&mut self, now: u64, text: String) {
        self.episode = Some(Episode { fault: text.clone(), at: now, worst: 0 });
        self.push(now, true, text);
    }

    /// Something that was done is over.
    pub(crate) fn over(&mut self, now: u64, text: &str) {
        self.push(now, true, format!("over: {text}"));
    }

    /// Something followed at a place.
    pub(crate) fn follows(&mut self, now: u64, what: Consequence, place: &str) {
        let key = (what, place.to_owned());
        if let Some(burst) = self.bursts.get_mut(&key)
            && now.saturating_sub(burst.last) <= TOGETHER_MS
        {
            burst.count += 1;
            burst.last = now;
            if let Some(line) = self.lines.get_mut(burst.line) {
                line.to_ms = now;
                line.text = text_of(what, burst.count, place);
            }
            return;
        }
        if let Some(line) = self.push(now, false, text_of(what, 1, place)) {
            self.bursts.insert(key, Burst { line, count: 1, last: now });
        }
    }

    /// So many instances are down now.
    pub(crate) fn down(&mut self, count: usize) {
        if let Some(episode) = &mut self.episode {
            episode.worst = episode.worst.max(count);
        }
    }

    /// Everything that ran before runs again.
    pub(crate) fn all_up(&mut self, now: u64) {
        let Some(episode) = self.episode.take_if(|episode| episode.worst > 0) else { return };
        let after = seconds(now - episode.at);
        let text =
            format!("all run again {after} after “{}”; at worst {} were down", episode.fault, episode.worst);
        self.push(now, false, text);
    }
}

fn text_of(what: Consequence, count: u64, place: &str) -> String {
    let many =
        |one: &str, more: &str| if count == 1 { format!("1 {one}") } else { format!("{count} {more}") };
    match what {
        Consequence::WorkerLost => format!("{} of {place} out of touch", many("worker", "workers")),
        Consequence::WorkerBack => format!("{} of {place} in touch", many("worker", "workers")),
        Consequence::ClusterLost => format!("cluster {place} out of touch with the root"),
        Consequence::ClusterBack => format!("cluster {place} in touch with the root"),
        Consequence::Moved => format!("{} placed on other workers by {place}", many("instance", "instances")),
        Consequence::Ended => format!("{} ended with machines of {place}", many("process", "processes")),
        Consequence::NoPlace => format!("{} without a place at {place}", many("instance", "instances")),
    }
}

/// Seconds with one digit, for people.
pub(crate) fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
}
