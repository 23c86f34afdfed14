//! What users change about a service: its number of instances, and everything else.

use std::collections::BTreeMap;
use std::sync::Arc;

use oak_model::sla::ServiceRequest;
use oak_model::{InstanceKey, JobName, MAX_REPLICAS, Now, Rollout, RolloutState, Service, ServiceId};

use super::keep::MAX_FORMER;
use super::ledger::Promise;
use super::service_addresses::keep_addresses;
use super::{Refusal, Root};

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing differs.
    Unchanged,
    /// Stored; what runs is not touched, or only its number.
    Stored,
    /// Instances are being replaced.
    Updating,
}

/// What scaling did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scaled {
    /// Instances the service keeps from now on.
    pub replicas: u32,
    /// Numbers of the instances that were created.
    pub created: Vec<u32>,
    /// Numbers of the instances that were taken down.
    pub removed: Vec<u32>,
}

impl Root {
    /// Sets the number of instances a service keeps by itself: creates what is missing, takes down what is too much,
    /// highest numbers first. While it is being updated, new instances have the former revision.
    ///
    /// # Errors
    /// The service does not exist, the number is too large, or there are not enough addresses, or the quota of its
    /// organisation is used up; nothing was changed.
    pub fn scale(&mut self, now: Now, id: ServiceId, replicas: u32) -> Result<Scaled, Refusal> {
        let service = self.services.get(&id).ok_or(Refusal::UnknownService(id))?;
        if replicas > MAX_REPLICAS {
            return Err(Refusal::TooManyReplicas);
        }
        let keys: Vec<_> = self.instances_of(id).map(|instance| instance.key).collect();
        // An update has instances to spare, or goes without some; they are its own affair.
        let active = service.upkeep.active().map(|rollout| rollout.total as usize);
        let counted = active.unwrap_or(keys.len());
        let missing = (replicas as usize).saturating_sub(counted);
        if missing > self.addresses.free() {
            return Err(Refusal::AddressesExhausted);
        }
        let created = u32::try_from(missing).unwrap_or(u32::MAX);
        self.check_promise(service, Promise::of(service).with_replicas(replicas), created)?;
        let revision = service.upkeep.proven_revision();
        let surplus = counted.saturating_sub(replicas as usize);
        let mut scaled = Scaled { replicas, ..Scaled::default() };
        for key in self.highest_first(id, keys).into_iter().take(surplus) {
            self.remove_instance(now, key);
            scaled.removed.push(key.number);
        }
        for _ in 0..missing {
            scaled.created.push(self.create_instance(now, id, revision)?.number);
        }
        self.wanted_changed(now, id, Some(replicas), |_| replicas);
        Ok(scaled)
    }

    /// Instances in the order in which they go when there are too many. During an update those of the revision it
    /// leads to stay for longest, or the update would never come to its end.
    fn highest_first(&self, id: ServiceId, mut keys: Vec<InstanceKey>) -> Vec<InstanceKey> {
        let service = self.services.get(&id);
        let is_target = |key: &InstanceKey| {
            let revision = self.instances.get(key).map(|instance| instance.revision);
            service.is_some_and(|s| s.upkeep.active().is_some() && revision == Some(s.upkeep.revision))
        };
        keys.sort_by_key(|key| (is_target(key), std::cmp::Reverse(key.number)));
        keys
    }

    /// Makes a service what is asked for. What its instances run changes by replacing them one after the other; a
    /// number of instances takes effect when that is done.
    ///
    /// # Errors
    /// The service does not exist, the change would be another service or go beyond a quota, or another update is under
    /// way; nothing was changed.
    pub fn change_service(
        &mut self,
        now: Now,
        id: ServiceId,
        request: ServiceRequest,
    ) -> Result<Change, Refusal> {
        let service = self.services.get(&id).ok_or(Refusal::UnknownService(id))?;
        let request = fitted(service, request)?;
        let (mut old, mut new) = (service.document.clone(), request.document.clone());
        [&mut old, &mut new].into_iter().for_each(|document| {
            document.shift_remove("microserviceID");
        });
        let is_same_spec = *service.spec == request.spec;
        let is_same = is_same_spec && old == new && service.upkeep.policy == request.update;
        if is_same && service.upkeep.replicas == request.replicas {
            return Ok(Change::Unchanged);
        }
        if !is_same_spec {
            return self.begin_update(now, id, request).map(|()| Change::Updating);
        }
        let (replicas, present) = (request.replicas, service.upkeep.replicas);
        let other_number = replicas.filter(|_| replicas != present);
        // An update under way follows the new policy at once.
        let promise = Promise::of_policy(service, request.update);
        self.check_promise(service, other_number.map_or(promise, |n| promise.with_replicas(n)), 0)?;
        if let Some(replicas) = other_number {
            self.scale(now, id, replicas)?;
        }
        let Some(service) = self.services.get_mut(&id) else { return Ok(Change::Stored) };
        service.document = request.document;
        service.upkeep.policy = request.update;
        self.promise_again(id);
        self.save_service(id);
        self.look_soon(now, id);
        Ok(Change::Stored)
    }

    fn begin_update(&mut self, now: Now, id: ServiceId, request: ServiceRequest) -> Result<(), Refusal> {
        let all = u32::try_from(self.instances_of(id).count()).unwrap_or(u32::MAX);
        let Some(service) = self.services.get(&id) else { return Err(Refusal::UnknownService(id)) };
        // What cannot be rolled back may be stuck, because no revision runs any more: this is the way out.
        let is_last_resort =
            |rollout: &Rollout| rollout.state == RolloutState::RollingBack || rollout.from.is_none();
        let active = service.upkeep.active();
        if active.is_some_and(|rollout| !is_last_resort(rollout)) {
            let (revision, name) = (service.upkeep.revision, service.job_name.clone());
            return Err(Refusal::UpdateRunning { service: Box::new(name), revision });
        }
        let total = active.map_or(all, |rollout| rollout.total);
        // Those no instance has must not count against the quota.
        self.forget_unused(id);
        let Some(service) = self.services.get(&id) else { return Err(Refusal::UnknownService(id)) };
        self.check_promise(service, Promise::of_update(service, &request, total), 0)?;
        self.check_more_addresses(service, &request.spec)?;
        self.make_room_for_former(now, id);
        self.give_more_addresses(id, &request.spec);
        let Some(service) = self.services.get_mut(&id) else { return Err(Refusal::UnknownService(id)) };
        let stuck = service.upkeep.rollout.take_if(|rollout| rollout.state.is_active());
        service.upkeep.former.extend(stuck.and_then(|rollout| rollout.from));
        let from = service.present();
        service.become_revision(oak_model::Revision {
            number: service.upkeep.highest + 1,
            spec: Arc::new(request.spec),
            document: request.document,
            replicas: request.replicas,
            policy: request.update,
        });
        let state = RolloutState::Running;
        service.upkeep.rollout = Some(Rollout { state, from: Some(from), total, reason: String::new() });
        self.know_links(id);
        self.recount(id);
        self.save_service(id);
        self.look_after(now, id);
        Ok(())
    }

    /// Forgets the revisions that no instance has.
    fn forget_unused(&mut self, id: ServiceId) {
        let used = self.instances_per_revision(id);
        let Some(service) = self.services.get_mut(&id) else { return };
        let before = service.upkeep.former.len();
        service.upkeep.former.retain(|former| used.contains_key(&former.number));
        if service.upkeep.former.len() != before {
            self.recount(id);
            self.save_service(id);
        }
    }

    /// Gives revisions up until there is room for one more, so that a stuck update can be left as often as somebody likes:
    /// the one with the fewest instances that run, together with these.
    fn make_room_for_former(&mut self, now: Now, id: ServiceId) {
        while let Some(service) = self.services.get(&id)
            && service.upkeep.former.len() >= MAX_FORMER as usize
        {
            let running = self.instances_per_revision(id);
            let numbers = service.upkeep.former.iter().map(|former| former.number);
            // Among equals the oldest.
            let fewest = numbers.min_by_key(|number| running.get(number).copied().unwrap_or_default());
            let Some(number) = fewest else { return };
            let of_it = self.instances_of(id).filter(|instance| instance.revision == number);
            let leaving: Vec<_> = of_it.map(|instance| instance.key).collect();
            leaving.into_iter().for_each(|key| self.remove_instance(now, key));
            let Some(service) = self.services.get_mut(&id) else { return };
            service.upkeep.former.retain(|former| former.number != number);
        }
    }

    /// The revisions the instances of a service have, and how many of each run.
    fn instances_per_revision(&self, id: ServiceId) -> BTreeMap<u32, usize> {
        let mut running = BTreeMap::new();
        for instance in self.instances_of(id) {
            *running.entry(instance.revision).or_default() += usize::from(instance.ready_since.is_some());
        }
        running
    }

    /// Calls an update off, or takes the last one back. One that is being rolled back already goes on.
    ///
    /// # Errors
    /// The service does not exist, there is nothing to go back to, or what is gone back to is more than the quota of its
    /// organisation has left; nothing was changed.
    pub fn roll_back(&mut self, now: Now, id: ServiceId) -> Result<(), Refusal> {
        let service = self.services.get(&id).ok_or(Refusal::UnknownService(id))?;
        let rollout = service.upkeep.rollout.as_ref();
        match rollout.and_then(|rollout| Some((rollout.state, rollout.total, rollout.from.as_ref()?))) {
            // The way back was promised at the beginning.
            Some((RolloutState::Running, ..)) => {}
            Some((RolloutState::Done, total, from)) => {
                self.check_promise(service, Promise::of_roll_back(service, from, total), 0)?;
            }
            Some((RolloutState::RollingBack, ..)) => return Ok(()),
            Some((RolloutState::RolledBack, ..)) | None => {
                return Err(Refusal::NothingToRollBack(Box::new(service.job_name.clone())));
            }
        }
        self.turn_back(now, id, "on request".to_owned());
        self.look_after(now, id);
        Ok(())
    }
}

/// The request with what it leaves to the service: its address, and how many instances it keeps.
fn fitted(service: &Service, mut request: ServiceRequest) -> Result<ServiceRequest, Refusal> {
    let present = &service.job_name;
    if present.service != request.name || present.service_namespace != request.namespace {
        let wanted =
            JobName { service: request.name, service_namespace: request.namespace, ..present.clone() };
        return Err(Refusal::Renamed { present: Box::new(present.clone()), wanted: Box::new(wanted) });
    }
    keep_addresses(service, &mut request.spec)?;
    if request.replicas.is_none()
        && let Some(replicas) = service.upkeep.replicas
    {
        request.replicas = Some(replicas);
        request.document.insert("replicas".to_owned(), replicas.into());
    }
    Ok(request)
}
