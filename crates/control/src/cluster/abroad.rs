//! What is in other clusters: asked of the root when somebody here calls it, kept in step by the root, and stored, so that
//! it stays known while the root is away.

use std::collections::{BTreeMap, BTreeSet};

use oak_model::message::{ClusterToRoot, ClusterToWorker};
use oak_model::overlay::{Backend, BackendKey, Call, Caller, KnownService, OverlayChange, Peer, Target};
use oak_model::{ServiceId, WorkerId};

use super::{Cluster, Effect};
use crate::{CorruptRow, Row, Table};

/// Questions to the root that are remembered.
const QUESTIONS: usize = 10_000;

/// What the root told, and what it was asked.
#[derive(Debug, Default)]
pub(super) struct Abroad {
    services: BTreeSet<ServiceId>,
    backends: BTreeSet<BackendKey>,
    peers: BTreeSet<WorkerId>,
    calls: BTreeSet<Call>,
    questions: BTreeMap<Target, BTreeSet<(WorkerId, Caller)>>,
}

impl Cluster {
    /// Nobody here knows what somebody calls.
    pub(super) fn ask_the_root(&mut self, worker: WorkerId, caller: Caller, target: Target) {
        if !self.root_connected || self.abroad.questions.len() >= QUESTIONS {
            self.send_to_worker(worker, ClusterToWorker::NotFound(target));
            return;
        }
        self.abroad.questions.entry(target.clone()).or_default().insert((worker, caller));
        self.outbox.emit(Effect::ToRoot(ClusterToRoot::Ask { caller, target }));
    }

    /// The root knows no such service.
    pub(super) fn not_found(&mut self, target: &Target) {
        let askers = self.abroad.questions.remove(target).unwrap_or_default();
        for worker in askers.into_iter().map(|(worker, _)| worker).collect::<BTreeSet<_>>() {
            self.send_to_worker(worker, ClusterToWorker::NotFound(target.clone()));
        }
    }

    /// The link to the root ended: who waits for an answer gives up by itself.
    pub(super) fn abroad_closed(&mut self) {
        self.abroad.questions.clear();
    }

    /// Whether the root has told of a service, or of who calls it.
    pub(super) fn is_known_abroad(&self, id: ServiceId) -> bool {
        let is_about = |call: &Call| call.callee == id || call.caller == Caller::Service(id);
        self.abroad.services.contains(&id) || self.abroad.calls.iter().any(is_about)
    }

    /// Forgets a service that is neither here nor told by the root.
    fn forget_if_unknown(&mut self, id: ServiceId) {
        if self.placed_of(id).next().is_none() && !self.is_known_abroad(id) {
            self.overlay_hub().forget(id);
        }
    }

    /// The root has news of other clusters.
    pub(super) fn abroad_changed(&mut self, change: OverlayChange) {
        if change.complete {
            self.forget_abroad_but(&change);
        }
        for id in change.gone_services {
            self.forget_service_abroad(id);
        }
        for id in change.gone_backends {
            self.forget_backend_abroad(id);
        }
        for worker in change.gone_peers {
            self.forget_peer_abroad(worker);
        }
        for call in change.gone_calls {
            self.forget_call_abroad(call);
        }
        for service in change.services {
            self.outbox.put(Table::KnownService, service.id, &service);
            self.service_abroad(service);
        }
        for backend in change.backends {
            self.outbox.put(Table::Backend, backend_row(backend.id()), &backend);
            self.backend_abroad(backend);
        }
        for peer in change.peers {
            self.outbox.put(Table::Peer, peer.worker, &peer);
            self.peer_abroad(peer);
        }
        for call in change.calls {
            self.outbox.put(Table::Call, call_row(call), &call);
            self.call_abroad(call);
        }
        let targets: Vec<_> = self.abroad.questions.keys().cloned().collect();
        for target in targets {
            if !self.overlay_resolves(&target) {
                continue;
            }
            for (worker, caller) in self.abroad.questions.remove(&target).unwrap_or_default() {
                self.asked_by(worker, caller, target.clone());
            }
        }
    }

    fn service_abroad(&mut self, service: KnownService) {
        self.abroad.services.insert(service.id);
        self.overlay_hub().know(service);
    }

    fn backend_abroad(&mut self, backend: Backend) {
        self.abroad.backends.insert(backend.id());
        self.overlay_hub().set_backend(backend, None);
    }

    fn peer_abroad(&mut self, peer: Peer) {
        self.abroad.peers.insert(peer.worker);
        self.overlay_hub().set_peer(peer, None);
    }

    fn call_abroad(&mut self, call: Call) {
        self.abroad.calls.insert(call);
        self.overlay_hub().call(call);
    }

    fn forget_service_abroad(&mut self, id: ServiceId) {
        if self.abroad.services.remove(&id) {
            self.outbox.delete(Table::KnownService, id);
            self.forget_if_unknown(id);
        }
    }

    fn forget_backend_abroad(&mut self, id: BackendKey) {
        if self.abroad.backends.remove(&id) {
            self.outbox.delete(Table::Backend, backend_row(id));
            self.overlay_hub().remove_backend(id);
        }
    }

    fn forget_peer_abroad(&mut self, worker: WorkerId) {
        if self.abroad.peers.remove(&worker) {
            self.outbox.delete(Table::Peer, worker);
            self.overlay_hub().remove_peer(worker);
        }
    }

    fn forget_call_abroad(&mut self, call: Call) {
        if self.abroad.calls.remove(&call) {
            self.outbox.delete(Table::Call, call_row(call));
            self.overlay_hub().forget_call(call);
            self.forget_if_unknown(call.callee);
            if let Caller::Service(caller) = call.caller {
                self.forget_if_unknown(caller);
            }
        }
    }

    /// What a complete list does not name is gone.
    fn forget_abroad_but(&mut self, change: &OverlayChange) {
        let gone = |known: &BTreeSet<ServiceId>| -> Vec<_> {
            let named: BTreeSet<_> = change.services.iter().map(|service| service.id).collect();
            known.difference(&named).copied().collect()
        };
        for id in gone(&self.abroad.services) {
            self.forget_service_abroad(id);
        }
        let named: BTreeSet<_> = change.backends.iter().map(Backend::id).collect();
        for id in self.abroad.backends.difference(&named).copied().collect::<Vec<_>>() {
            self.forget_backend_abroad(id);
        }
        let named: BTreeSet<_> = change.peers.iter().map(|peer| peer.worker).collect();
        for worker in self.abroad.peers.difference(&named).copied().collect::<Vec<_>>() {
            self.forget_peer_abroad(worker);
        }
        let named: BTreeSet<_> = change.calls.iter().copied().collect();
        for call in self.abroad.calls.difference(&named).copied().collect::<Vec<_>>() {
            self.forget_call_abroad(call);
        }
    }

    /// Reads a row of what is known of other clusters; false if it is another kind of row.
    pub(super) fn load_abroad(&mut self, row: &Row) -> Result<bool, CorruptRow> {
        match row.table {
            Table::KnownService => self.service_abroad(row.parse()?),
            Table::Backend => self.backend_abroad(row.parse()?),
            Table::Peer => self.peer_abroad(row.parse()?),
            Table::Call => self.call_abroad(row.parse()?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn backend_row((key, worker): BackendKey) -> String {
    format!("{key}.{worker}")
}

fn call_row(call: Call) -> String {
    match call.caller {
        Caller::Service(service) => format!("{}.{service}", call.callee),
        Caller::Node(worker) => format!("{}.node.{worker}", call.callee),
    }
}
