//! Services that are called across clusters: which cluster is told of which instances elsewhere. Only what is called, or
//! calls, is followed.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use oak_model::message::{RootToCluster, WorkerSummary};
use oak_model::overlay::{
    Backend, Call, Caller, KnownService, OverlayChange, Peer, Readiness, RelayEnd, Target,
};
use oak_model::{
    ApplicationId, Balancing, ClusterId, InstanceKey, Load, Moment, Now, OrganizationId, Service, ServiceId,
    Status, WorkerId, ipv6,
};

use super::{Effect, Root};
use crate::overlay::{Hub, peer};

/// Time for clusters to come back after a start of the root; before that, none is told that what is not known yet is gone.
const START_GRACE: Duration = Duration::from_secs(15);

/// The overlay between clusters.
#[derive(Debug)]
pub(super) struct Overlay {
    hub: Hub<ClusterId>,
    /// Services of which every change is passed on.
    followed: BTreeSet<ServiceId>,
    /// Which cluster an instance of those was counted in.
    held: HashMap<InstanceKey, ClusterId>,
    /// Of the instances that are not idle, as far as it matters.
    loads: HashMap<InstanceKey, Load>,
    settles_at: Option<Moment>,
}

impl Default for Overlay {
    fn default() -> Self {
        Self {
            hub: Hub::telling_calls(),
            followed: BTreeSet::new(),
            held: HashMap::new(),
            loads: HashMap::new(),
            settles_at: None,
        }
    }
}

impl Root {
    /// A cluster says who there calls what.
    pub(super) fn overlay_calls(&mut self, calls: Vec<Call>) {
        for call in calls {
            if self.services.contains_key(&call.callee) && self.may_call(call.caller, call.callee) {
                self.overlay_call(call);
            }
        }
    }

    fn overlay_call(&mut self, call: Call) {
        self.follow(call.callee);
        if let Caller::Service(service) = call.caller {
            self.follow(service);
        }
        self.overlay.hub.call(call);
    }

    /// Somebody in a cluster calls what the cluster does not know.
    pub(super) fn asked(&mut self, id: ClusterId, caller: Caller, target: Target) {
        let application = match caller {
            Caller::Service(service) => self.services.get(&service).map(|service| service.application),
            Caller::Node(_) => None,
        };
        match self.resolve(&target, application).filter(|callee| self.may_call(caller, *callee)) {
            Some(callee) => self.overlay_call(Call { caller, callee }),
            None => self.send(id, RootToCluster::NotFound(target)),
        }
    }

    fn resolve(&self, target: &Target, application: Option<ApplicationId>) -> Option<ServiceId> {
        match target {
            // Programs that try all addresses must not cost much.
            Target::Address(address) if !self.addresses.is_used(*address) => None,
            Target::Address(address) => {
                let service = self.services.values().find(|service| service.has_address(*address));
                let instance = || self.instances.values().find(|instance| instance.address == *address);
                service.map(|service| service.id).or_else(|| instance().map(|instance| instance.key.service))
            }
            Target::Name(name) => {
                let named = self.services.values().filter(|service| service.job_name.is_dns_name(name));
                let best = named.max_by_key(|service| Some(service.application) == application);
                best.map(|service| service.id)
            }
        }
    }

    /// Services of one organisation may call each other, and those that are exported; a machine may call everything.
    fn may_call(&self, caller: Caller, callee: ServiceId) -> bool {
        let Caller::Service(caller) = caller else { return true };
        let organization = |service: ServiceId| -> Option<Option<OrganizationId>> {
            let application = self.services.get(&service)?.application;
            Some(self.applications.get(&application)?.organization)
        };
        let is_exported = self.services.get(&callee).is_some_and(|service| service.spec.exported);
        is_exported || organization(caller) == organization(callee)
    }

    fn follow(&mut self, id: ServiceId) {
        let Some(service) = self.services.get(&id) else { return };
        if !self.overlay.followed.insert(id) {
            return;
        }
        self.overlay.hub.know(self.known(service));
        let keys: Vec<_> = self.instances_of(id).map(|instance| instance.key).collect();
        for key in keys {
            self.overlay_instance(key);
        }
    }

    fn known(&self, service: &Service) -> KnownService {
        KnownService {
            id: service.id,
            application: service.application,
            job_name: service.job_name.clone(),
            addresses: vec![service.address],
            policies: service.policies.clone(),
            ports: service.spec.ports.clone(),
            organization: self.organization_of(service),
            exported: service.spec.exported,
        }
    }

    /// A service has further addresses.
    pub(super) fn overlay_readdressed(&mut self, id: ServiceId) {
        if let Some(service) = self.services.get(&id).filter(|_| self.overlay.followed.contains(&id)) {
            self.overlay.hub.know(self.known(service));
        }
    }

    /// An instance was measured. Clusters that call it are told if that matters to its service.
    pub(super) fn overlay_measured(&mut self, key: InstanceKey, cpu_percent: f32) {
        let Some(service) = self.services.get(&key.service) else { return };
        let Some(instance) = self.instances.get(&key) else { return };
        if !service.policies.contains_key(&Balancing::LeastLoaded)
            || !self.overlay.followed.contains(&key.service)
        {
            return;
        }
        let machine = (instance.cluster.zip(instance.worker))
            .and_then(|(cluster, worker)| self.clusters.get(&cluster)?.workers.get(&worker))
            .map_or(0, |worker| worker.facts.capacity.cpu_millis);
        let limit = service.spec_of(instance.revision).resources.cpu_millis;
        let former = self.overlay.loads.get(&key).copied().unwrap_or_default();
        let load = former.after(cpu_percent, if limit > 0 { limit } else { machine });
        if load != former {
            self.overlay.loads.insert(key, load);
            self.overlay_instance(key);
        }
    }

    /// A service does not exist any more.
    pub(super) fn overlay_forget(&mut self, id: ServiceId) {
        if self.overlay.followed.remove(&id) {
            self.overlay.hub.forget(id);
        }
    }

    /// Something about an instance may have changed.
    pub(super) fn overlay_instance(&mut self, key: InstanceKey) {
        if !self.overlay.followed.contains(&key.service) && !self.overlay.held.contains_key(&key) {
            return;
        }
        let instance = self.instances.get(&key);
        let departure = self.departures.get(&key);
        let cluster = instance.and_then(|i| i.cluster).or_else(|| departure.map(|leaving| leaving.cluster));
        let address = instance.map(|i| i.address).or_else(|| departure.map(|leaving| leaving.address));
        let place = instance.and_then(|instance| Some((instance.worker?, instance.node_address?)));
        let serves = instance.is_some_and(|i| i.status == Status::Running && !i.moving);
        let backend = match (place, address) {
            (Some((worker, node_address)), Some(instance_address)) => {
                let readiness = if serves { Readiness::Ready } else { Readiness::Closed };
                let load = self.overlay.loads.get(&key).copied().unwrap_or_default();
                Some(Backend { key, worker, instance_address, node_address, readiness, load })
            }
            // It is being taken down: what it has comes to its end.
            _ if departure.is_some() => {
                let former = self.overlay.hub.backends_of_instance(key).next().copied();
                former.map(|former| Backend { readiness: Readiness::Closed, ..former })
            }
            _ => None,
        };
        let former = self.overlay.held.get(&key).copied();
        if former != cluster {
            if let Some(former) = former {
                self.overlay.held.remove(&key);
                self.overlay.loads.remove(&key);
                self.overlay.hub.release(key, former);
            }
            if let (Some(cluster), Some(address)) = (cluster, address) {
                self.overlay.held.insert(key, cluster);
                self.overlay.hub.hold(key, address, cluster);
            }
        }
        let stale: Vec<_> = (self.overlay.hub.backends_of_instance(key))
            .map(Backend::id)
            .filter(|id| backend.is_none_or(|backend| backend.id() != *id))
            .collect();
        for id in stale {
            self.overlay.hub.remove_backend(id);
        }
        if let Some(backend) = backend {
            self.overlay.hub.set_backend(backend, cluster);
        }
    }

    /// How a worker is reached.
    pub(super) fn overlay_worker(&mut self, cluster: ClusterId, worker: &WorkerSummary) {
        if let Some(subnet) = worker.subnet
            && let Some(peer) = peer(worker.id, subnet, &worker.facts)
        {
            let (outside, relay) = (worker.outside, self.relay_of(cluster));
            let more_subnets = worker.more_subnets.clone();
            self.overlay.hub.set_peer(Peer { more_subnets, outside, relay, ..peer }, Some(cluster));
        }
    }

    /// The relay of a cluster as other clusters' workers reach it.
    fn relay_of(&self, cluster: ClusterId) -> Option<RelayEnd> {
        let cluster = self.clusters.get(&cluster)?;
        let relay = cluster.relay.clone()?;
        // The address of a cluster on the machine of the root, or on its link, says nothing to others.
        let says_something = |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => !ip.is_loopback(),
            IpAddr::V6(ip) => ipv6::is_underlay(*ip),
        };
        let seen = || cluster.address.parse().ok().filter(says_something);
        let address = relay.address.or_else(seen)?;
        Some(RelayEnd { address: Some(address), ..relay })
    }

    pub(super) fn overlay_worker_gone(&mut self, worker: WorkerId) {
        self.overlay.hub.remove_peer(worker);
    }

    /// Everything a cluster has to know.
    pub(super) fn overlay_welcome(&mut self, id: ClusterId) -> OverlayChange {
        let complete = self.overlay.settles_at.is_none();
        OverlayChange { complete, ..self.overlay.hub.connect(id) }
    }

    pub(super) fn overlay_closed(&mut self, id: ClusterId) {
        self.overlay.hub.disconnect(id);
    }

    /// Sends what the last step changed.
    pub(super) fn tell_overlay(&mut self) {
        for (cluster, news) in self.overlay.hub.news() {
            self.send(cluster, RootToCluster::Overlay(news));
        }
    }

    pub(super) fn overlay_starts(&mut self, now: Now) {
        if !self.clusters.is_empty() {
            self.overlay.settles_at = Some(now.moment + START_GRACE);
        }
    }

    pub(super) const fn overlay_deadline(&self) -> Option<Moment> {
        self.overlay.settles_at
    }

    /// Tells every cluster everything once those that came back are known.
    pub(super) fn settle_overlay(&mut self, now: Now) {
        if self.overlay.settles_at.is_none_or(|at| at > now.moment) {
            return;
        }
        self.overlay.settles_at = None;
        let connected: Vec<_> = self.clusters.values().filter_map(|c| Some((c.id, c.session?))).collect();
        for (cluster, session) in connected {
            let news = OverlayChange { complete: true, ..self.overlay.hub.connect(cluster) };
            self.outbox.emit(Effect::Send { cluster, session, message: RootToCluster::Overlay(news) });
        }
    }
}
