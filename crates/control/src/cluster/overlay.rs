//! What the workers are told of each other: who calls whom, and where instances are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use oak_model::message::{ClusterToRoot, ClusterToWorker, LocalCall, WorkloadReport};
use oak_model::overlay::{
    Backend, BackendKey, Call, Caller, KnownService, OverlayChange, Peer, Readiness, Target,
};
use oak_model::{Balancing, Incarnation, InstanceKey, Load, Moment, Now, ServiceId, Status, WorkerId};

use super::{Cluster, Effect, Placed, Placement};
use crate::overlay::{Hub, peer};

/// The overlay as a cluster knows it.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    hub: Hub<WorkerId>,
    /// What workers said of the places they have.
    reported: BTreeMap<BackendKey, Reported>,
    /// After a start of this program workers come back one after the other. Until then none is told that what is not
    /// known yet is gone.
    settles_at: Option<Moment>,
    /// Who here calls what; the root is told.
    calls: BTreeSet<Call>,
}

/// A place as its worker tells it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reported {
    incarnation: Incarnation,
    node_address: Ipv4Addr,
    serves: bool,
    load: Load,
}

impl Cluster {
    /// A worker has one more instance.
    pub(super) fn overlay_hold(&mut self, key: InstanceKey, worker: WorkerId) {
        let Some(placed) = self.placed.get(&key) else { return };
        let desired = &placed.desired;
        let organization = self.organization_of(key);
        let is_known = self.overlay.hub.service(key.service).is_some_and(|known| {
            known.addresses == desired.service_addresses
                && known.policies == desired.policies
                && known.ports == desired.spec.ports
                && (known.organization, known.exported) == (organization, desired.spec.exported)
        });
        if !is_known {
            self.overlay.hub.know(KnownService {
                id: key.service,
                application: desired.application,
                job_name: desired.job_name.clone(),
                addresses: desired.service_addresses.clone(),
                policies: desired.policies.clone(),
                ports: desired.spec.ports.clone(),
                organization,
                exported: desired.spec.exported,
            });
        }
        self.overlay.hub.hold(key, desired.instance_address, worker);
    }

    /// A worker has one instance less.
    pub(super) fn overlay_release(&mut self, key: InstanceKey, worker: WorkerId) {
        self.overlay.reported.remove(&(key, worker));
        self.overlay.hub.remove_backend((key, worker));
        self.overlay.hub.release(key, worker);
    }

    /// An instance does not exist any more.
    pub(super) fn overlay_forget(&mut self, key: InstanceKey, instance_address: Ipv4Addr) {
        self.overlay.hub.forget_address(instance_address);
        if self.placed_of(key.service).next().is_some() {
            return;
        }
        self.overlay.calls.retain(|call| call.caller != Caller::Service(key.service));
        if !self.is_known_abroad(key.service) {
            self.overlay.hub.forget(key.service);
        }
    }

    pub(super) const fn overlay_hub(&mut self) -> &mut Hub<WorkerId> {
        &mut self.overlay.hub
    }

    /// Where a worker has an instance.
    pub(super) fn overlay_address(&self, key: InstanceKey, worker: WorkerId) -> Option<Ipv4Addr> {
        self.overlay.reported.get(&(key, worker)).map(|reported| reported.node_address)
    }

    /// Who here calls what.
    pub(super) fn overlay_calls(&self) -> Vec<Call> {
        self.overlay.calls.iter().copied().collect()
    }

    /// Tells the root again who calls what: services it did not know before, it may know now.
    pub(super) fn repeat_calls(&mut self) {
        let calls = self.overlay_calls();
        if !calls.is_empty() {
            self.outbox.emit(Effect::ToRoot(ClusterToRoot::Calls(calls)));
        }
    }

    /// Whether something somebody calls is known.
    pub(super) fn overlay_resolves(&self, target: &Target) -> bool {
        self.overlay.hub.resolve(target, None).is_some()
    }

    fn overlay_call(&mut self, call: Call) {
        self.overlay.hub.call(call);
        if self.overlay.calls.insert(call) && self.root_connected {
            self.outbox.emit(Effect::ToRoot(ClusterToRoot::Calls(vec![call])));
        }
    }

    /// A worker tells of a workload; true if its address is news.
    pub(super) fn overlay_reported(&mut self, worker: WorkerId, report: &WorkloadReport) -> bool {
        let is_here = |placed: &Placed| placed.places().any(|place| place.worker == worker);
        let Some(node_address) = report.address else { return false };
        if !self.placed.get(&report.key).is_some_and(is_here) {
            return false;
        }
        let reported = Reported {
            incarnation: report.incarnation,
            node_address,
            serves: report.status == Status::Running,
            load: self
                .overlay
                .reported
                .get(&(report.key, worker))
                .map_or(Load::default(), |former| former.load),
        };
        let former = self.overlay.reported.insert((report.key, worker), reported);
        self.overlay_placed(report.key);
        former.is_none_or(|former| former.node_address != node_address)
    }

    /// The places of an instance, or what is known of them, may have changed.
    pub(super) fn overlay_placed(&mut self, key: InstanceKey) {
        let Some(placed) = self.placed.get(&key) else { return };
        let backend = |place: Placement, may_serve: bool| {
            let reported = self.overlay.reported.get(&(key, place.worker))?;
            let worker = self.workers.get(&place.worker)?;
            let serves =
                may_serve && reported.serves && reported.incarnation == place.incarnation && !placed.removing;
            let readiness = match (serves, worker.session) {
                (false, _) => Readiness::Closed,
                (true, None) if !worker.is_restarting => Readiness::Suspect,
                (true, _) => Readiness::Ready,
            };
            Some(Backend {
                key,
                worker: place.worker,
                instance_address: placed.desired.instance_address,
                node_address: reported.node_address,
                readiness,
                load: reported.load,
            })
        };
        let current = placed.placement.into_iter().chain(placed.successor).map(|place| (place, true));
        let former = placed.retiring.iter().map(|place| (*place, false));
        let backends: Vec<Backend> =
            former.chain(current).filter_map(|(place, may)| backend(place, may)).collect();
        for backend in backends {
            self.overlay.hub.set_backend(backend, Some(backend.worker));
        }
    }

    /// A worker has measured an instance. Who calls it is told if that matters to its service.
    pub(super) fn overlay_measured(&mut self, worker: WorkerId, key: InstanceKey, cpu_percent: f32) {
        let Some(placed) = self.placed.get(&key) else { return };
        if !placed.desired.policies.contains_key(&Balancing::LeastLoaded) {
            return;
        }
        let machine = self.workers.get(&worker).map_or(0, |worker| worker.facts.capacity.cpu_millis);
        let limit = placed.desired.spec.resources.cpu_millis;
        let Some(reported) = self.overlay.reported.get_mut(&(key, worker)) else { return };
        let load = reported.load.after(cpu_percent, if limit > 0 { limit } else { machine });
        if std::mem::replace(&mut reported.load, load) != load {
            self.overlay_placed(key);
        }
    }

    /// What is known of the places of an instance, to be kept while it is counted anew.
    pub(super) fn overlay_take(&mut self, key: InstanceKey) -> Vec<(BackendKey, Reported)> {
        let Some(placed) = self.placed.get(&key) else { return Vec::new() };
        let ids = placed.places().map(|place| (key, place.worker));
        ids.filter_map(|id| Some((id, self.overlay.reported.remove(&id)?))).collect()
    }

    /// Puts it back.
    pub(super) fn overlay_put_back(&mut self, key: InstanceKey, kept: Vec<(BackendKey, Reported)>) {
        self.overlay.reported.extend(kept);
        self.overlay_placed(key);
    }

    /// The same for everything a worker has.
    pub(super) fn overlay_of_worker(&mut self, worker: WorkerId) {
        for key in self.held_by(worker) {
            self.overlay_placed(key);
        }
    }

    /// How a worker is reached, and whom it has called so far.
    pub(super) fn overlay_opened(&mut self, id: WorkerId, calls: Vec<LocalCall>) {
        self.overlay_peer(id);
        for call in calls {
            let caller = call.caller.map_or(Caller::Node(id), Caller::Service);
            if self.may_call(caller, call.callee) {
                self.overlay_call(Call { caller, callee: call.callee });
            }
        }
    }

    /// How a worker is reached, once it has a subnet and an address.
    pub(super) fn overlay_peer(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        if let Some(subnet) = worker.subnet
            && let Some(peer) = peer(id, subnet, &worker.facts)
        {
            let (more_subnets, outside) = (worker.more_subnets.clone(), worker.outside);
            self.overlay.hub.set_peer(Peer { more_subnets, outside, ..peer }, Some(id));
        }
    }

    /// Everything a worker has to know.
    pub(super) fn overlay_welcome(&mut self, id: WorkerId) -> OverlayChange {
        let complete = self.overlay.settles_at.is_none();
        OverlayChange { complete, ..self.overlay.hub.connect(id) }
    }

    pub(super) fn overlay_closed(&mut self, id: WorkerId) {
        self.overlay.hub.disconnect(id);
        self.overlay_of_worker(id);
    }

    pub(super) fn overlay_removed(&mut self, id: WorkerId) {
        self.overlay.hub.remove_child(id);
        self.overlay.hub.remove_peer(id);
        self.overlay.calls.retain(|call| call.caller != Caller::Node(id));
    }

    /// Somebody on a worker calls something for the first time.
    pub(super) fn asked(&mut self, id: WorkerId, caller: Option<ServiceId>, target: Target) {
        // Whether the worker has that service does not matter: only those that have it are told anything.
        let caller = caller.map_or(Caller::Node(id), Caller::Service);
        self.asked_by(id, caller, target);
    }

    pub(super) fn asked_by(&mut self, id: WorkerId, caller: Caller, target: Target) {
        let application = match caller {
            Caller::Service(service) => self.overlay.hub.service(service).map(|service| service.application),
            Caller::Node(_) => None,
        };
        match self.overlay.hub.resolve(&target, application) {
            Some(callee) if self.may_call(caller, callee) => self.overlay_call(Call { caller, callee }),
            Some(_) => self.send_to_worker(id, ClusterToWorker::NotFound(target)),
            None => self.ask_the_root(id, caller, target),
        }
    }

    /// Services of one organisation may call each other, and those that are exported; a machine may call what its operator
    /// has deployed on it.
    fn may_call(&self, caller: Caller, callee: ServiceId) -> bool {
        let organization = |service| {
            let application = self.overlay.hub.service(service)?.application;
            Some(self.applications.get(&application)?.application.organization)
        };
        match caller {
            Caller::Node(_) => true,
            Caller::Service(caller) if self.overlay.hub.service(caller).is_none() => false,
            Caller::Service(_) if self.overlay.hub.service(callee).is_some_and(|known| known.exported) => {
                true
            }
            // Of what is in other clusters the root has said that it may be called.
            Caller::Service(_) if organization(callee).is_none() => true,
            Caller::Service(caller) => organization(caller) == organization(callee),
        }
    }

    /// Sends what the last step changed.
    pub(super) fn tell_overlay(&mut self) {
        for (worker, news) in self.overlay.hub.news() {
            self.send_to_worker(worker, ClusterToWorker::Overlay(news));
        }
    }

    /// Until then workers are not told that what is not known yet is gone.
    pub(super) fn overlay_settles_at(&mut self, at: Moment) {
        self.overlay.settles_at = Some(at);
    }

    pub(super) fn overlay_deadline(&self) -> Option<Moment> {
        self.overlay.settles_at
    }

    /// Tells everybody everything once those who came back are known.
    pub(super) fn settle_overlay(&mut self, now: Now) {
        if self.overlay.settles_at.is_none_or(|at| at > now.moment) {
            return;
        }
        self.overlay.settles_at = None;
        let connected: Vec<_> =
            self.workers.values().filter_map(|worker| Some((worker.id, worker.session?))).collect();
        for (worker, session) in connected {
            let news = OverlayChange { complete: true, ..self.overlay.hub.connect(worker) };
            self.outbox.emit(Effect::ToWorker { worker, session, message: ClusterToWorker::Overlay(news) });
        }
    }
}
