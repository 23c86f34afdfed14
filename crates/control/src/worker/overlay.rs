//! Services and instances on other nodes: asked for when somebody here calls them, kept in step by the cluster, and
//! remembered for the time when there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use oak_model::message::{LocalCall, WorkerHello, WorkerToCluster};
use oak_model::overlay::{
    Backend, KnownService, MOST_SEEN, NodeKeys, OverlayChange, Peer, Readiness, Target,
};
use oak_model::{InstanceKey, Moment, ServiceId, WorkerFacts, WorkerId};

use serde::{Deserialize, Serialize};

use super::ask::Question;
use super::{Effect, NetworkTable, OwnPlace, Tenant, Worker};
use crate::{CorruptRow, Row, Table};

/// What a worker knows of others.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    /// Who here calls which service; none: the machine itself.
    pub(super) calls: BTreeMap<ServiceId, BTreeSet<Option<ServiceId>>>,
    pub(super) services: BTreeMap<ServiceId, KnownService>,
    backends: BTreeMap<InstanceKey, BTreeMap<WorkerId, Backend>>,
    peers: BTreeMap<WorkerId, Peer>,
    pub(super) questions: BTreeMap<Target, Question>,
    pub(super) refused: BTreeMap<(Target, Tenant), Moment>,
}

/// Callers of a service as they are stored.
#[derive(Debug, Serialize, Deserialize)]
struct Callers {
    callers: BTreeSet<Option<ServiceId>>,
}

/// The places of an instance as they are stored.
#[derive(Debug, Serialize, Deserialize)]
struct Places {
    backends: Vec<Backend>,
}

/// A service as it is known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known<'a> {
    /// What it is called.
    pub service: &'a KnownService,
    /// Its instances on other nodes.
    pub backends: Vec<Backend>,
}

impl Worker {
    /// First message of a new session.
    #[must_use]
    pub fn hello(&self, mut facts: WorkerFacts) -> WorkerHello {
        if let Some(tunnel) = &mut facts.tunnel {
            tunnel.seen_as.clone_from(&self.seen_as);
            if let Some(keys) = &self.keys {
                tunnel.set_keys(keys.clone());
            }
        }
        let calls = self.overlay.calls.iter();
        let calls = calls.flat_map(|(callee, callers)| {
            callers.iter().map(|caller| LocalCall { caller: *caller, callee: *callee })
        });
        WorkerHello { facts, workloads: self.reports(), calls: calls.collect(), own_address: None }
    }

    /// As which relays see this node.
    #[must_use]
    pub fn seen_as(&self) -> &[SocketAddr] {
        &self.seen_as
    }

    /// As which relays see this node now.
    pub fn set_seen_as(&mut self, mut addresses: Vec<SocketAddr>) {
        addresses.truncate(MOST_SEEN);
        if self.seen_as != addresses {
            self.seen_as.clone_from(&addresses);
            self.outbox.emit(Effect::ToCluster(WorkerToCluster::Seen(addresses)));
            self.update_network();
        }
    }

    /// Whether it has a link to its cluster.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        self.connected
    }

    /// By which keys this node shall be known from now on.
    pub fn set_keys(&mut self, keys: NodeKeys) {
        if self.keys.as_ref() != Some(&keys) {
            self.keys = Some(keys.clone());
            self.outbox.emit(Effect::ToCluster(WorkerToCluster::Keys(keys)));
            self.update_network();
        }
    }

    /// Whether calls of unknown addresses are noticed here.
    pub fn set_asks(&mut self, asks: bool) {
        self.settings.asks = asks;
        self.update_network();
    }

    /// The link to the cluster ended.
    pub fn cluster_closed(&mut self) {
        self.connected = false;
        self.update_network();
    }

    /// Services that are known here because somebody calls them.
    pub fn known_services(&self) -> impl Iterator<Item = Known<'_>> {
        self.overlay.services.values().map(|service| Known {
            service,
            backends: self.overlay.backends_of(service.id).copied().collect(),
        })
    }

    /// Other nodes that this one has to do with.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.overlay.peers.values()
    }

    /// As the cluster saw this node last, if there is a NAT in between.
    #[must_use]
    pub const fn outside(&self) -> Option<IpAddr> {
        self.meta.vantage.outside
    }

    /// Whether all instances of a service with instances here are known. Where calls of unknown addresses are noticed, the
    /// first call waits until they are.
    #[must_use]
    pub fn is_open(&self, service: ServiceId) -> bool {
        !self.settings.asks
            || self.overlay.calls.contains_key(&service)
            || self.overlay.services.contains_key(&service)
    }

    pub(super) fn remember_call(&mut self, caller: Option<ServiceId>, callee: ServiceId) {
        if self.overlay.calls.entry(callee).or_default().insert(caller) {
            self.save_calls(callee);
        }
    }

    fn save_calls(&mut self, callee: ServiceId) {
        match self.overlay.calls.get(&callee) {
            Some(callers) => self.outbox.put(Table::Call, callee, &Callers { callers: callers.clone() }),
            None => self.outbox.delete(Table::Call, callee),
        }
    }

    /// The cluster has news of others.
    pub(super) fn overlay_changed(&mut self, change: OverlayChange) {
        let is_awaited = !self.overlay.questions.is_empty();
        if change.complete {
            self.forget_all_but(&change);
        }
        for id in change.gone_services {
            self.forget_known(id);
        }
        for (key, worker) in change.gone_backends {
            self.set_backend(key, worker, None);
        }
        for worker in change.gone_peers {
            if self.overlay.peers.remove(&worker).is_some() {
                self.outbox.delete(Table::Peer, worker);
            }
        }
        for service in change.services {
            if self.overlay.services.get(&service.id) != Some(&service) {
                self.outbox.put(Table::KnownService, service.id, &service);
                self.overlay.services.insert(service.id, service);
            }
        }
        for backend in change.backends {
            self.set_backend(backend.key, backend.worker, Some(backend));
        }
        for peer in change.peers {
            if self.overlay.peers.get(&peer.worker) != Some(&peer) {
                self.outbox.put(Table::Peer, peer.worker, &peer);
                self.overlay.peers.insert(peer.worker, peer);
            }
        }
        self.answer_questions();
        if is_awaited {
            self.outbox.emit(Effect::Answered);
        }
    }

    /// What a complete list does not name is gone.
    fn forget_all_but(&mut self, change: &OverlayChange) {
        let services: BTreeSet<_> = change.services.iter().map(|service| service.id).collect();
        let backends: BTreeSet<_> = change.backends.iter().map(Backend::id).collect();
        let peers: BTreeSet<_> = change.peers.iter().map(|peer| peer.worker).collect();
        let known = self.overlay.services.keys().chain(self.overlay.calls.keys());
        let gone: Vec<_> = known.filter(|id| !services.contains(id)).copied().collect();
        for id in gone {
            self.forget_known(id);
        }
        let gone: Vec<_> =
            self.overlay.all_backends().map(Backend::id).filter(|id| !backends.contains(id)).collect();
        for (key, worker) in gone {
            self.set_backend(key, worker, None);
        }
        let gone: Vec<_> = self.overlay.peers.keys().filter(|id| !peers.contains(id)).copied().collect();
        for worker in gone {
            self.overlay.peers.remove(&worker);
            self.outbox.delete(Table::Peer, worker);
        }
    }

    fn forget_known(&mut self, id: ServiceId) {
        if self.overlay.services.remove(&id).is_some() {
            self.outbox.delete(Table::KnownService, id);
        }
        // Who calls it again asks again.
        if self.overlay.calls.remove(&id).is_some() {
            self.save_calls(id);
        }
    }

    fn set_backend(&mut self, key: InstanceKey, worker: WorkerId, backend: Option<Backend>) {
        let places = self.overlay.backends.entry(key).or_default();
        let former = match backend {
            Some(backend) => places.insert(worker, backend),
            None => places.remove(&worker),
        };
        if former != backend {
            if places.is_empty() {
                self.outbox.delete(Table::Backend, key);
            } else {
                let backends = places.values().copied().collect();
                self.outbox.put(Table::Backend, key, &Places { backends });
            }
        }
        if places.is_empty() {
            self.overlay.backends.remove(&key);
        }
    }

    /// A service has no instance here any more: it calls nobody.
    pub(super) fn overlay_left(&mut self, service: ServiceId) {
        if self.workloads.range(InstanceKey::all_of(service)).next().is_some() {
            return;
        }
        let called: Vec<_> = (self.overlay.calls.iter())
            .filter(|(_, callers)| callers.contains(&Some(service)))
            .map(|(callee, _)| *callee)
            .collect();
        for callee in called {
            let Some(callers) = self.overlay.calls.get_mut(&callee) else { continue };
            callers.remove(&Some(service));
            if callers.is_empty() {
                self.overlay.calls.remove(&callee);
            }
            self.save_calls(callee);
        }
        if self.overlay.calls.contains_key(&service) && !self.overlay.services.contains_key(&service) {
            self.overlay.calls.remove(&service);
            self.save_calls(service);
        }
    }

    /// Adds what is elsewhere to a table of what is here.
    pub(super) fn add_overlay(&self, table: &mut NetworkTable) {
        for service in self.overlay.services.values() {
            let with = |readiness: Readiness| {
                let there = self.overlay.backends_of(service.id);
                there
                    .filter(move |backend| backend.readiness == readiness)
                    .map(|backend| backend.node_address)
            };
            for (policy, address) in service.all_addresses() {
                let backends = table.know(policy, address);
                // Without a cluster nobody knows whether the others can still be reached.
                if self.connected || backends.is_empty() {
                    backends.extend(with(Readiness::Ready));
                }
                if backends.is_empty() {
                    backends.extend(with(Readiness::Suspect));
                }
            }
        }
        let mut best: BTreeMap<Ipv4Addr, &Backend> = BTreeMap::new();
        for backend in self.overlay.all_backends() {
            table.elsewhere.insert(backend.node_address);
            let known = best.entry(backend.instance_address).or_insert(backend);
            if known.readiness < backend.readiness {
                *known = backend;
            }
        }
        for (address, backend) in best {
            table.instances.entry(address).or_insert(backend.node_address);
        }
        table.own = OwnPlace {
            vantage: self.meta.vantage.clone(),
            seen_as: self.seen_as.clone(),
            keys: self.keys.clone(),
        };
        table.peers = self.overlay.peers.values().map(|peer| (peer.subnet, peer.clone())).collect();
    }

    /// Reads a row of what is remembered of others; false if it is another kind of row.
    pub(super) fn load_overlay(&mut self, row: &Row) -> Result<bool, CorruptRow> {
        match row.table {
            Table::Call => {
                let Callers { callers } = row.parse()?;
                if let Ok(callee) = row.key.parse() {
                    self.overlay.calls.insert(callee, callers);
                }
            }
            Table::KnownService => {
                let service: KnownService = row.parse()?;
                self.overlay.services.insert(service.id, service);
            }
            Table::Backend => {
                let Places { backends } = row.parse()?;
                for backend in backends {
                    self.overlay.backends.entry(backend.key).or_default().insert(backend.worker, backend);
                }
            }
            Table::Peer => {
                let peer: Peer = row.parse()?;
                self.overlay.peers.insert(peer.worker, peer);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl Overlay {
    /// Addresses of some nodes themselves.
    pub(super) fn gateways(&self, nodes: &BTreeSet<WorkerId>) -> impl Iterator<Item = (WorkerId, Ipv4Addr)> {
        let peers = nodes.iter().filter_map(|node| self.peers.get(node));
        peers.map(|peer| (peer.worker, peer.gateway()))
    }

    pub(super) fn all_backends(&self) -> impl Iterator<Item = &Backend> {
        self.backends.values().flat_map(BTreeMap::values)
    }

    pub(super) fn backends_of(&self, service: ServiceId) -> impl Iterator<Item = &Backend> {
        self.backends.range(InstanceKey::all_of(service)).flat_map(|(_, places)| places.values())
    }
}
