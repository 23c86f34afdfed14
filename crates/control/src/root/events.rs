//! Telling what happened: which event, about what, and why.

use std::sync::Arc;
use std::time::Duration;

use oak_model::{
    Application, ApplicationId, Availability, ClusterId, Event, EventKind, InstanceKey, Now, ServiceId,
    Status, WallTime, WorkerId,
};

use super::history::{Replay, Topic};
use super::{Cluster, Effect, Instance, Root};
use crate::token::TokenRole;

/// What an instance was before a report.
pub(super) struct Before {
    pub(super) status: Status,
    pub(super) worker: Option<WorkerId>,
    pub(super) had_detail: String,
}

impl Before {
    pub(super) fn of(instance: &Instance) -> Self {
        Self { status: instance.status, worker: instance.worker, had_detail: instance.detail.clone() }
    }
}

impl Root {
    /// Ends a step: what happened is stored with it and told after it.
    pub(super) fn tell(&mut self) {
        let fresh = self.history.flush(&mut self.outbox);
        if !fresh.is_empty() {
            self.outbox.emit(Effect::Events(fresh));
        }
    }

    /// What is kept of the topics for which `wanted` holds and is newer than `since`; `wanted` is also told what a topic's
    /// application was, if that is gone. A number this root has not given
    /// out counts as a gap.
    pub fn events_after(
        &self,
        since: u64,
        wanted: impl FnMut(&Topic, Option<&Application>) -> bool,
    ) -> Replay {
        self.history.after(since, wanted)
    }

    /// The newest number of an event.
    #[must_use]
    pub const fn newest_event(&self) -> u64 {
        self.history.newest()
    }

    pub(super) fn tell_application(&mut self, at: WallTime, kind: EventKind, id: ApplicationId) {
        let name = |application: &Application| format!("{}.{}", application.name, application.namespace);
        let detail = self.applications.get(&id).map(name).unwrap_or_default();
        self.history.record(Topic::Application(id), Event::new(at, kind, detail), None);
    }

    pub(super) fn tell_service(&mut self, at: WallTime, kind: EventKind, id: ServiceId) {
        let Some(service) = self.services.get(&id) else { return };
        let mut event = Event::new(at, kind, service.job_name.to_string());
        event.service = Some(id);
        self.history.record(Topic::Application(service.application), event, None);
    }

    /// The application is gone: its history goes with it, but for its end.
    pub(super) fn forget_history_of(&mut self, application: &Application) {
        let former = Arc::new(Application {
            services: Vec::new(),
            other: serde_json::Map::new(),
            description: String::new(),
            ..application.clone()
        });
        let topic = Topic::Application(application.id);
        self.history.forget(topic, topic, Some(&former), &mut self.outbox);
    }

    pub(super) fn forget_history_of_service(&mut self, application: ApplicationId, service: ServiceId) {
        let topic = Topic::Service(application, service);
        self.history.forget(topic, Topic::Application(application), None, &mut self.outbox);
    }

    /// Tells about an instance as it is now.
    pub(super) fn tell_instance(
        &mut self,
        at: WallTime,
        kind: EventKind,
        key: InstanceKey,
        detail: impl Into<String>,
    ) {
        let Some(service) = self.services.get(&key.service) else { return };
        let mut event = Event::new(at, kind, detail);
        event.service = Some(key.service);
        event.instance = Some(key.number);
        if let Some(instance) = self.instances.get(&key) {
            event.cluster = instance.cluster;
            event.worker = instance.worker;
            event.status = Some(instance.status);
        }
        self.history.record(Topic::Service(service.application, key.service), event, None);
    }

    /// Tells what a report of its cluster changed. How far a pull or a move has come is progress, not an event.
    pub(super) fn tell_report(&mut self, at: WallTime, key: InstanceKey, before: &Before) {
        let Some(instance) = self.instances.get(&key) else { return };
        let (status, worker, detail) = (instance.status, instance.worker, instance.detail.clone());
        let cluster = instance.cluster.and_then(|id| self.clusters.get(&id));
        let name = |id: WorkerId| cluster.map_or_else(|| id.to_string(), |cluster| worker_name(cluster, id));
        let (kind, detail) = match (before.worker, worker) {
            (None, Some(to)) => (EventKind::InstancePlaced, format!("on worker {}: {detail}", name(to))),
            (Some(from), Some(to)) if from != to => {
                let why = cluster.map_or("", |cluster| why_it_left(cluster, from));
                let detail = format!("from worker {}{why} to worker {}: {detail}", name(from), name(to));
                (EventKind::InstanceMoved, detail)
            }
            _ if status != before.status => (EventKind::InstanceStatus, detail),
            _ if status == Status::Failed && detail != before.had_detail => {
                (EventKind::InstanceStatus, detail)
            }
            _ => return,
        };
        self.tell_instance(at, kind, key, detail);
    }

    /// Tells that an instance was given to a cluster, and which one it had before.
    pub(super) fn tell_assignment(&mut self, now: Now, key: InstanceKey, former: Option<ClusterId>) {
        let name = |id: ClusterId| self.clusters.get(&id).map_or("", |cluster| cluster.name.as_str());
        let Some(to) = self.instances.get(&key).and_then(|instance| instance.cluster) else { return };
        let (kind, detail) = match former {
            Some(from) if from != to => {
                let detail = format!("from cluster {}, which is away, to cluster {}", name(from), name(to));
                (EventKind::InstanceMoved, detail)
            }
            _ => (EventKind::InstanceScheduled, format!("cluster {} was chosen", name(to))),
        };
        self.tell_instance(now.wall, kind, key, detail);
    }

    pub(super) fn tell_cluster(&mut self, at: WallTime, kind: EventKind, id: ClusterId, detail: &str) {
        let name = self.clusters.get(&id).map_or("", |cluster| &cluster.name);
        let mut event = Event::new(at, kind, format!("cluster {name}{detail}"));
        event.cluster = Some(id);
        self.history.record(Topic::System, event, None);
    }

    pub(super) fn tell_worker(
        &mut self,
        now: Now,
        kind: EventKind,
        cluster: ClusterId,
        id: WorkerId,
        what: &str,
    ) {
        let Some(found) = self.clusters.get(&cluster) else { return };
        let detail = format!("worker {} of cluster {}{what}", worker_name(found, id), found.name);
        let mut event = Event::new(now.wall, kind, detail);
        (event.cluster, event.worker) = (Some(cluster), Some(id));
        self.history.record(Topic::System, event, None);
    }

    pub(super) fn tell_token_created(&mut self, now: Now, role: &TokenRole, life: Duration) {
        let (who, cluster) = match role {
            TokenRole::Cluster => ("a cluster".to_owned(), None),
            TokenRole::Worker(id) => {
                let name = self.clusters.get(id).map_or("", |cluster| &cluster.name);
                (format!("a worker of cluster {name}"), Some(*id))
            }
        };
        let detail = format!("with it {who} can join within {} s", life.as_secs());
        let mut event = Event::new(now.wall, EventKind::TokenCreated, detail);
        event.cluster = cluster;
        self.history.record(Topic::System, event, None);
    }
}

/// The word for an availability in an event.
pub(super) const fn availability_word(availability: Availability) -> &'static str {
    match availability {
        Availability::Open => " takes instances",
        Availability::Cordoned => " takes no new instances",
        Availability::Draining => " is being emptied",
    }
}

fn worker_name(cluster: &Cluster, id: WorkerId) -> String {
    cluster.workers.get(&id).map_or_else(|| id.to_string(), |worker| worker.facts.name.clone())
}

fn why_it_left(cluster: &Cluster, from: WorkerId) -> &'static str {
    match cluster.workers.get(&from) {
        None => ", which was removed,",
        Some(worker) if !worker.connected => ", which was lost,",
        Some(worker) if worker.availability == Availability::Draining => ", which is being emptied,",
        Some(_) => "",
    }
}
