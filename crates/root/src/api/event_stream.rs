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
use oak_control::root::{Occurrence, Topic};
use oak_model::{ApplicationId, EventKind};
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{Instant, interval_at};

use super::caller::Caller;
use super::error::ApiError;
use super::events::Filter;
use super::permission::Action;
use super::sse::{Frame, HEARTBEAT};
use super::{Shared, record};
use crate::events::Batch;

/// Applications whose visibility is remembered; beyond that it is asked for again.
const REMEMBERED: usize = 4_096;

const CUT: &str = "this reader was too slow: connect again with the id of the last event";
const CALLER_CHANGED: &str = "the user is gone or its password was changed: log in again";

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
    /// What is said before the first event.
    greeting: Option<Bytes>,
    heartbeat: tokio::time::Interval,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

impl Reader {
    /// Begins to listen; `since` is the last number the client knows.
    pub(super) async fn open(
        api: Shared,
        caller: Caller,
        filter: Filter,
        since: Option<u64>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Self, ApiError> {
        let live = api.parts.events.listen();
        let mut reader = Self {
            live,
            waiting: VecDeque::new(),
            done: 0,
            visible: HashMap::new(),
            greeting: None,
            heartbeat: interval_at(Instant::now() + HEARTBEAT, HEARTBEAT),
            ended: false,
            _permit: permit,
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
            while let Some(occurrence) = self.waiting.pop_front() {
                if self.filter.matches(&occurrence.event) && self.may_see(&occurrence).await {
                    let record = record::event(&occurrence.event);
                    return Some(Frame::default().id(occurrence.event.sequence).data(&record));
                }
            }
            // Both branches are cancel-safe.
            tokio::select! {
                batch = self.live.recv() => match batch {
                    Ok(batch) => self.take_in(&batch),
                    Err(RecvError::Lagged(_)) => return Some(self.end(CUT)),
                    Err(RecvError::Closed) => return None,
                },
                _ = self.heartbeat.tick() => {
                    self.visible.clear();
                    if !self.is_still_known().await {
                        return Some(self.end(CALLER_CHANGED));
                    }
                    return Some(Frame::comment("still here"));
                }
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
        if let Some(known) = self.visible.get(&id) {
            return *known;
        }
        let scope = self.caller.view();
        let sees_everything = self.caller.0.is_system_admin();
        if let Some(former) = &occurrence.former {
            return scope.contains(former);
        }
        let seen = self.api.parts.root.call(move |root, _, _| match root.application(id) {
            Some(_) => scope.application(root, id).is_ok(),
            None => sees_everything,
        });
        let is_visible = seen.await.unwrap_or(false);
        if self.visible.len() < REMEMBERED {
            self.visible.insert(id, is_visible);
        }
        is_visible
    }

    /// As the routes that list the same: clusters are known to everybody, workers and tokens are not.
    fn may_see_machines(&self, kind: EventKind) -> bool {
        match kind {
            EventKind::ClusterJoined | EventKind::ClusterLost | EventKind::ClusterBack => true,
            EventKind::TokenCreated => self.caller.require(Action::ManageInfrastructure).is_ok(),
            _ => self.caller.require(Action::ViewInfrastructure).is_ok(),
        }
    }

    /// Whether the caller still is who it was, with the same password.
    async fn is_still_known(&mut self) -> bool {
        let (name, organization) = (self.caller.0.name.clone(), self.caller.0.organization);
        let present =
            self.api.parts.accounts.call(move |accounts, _, _| accounts.principal(&name, organization));
        match present.await {
            Ok(Some(present)) if present.password_version == self.caller.0.password_version => {
                self.caller = Caller(present);
                true
            }
            Ok(_) | Err(_) => false,
        }
    }
}

/// The text of a reader.
pub(super) fn run(reader: Reader) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    stream::unfold(reader, |mut reader| async {
        let text = reader.next().await?;
        Some((Ok(text), reader))
    })
}
