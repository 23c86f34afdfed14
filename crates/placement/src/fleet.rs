//! All workers of a cluster as columns, so that one pass over 10 000 of them stays in cache.

use std::collections::{BTreeMap, HashMap};

use oak_model::{Architecture, PortMapping, Protocol, Resources, ServiceId, WorkerId};

use crate::{Reason, Refusal, Request, WorkerState};

const CONNECTED: u8 = 1;
const OPEN: u8 = 2;
const CONTAINERS: u8 = 4;
const REQUIRED: u8 = CONNECTED | OPEN | CONTAINERS;

const fn architecture_bit(architecture: Architecture) -> u8 {
    match architecture {
        Architecture::Amd64 => 16,
        Architecture::Arm64 => 32,
        Architecture::Arm => 64,
        Architecture::Riscv64 => 128,
    }
}

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

/// The workers of one cluster, with reservations.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    index: HashMap<WorkerId, usize>,
    details: Vec<Details>,
    class: Vec<u8>,
    cores: Vec<u32>,
    free_cpu: Vec<u32>,
    free_memory: Vec<u32>,
    free_storage: Vec<u32>,
    free_addresses: Vec<u32>,
    load: Vec<u32>,
    hosts: HashMap<ServiceId, Vec<usize>>,
    totals: Totals,
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

    /// Adds a worker or replaces what is known about it; its reservations stay.
    pub fn upsert(&mut self, id: WorkerId, state: WorkerState) {
        let position = if let Some(position) = self.index.get(&id) {
            *position
        } else {
            let position = self.details.len();
            self.index.insert(id, position);
            self.details.push(Details {
                id,
                state: state.clone(),
                reserved: Resources::ZERO,
                instances: 0,
                services: BTreeMap::new(),
                ports: BTreeMap::new(),
            });
            if let Some(details) = self.details.last() {
                self.totals.add(details);
            }
            for column in [
                &mut self.cores,
                &mut self.free_cpu,
                &mut self.free_memory,
                &mut self.free_storage,
                &mut self.free_addresses,
                &mut self.load,
            ] {
                column.push(0);
            }
            self.class.push(0);
            position
        };
        if let Some(details) = self.details.get_mut(position) {
            self.totals.subtract(details);
            details.state = state;
            self.totals.add(details);
        }
        self.refresh(position);
    }

    /// Removes a worker with its reservations.
    pub fn remove(&mut self, id: WorkerId) {
        let Some(position) = self.index.remove(&id) else { return };
        let details = self.details.swap_remove(position);
        self.totals.subtract(&details);
        self.class.swap_remove(position);
        for column in [
            &mut self.cores,
            &mut self.free_cpu,
            &mut self.free_memory,
            &mut self.free_storage,
            &mut self.free_addresses,
            &mut self.load,
        ] {
            column.swap_remove(position);
        }
        for service in details.services.keys() {
            self.forget_host(*service, position);
        }
        // The last worker moved into the gap: everything that points at its old position follows.
        let moved_from = self.details.len();
        if let Some(moved) = self.details.get(position) {
            self.index.insert(moved.id, position);
            for service in moved.services.keys() {
                if let Some(hosts) = self.hosts.get_mut(service) {
                    hosts.retain(|host| *host != moved_from);
                    hosts.push(position);
                    hosts.sort_unstable();
                }
            }
        }
    }

    /// State of a worker.
    #[must_use]
    pub fn worker(&self, id: WorkerId) -> Option<&WorkerState> {
        self.details.get(*self.index.get(&id)?).map(|details| &details.state)
    }

    /// What is reserved on a worker, and for how many instances.
    #[must_use]
    pub fn reserved(&self, id: WorkerId) -> Option<(Resources, u32)> {
        self.details.get(*self.index.get(&id)?).map(|details| (details.reserved, details.instances))
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
        self.index
            .get(&id)
            .and_then(|position| self.details.get(*position))
            .into_iter()
            .flat_map(|details| details.ports.keys().copied())
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

    fn change(&mut self, id: WorkerId, change: impl FnOnce(&mut WorkerState)) {
        let Some(position) = self.index.get(&id).copied() else { return };
        if let Some(details) = self.details.get_mut(position) {
            change(&mut details.state);
        }
        self.refresh(position);
    }

    /// Chooses a worker. Nothing is reserved.
    ///
    /// # Errors
    /// The refusal tells for every worker which rule it failed and by how much.
    pub fn place(&self, request: &Request<'_>) -> Result<WorkerId, Refusal> {
        let hosts = self.hosts.get(&request.service).map_or(&[][..], Vec::as_slice);
        let avoid = request.avoid.and_then(|id| self.index.get(&id)).copied();
        if let Some(best) = self.best_without_instances(request, hosts, avoid) {
            return Ok(best);
        }
        let candidates = hosts
            .iter()
            .copied()
            .filter(|position| Some(*position) != avoid && !self.is_unreliable(*position));
        let best_host =
            candidates.filter(|position| self.reject(*position, request).is_none()).min_by_key(|position| {
                (self.instances_of(*position, request.service), self.load.get(*position).copied())
            });
        let last_resort = || avoid.filter(|position| self.reject(*position, request).is_none());
        let choice = best_host.or_else(|| self.best_unreliable(request, avoid)).or_else(last_resort);
        match choice.and_then(|position| self.details.get(position)) {
            Some(details) => Ok(details.id),
            None => Err(self.explain(request)),
        }
    }

    fn is_unreliable(&self, position: usize) -> bool {
        self.details.get(position).is_some_and(|details| details.state.unreliable)
    }

    fn best_unreliable(&self, request: &Request<'_>, avoid: Option<usize>) -> Option<usize> {
        (0..self.details.len())
            .filter(|position| self.is_unreliable(*position) && Some(*position) != avoid)
            .filter(|position| self.reject(*position, request).is_none())
            .min_by_key(|position| self.load.get(*position).copied())
    }

    /// Reason why `id` cannot take the instance, `None` when it can.
    #[must_use]
    pub fn check(&self, id: WorkerId, request: &Request<'_>) -> Option<Reason> {
        self.index.get(&id).map_or(Some(Reason::NotConnected), |position| self.reject(*position, request))
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
        let Some(position) = self.index.get(&id).copied() else { return };
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
        let Some(position) = self.index.get(&id).copied() else { return };
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

    fn instances_of(&self, position: usize, service: ServiceId) -> u32 {
        self.details.get(position).and_then(|details| details.services.get(&service)).copied().unwrap_or(0)
    }

    /// The least loaded worker without an instance of the service, by scanning the gaps between those that have.
    fn best_without_instances(
        &self,
        request: &Request<'_>,
        hosts: &[usize],
        avoid: Option<usize>,
    ) -> Option<WorkerId> {
        let mut skipped: Vec<usize> = hosts.to_vec();
        if let Some(avoid) = avoid
            && let Err(place) = skipped.binary_search(&avoid)
        {
            skipped.insert(place, avoid);
        }
        let mut best = None;
        let mut best_load = u32::MAX;
        let mut start = 0;
        for end in skipped.into_iter().chain([self.details.len()]) {
            self.scan(start..end, request, &mut best, &mut best_load);
            start = end + 1;
        }
        best.and_then(|position: usize| self.details.get(position)).map(|details| details.id)
    }

    fn scan(
        &self,
        range: std::ops::Range<usize>,
        request: &Request<'_>,
        best: &mut Option<usize>,
        best_load: &mut u32,
    ) {
        let needs = request.resources;
        let architectures = architecture_mask(request.architectures);
        let slow_rules =
            !request.workers.is_empty() || !request.ports.is_empty() || !request.volumes.is_empty();
        let columns = (
            self.class.get(range.clone()),
            self.cores.get(range.clone()),
            self.free_cpu.get(range.clone()),
            self.free_memory.get(range.clone()),
            self.free_storage.get(range.clone()),
            self.free_addresses.get(range.clone()),
            self.load.get(range.clone()),
        );
        let (Some(class), Some(cores), Some(cpu), Some(memory), Some(storage), Some(addresses), Some(load)) =
            columns
        else {
            return;
        };
        let rows = class.iter().zip(cores).zip(cpu).zip(memory).zip(storage).zip(addresses).zip(load);
        for (offset, ((((((class, cores), cpu), memory), storage), addresses), load)) in rows.enumerate() {
            let fits = (*load < *best_load)
                & (class & REQUIRED == REQUIRED)
                & (class & architectures != 0)
                & (*cores >= needs.cpu_millis)
                & (*cpu >= needs.cpu_millis)
                & (*memory >= needs.memory_mib)
                & (*storage >= needs.storage_mib)
                & (*addresses > 0);
            if fits && !(slow_rules && self.reject(range.start + offset, request).is_some()) {
                *best = Some(range.start + offset);
                *best_load = *load;
            }
        }
    }

    /// The first rule that worker `position` fails.
    fn reject(&self, position: usize, request: &Request<'_>) -> Option<Reason> {
        let details = self.details.get(position)?;
        let state = &details.state;
        let needs = request.resources;
        if !request.workers.is_empty() && !request.workers.contains(&state.name) {
            return Some(Reason::NotNamed);
        }
        if !state.connected {
            return Some(Reason::NotConnected);
        }
        if state.cordoned {
            return Some(Reason::Cordoned);
        }
        if architecture_mask(request.architectures) & architecture_bit(state.architecture) == 0 {
            return Some(Reason::Architecture { has: state.architecture });
        }
        if !state.runs_containers {
            return Some(Reason::Virtualization);
        }
        if let Some(volume) =
            request.volumes.iter().find(|volume| !state.csi_drivers.contains(&volume.driver))
        {
            return Some(Reason::VolumeDriver { missing: volume.driver.clone() });
        }
        if state.capacity.cpu_millis < needs.cpu_millis {
            return Some(Reason::TooFewCores { has: state.capacity.cpu_millis, needed: needs.cpu_millis });
        }
        let free_cpu = state.reservable_cpu_millis.saturating_sub(details.reserved.cpu_millis);
        if free_cpu < needs.cpu_millis {
            return Some(Reason::Cpu { free: free_cpu, needed: needs.cpu_millis });
        }
        let free = state.capacity.saturating_sub(details.reserved);
        if free.memory_mib < needs.memory_mib {
            return Some(Reason::Memory {
                free: free.memory_mib,
                total: state.capacity.memory_mib,
                needed: needs.memory_mib,
            });
        }
        if free.storage_mib < needs.storage_mib {
            return Some(Reason::Storage { free: free.storage_mib, needed: needs.storage_mib });
        }
        if details.instances >= state.addresses {
            return Some(Reason::Addresses { total: state.addresses });
        }
        request.ports.iter().find_map(|port| {
            let holder = details.ports.get(&(port.protocol, port.host))?;
            (holder.service != request.service).then(|| Reason::HostPort {
                port: port.host,
                protocol: port.protocol,
                holder: holder.name.clone(),
            })
        })
    }

    fn explain(&self, request: &Request<'_>) -> Refusal {
        let workers = self
            .details
            .iter()
            .enumerate()
            .filter_map(|(position, details)| {
                Some((details.state.name.clone(), self.reject(position, request)?))
            })
            .collect();
        Refusal { workers }
    }

    /// Recomputes the columns of one worker.
    fn refresh(&mut self, position: usize) {
        let Some(details) = self.details.get(position) else { return };
        let state = &details.state;
        let mut class = architecture_bit(state.architecture);
        class |= if state.connected { CONNECTED } else { 0 };
        class |= if state.cordoned || state.unreliable { 0 } else { OPEN };
        class |= if state.runs_containers { CONTAINERS } else { 0 };
        let free = state.capacity.saturating_sub(details.reserved);
        let free_cpu = state.reservable_cpu_millis.saturating_sub(details.reserved.cpu_millis);
        let load = load(details);
        let values: [(&mut Vec<u32>, u32); 6] = [
            (&mut self.cores, state.capacity.cpu_millis),
            (&mut self.free_cpu, free_cpu),
            (&mut self.free_memory, free.memory_mib),
            (&mut self.free_storage, free.storage_mib),
            (&mut self.free_addresses, state.addresses.saturating_sub(details.instances)),
            (&mut self.load, load),
        ];
        for (column, value) in values {
            if let Some(cell) = column.get_mut(position) {
                *cell = value;
            }
        }
        if let Some(cell) = self.class.get_mut(position) {
            *cell = class;
        }
    }
}

fn architecture_mask(architectures: &[Architecture]) -> u8 {
    if architectures.is_empty() {
        return 0xf0;
    }
    architectures.iter().fold(0, |mask, architecture| mask | architecture_bit(*architecture))
}

/// Commitment in thousandths (the larger of CPU and memory) above the number of instances, so that equal workers
/// fill evenly.
fn load(details: &Details) -> u32 {
    let share = |used: u32, total: u32| {
        u32::try_from(u64::from(used) * 1000 / u64::from(total.max(1))).unwrap_or(u32::MAX).min(0xf_ffff)
    };
    let cpu = share(details.reserved.cpu_millis, details.state.reservable_cpu_millis);
    let memory = share(details.reserved.memory_mib, details.state.capacity.memory_mib);
    (cpu.max(memory) << 11) | details.instances.min(0x7ff)
}

#[cfg(test)]
mod tests;
