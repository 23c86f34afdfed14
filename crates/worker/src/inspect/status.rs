//! What each pair of workers uses and why, and which services this one knows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::Ipv4Net;
use oak_control::worker::Workload;
use oak_model::overlay::{Backend, PLAIN_PORT, Peer, Readiness};
use oak_model::{Balancing, JobName, OrganizationId, ServiceId, WorkerId, ipv6};
use oak_net::{Rules, encrypted_name, kernel_name, plain_name, plain6_name};
use oak_tunnel::{KernelState, Path, PeerStatus, PublicKey, RelayStatus};
use serde::Serialize;

use super::{InspectError, Inspection, LocalInstance, full_name};

/// Everything at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct NetworkStatus {
    /// Addresses of the instances of this worker.
    pub subnets: Vec<Ipv4Net>,
    /// Whether the process that encrypts runs.
    pub encrypts: bool,
    /// Whether the kernel of this machine can encrypt, too; none if that process does not run.
    pub kernel: Option<KernelState>,
    /// The public key it has, by which other workers know this one.
    pub public_key: Option<PublicKey>,
    /// As the cluster sees this worker, if there is a NAT in between.
    pub outside: Option<IpAddr>,
    /// Relays this worker tells where it is.
    pub relays: Vec<RelayState>,
    /// Other workers that this one has to do with.
    pub peers: Vec<PeerState>,
    /// Services that are here or were called from here.
    pub services: Vec<ServiceState>,
    /// Instances of this worker.
    pub instances: Vec<LocalInstance>,
}

/// A relay as this worker uses it.
#[derive(Clone, Debug, Serialize)]
pub struct RelayState {
    /// Where it is.
    pub address: SocketAddr,
    /// As it sees this worker.
    pub seen_as: Option<SocketAddr>,
    /// Whether it passes packets on to this worker.
    pub is_registered: bool,
}

/// Where encrypted packets go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    /// To the other worker itself.
    Straight,
    /// To a relay.
    Relay,
}

/// How packets to another worker travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WayState {
    /// Encrypted.
    Encrypted,
    /// As they are.
    Plain,
    /// Not at all.
    None,
}

/// Another worker.
#[derive(Clone, Debug, Serialize)]
pub struct PeerState {
    /// Which worker.
    pub worker: WorkerId,
    /// Addresses of its instances.
    pub subnets: Vec<Ipv4Net>,
    /// Its own address of IPv4.
    pub underlay: Option<Ipv4Addr>,
    /// Its own address of IPv6.
    pub underlay6: Option<Ipv6Addr>,
    /// The public key it is known by, if packets to it are encrypted.
    pub public_key: Option<PublicKey>,
    /// As its cluster sees it, if there is a NAT in between.
    pub outside: Option<IpAddr>,
    /// As relays see it.
    pub seen_as: Vec<SocketAddr>,
    /// How it is reached.
    pub way: WayState,
    /// Why so.
    pub why: String,
    /// Where its packets go: its own address, or that of a relay.
    pub path: Option<SocketAddr>,
    /// Which of the two it is; none if packets do not travel encrypted.
    pub path_kind: Option<PathKind>,
    /// Whether the kernel encrypts the packets to it.
    pub in_kernel: bool,
    /// Microseconds there and back.
    pub round_trip_us: Option<u32>,
    /// Milliseconds since the last handshake.
    pub last_handshake_ms: Option<u64>,
    /// Milliseconds since anything came.
    pub last_received_ms: Option<u64>,
    /// Inner bytes since the engine started.
    pub sent_bytes: Option<u64>,
    /// Inner bytes since the engine started.
    pub received_bytes: Option<u64>,
}

/// A service.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceState {
    /// Full name, as DNS knows it below `oak`.
    pub name: String,
    /// Its addresses, those that choose in turn first.
    pub addresses: Vec<AddressState>,
    /// Organisation it belongs to.
    pub organization: Option<OrganizationId>,
    /// Others may call it.
    pub exported: bool,
    /// All its instances that are known here.
    pub backends: Vec<BackendState>,
}

/// An address of a service.
#[derive(Clone, Debug, Serialize)]
pub struct AddressState {
    /// How it chooses.
    pub policy: Balancing,
    /// Itself.
    pub address: Ipv4Addr,
    /// The one of IPv6 that leads to the same instances.
    pub ipv6: Ipv6Addr,
    /// Numbers of the instances that get new connections through it now.
    pub chosen: Vec<u32>,
}

/// An instance of a service.
#[derive(Clone, Debug, Serialize)]
pub struct BackendState {
    /// Its number.
    pub number: u32,
    /// The worker that has it; none: this one.
    pub worker: Option<WorkerId>,
    /// Its own stable address.
    pub instance_address: Ipv4Addr,
    /// Its address in the subnet of its worker.
    pub node_address: Ipv4Addr,
    /// Whether the kernel gives it new connections.
    pub is_ready: bool,
    /// Why it is, or why not.
    pub why: String,
}

impl Inspection {
    /// Everything at one moment.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn status(&self) -> Result<NetworkStatus, InspectError> {
        let rules = self.look.rules()?;
        let peers: Result<Vec<_>, InspectError> = self.machine.peers().map(|peer| self.peer(peer)).collect();
        let workloads = self.machine.workloads();
        Ok(NetworkStatus {
            subnets: self.look.config().subnets().collect(),
            encrypts: self.engine.is_some(),
            kernel: self.engine.as_ref().map(|engine| engine.kernel.clone()),
            public_key: self.engine.as_ref().map(|engine| engine.public_key),
            outside: self.machine.outside(),
            relays: self.relays(),
            peers: peers?,
            services: self.services(&rules),
            instances: workloads.filter_map(|workload| self.local(workload)).collect(),
        })
    }

    fn relays(&self) -> Vec<RelayState> {
        let mut relays: Vec<RelayState> = Vec::new();
        for RelayStatus { address, seen_as, is_registered } in
            self.engine.iter().flat_map(|engine| &engine.relays).copied()
        {
            // While there is a former key, this worker is known to each of them twice.
            match relays.iter_mut().find(|relay| relay.address == address) {
                Some(relay) => relay.is_registered |= is_registered,
                None => relays.push(RelayState { address, seen_as, is_registered }),
            }
        }
        relays
    }

    pub(super) fn peer(&self, peer: &Peer) -> Result<PeerState, InspectError> {
        let engine = self.engine.iter().flat_map(|engine| &engine.peers);
        let engine = engine.clone().find(|known| known.name == peer.worker.to_string());
        let (way, why) = self.way(peer, engine)?;
        let engine = engine.filter(|_| way == WayState::Encrypted);
        let path = match way {
            WayState::Encrypted => engine.and_then(|state| state.path),
            WayState::Plain => {
                let underlay = self.plain_underlay(peer)?;
                underlay.map(|address| Path::Direct(SocketAddr::from((address, PLAIN_PORT))))
            }
            WayState::None => None,
        };
        Ok(PeerState {
            worker: peer.worker,
            subnets: peer.subnets().collect(),
            underlay: peer.underlay,
            underlay6: peer.underlay6,
            public_key: engine.and_then(|state| state.public_key),
            outside: peer.outside,
            seen_as: peer.tunnel.iter().flat_map(|end| end.seen_as.iter().copied()).collect(),
            way,
            why,
            path: path.map(|path| path.address()),
            path_kind: engine.and_then(|state| state.path).map(kind),
            in_kernel: engine.is_some_and(|state| state.in_kernel),
            round_trip_us: engine.and_then(|state| state.round_trip_us),
            last_handshake_ms: engine.and_then(|state| state.last_handshake_ms),
            last_received_ms: engine.and_then(|state| state.last_received_ms),
            sent_bytes: engine.map(|state| state.sent_bytes),
            received_bytes: engine.map(|state| state.received_bytes),
        })
    }

    fn way(&self, peer: &Peer, engine: Option<&PeerStatus>) -> Result<(WayState, String), InspectError> {
        let bridge = &self.look.config().bridge;
        let device = self.look.device_to(peer.gateway().into())?;
        Ok(match device {
            Some(device) if device == encrypted_name(bridge) || device == kernel_name(bridge) => {
                match (&self.engine, engine) {
                    (None, _) => (WayState::None, "the process that encrypts does not run".to_owned()),
                    (Some(_), Some(state)) => (WayState::Encrypted, encrypted_why(peer, state)),
                    (Some(_), None) => {
                        (WayState::None, "the process that encrypts was not told of it yet".to_owned())
                    }
                }
            }
            Some(device) if [plain_name(bridge), plain6_name(bridge)].contains(&device) => {
                (WayState::Plain, plain_why(peer).to_owned())
            }
            _ => (WayState::None, none_why(peer, self.machine.outside()).to_owned()),
        })
    }

    /// Where plain packets for a worker are sent to.
    fn plain_underlay(&self, peer: &Peer) -> Result<Option<IpAddr>, InspectError> {
        let device = self.look.device_to(peer.gateway().into())?;
        let is_over_ipv6 = device.is_some_and(|device| device == plain6_name(&self.look.config().bridge));
        Ok(if is_over_ipv6 { peer.underlay6.map(IpAddr::V6) } else { peer.underlay.map(IpAddr::V4) })
    }

    pub(super) fn services(&self, rules: &Rules<'_>) -> Vec<ServiceState> {
        let mut services: BTreeMap<ServiceId, ServiceState> = BTreeMap::new();
        for known in self.machine.known_services() {
            let service = known.service;
            let state = ServiceState::new(&service.job_name, service.all_addresses());
            let state =
                ServiceState { organization: service.organization, exported: service.exported, ..state };
            let ready = state.ready(rules);
            let backends = known.backends.iter().map(|backend| elsewhere(backend, &ready)).collect();
            services.insert(service.id, ServiceState { backends, ..state });
        }
        for workload in self.machine.workloads() {
            let desired = &workload.assignment().desired;
            let service = services.entry(desired.key.service).or_insert_with(|| ServiceState {
                organization: workload.assignment().organization,
                exported: desired.spec.exported,
                ..ServiceState::new(&desired.job_name, desired.addresses())
            });
            let ready = service.ready(rules);
            service.backends.extend(self.here(workload, &ready));
        }
        let mut services: Vec<ServiceState> = services.into_values().collect();
        for service in &mut services {
            service.choose(rules);
        }
        services
    }

    fn here(&self, workload: &Workload, ready: &BTreeSet<Ipv4Addr>) -> Option<BackendState> {
        let desired = &workload.assignment().desired;
        let node_address = workload.address()?;
        let is_ready = ready.contains(&node_address);
        let why = match (is_ready, self.attached.contains_key(&desired.key)) {
            (true, _) => "it runs here",
            (false, true) => "it runs here and does not take connections: not healthy yet, or being stopped",
            (false, false) => "it does not run",
        };
        Some(BackendState {
            number: desired.key.number,
            worker: None,
            instance_address: desired.instance_address,
            node_address,
            is_ready,
            why: why.to_owned(),
        })
    }
}

impl ServiceState {
    fn new(name: &JobName, addresses: impl Iterator<Item = (Balancing, Ipv4Addr)>) -> Self {
        let address = |(policy, address)| AddressState {
            policy,
            address,
            ipv6: ipv6::service(policy, address),
            chosen: Vec::new(),
        };
        Self {
            name: full_name(name),
            addresses: addresses.map(address).collect(),
            organization: None,
            exported: false,
            backends: Vec::new(),
        }
    }

    /// Node addresses of the instances that some address of the service leads to.
    fn ready(&self, rules: &Rules<'_>) -> BTreeSet<Ipv4Addr> {
        let chosen = self.addresses.iter().filter_map(|one| rules.chosen(one.address.into()));
        chosen.flat_map(|chosen| chosen.shares.into_keys()).collect()
    }

    fn choose(&mut self, rules: &Rules<'_>) {
        for address in &mut self.addresses {
            let chosen = rules.chosen(address.address.into());
            let is_chosen = |backend: &&BackendState| {
                chosen.as_ref().is_some_and(|chosen| chosen.shares.contains_key(&backend.node_address))
            };
            address.chosen = self.backends.iter().filter(is_chosen).map(|backend| backend.number).collect();
        }
    }
}

fn elsewhere(backend: &Backend, ready: &BTreeSet<Ipv4Addr>) -> BackendState {
    let is_ready = ready.contains(&backend.node_address);
    let why = match (backend.readiness, is_ready) {
        (Readiness::Ready, true) => "its worker says that it takes connections",
        (Readiness::Ready, false) => {
            "it takes connections, but this worker has no link to its cluster: others are preferred"
        }
        (Readiness::Suspect, true) => "its worker does not answer its cluster, and there is no other",
        (Readiness::Suspect, false) => "its worker does not answer its cluster",
        (Readiness::Closed, _) => "it does not take new connections: not healthy, being stopped or moving",
    };
    BackendState {
        number: backend.key.number,
        worker: Some(backend.worker),
        instance_address: backend.instance_address,
        node_address: backend.node_address,
        is_ready,
        why: why.to_owned(),
    }
}

fn encrypted_why(peer: &Peer, state: &PeerStatus) -> String {
    let way = match (state.path, state.last_handshake_ms) {
        (None, _) => "it has not been found yet",
        (Some(_), None) => "no handshake yet",
        (Some(Path::Relayed { .. }), Some(_)) => "through a relay: it does not answer straight",
        (Some(Path::Direct(address)), Some(_)) if peer.own_addresses().any(|own| own == address.ip()) => {
            "straight to its own address"
        }
        (Some(Path::Direct(_)), Some(_)) => "straight to where it is seen from outside",
    };
    let by = if state.in_kernel { "both kernels encrypt" } else { "both encrypt" };
    format!("{by}; {way}")
}

const fn kind(path: Path) -> PathKind {
    match path {
        Path::Direct(_) => PathKind::Straight,
        Path::Relayed { .. } => PathKind::Relay,
    }
}

const fn plain_why(peer: &Peer) -> &'static str {
    if peer.tunnel.is_some() { "this worker does not encrypt" } else { "the other one does not encrypt" }
}

fn none_why(peer: &Peer, outside: Option<IpAddr>) -> &'static str {
    match (peer.tunnel.is_some(), peer.plain) {
        (true, false) => "it takes only encrypted packets, and this worker does not encrypt",
        (false, false) => "it takes neither encrypted nor plain packets",
        (_, true) if peer.outside != outside => {
            "one of the two does not encrypt, and there is a NAT in between, which plain packets do not pass"
        }
        (_, true) => "no route leads there; the log of the worker says why (`a node is not reached`)",
    }
}
