//! Who is told what of the network between nodes: the part that is the same in a cluster, whose children are workers,
//! and in the root, whose children are clusters.
//!
//! Services call services. A child that has instances of the caller is told of the callee: its addresses and where its
//! instances are. A child that has instances of the callee is told where the caller's instances are, so that it knows
//! whose packets these are. Both are told of the nodes in question. Nobody is told anything else, so what a change
//! costs depends on who uses what, not on how much there is.

mod news;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use oak_model::overlay::{Backend, BackendKey, Call, Caller, KnownService, Peer, Target, TunnelEnd};
use oak_model::{ApplicationId, InstanceKey, ServiceId, WorkerFacts, WorkerId};

use news::Told;

/// A worker as others reach it, by what it says of itself; none if it says no address.
pub(crate) fn peer(worker: WorkerId, subnet: Ipv4Net, facts: &WorkerFacts) -> Option<Peer> {
    let (underlay, underlay6) = (facts.underlay(), facts.underlay6());
    let (tunnel, plain) = (facts.tunnel.clone(), facts.plain);
    let (more_subnets, outside, relay) = (Vec::new(), None, None);
    let peer = Peer { worker, subnet, more_subnets, underlay, underlay6, tunnel, plain, outside, relay };
    let has_address = peer.own_addresses().next().is_some();
    has_address.then_some(peer)
}

/// What is known, who wants to know it, and what they were told.
#[derive(Debug)]
pub(crate) struct Hub<C> {
    services: BTreeMap<ServiceId, KnownService>,
    /// Which service has an address, or an instance with it.
    addresses: HashMap<Ipv4Addr, ServiceId>,
    backends: BTreeMap<InstanceKey, BTreeMap<WorkerId, Held<Backend, C>>>,
    peers: BTreeMap<WorkerId, Held<Peer, C>>,
    /// Which children have something of a service, counted by instances; and the same the other way round.
    holders: HashMap<ServiceId, BTreeMap<C, u32>>,
    held: HashMap<C, BTreeMap<ServiceId, u32>>,
    callees: BTreeMap<Caller, BTreeSet<ServiceId>>,
    callers: HashMap<ServiceId, BTreeSet<Caller>>,
    /// Children that are connected.
    told: BTreeMap<C, Told>,
    /// Who is told of a service's backends.
    watchers: HashMap<ServiceId, BTreeSet<C>>,
    /// The nodes every child was last told of. Kept while it is away: its nodes go on having to do with each other.
    introduced: BTreeMap<C, BTreeSet<WorkerId>>,
    /// What changed since the children were last told.
    changed: Changed<C>,
    /// Children have children of their own, and need to know who calls what they have.
    tells_calls: bool,
}

/// Something, and the child that has it and need not be told; none if somebody else has it.
#[derive(Debug)]
struct Held<T, C> {
    what: T,
    by: Option<C>,
}

#[derive(Debug)]
struct Changed<C> {
    /// Children that may want to know something else.
    interests: BTreeSet<C>,
    services: BTreeSet<ServiceId>,
    backends: BTreeSet<BackendKey>,
    peers: BTreeSet<WorkerId>,
    /// Those of them that have another key.
    rekeyed: BTreeSet<WorkerId>,
    /// Children that were told of other nodes than before, or of others' new keys.
    introduced: BTreeSet<C>,
}

impl<C> Default for Changed<C> {
    fn default() -> Self {
        Self {
            interests: BTreeSet::new(),
            services: BTreeSet::new(),
            backends: BTreeSet::new(),
            peers: BTreeSet::new(),
            rekeyed: BTreeSet::new(),
            introduced: BTreeSet::new(),
        }
    }
}

impl<C> Default for Hub<C> {
    fn default() -> Self {
        Self {
            services: BTreeMap::new(),
            addresses: HashMap::new(),
            backends: BTreeMap::new(),
            peers: BTreeMap::new(),
            holders: HashMap::new(),
            held: HashMap::new(),
            callees: BTreeMap::new(),
            callers: HashMap::new(),
            told: BTreeMap::new(),
            watchers: HashMap::new(),
            introduced: BTreeMap::new(),
            changed: Changed::default(),
            tells_calls: false,
        }
    }
}

impl<C: Copy + Ord + std::hash::Hash> Hub<C> {
    /// For children that have children.
    pub(crate) fn telling_calls() -> Self {
        Self { tells_calls: true, ..Self::default() }
    }

    /// A service that may be called.
    pub(crate) fn know(&mut self, service: KnownService) {
        let id = service.id;
        if self.services.get(&id) == Some(&service) {
            return;
        }
        for (_, address) in service.all_addresses() {
            self.addresses.insert(address, id);
        }
        self.services.insert(id, service);
        if self.watchers.contains_key(&id) {
            self.changed.services.insert(id);
        }
    }

    /// Nothing of a service is left.
    pub(crate) fn forget(&mut self, id: ServiceId) {
        let Some(service) = self.services.remove(&id) else { return };
        for (_, address) in service.all_addresses() {
            self.addresses.remove(&address);
        }
        for caller in self.callers.remove(&id).unwrap_or_default() {
            self.interests_of_caller(caller);
            if let Some(callees) = self.callees.get_mut(&caller) {
                callees.remove(&id);
                if callees.is_empty() {
                    self.callees.remove(&caller);
                }
            }
        }
        self.forget_caller(Caller::Service(id));
    }

    /// A child has one more instance of a service, with this address.
    pub(crate) fn hold(&mut self, key: InstanceKey, instance_address: Ipv4Addr, child: C) {
        self.addresses.insert(instance_address, key.service);
        let count = self.holders.entry(key.service).or_default().entry(child).or_default();
        *count += 1;
        *self.held.entry(child).or_default().entry(key.service).or_default() += 1;
        if *count == 1 {
            self.interests_of_holder(key.service, child);
        }
    }

    /// A child has one instance less.
    pub(crate) fn release(&mut self, key: InstanceKey, child: C) {
        let less = |counts: &mut u32| {
            *counts = counts.saturating_sub(1);
            *counts == 0
        };
        let Some(holders) = self.holders.get_mut(&key.service) else { return };
        if !holders.get_mut(&child).is_some_and(less) {
            if let Some(count) = self.held.get_mut(&child).and_then(|held| held.get_mut(&key.service)) {
                less(count);
            }
            return;
        }
        holders.remove(&child);
        if holders.is_empty() {
            self.holders.remove(&key.service);
        }
        if let Some(held) = self.held.get_mut(&child) {
            held.remove(&key.service);
        }
        self.interests_of_holder(key.service, child);
    }

    /// An address is nobody's any more.
    pub(crate) fn forget_address(&mut self, address: Ipv4Addr) {
        self.addresses.remove(&address);
    }

    /// Where an instance is, told by the child that has it.
    pub(crate) fn set_backend(&mut self, backend: Backend, by: Option<C>) {
        let (key, worker) = backend.id();
        let places = self.backends.entry(key).or_default();
        if places.get(&worker).is_some_and(|held| held.what == backend && held.by == by) {
            return;
        }
        places.insert(worker, Held { what: backend, by });
        self.addresses.insert(backend.instance_address, key.service);
        self.touch(key, worker);
    }

    /// It is not there any more.
    pub(crate) fn remove_backend(&mut self, (key, worker): BackendKey) {
        let Some(places) = self.backends.get_mut(&key) else { return };
        if places.remove(&worker).is_none() {
            return;
        }
        if places.is_empty() {
            self.backends.remove(&key);
        }
        self.touch(key, worker);
    }

    /// Places of one instance of which something is known.
    pub(crate) fn backends_of_instance(&self, key: InstanceKey) -> impl Iterator<Item = &Backend> {
        self.backends.get(&key).into_iter().flat_map(|places| places.values().map(|held| &held.what))
    }

    /// Places of which something is known.
    pub(crate) fn backends_of(&self, service: ServiceId) -> impl Iterator<Item = &Backend> {
        let places = self.backends.range(InstanceKey::all_of(service));
        places.flat_map(|(_, places)| places.values().map(|held| &held.what))
    }

    fn touch(&mut self, key: InstanceKey, worker: WorkerId) {
        if self.watchers.contains_key(&key.service) {
            self.changed.backends.insert((key, worker));
        }
    }

    /// How a node is reached.
    pub(crate) fn set_peer(&mut self, peer: Peer, by: Option<C>) {
        let worker = peer.worker;
        let known = self.peers.get(&worker);
        if known.is_none_or(|known| known.what != peer || known.by != by) {
            let keys =
                |peer: &Peer| peer.tunnel.iter().flat_map(TunnelEnd::keys).cloned().collect::<Vec<_>>();
            if known.is_none_or(|known| keys(&known.what) != keys(&peer)) {
                self.changed.rekeyed.insert(worker);
                // The child itself is told nothing, but has another key for those it was told of.
                self.changed.introduced.extend(by);
            }
            self.peers.insert(worker, Held { what: peer, by });
            self.changed.peers.insert(worker);
        }
    }

    /// The node is gone for good.
    pub(crate) fn remove_peer(&mut self, worker: WorkerId) {
        if self.peers.remove(&worker).is_some() {
            self.changed.peers.insert(worker);
        }
        self.forget_caller(Caller::Node(worker));
    }

    /// How a node is reached, as far as that is known.
    pub(crate) fn peer(&self, worker: WorkerId) -> Option<&Peer> {
        self.peers.get(&worker).map(|held| &held.what)
    }

    /// The child is gone for good.
    pub(crate) fn remove_child(&mut self, child: C) {
        self.disconnect(child);
        if self.introduced.remove(&child).is_some() {
            self.changed.introduced.insert(child);
        }
    }

    /// The nodes a child was last told of.
    pub(crate) fn introduced(&self, child: C) -> impl Iterator<Item = &Peer> {
        self.introduced.get(&child).into_iter().flatten().filter_map(|worker| self.peer(*worker))
    }

    /// Children of which [`Self::introduced`] may have changed since the last call, after [`Self::news`].
    pub(crate) fn take_introduced(&mut self) -> BTreeSet<C> {
        std::mem::take(&mut self.changed.introduced)
    }

    /// Somebody calls a service.
    pub(crate) fn call(&mut self, call: Call) {
        if !self.callees.entry(call.caller).or_default().insert(call.callee) {
            return;
        }
        self.callers.entry(call.callee).or_default().insert(call.caller);
        self.interests_of_caller(call.caller);
        self.interests_of_all(call.callee);
    }

    /// Somebody does not call a service any more.
    pub(crate) fn forget_call(&mut self, call: Call) {
        let Some(callees) = self.callees.get_mut(&call.caller) else { return };
        callees.remove(&call.callee);
        if callees.is_empty() {
            self.callees.remove(&call.caller);
        }
        self.interests_of_caller(call.caller);
        self.interests_of_all(call.callee);
        if let Some(callers) = self.callers.get_mut(&call.callee) {
            callers.remove(&call.caller);
            if callers.is_empty() {
                self.callers.remove(&call.callee);
            }
        }
    }

    /// The caller does not exist any more.
    pub(crate) fn forget_caller(&mut self, caller: Caller) {
        self.interests_of_caller(caller);
        for callee in self.callees.remove(&caller).unwrap_or_default() {
            self.interests_of_all(callee);
            if let Some(callers) = self.callers.get_mut(&callee) {
                callers.remove(&caller);
                if callers.is_empty() {
                    self.callers.remove(&callee);
                }
            }
        }
    }

    fn interests_of_holder(&mut self, service: ServiceId, child: C) {
        let is_used =
            self.callers.contains_key(&service) || self.callees.contains_key(&Caller::Service(service));
        if is_used {
            self.changed.interests.insert(child);
        }
    }

    fn interests_of_all(&mut self, service: ServiceId) {
        self.changed.interests.extend(self.holders.get(&service).into_iter().flat_map(BTreeMap::keys));
    }

    fn interests_of_caller(&mut self, caller: Caller) {
        match caller {
            Caller::Service(service) => self.interests_of_all(service),
            Caller::Node(worker) => {
                self.changed.interests.extend(self.peers.get(&worker).and_then(|peer| peer.by));
            }
        }
    }

    /// The service somebody means; of several with one name the one of the caller's application.
    pub(crate) fn resolve(&self, target: &Target, application: Option<ApplicationId>) -> Option<ServiceId> {
        match target {
            Target::Address(address) => self.addresses.get(address).copied(),
            Target::Name(name) => {
                let is_meant = |service: &&KnownService| service.job_name.is_dns_name(name);
                let found = self.services.values().filter(is_meant);
                found.max_by_key(|service| Some(service.application) == application).map(|found| found.id)
            }
        }
    }

    /// One service.
    pub(crate) fn service(&self, id: ServiceId) -> Option<&KnownService> {
        self.services.get(&id)
    }
}
