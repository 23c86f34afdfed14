//! All workers of a cluster with their reservations, in the order of their ids: whoever knows the same about the same
//! workers chooses the same one, root and cluster for example.

mod bounds;
mod choose;
mod columns;
mod propose;
mod rules;

use std::collections::{BTreeMap, HashMap};

use oak_model::{PortMapping, Protocol, Resources, ServiceId, WorkerId};

use self::bounds::Bound;
use self::columns::Columns;
use crate::{Request, WorkerState};

#[derive(Clone, Debug)]
struct PortHolder {
    service: ServiceId,
    name: String,
    instances: u32,
}

/// Everything about a worker that the scan does not touch.
#[derive(Clone, Debug)]
struct Details {
    id: WorkerId,
    state: WorkerState,
    reserved: Resources,
    instances: u32,
    services: BTreeMap<ServiceId, u32>,
    ports: BTreeMap<(Protocol, u16), PortHolder>,
}

impl Details {
    fn new(id: WorkerId, state: WorkerState) -> Self {
        Self {
            id,
            state,
            reserved: Resources::ZERO,
            instances: 0,
            services: BTreeMap::new(),
            ports: BTreeMap::new(),
        }
    }

    /// What may still be reserved; CPU with its overcommitment.
    fn free(&self) -> Resources {
        let cpu_millis = self.state.reservable_cpu_millis.saturating_sub(self.reserved.cpu_millis);
        Resources { cpu_millis, ..self.state.capacity.saturating_sub(self.reserved) }
    }

    /// Reserved share in thousandths, of memory or of CPU, whichever is larger.
    fn commitment(&self) -> i32 {
        let share = |used: u32, total: u32| {
            i32::try_from(u64::from(used) * 1000 / u64::from(total.max(1))).unwrap_or(i32::MAX)
        };
        let cpu = share(self.reserved.cpu_millis, self.state.reservable_cpu_millis);
        cpu.max(share(self.reserved.memory_mib, self.state.capacity.memory_mib))
    }

    fn instances_of(&self, service: ServiceId) -> u32 {
        self.services.get(&service).copied().unwrap_or(0)
    }
}

/// The workers of one cluster, with reservations.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    /// By id.
    details: Vec<Details>,
    columns: Columns,
    /// Where instances of a service are.
    hosts: HashMap<ServiceId, Vec<usize>>,
    totals: Totals,
}

/// A request with what its bounds are measured to.
struct Problem<'a> {
    request: &'a Request<'a>,
    bounds: Vec<Bound>,
}

impl Problem<'_> {
    fn hard_bounds(&self) -> impl Iterator<Item = &Bound> {
        self.bounds.iter().filter(|bound| bound.strictness.is_hard())
    }

    fn soft_bounds(&self) -> impl Iterator<Item = &Bound> {
        self.bounds.iter().filter(|bound| !bound.strictness.is_hard())
    }
}

/// Sums over all workers, kept up to date with every change.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    reserved_cpu: u64,
    reserved_memory: u64,
    cpu: u64,
    memory: u64,
}

impl Totals {
    fn add(&mut self, details: &Details) {
        self.reserved_cpu += u64::from(details.reserved.cpu_millis);
        self.reserved_memory += u64::from(details.reserved.memory_mib);
        self.cpu += u64::from(details.state.capacity.cpu_millis);
        self.memory += u64::from(details.state.capacity.memory_mib);
    }

    fn subtract(&mut self, details: &Details) {
        self.reserved_cpu -= u64::from(details.reserved.cpu_millis);
        self.reserved_memory -= u64::from(details.reserved.memory_mib);
        self.cpu -= u64::from(details.state.capacity.cpu_millis);
        self.memory -= u64::from(details.state.capacity.memory_mib);
    }
}

impl Fleet {
    /// A fleet without workers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of workers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.details.len()
    }

    /// Whether there are no workers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.details.is_empty()
    }

    fn find(&self, id: WorkerId) -> Result<usize, usize> {
        self.details.binary_search_by_key(&id, |details| details.id)
    }

    fn known(&self, id: WorkerId) -> Option<&Details> {
        self.details.get(self.find(id).ok()?)
    }

    /// Adds a worker or replaces what is known about it; its reservations stay.
    pub fn upsert(&mut self, id: WorkerId, state: WorkerState) {
        let position = match self.find(id) {
            Ok(position) => {
                if let Some(details) = self.details.get_mut(position) {
                    self.totals.subtract(details);
                    details.state = state;
                    self.totals.add(details);
                }
                position
            }
            Err(position) => {
                let details = Details::new(id, state);
                self.totals.add(&details);
                self.details.insert(position, details);
                self.columns.insert(position);
                // New workers usually have the largest id, then nothing has moved.
                if position + 1 < self.details.len() {
                    self.move_hosts(position, |host| host + 1);
                }
                position
            }
        };
        self.refresh(position);
    }

    /// Removes a worker with its reservations.
    pub fn remove(&mut self, id: WorkerId) {
        let Ok(position) = self.find(id) else { return };
        let details = self.details.remove(position);
        self.totals.subtract(&details);
        self.columns.remove(position);
        for service in details.services.keys() {
            self.forget_host(*service, position);
        }
        self.move_hosts(position, |host| host.saturating_sub(1));
    }

    /// Workers from `first` on have moved.
    fn move_hosts(&mut self, first: usize, place: impl Fn(usize) -> usize) {
        for hosts in self.hosts.values_mut() {
            hosts.iter_mut().filter(|host| **host >= first).for_each(|host| *host = place(*host));
        }
    }

    /// State of a worker.
    #[must_use]
    pub fn worker(&self, id: WorkerId) -> Option<&WorkerState> {
        self.known(id).map(|details| &details.state)
    }

    /// All workers in order.
    pub fn workers(&self) -> impl Iterator<Item = (WorkerId, &WorkerState)> {
        self.details.iter().map(|details| (details.id, &details.state))
    }

    /// What is reserved on a worker, and for how many instances.
    #[must_use]
    pub fn reserved(&self, id: WorkerId) -> Option<(Resources, u32)> {
        self.known(id).map(|details| (details.reserved, details.instances))
    }

    /// Workers that have instances of a service.
    pub fn hosts_of(&self, service: ServiceId) -> impl Iterator<Item = &WorkerState> {
        let hosts = self.hosts.get(&service).into_iter().flatten();
        hosts.filter_map(|position| self.details.get(*position)).map(|details| &details.state)
    }

    /// Reserved share of all workers together in thousandths, of memory or of CPU, whichever is larger.
    #[must_use]
    pub fn commitment(&self) -> u32 {
        let share = |reserved: u64, total: u64| reserved * 1000 / total.max(1);
        let totals = &self.totals;
        let larger = share(totals.reserved_memory, totals.memory).max(share(totals.reserved_cpu, totals.cpu));
        u32::try_from(larger).unwrap_or(u32::MAX)
    }

    /// Host ports in use on a worker.
    pub fn host_ports(&self, id: WorkerId) -> impl Iterator<Item = (Protocol, u16)> + '_ {
        self.known(id).into_iter().flat_map(|details| details.ports.keys().copied())
    }

    /// Marks the link of a worker up or down.
    pub fn set_connected(&mut self, id: WorkerId, connected: bool) {
        self.change(id, |state| state.connected = connected);
    }

    /// Closes a worker for new instances, or opens it.
    pub fn set_cordoned(&mut self, id: WorkerId, cordoned: bool) {
        self.change(id, |state| state.cordoned = cordoned);
    }

    /// Makes a worker the last choice, or a choice like any other.
    pub fn set_unreliable(&mut self, id: WorkerId, unreliable: bool) {
        self.change(id, |state| state.unreliable = unreliable);
    }

    /// Takes over how long a message to a worker and back takes, microseconds.
    pub fn set_round_trip(&mut self, id: WorkerId, round_trip_us: u32) {
        self.change(id, |state| state.round_trip_us = Some(round_trip_us));
    }

    fn change(&mut self, id: WorkerId, change: impl FnOnce(&mut WorkerState)) {
        let Ok(position) = self.find(id) else { return };
        if let Some(details) = self.details.get_mut(position) {
            change(&mut details.state);
        }
        self.refresh(position);
    }

    /// Counts an instance on a worker. Works also for a worker that is full or gone silent: reality comes first.
    pub fn reserve(
        &mut self,
        id: WorkerId,
        service: ServiceId,
        name: &str,
        needs: Resources,
        ports: &[PortMapping],
    ) {
        let Ok(position) = self.find(id) else { return };
        let Some(details) = self.details.get_mut(position) else { return };
        self.totals.subtract(details);
        details.reserved = details.reserved.saturating_add(needs);
        self.totals.add(details);
        details.instances += 1;
        *details.services.entry(service).or_default() += 1;
        for port in ports {
            let holder = details.ports.entry((port.protocol, port.host)).or_insert_with(|| PortHolder {
                service,
                name: name.to_owned(),
                instances: 0,
            });
            if holder.service == service {
                holder.instances += 1;
            }
        }
        let hosts = self.hosts.entry(service).or_default();
        if let Err(place) = hosts.binary_search(&position) {
            hosts.insert(place, position);
        }
        self.refresh(position);
    }

    /// Takes back what [`Fleet::reserve`] counted.
    pub fn release(&mut self, id: WorkerId, service: ServiceId, needs: Resources, ports: &[PortMapping]) {
        let Ok(position) = self.find(id) else { return };
        let Some(details) = self.details.get_mut(position) else { return };
        self.totals.subtract(details);
        details.reserved = details.reserved.saturating_sub(needs);
        self.totals.add(details);
        details.instances = details.instances.saturating_sub(1);
        for port in ports {
            let key = (port.protocol, port.host);
            if let Some(holder) = details.ports.get_mut(&key).filter(|holder| holder.service == service) {
                holder.instances -= 1;
                if holder.instances == 0 {
                    details.ports.remove(&key);
                }
            }
        }
        let mut last_of_service = false;
        if let Some(count) = details.services.get_mut(&service) {
            *count -= 1;
            if *count == 0 {
                details.services.remove(&service);
                last_of_service = true;
            }
        }
        if last_of_service {
            self.forget_host(service, position);
        }
        self.refresh(position);
    }

    fn forget_host(&mut self, service: ServiceId, position: usize) {
        if let Some(hosts) = self.hosts.get_mut(&service) {
            hosts.retain(|host| *host != position);
            if hosts.is_empty() {
                self.hosts.remove(&service);
            }
        }
    }

    /// Recomputes the columns of one worker.
    fn refresh(&mut self, position: usize) {
        if let Some(details) = self.details.get(position) {
            self.columns.set(position, details);
        }
    }
}

#[cfg(test)]
mod tests;
