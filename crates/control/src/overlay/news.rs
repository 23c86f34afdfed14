//! What children are told: everything when they connect, then every change.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use oak_model::overlay::{Backend, BackendKey, Call, Caller, OverlayChange};
use oak_model::{InstanceKey, ServiceId, WorkerId};

use super::{Changed, Hub};

/// What a child knows.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Services whose backends it is told; true: it calls them.
    services: BTreeMap<ServiceId, bool>,
    backends: BTreeMap<InstanceKey, BTreeSet<WorkerId>>,
    /// How many of its backends are on a node.
    uses: HashMap<WorkerId, u32>,
    /// Nodes that themselves call what the child has.
    calling: BTreeSet<WorkerId>,
    /// Who calls what the child has, if it is told that.
    calls: BTreeSet<Call>,
}

impl<C: Copy + Ord + std::hash::Hash> Hub<C> {
    /// A child is connected and knows nothing; returns everything it has to know.
    pub(crate) fn connect(&mut self, child: C) -> OverlayChange {
        self.disconnect(child);
        self.told.insert(child, Told::default());
        self.introduced.remove(&child);
        self.changed.introduced.insert(child);
        let mut news = OverlayChange::default();
        self.refresh(child, &mut news);
        self.changed.interests.remove(&child);
        news
    }

    /// A child is not connected any more.
    pub(crate) fn disconnect(&mut self, child: C) {
        for service in self.told.remove(&child).map(|told| told.services).unwrap_or_default().keys() {
            self.unwatch(*service, child);
        }
    }

    fn unwatch(&mut self, service: ServiceId, child: C) {
        if let Some(watchers) = self.watchers.get_mut(&service) {
            watchers.remove(&child);
            if watchers.is_empty() {
                self.watchers.remove(&service);
            }
        }
    }

    /// What every child has to be told since the last time.
    pub(crate) fn news(&mut self) -> BTreeMap<C, OverlayChange> {
        let mut all: BTreeMap<C, OverlayChange> = BTreeMap::new();
        let introduced = std::mem::take(&mut self.changed.introduced);
        let changed = std::mem::replace(&mut self.changed, Changed { introduced, ..Changed::default() });
        for child in changed.interests {
            let mut news = OverlayChange::default();
            self.refresh(child, &mut news);
            if !news.is_empty() {
                all.insert(child, news);
            }
        }
        for service in changed.services {
            let Some(known) = self.services.get(&service) else { continue };
            for child in self.watchers.get(&service).into_iter().flatten() {
                let calls =
                    self.told.get(child).is_some_and(|told| told.services.get(&service) == Some(&true));
                let news = all.entry(*child).or_default();
                if calls && !news.services.iter().any(|other| other.id == service) {
                    news.services.push(known.clone());
                }
            }
        }
        for id in changed.backends {
            for child in self.watchers.get(&id.0.service).cloned().unwrap_or_default() {
                self.tell_backend(child, id, all.entry(child).or_default());
            }
        }
        let children: Vec<C> = self.told.keys().copied().collect();
        for peer in changed.peers {
            for child in &children {
                self.tell_peer(*child, peer, all.entry(*child).or_default());
                let is_told = || self.introduced.get(child).is_some_and(|nodes| nodes.contains(&peer));
                if changed.rekeyed.contains(&peer) && is_told() {
                    self.changed.introduced.insert(*child);
                }
            }
        }
        all.retain(|_, news| !news.is_empty());
        all
    }

    /// Compares what a child wants to know with what it was told.
    fn refresh(&mut self, child: C, news: &mut OverlayChange) {
        let (wanted, calling) = self.interests(child);
        let Some(told) = self.told.get_mut(&child) else { return };
        let before = std::mem::replace(&mut told.services, wanted.clone());
        let callers_before = std::mem::replace(&mut told.calling, calling.clone());
        for (service, called) in &before {
            if *called && wanted.get(service) != Some(&true) {
                news.gone_services.push(*service);
            }
            if !wanted.contains_key(service) {
                self.unwatch(*service, child);
                self.drop_backends(child, *service, news);
            }
        }
        for (service, calls) in &wanted {
            if *calls && before.get(service) != Some(&true) {
                news.services.extend(self.services.get(service).cloned());
            }
            if !before.contains_key(service) {
                self.watchers.entry(*service).or_default().insert(child);
                let places: Vec<BackendKey> = self.backends_of(*service).map(Backend::id).collect();
                for id in places {
                    self.tell_backend(child, id, news);
                }
            }
        }
        for worker in callers_before.symmetric_difference(&calling) {
            self.tell_peer(child, *worker, news);
        }
        if self.tells_calls {
            self.refresh_calls(child, news);
        }
    }

    /// Tells a child who calls what it has.
    fn refresh_calls(&mut self, child: C, news: &mut OverlayChange) {
        let mut calls = BTreeSet::new();
        for callee in self.held.get(&child).into_iter().flat_map(BTreeMap::keys) {
            let callers = self.callers.get(callee).into_iter().flatten();
            calls.extend(callers.map(|caller| Call { caller: *caller, callee: *callee }));
        }
        let Some(told) = self.told.get_mut(&child) else { return };
        news.calls.extend(calls.difference(&told.calls));
        news.gone_calls.extend(told.calls.difference(&calls));
        told.calls = calls;
    }

    /// The services a child is told of, true if it calls them; and the nodes that themselves call what it has.
    fn interests(&self, child: C) -> (BTreeMap<ServiceId, bool>, BTreeSet<WorkerId>) {
        let mut services = BTreeMap::new();
        let mut nodes = BTreeSet::new();
        for held in self.held.get(&child).into_iter().flat_map(BTreeMap::keys) {
            for callee in self.callees.get(&Caller::Service(*held)).into_iter().flatten() {
                services.insert(*callee, true);
            }
            for caller in self.callers.get(held).into_iter().flatten() {
                match caller {
                    Caller::Service(service) => {
                        services.entry(*service).or_insert(false);
                    }
                    Caller::Node(worker) => {
                        nodes.insert(*worker);
                    }
                }
            }
        }
        for (caller, callees) in &self.callees {
            let Caller::Node(worker) = caller else { continue };
            if self.peers.get(worker).is_some_and(|peer| peer.by == Some(child)) {
                services.extend(callees.iter().map(|callee| (*callee, true)));
            }
        }
        (services, nodes)
    }

    fn tell_backend(&mut self, child: C, (key, worker): BackendKey, news: &mut OverlayChange) {
        let held = self.backends.get(&key).and_then(|places| places.get(&worker));
        let Some(told) = self.told.get_mut(&child) else { return };
        let what = held.filter(|held| held.by != Some(child)).map(|held| held.what);
        let places = told.backends.entry(key).or_default();
        match what {
            Some(backend) => {
                news.backends.retain(|other| other.id() != backend.id());
                news.backends.push(backend);
                if places.insert(worker) {
                    *told.uses.entry(worker).or_default() += 1;
                }
            }
            None if places.remove(&worker) => {
                news.gone_backends.push((key, worker));
                told.give_back(worker);
            }
            None => {}
        }
        if told.backends.get(&key).is_some_and(BTreeSet::is_empty) {
            told.backends.remove(&key);
        }
        let is_told = self.introduced.get(&child).is_some_and(|nodes| nodes.contains(&worker));
        if told.is_using(worker) != is_told {
            self.tell_peer(child, worker, news);
        }
    }

    fn drop_backends(&mut self, child: C, service: ServiceId, news: &mut OverlayChange) {
        let Some(told) = self.told.get_mut(&child) else { return };
        let keys: Vec<InstanceKey> =
            told.backends.range(InstanceKey::all_of(service)).map(|(key, _)| *key).collect();
        let mut nodes = BTreeSet::new();
        for key in keys {
            for worker in told.backends.remove(&key).unwrap_or_default() {
                news.gone_backends.push((key, worker));
                told.give_back(worker);
                nodes.insert(worker);
            }
        }
        for worker in nodes {
            self.tell_peer(child, worker, news);
        }
    }

    /// Tells a child how a node is reached, if it has to do with it; or that it need not know any more.
    fn tell_peer(&mut self, child: C, worker: WorkerId, news: &mut OverlayChange) {
        let held = self.peers.get(&worker).filter(|held| held.by != Some(child));
        let Some(told) = self.told.get_mut(&child) else { return };
        news.peers.retain(|peer| peer.worker != worker);
        let was_gone = news.gone_peers.contains(&worker);
        news.gone_peers.retain(|gone| *gone != worker);
        let nodes = self.introduced.entry(child).or_default();
        match held.filter(|_| told.is_using(worker)) {
            Some(held) => {
                if nodes.insert(worker) {
                    self.changed.introduced.insert(child);
                }
                news.peers.push(held.what.clone());
            }
            None => {
                let is_news = nodes.remove(&worker);
                if is_news {
                    self.changed.introduced.insert(child);
                }
                if is_news || was_gone {
                    news.gone_peers.push(worker);
                }
            }
        }
    }
}

impl Told {
    fn is_using(&self, worker: WorkerId) -> bool {
        self.calling.contains(&worker) || self.uses.get(&worker).is_some_and(|uses| *uses > 0)
    }

    fn give_back(&mut self, worker: WorkerId) {
        if let Some(uses) = self.uses.get_mut(&worker) {
            *uses -= 1;
            if *uses == 0 {
                self.uses.remove(&worker);
            }
        }
    }
}
