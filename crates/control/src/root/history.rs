//! What happened, kept for a while: one ring per service, one per application, one for the rest.
//!
//! Events of one step about one topic are one row, written in the commit of that step, so that history and state never
//! contradict each other. A ring has [`RING`] numbered slots; a new row takes the slot of the oldest, so that a busy
//! service overwrites its own past and costs no deletions. All rings together keep [`TOTAL`] events; beyond that the
//! oldest go, an eighth at a time.
//!
//! Whoever reads from a number on is told when something behind that number was let go ([`Replay::has_gap`]). Each row
//! therefore carries up to where its ring was cut.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use oak_model::{Application, ApplicationId, Event, ServiceId, WallTime};
use serde::{Deserialize, Serialize};

use crate::{Outbox, Row, Table};

/// Events kept per topic.
pub(super) const RING: usize = 50;

/// Events kept over all topics: about 5 MB.
pub(super) const TOTAL: usize = 16_384;

/// What an event belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// Clusters, workers, tokens.
    System,
    /// An application, its services' coming and going included.
    Application(ApplicationId),
    /// A service and its instances.
    Service(ApplicationId, ServiceId),
}

impl Topic {
    /// The application that decides who may see it.
    #[must_use]
    pub const fn application(&self) -> Option<ApplicationId> {
        match self {
            Self::System => None,
            Self::Application(application) | Self::Service(application, _) => Some(*application),
        }
    }

    fn row_key(&self, slot: u32) -> String {
        match self {
            Self::System => format!("system.{slot:02}"),
            Self::Application(application) => format!("application.{application}.{slot:02}"),
            Self::Service(_, service) => format!("{service}.{slot:02}"),
        }
    }
}

/// An event and, when it tells of the end of an application, what that was: who may hear of it is decided by that.
#[derive(Debug, PartialEq)]
pub struct Occurrence {
    /// The event.
    pub event: Event,
    /// Where it is kept.
    pub topic: Topic,
    /// The application that is gone, without its services.
    pub former: Option<Arc<Application>>,
}

/// What a reader who knows everything up to a number has missed.
#[derive(Debug)]
pub struct Replay {
    /// Some of it is not kept any more.
    pub has_gap: bool,
    /// What is kept, in order.
    pub events: Vec<Arc<Occurrence>>,
    /// The newest number given out.
    pub newest: u64,
}

/// Events of one step about one topic as they are stored.
#[derive(Debug, Serialize, Deserialize)]
struct StoredBatch {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    application: Option<ApplicationId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    former: Option<Application>,
    /// Everything of this ring up to this number may be gone.
    #[serde(default)]
    cut: u64,
    events: Vec<Event>,
}

/// Stored when events of any ring may have gone.
#[derive(Debug, Default, Serialize, Deserialize)]
struct StoredHead {
    /// Everything up to this number may be gone.
    cut: u64,
    /// No smaller number is given out again.
    next: u64,
}

const HEAD: &str = "head";

#[derive(Debug)]
struct Batch {
    slot: u32,
    events: Vec<Arc<Occurrence>>,
}

impl Batch {
    fn last(&self) -> u64 {
        self.events.last().map_or(0, |occurrence| occurrence.event.sequence)
    }

    fn first(&self) -> u64 {
        self.events.first().map_or(0, |occurrence| occurrence.event.sequence)
    }
}

#[derive(Debug, Default)]
struct Ring {
    cut: u64,
    batches: VecDeque<Batch>,
    events: usize,
}

impl Ring {
    /// A slot that no kept batch uses. There are at most [`RING`] batches, each with an event.
    fn free_slot(&self) -> u32 {
        let used = self.batches.iter().fold(0_u64, |used, batch| used | (1 << batch.slot.min(63)));
        (!used).trailing_zeros()
    }

    fn pop_oldest(&mut self) -> Option<Batch> {
        let batch = self.batches.pop_front()?;
        self.events -= batch.events.len();
        self.cut = self.cut.max(batch.last());
        Some(batch)
    }
}

/// All events that are kept.
#[derive(Debug)]
pub(super) struct History {
    /// The next number.
    next: u64,
    /// Everything up to this number may be gone, whatever it is about.
    cut: u64,
    rings: BTreeMap<Topic, Ring>,
    /// First number of each batch.
    order: BTreeMap<u64, Topic>,
    events: usize,
    /// Of the step under way.
    fresh: Vec<Arc<Occurrence>>,
}

impl Default for History {
    fn default() -> Self {
        Self { next: 1, cut: 0, rings: BTreeMap::new(), order: BTreeMap::new(), events: 0, fresh: Vec::new() }
    }
}

impl History {
    /// Notes an event of the step under way.
    pub(super) fn record(&mut self, topic: Topic, mut event: Event, former: Option<Arc<Application>>) {
        event.sequence = self.next;
        event.application = topic.application();
        self.next += 1;
        self.fresh.push(Arc::new(Occurrence { event, topic, former }));
    }

    /// Ends the step: stores what was noted and returns it.
    pub(super) fn flush<E>(&mut self, outbox: &mut Outbox<E>) -> Vec<Arc<Occurrence>> {
        let fresh = std::mem::take(&mut self.fresh);
        let mut by_topic = BTreeMap::<Topic, Vec<_>>::new();
        for occurrence in &fresh {
            by_topic.entry(occurrence.topic).or_default().push(Arc::clone(occurrence));
        }
        for (topic, events) in by_topic {
            self.keep(topic, events, outbox);
        }
        self.keep_within_total(outbox);
        fresh
    }

    fn keep<E>(&mut self, topic: Topic, mut events: Vec<Arc<Occurrence>>, outbox: &mut Outbox<E>) {
        let ring = self.rings.entry(topic).or_default();
        let surplus = events.len().saturating_sub(RING);
        if let Some(last) = events.drain(..surplus).next_back() {
            ring.cut = ring.cut.max(last.event.sequence);
        }
        let mut freed = Vec::new();
        while ring.events + events.len() > RING {
            let Some(batch) = ring.pop_oldest() else { break };
            self.order.remove(&batch.first());
            self.events -= batch.events.len();
            freed.push(batch.slot);
        }
        let slot = freed.first().copied().unwrap_or_else(|| ring.free_slot());
        for unused in freed.into_iter().skip(1) {
            outbox.delete(Table::Event, topic.row_key(unused));
        }
        let batch = Batch { slot, events };
        outbox.put(Table::Event, topic.row_key(slot), &stored(topic, ring.cut, &batch));
        self.order.insert(batch.first(), topic);
        self.events += batch.events.len();
        ring.events += batch.events.len();
        ring.batches.push_back(batch);
    }

    /// Lets the oldest go when there are too many.
    fn keep_within_total<E>(&mut self, outbox: &mut Outbox<E>) {
        if self.events <= TOTAL {
            return;
        }
        while self.events > TOTAL - TOTAL / 8 {
            let Some((_, topic)) = self.order.pop_first() else { break };
            let Some(ring) = self.rings.get_mut(&topic) else { continue };
            let Some(batch) = ring.pop_oldest() else { continue };
            self.events -= batch.events.len();
            self.cut = self.cut.max(batch.last());
            outbox.delete(Table::Event, topic.row_key(batch.slot));
            if ring.batches.is_empty() {
                self.rings.remove(&topic);
            }
        }
        self.save_head(outbox);
    }

    /// Forgets a topic: what the step under way noted about it goes to `heir`, whose readers are told that something is
    /// missing. `former` is what is known of the application if that is gone, too.
    pub(super) fn forget<E>(
        &mut self,
        topic: Topic,
        heir: Topic,
        former: Option<&Arc<Application>>,
        outbox: &mut Outbox<E>,
    ) {
        for occurrence in self.fresh.iter_mut().filter(|occurrence| occurrence.topic == topic) {
            let former = former.cloned().or_else(|| occurrence.former.clone());
            *occurrence = Arc::new(Occurrence { event: occurrence.event.clone(), topic: heir, former });
        }
        let Some(ring) = self.rings.remove(&topic) else { return };
        let mut cut = ring.cut;
        for batch in ring.batches {
            self.order.remove(&batch.first());
            self.events -= batch.events.len();
            cut = cut.max(batch.last());
            outbox.delete(Table::Event, topic.row_key(batch.slot));
        }
        let heir = self.rings.entry(heir).or_default();
        heir.cut = heir.cut.max(cut);
    }

    /// Goes on with numbers that no earlier life of this root can have given out: at least the milliseconds of the
    /// wall clock. Whoever comes with a number of another life is told that something is missing.
    pub(super) fn begin_life<E>(&mut self, wall: WallTime, outbox: &mut Outbox<E>) {
        self.next = self.next.max(wall.0) + 1;
        self.cut = self.next - 1;
        self.save_head(outbox);
    }

    fn save_head<E>(&self, outbox: &mut Outbox<E>) {
        outbox.put(Table::Event, HEAD, &StoredHead { cut: self.cut, next: self.next });
    }

    /// The newest number given out.
    pub(super) const fn newest(&self) -> u64 {
        self.next - 1
    }

    /// What is kept of the topics for which `wanted` holds and is newer than `since`; told is also the application that is
    /// gone.
    pub(super) fn after(
        &self,
        since: u64,
        mut wanted: impl FnMut(&Topic, Option<&Application>) -> bool,
    ) -> Replay {
        let mut has_gap = since < self.cut || since > self.newest();
        let mut events = Vec::new();
        for (topic, ring) in &self.rings {
            let newest = ring.batches.back().map_or(ring.cut, Batch::last);
            let former = ring.batches.back().and_then(|batch| batch.events.last()?.former.as_deref());
            if newest.max(ring.cut) <= since || !wanted(topic, former) {
                continue;
            }
            has_gap |= ring.cut > since;
            let kept = ring.batches.iter().flat_map(|batch| &batch.events);
            events.extend(kept.filter(|occurrence| occurrence.event.sequence > since).cloned());
        }
        events.sort_by_key(|occurrence| occurrence.event.sequence);
        Replay { has_gap, events, newest: self.newest() }
    }

    /// Takes in a stored row. One that cannot be understood is left out: history is no reason not to start.
    pub(super) fn load(&mut self, row: &Row) {
        if row.key == HEAD {
            let head: StoredHead = row.parse().unwrap_or_default();
            self.cut = self.cut.max(head.cut);
            self.next = self.next.max(head.next);
            return;
        }
        let Ok(batch) = row.parse::<StoredBatch>() else { return };
        let Some((topic, slot)) = parse_key(&row.key, batch.application) else { return };
        let (cut, former) = (batch.cut, batch.former.map(Arc::new));
        let events: Vec<_> = batch
            .events
            .into_iter()
            .map(|mut event| {
                event.application = topic.application();
                if let Topic::Service(_, service) = topic {
                    event.service = Some(service);
                }
                let former = former.clone();
                Arc::new(Occurrence { event, topic, former })
            })
            .collect();
        let batch = Batch { slot, events };
        if batch.events.is_empty() {
            return;
        }
        self.next = self.next.max(batch.last() + 1);
        self.order.insert(batch.first(), topic);
        self.events += batch.events.len();
        let ring = self.rings.entry(topic).or_default();
        ring.cut = ring.cut.max(cut);
        ring.events += batch.events.len();
        // Rows come in the order of their slots, not of their numbers.
        let place = ring.batches.partition_point(|other| other.first() < batch.first());
        ring.batches.insert(place, batch);
    }
}

fn stored(topic: Topic, cut: u64, batch: &Batch) -> StoredBatch {
    let in_service = matches!(topic, Topic::Service(..));
    let event = |occurrence: &Arc<Occurrence>| {
        let event = occurrence.event.clone();
        if in_service { Event { service: None, ..event } } else { event }
    };
    StoredBatch {
        application: topic.application(),
        former: batch.events.iter().find_map(|occurrence| occurrence.former.as_deref().cloned()),
        cut,
        events: batch.events.iter().map(event).collect(),
    }
}

fn parse_key(key: &str, application: Option<ApplicationId>) -> Option<(Topic, u32)> {
    let (name, slot) = key.rsplit_once('.')?;
    let slot = slot.parse().ok().filter(|slot| *slot < 64)?;
    let topic = match (name, application) {
        ("system", None) => Topic::System,
        (name, Some(application)) if name.starts_with("application.") => Topic::Application(application),
        (service, Some(application)) => Topic::Service(application, service.parse().ok()?),
        (_, None) => return None,
    };
    Some((topic, slot))
}
