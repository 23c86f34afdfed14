//! Looking after services: carrying out the moves of `rollout.rs`, when something changed and when time has passed.

use std::sync::Arc;

use oak_model::{InstanceKey, Now, Revision, Rollout, RolloutState, Service, ServiceId};

use super::rollout::{self, Move, Standing};
use super::{Cluster, Instance, Root};
use crate::Table;

/// Services looked after in one step; the next step takes the rest.
const BATCH: usize = 500;

/// How far an update is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Where it is.
    pub state: RolloutState,
    /// Revision it leads to, or has come to.
    pub revision: u32,
    /// Revision it comes from.
    pub from: Option<u32>,
    /// Instances of the revision it leads to that run.
    pub updated: u32,
    /// Instances there shall be.
    pub total: u32,
    /// One line for people.
    pub detail: String,
    /// Why it was rolled back; empty if it was not.
    pub reason: String,
}

impl Root {
    /// How far the update of a service is, or how the last one ended.
    #[must_use]
    pub fn progress(&self, now: Now, service: &Service) -> Option<Progress> {
        let rollout = service.upkeep.rollout.as_ref()?;
        let revision = service.upkeep.revision;
        let is_up = |i: &&Instance| i.revision == revision && i.ready_since.is_some();
        let updated = self.instances_of(service.id).filter(is_up).count();
        let updated = u32::try_from(updated).unwrap_or(u32::MAX);
        let from = rollout.from.as_ref().map(|from| from.number);
        Some(Progress {
            state: rollout.state,
            revision,
            from,
            updated,
            total: rollout.total,
            detail: self.describe(now, service, rollout, updated),
            reason: rollout.reason.clone(),
        })
    }

    fn describe(&self, now: Now, service: &Service, rollout: &Rollout, updated: u32) -> String {
        let (revision, total) = (service.upkeep.revision, rollout.total);
        let awaited = self
            .instances_of(service.id)
            .find(|instance| instance.revision == revision && instance.ready_since.is_none())
            .map(|i| format!(", waiting for instance {}: {}: {}", i.key.number, i.status, i.detail));
        let learns =
            || self.awaits(now, service).or_else(|| self.learning(now)).map(|why| format!(", {why}"));
        let awaited = awaited.or_else(learns).unwrap_or_default();
        let order = if rollout::is_exclusive(service) {
            ", the old one first because at most one may run"
        } else {
            ""
        };
        let failed = rollout.from.as_ref().map(|from| from.number).unwrap_or_default();
        match rollout.state {
            RolloutState::Running => {
                format!("updating to revision {revision}: {updated} of {total} instances{order}{awaited}")
            }
            RolloutState::RollingBack => format!(
                "rolling back from revision {failed} to {revision}: {updated} of {total} instances{order}{awaited} \
                 ({})",
                rollout.reason
            ),
            RolloutState::Done => format!("updated to revision {revision}"),
            RolloutState::RolledBack => {
                format!("the update to revision {failed} was rolled back: {}", rollout.reason)
            }
        }
    }

    /// Something changed that an update may wait for. Only plans a look: what changes may be part of a longer step.
    pub(super) fn look_soon(&mut self, now: Now, service: ServiceId) {
        if self.looks.contains(service) {
            self.looks.by(now.moment, service);
        }
    }

    /// After a start, or when it was learned what clusters have: all services that are kept in a number or updated.
    pub(super) fn look_at_all(&mut self, now: Now) {
        let kept = self.services.values().filter(|service| {
            service.upkeep.replicas.is_some()
                || service.upkeep.active().is_some()
                || !service.upkeep.former.is_empty()
        });
        let outdated = self.instances.values().filter(|instance| {
            let service = self.services.get(&instance.key.service);
            service.is_some_and(|service| service.upkeep.revision != instance.revision)
        });
        let kept: Vec<_> =
            kept.map(|service| service.id).chain(outdated.map(|instance| instance.key.service)).collect();
        for service in kept {
            self.looks.by(now.moment, service);
        }
    }

    /// Looks after the services whose time has come.
    pub(super) fn look_after_services(&mut self, now: Now) {
        for _ in 0..BATCH {
            let Some(service) = self.looks.take_due(now.moment) else { return };
            self.look_after(now, service);
        }
    }

    /// Brings a service as far as it can be brought now.
    pub(super) fn look_after(&mut self, now: Now, id: ServiceId) {
        if self.services.get(&id).is_some_and(|service| self.is_still_learning(now, service)) {
            // Some of its instances may be at a cluster that has not said so yet.
            let interval = self.settings.retry_interval;
            let next = if self.is_patient(now) { interval.min(LEARNING) } else { interval };
            self.looks.by(now.moment + next, id);
            return;
        }
        while let Some(service) = self.services.get(&id) {
            let next = self.standing(now, service).next_move(service);
            match next {
                Move::Create(missing) => {
                    if !self.create_some(now, id, missing) {
                        return;
                    }
                }
                Move::Remove(key) => self.remove_instance(now, key),
                Move::Resume => self.resume(id),
                Move::TurnBack(reason) => self.turn_back(now, id, reason),
                Move::Finish => self.finish(id),
                Move::Wait(next) => {
                    let at = now.moment + self.settings.retry_interval;
                    self.looks.by(next.map_or(at, |next| next.min(at)), id);
                    return;
                }
                Move::Rest => {
                    self.forget_former(id);
                    return;
                }
            }
        }
    }

    fn standing(&self, now: Now, service: &Service) -> Standing {
        let is_in_touch = |instance: &Instance| match instance.cluster {
            Some(id) => self.clusters.get(&id).is_some_and(Cluster::is_active),
            // Of a cluster that was removed: nothing will change it any more.
            None => instance.has_ended(),
        };
        let leaving = self.departures.range(InstanceKey::all_of(service.id)).count();
        Standing::of(service, self.instances_of(service.id), is_in_touch, leaving, now.moment)
    }

    /// Creates instances of the present revision; false when there are no addresses left.
    fn create_some(&mut self, now: Now, id: ServiceId, missing: u32) -> bool {
        let Some(revision) = self.services.get(&id).map(|service| service.upkeep.revision) else {
            return false;
        };
        for _ in 0..missing {
            if self.create_instance(now, id, revision).is_err() {
                self.looks.by(now.moment + self.settings.retry_interval, id);
                return false;
            }
        }
        true
    }

    /// There are instances of a revision that was replaced long ago, from a cluster that was away meanwhile. Nobody asked
    /// for this, so no quota refuses it; what it has to spare counts while it lasts, and others have to do without.
    fn resume(&mut self, id: ServiceId) {
        let all = u32::try_from(self.instances_of(id).count()).unwrap_or(u32::MAX);
        let Some(service) = self.services.get_mut(&id) else { return };
        let total = service.upkeep.known_total().unwrap_or(all);
        let known = service.upkeep.rollout.take();
        service.upkeep.former.extend(known.and_then(|rollout| rollout.from));
        let state = RolloutState::Running;
        service.upkeep.rollout = Some(Rollout { state, from: None, total, reason: String::new() });
        self.recount(id);
        self.save_service(id);
    }

    /// The update has failed or is not wanted any more: the former revision is the present one again.
    pub(super) fn turn_back(&mut self, now: Now, id: ServiceId, reason: String) {
        let Some(service) = self.services.get_mut(&id) else { return };
        let failed = service.present();
        let Some(rollout) = service.upkeep.rollout.as_mut() else { return };
        let Some(former) = rollout.from.take() else { return };
        rollout.from = Some(failed);
        rollout.state = RolloutState::RollingBack;
        rollout.reason = reason;
        service.become_revision(former);
        self.know_links(id);
        self.recount(id);
        self.save_service(id);
        self.looks.by(now.moment, id);
    }

    fn finish(&mut self, id: ServiceId) {
        let Some(service) = self.services.get_mut(&id) else { return };
        let Some(rollout) = service.upkeep.rollout.as_mut() else { return };
        rollout.state = match rollout.state {
            RolloutState::Running | RolloutState::Done => RolloutState::Done,
            RolloutState::RollingBack | RolloutState::RolledBack => RolloutState::RolledBack,
        };
        // All instances have the present revision.
        service.upkeep.former.clear();
        self.recount(id);
        self.save_service(id);
    }

    /// No instance has them any more.
    fn forget_former(&mut self, id: ServiceId) {
        if let Some(service) = self.services.get_mut(&id).filter(|found| !found.upkeep.former.is_empty()) {
            service.upkeep.former.clear();
            self.recount(id);
            self.save_service(id);
        }
    }

    /// Somebody wants one more or one less, or another number.
    pub(super) fn wanted_changed(
        &mut self,
        now: Now,
        id: ServiceId,
        replicas: Option<u32>,
        total: impl FnOnce(u32) -> u32,
    ) {
        let Some(service) = self.services.get_mut(&id) else { return };
        let wanted = |service: &Service| {
            (service.upkeep.replicas, service.upkeep.rollout.as_ref().map(|rollout| rollout.total))
        };
        let before = wanted(service);
        if let Some(replicas) = replicas {
            service.set_replicas(replicas);
        }
        if let Some(rollout) = service.upkeep.rollout.as_mut() {
            rollout.total = total(rollout.total);
        }
        if wanted(service) != before {
            self.promise_again(id);
            self.save_service(id);
        }
        if replicas.is_some() || before.1.is_some() {
            self.looks.by(now.moment, id);
        }
    }

    /// Stores a service and tells the clusters that have instances of it: a root that loses its disk learns from them.
    pub(super) fn save_service(&mut self, id: ServiceId) {
        let Some(service) = self.services.get(&id) else { return };
        self.outbox.put(Table::Service, id, service);
        // What is leaving may be gone there already, and its service with it.
        let of_service = InstanceKey::all_of(id);
        let stays = |key: &InstanceKey| self.instances.contains_key(key);
        let has_some = |cluster: &&Cluster| cluster.instances.range(of_service.clone()).any(stays);
        let clusters: Vec<_> = self.clusters.values().filter(has_some).map(|cluster| cluster.id).collect();
        for cluster in clusters {
            self.send_records(cluster, &[InstanceKey { service: id, number: 0 }]);
        }
    }

    /// Whether there are already enough instances without this one, which has no place and an earlier revision: a root
    /// that was put back to an older state remembers instances that were replaced since.
    pub(super) fn is_superseded(&self, service: &Service, instance: &Instance) -> bool {
        let Some(service) = self.services.get(&service.id) else { return false };
        if instance.revision == service.upkeep.revision || service.upkeep.active().is_some() {
            return false;
        }
        let all = self.instances_of(service.id).count();
        service.upkeep.known_total().is_some_and(|wanted| all > wanted as usize)
    }

    /// Whether clusters may have instances of a service that this root does not know of (yet).
    fn is_still_learning(&self, now: Now, service: &Service) -> bool {
        match self.meta.lineage {
            Some(lineage) if lineage.restored > 0 => self.awaited(now, service).next().is_some(),
            // It knows no clusters besides those that have come back.
            Some(_) | None => self.learning(now).is_some(),
        }
    }

    /// The revision of an instance a cluster has: the one that runs the same. One that nobody remembers is kept as it
    /// is until the service is looked after.
    pub(super) fn revision_of_held(&mut self, key: InstanceKey, spec: &Arc<oak_model::ServiceSpec>) -> u32 {
        let Some(service) = self.services.get_mut(&key.service) else { return 0 };
        if let Some(known) = service.revision_with(spec) {
            return known;
        }
        let kept = u32::try_from(service.upkeep.former.len()).unwrap_or(u32::MAX);
        if kept >= MAX_FORMER {
            // It runs the present one from now on.
            return service.upkeep.revision;
        }
        let last = service.upkeep.former.iter().map(|former| former.number).max();
        let number = last.filter(|last| *last >= UNKNOWN).map_or(UNKNOWN, |last| last.saturating_add(1));
        let spec = Arc::clone(spec);
        let unknown = Revision { number, spec, document: service.document.clone(), ..Revision::default() };
        service.upkeep.former.push(unknown);
        self.outbox.put(Table::Service, service.id, &*service);
        number
    }
}

/// Longest time between two looks at whether all clusters have told what they have.
const LEARNING: std::time::Duration = std::time::Duration::from_secs(1);

/// Revisions kept of one service besides its present one and that of its update. There are some only after an update that
/// was stuck and left, or when roots were lost.
pub(super) const MAX_FORMER: u32 = 8;

/// Numbers of revisions that were only found at clusters begin here.
const UNKNOWN: u32 = 1 << 31;
