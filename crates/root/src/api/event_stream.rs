//! One reader of events: first what it missed, then what comes, and nothing twice.
//!
//! The reader listens before it reads the history, so nothing falls in between; what the history already had is
//! recognised by its number. The history may know events whose rows are still on their way to the disk: those are left
//! to the live part, which tells them when they are stored.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, stream};
use oak_control::root::{Application, Occurrence, Root, Topic};
use oak_model::{ApplicationId, EventKind};
use serde_json::json;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{Instant, interval_at, sleep_until};

use super::caller::Caller;
use super::error::ApiError;
use super::events::Filter;
use super::permission::Action;
use super::slots::Slot;
use super::sse::{Frame, HEARTBEAT};
use super::standing::{CHECK, DISMISSED};
use super::{Shared, record};
use crate::events::Batch;

/// Applications whose visibility is remembered; beyond that it is asked for again.
const REMEMBERED: usize = 4_096;

const CUT: &str = "this reader was too slow: connect again with the id of the last event";

/// A reader and where it is.
pub(super) struct Reader {
    api: Shared,
    caller: Caller,
    filter: Filter,
    live: broadcast::Receiver<Batch>,
    /// Not given out yet.
    waiting: VecDeque<Arc<Occurrence>>,
    /// Everything up to this number was given out or is not wanted.
    done: u64,
    visible: HashMap<ApplicationId, bool>,
    /// When the caller is looked at again, and what is remembered of its view forgotten.
    next_check: Instant,
    /// What is said before the first event.
    greeting: Option<Bytes>,
    heartbeat: tokio::time::Interval,
    ended: bool,
    _slot: Slot,
}

impl Reader {
    /// Begins to listen; `since` is the last number the client knows.
    pub(super) async fn open(
        api: Shared,
        caller: Caller,
        filter: Filter,
        since: Option<u64>,
        slot: Slot,
    ) -> Result<Self, ApiError> {
        let live = api.parts.events.listen();
        let mut reader = Self {
            live,
            waiting: VecDeque::new(),
            done: 0,
            visible: HashMap::new(),
            next_check: Instant::now() + CHECK,
            greeting: None,
            heartbeat: interval_at(Instant::now() + HEARTBEAT, HEARTBEAT),
            ended: false,
            _slot: slot,
            api,
            caller,
            filter,
        };
        reader.catch_up(since).await?;
        Ok(reader)
    }

    async fn catch_up(&mut self, since: Option<u64>) -> Result<(), ApiError> {
        let (scope, filter) = (self.caller.view(), self.filter.clone());
        let sees_everything = self.caller.0.is_system_admin();
        let replay = self.api.parts.root.call(move |root, _, _| {
            let since = since.unwrap_or_else(|| root.newest_event());
            root.events_after(since, |topic, former| {
                let is_visible = match topic.application() {
                    None => true,
                    Some(id) => match (root.application(id), former) {
                        (Some(application), _) => scope.contains(application),
                        (None, Some(former)) => scope.contains(former),
                        (None, None) => sees_everything,
                    },
                };
                is_visible && filter.admits(topic)
            })
        });
        let replay = replay.await?;
        let published = self.api.parts.events.newest();
        self.done = replay.newest.min(published);
        let known = replay.events.into_iter().filter(|known| known.event.sequence <= self.done);
        self.waiting = known.collect();
        let first = self.waiting.front().map_or(self.done, |first| first.event.sequence - 1);
        let frame = Frame::default().id(since.filter(|_| !replay.has_gap).unwrap_or(first));
        self.greeting = Some(if replay.has_gap && since.is_some() {
            let text = "events between the last known one and the next are not kept any more";
            frame.event("gap").data(&json!({ "since": since, "detail": text }))
        } else {
            frame.without_data()
        });
        Ok(())
    }

    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        if let Some(greeting) = self.greeting.take() {
            return Some(greeting);
        }
        loop {
            // Also while there is so much to tell that it never waits.
            if Instant::now() >= self.next_check && !self.is_still_known().await {
                return Some(self.end(DISMISSED));
            }
            while let Some(occurrence) = self.waiting.pop_front() {
                if self.filter.matches(&occurrence.event) && self.may_see(&occurrence).await {
                    let record = record::event(&occurrence.event);
                    return Some(Frame::default().id(occurrence.event.sequence).data(&record));
                }
            }
            // All branches are cancel-safe.
            tokio::select! {
                batch = self.live.recv() => match batch {
                    Ok(batch) => self.take_in(&batch),
                    Err(RecvError::Lagged(_)) => return Some(self.end(CUT)),
                    Err(RecvError::Closed) => return None,
                },
                () = sleep_until(self.next_check) => {}
                _ = self.heartbeat.tick() => return Some(Frame::comment("still here")),
            }
        }
    }

    fn take_in(&mut self, batch: &Batch) {
        for occurrence in batch.iter().filter(|occurrence| occurrence.event.sequence > self.done) {
            self.waiting.push_back(Arc::clone(occurrence));
        }
        self.done = self.waiting.back().map_or(self.done, |last| last.event.sequence);
    }

    fn end(&mut self, reason: &str) -> Bytes {
        self.ended = true;
        Frame::default().event("end").data(&json!({ "reason": reason }))
    }

    async fn may_see(&mut self, occurrence: &Occurrence) -> bool {
        let id = match occurrence.topic {
            Topic::System => return self.may_see_machines(occurrence.event.kind),
            Topic::Application(id) | Topic::Service(id, _) => id,
        };
        let scope = self.caller.view();
        let sees_everything = self.caller.0.is_system_admin();
        // What is known of an application that is gone goes before what was seen of it.
        if let Some(former) = &occurrence.former {
            return scope.contains(former);
        }
        if let Some(known) = self.visible.get(&id) {
            return *known;
        }
        let seen = self.api.parts.root.call(move |root, _, _| match root.application(id) {
            Some(_) => Some(scope.application(root, id).is_ok()),
            // Its end is still ahead of this reader, and tells whose it was.
            None => former_of(root, id, |former| scope.contains(former)),
        });
        let Some(is_visible) = seen.await.ok().flatten() else { return sees_everything };
        if self.visible.len() < REMEMBERED {
            self.visible.insert(id, is_visible);
        }
        is_visible
    }

    /// As the routes that list the same: clusters are known to everybody, workers and tokens are not.
    fn may_see_machines(&self, kind: EventKind) -> bool {
        match kind {
            EventKind::ClusterJoined
            | EventKind::ClusterRemoved
            | EventKind::ClusterLost
            | EventKind::ClusterBack => true,
            EventKind::TokenCreated => self.caller.require(Action::ManageInfrastructure).is_ok(),
            _ => self.caller.require(Action::ViewInfrastructure).is_ok(),
        }
    }

    /// Whether the caller still is who it was, with the same password; its roles are those of now from here on.
    async fn is_still_known(&mut self) -> bool {
        self.next_check = Instant::now() + CHECK;
        self.visible.clear();
        match self.caller.renewed(&self.api).await {
            Ok(Some(present)) => {
                self.caller = present;
                true
            }
            Ok(None) | Err(_) => false,
        }
    }
}

/// What holds for an application that is gone; `None` if nothing is known of it.
fn former_of<T>(root: &Root, id: ApplicationId, read: impl Fn(&Application) -> T) -> Option<T> {
    let mut found = None;
    root.events_after(0, |topic, former| {
        if topic.application() == Some(id) {
            found = former.map(&read).or_else(|| found.take());
        }
        false
    });
    found
}

/// The text of a reader.
pub(super) fn run(reader: Reader) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    stream::unfold(reader, |mut reader| async {
        let text = reader.next().await?;
        Some((Ok(text), reader))
    })
}
