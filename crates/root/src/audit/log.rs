//! The two rings. Pure, like the machines of `oak-control`.

use std::collections::VecDeque;

use oak_control::{CorruptRow, Entropy, Machine, Outbox, Row, Table};
use oak_model::{Moment, Now, OrganizationId};
use oak_store::Hosted;

use super::entry::{Entry, Event};

/// Changes that are kept.
const CHANGES: usize = 10_000;
/// Refusals that are kept.
const REFUSALS: usize = 2_000;

/// The audit log.
#[derive(Debug)]
pub struct AuditLog {
    next: u64,
    changes: Ring,
    refusals: Ring,
    outbox: Outbox<()>,
}

/// Entries, oldest first. A new one takes the row of the oldest: nothing has to be deleted.
#[derive(Debug)]
struct Ring {
    /// Begin of the keys of its rows.
    mark: char,
    size: usize,
    entries: VecDeque<Entry>,
    /// Row of the next entry.
    slot: usize,
}

/// Which entries are wanted.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only of this organisation.
    pub organization: Option<OrganizationId>,
    /// Only of this user.
    pub user: Option<String>,
    /// Only with this method.
    pub method: Option<String>,
    /// Only what was done, or only what was refused.
    pub done: Option<bool>,
    /// Only older than the entry of this number.
    pub before: Option<u64>,
}

/// Some entries, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The entries.
    pub entries: Vec<Entry>,
    /// [`Filter::before`] for the next page; `None`: there are no more.
    pub next: Option<u64>,
}

impl Default for AuditLog {
    fn default() -> Self {
        Self {
            next: 1,
            changes: Ring::new('c', CHANGES),
            refusals: Ring::new('r', REFUSALS),
            outbox: Outbox::default(),
        }
    }
}

impl Ring {
    const fn new(mark: char, size: usize) -> Self {
        Self { mark, size, entries: VecDeque::new(), slot: 0 }
    }

    fn key(&self, slot: usize) -> String {
        format!("{}{slot:05}", self.mark)
    }

    fn push(&mut self, entry: Entry) {
        if self.entries.len() >= self.size {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }
}

impl AuditLog {
    /// Rebuilds the log from stored rows; rows of other tables are left alone.
    ///
    /// # Errors
    /// A row that cannot be read.
    pub fn load(rows: &[Row]) -> Result<Self, CorruptRow> {
        let mut log = Self::default();
        let mut found = Vec::new();
        for row in rows.iter().filter(|row| row.table == Table::Audit) {
            found.push((row.parse::<Entry>()?, &*row.key));
        }
        found.sort_by_key(|(entry, _)| entry.number);
        for (entry, key) in found {
            log.next = log.next.max(entry.number.saturating_add(1));
            let ring = if key.starts_with(log.changes.mark) { &mut log.changes } else { &mut log.refusals };
            let slot = key.get(1..).and_then(|digits| digits.parse().ok()).unwrap_or(0_usize);
            ring.slot = slot.saturating_add(1) % ring.size;
            ring.push(entry);
        }
        Ok(log)
    }

    /// Adds an event.
    pub fn add(&mut self, now: Now, event: Event) {
        let entry = Entry { number: self.next, at: now.wall, event };
        self.next += 1;
        let ring = if entry.event.was_done() { &mut self.changes } else { &mut self.refusals };
        self.outbox.put(Table::Audit, ring.key(ring.slot), &entry);
        ring.slot = (ring.slot + 1) % ring.size;
        ring.push(entry);
    }

    /// The newest `limit` entries that fit, at least one if there is one.
    #[must_use]
    pub fn page(&self, filter: &Filter, limit: usize) -> Page {
        let (mut changes, mut refusals) =
            (self.changes.entries.iter().rev().peekable(), self.refusals.entries.iter().rev().peekable());
        let newest_first = std::iter::from_fn(|| match (changes.peek(), refusals.peek()) {
            (Some(change), Some(refusal)) if change.number < refusal.number => refusals.next(),
            (Some(_), _) => changes.next(),
            (None, _) => refusals.next(),
        });
        let mut fitting = newest_first.filter(|entry| filter.takes(entry));
        let entries: Vec<_> = fitting.by_ref().take(limit.max(1)).cloned().collect();
        let next = entries.last().filter(|_| fitting.next().is_some()).map(|entry| entry.number);
        Page { entries, next }
    }
}

impl Filter {
    fn takes(&self, entry: &Entry) -> bool {
        let event = &entry.event;
        self.before.is_none_or(|before| entry.number < before)
            && self.organization.is_none_or(|id| event.organization == Some(id))
            && self.user.as_ref().is_none_or(|user| event.user.as_deref() == Some(user))
            && self.method.as_ref().is_none_or(|method| *event.method == **method)
            && self.done.is_none_or(|done| event.was_done() == done)
    }
}

impl Machine for AuditLog {
    type Effect = ();

    fn take_outbox(&mut self) -> Outbox<()> {
        self.outbox.take()
    }

    fn next_deadline(&self) -> Option<Moment> {
        None
    }

    fn tick(&mut self, _now: Now, _entropy: &mut dyn Entropy) {}
}

impl Hosted for AuditLog {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn event(user: &str, status: u16) -> Event {
        Event {
            user: Some(user.into()),
            organization: None,
            from: "192.0.2.1".into(),
            method: "POST".into(),
            route: "/api/application".into(),
            path: "/api/application/".into(),
            object: None,
            status,
            unrecorded: 0,
        }
    }

    fn commit(log: &mut AuditLog, disk: &mut BTreeMap<String, Row>) {
        disk.extend(log.take_outbox().rows.into_iter().map(|row| (row.key.clone(), row)));
    }

    #[test]
    fn the_log_is_bounded_on_disk_and_goes_on_after_a_restart() {
        let (mut log, mut disk) = (AuditLog::default(), BTreeMap::new());
        for number in 0..CHANGES + 5 {
            log.add(Now::default(), event(&number.to_string(), 200));
            commit(&mut log, &mut disk);
        }
        log.add(Now::default(), event("eve", 403));
        commit(&mut log, &mut disk);
        assert_eq!(disk.len(), CHANGES + 1);
        let rows: Vec<_> = disk.values().cloned().collect();
        let mut again = AuditLog::load(&rows).unwrap();
        assert_eq!(again.page(&Filter::default(), 3), log.page(&Filter::default(), 3));
        for log in [&mut log, &mut again] {
            log.add(Now::default(), event("last", 200));
        }
        assert_eq!(again.take_outbox().rows, log.take_outbox().rows);
        let all = again.page(&Filter { done: Some(true), ..Filter::default() }, usize::MAX);
        assert_eq!((all.entries.len(), all.next), (CHANGES, None));
        assert_eq!(all.entries.last().unwrap().event.user.as_deref(), Some("6"));
    }

    #[test]
    fn refusals_do_not_push_out_changes() {
        let mut log = AuditLog::default();
        log.add(Now::default(), event("bob", 200));
        for _ in 0..REFUSALS + 1 {
            log.add(Now::default(), event("eve", 401));
        }
        let done = Filter { done: Some(true), ..Filter::default() };
        assert_eq!(log.page(&done, 10).entries.len(), 1);
    }

    #[test]
    fn pages_follow_each_other_newest_first() {
        let mut log = AuditLog::default();
        for status in [200, 401, 200, 200, 403] {
            log.add(Now::default(), event("bob", status));
        }
        log.add(Now::default(), event("eve", 200));
        let mut filter = Filter { user: Some("bob".into()), ..Filter::default() };
        let mut seen = Vec::new();
        loop {
            let page = log.page(&filter, 2);
            seen.extend(page.entries.iter().map(|entry| entry.number));
            match page.next {
                Some(next) => filter.before = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, [5, 4, 3, 2, 1]);
    }
}
