//! Instances that wait for a place, and when they are tried again.
//!
//! They are tried in passes of bounded length: when something changed, after a short time, so that a burst of changes
//! costs one pass; otherwise after an interval. Nothing is stored: who waits follows from the instances.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::time::Duration;

use oak_model::{InstanceKey, Moment};

/// Freed capacity is offered to waiting instances after this time.
const SETTLE: Duration = Duration::from_millis(100);

/// Waiting instances tried in one pass; the next pass takes the rest.
const BATCH: usize = 1_000;

/// Who waits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waiting {
    keys: BTreeSet<InstanceKey>,
    at: Option<Moment>,
    /// The last instance of an unfinished round over all that wait.
    passed: Option<InstanceKey>,
}

impl Waiting {
    pub(crate) fn insert(&mut self, key: InstanceKey) {
        self.keys.insert(key);
    }

    pub(crate) fn remove(&mut self, key: InstanceKey) {
        self.keys.remove(&key);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = InstanceKey> + '_ {
        self.keys.iter().copied()
    }

    /// When the next pass is due.
    pub(crate) const fn deadline(&self) -> Option<Moment> {
        self.at
    }

    /// The next pass comes then at the latest.
    pub(crate) fn due_by(&mut self, at: Moment) {
        self.at = Some(self.at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Something changed that those who wait may have waited for.
    pub(crate) fn due_soon(&mut self, now: Moment) {
        self.due_by(now + SETTLE);
    }

    /// Begins a pass and takes those out that are to be tried; `None` when its time has not come.
    pub(crate) fn begin_pass(&mut self, now: Moment) -> Option<Vec<InstanceKey>> {
        self.at.filter(|at| *at <= now)?;
        self.at = None;
        let start = self.passed.take().map_or(Bound::Unbounded, Bound::Excluded);
        let batch: Vec<_> = self.keys.range((start, Bound::Unbounded)).copied().take(BATCH).collect();
        if batch.len() == BATCH {
            self.passed = batch.last().copied();
        }
        for key in &batch {
            self.keys.remove(key);
        }
        Some(batch)
    }

    /// Ends a pass: those who wait (again) are tried after `interval` at the latest, the rest of a round at once.
    pub(crate) fn end_pass(&mut self, now: Moment, interval: Duration) {
        if !self.keys.is_empty() {
            self.due_by(now + if self.passed.is_none() { interval } else { SETTLE });
        }
    }
}
