//! The network of this node: opened when the subnet is known, kept in step with the state machine.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use oak_control::worker::{NetworkTable, TableVersion};
use oak_model::overlay::{PLAIN_PORT, TUNNEL_PORT, Target};
use oak_model::{Protocol, chain};
use oak_net::{
    Balancing, InstanceAddress, NetworkConfig, NetworkError, NodeNetwork, PortMapping, PortProtocol, Service,
    ServiceTable,
};
use oak_store::StoreError;
use tokio::sync::{Mutex, watch};
use tokio::time::MissedTickBehavior;
use tracing::{debug, error, warn};

use crate::operations::Operations;
use crate::tunnel::{LOOK, Tunnel, TunnelSettings};
use crate::ways::{OwnEnd, Ways};

/// A table that takes longer to apply is reported as a problem instead of waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks whether a network that shall be closed is still in use.
const GAP: Duration = Duration::from_millis(5);

/// Settings of the node's network without the subnet, which the cluster gives.
#[derive(Clone, Debug)]
pub(crate) struct NetworkSettings {
    pub(crate) directory: PathBuf,
    pub(crate) bridge: String,
    pub(crate) mtu: u32,
    pub(crate) table: String,
    pub(crate) own_end: OwnEnd,
    pub(crate) tunnel: TunnelSettings,
}

/// The network of this node, made on first use.
pub(crate) struct Network {
    settings: NetworkSettings,
    open: Mutex<Option<Arc<NodeNetwork>>>,
    /// The same for those who wait for it.
    present: watch::Sender<Option<Arc<NodeNetwork>>>,
    table: watch::Sender<(TableVersion, NetworkTable)>,
    /// The newest table the kernel was given, successfully or not.
    reached: watch::Sender<TableVersion>,
}

impl Network {
    pub(crate) fn new(settings: NetworkSettings) -> Self {
        Self {
            settings,
            open: Mutex::new(None),
            present: watch::Sender::default(),
            table: watch::Sender::default(),
            reached: watch::Sender::default(),
        }
    }

    /// How other workers reach this one.
    pub(crate) const fn own_end(&self) -> &OwnEnd {
        &self.settings.own_end
    }

    /// Sets what shall be reachable; the newest wish wins, in whatever order they come.
    pub(crate) fn set_table(&self, version: TableVersion, table: NetworkTable) {
        self.table.send_if_modified(|newest| {
            let is_newer = version >= newest.0;
            if is_newer {
                *newest = (version, table);
            }
            is_newer
        });
    }

    /// Every table from now on.
    pub(crate) fn tables(&self) -> watch::Receiver<(TableVersion, NetworkTable)> {
        self.table.subscribe()
    }

    /// Waits until the kernel has this table or a newer one, for a while.
    pub(crate) async fn reached(&self, version: TableVersion) {
        let mut reached = self.reached.subscribe();
        let wait = reached.wait_for(|reached| *reached >= version);
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            warn!(version = version.0, "an instance is stopped although the network still leads to it");
        }
    }

    /// The open network. Another subnet than before means another cluster: instances get new addresses then.
    pub(crate) async fn get(&self, subnet: Ipv4Net) -> Result<Arc<NodeNetwork>, NetworkError> {
        let mut open = self.open.lock().await;
        if let Some(network) = open.as_ref()
            && network.config().subnet == subnet
        {
            return Ok(Arc::clone(network));
        }
        // The old one must be gone before its state can be opened again.
        self.present.send_replace(None);
        if let Some(former) = open.take() {
            let alone = async {
                while Arc::strong_count(&former) > 1 {
                    tokio::time::sleep(GAP).await;
                }
            };
            let _ = tokio::time::timeout(PATIENCE, alone).await;
        }
        let config = NetworkConfig {
            bridge: self.settings.bridge.clone(),
            mtu: self.settings.mtu,
            table: self.settings.table.clone(),
            tunnel_port: PLAIN_PORT,
            encrypted_port: TUNNEL_PORT,
            ..NetworkConfig::new(&self.settings.directory, subnet)
        };
        let network = Arc::new(NodeNetwork::open(config).await?);
        for note in network.notes() {
            warn!(note, "network");
        }
        *open = Some(Arc::clone(&network));
        self.present.send_replace(Some(Arc::clone(&network)));
        Ok(network)
    }

    /// The network if it is open.
    pub(crate) async fn opened(&self) -> Option<Arc<NodeNetwork>> {
        self.open.lock().await.clone()
    }

    /// Brings the kernel in step with every new table and says so to the state machine, for ever.
    pub(crate) async fn follow(operations: Arc<Operations>) -> Result<(), StoreError> {
        let mut tables = operations.network.table.subscribe();
        tables.mark_changed();
        let mut ways = Keeper::new(Tunnel::new(operations.network.settings.tunnel.clone()));
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Both branches can be dropped at any point without losing anything.
            tokio::select! {
                changed = tables.changed() => if changed.is_err() { return Ok(()) },
                _ = look.tick(), if ways.tunnel.is_watched() => if ways.tunnel.look().await { continue },
            }
            let (version, table) = tables.borrow_and_update().clone();
            let problem = operations.network.apply(&table, &mut ways).await.err();
            if let Some(problem) = &problem {
                error!(problem, "the network is not as it should be");
            }
            operations.network.reached.send_replace(version);
            operations.post(move |worker, _, _| worker.network_applied(version, problem.as_deref())).await;
        }
    }

    /// Asks for every address that somebody here calls and nobody has told this node about, for ever.
    pub(crate) async fn ask(operations: Arc<Operations>) -> Result<(), StoreError> {
        let mut present = operations.network.present.subscribe();
        let engine = operations.engine.wait().await;
        loop {
            let network = present.borrow_and_update().clone();
            let Some(network) = network else {
                if present.changed().await.is_err() {
                    return Ok(());
                }
                continue;
            };
            let notices = network.notices_unknown();
            if engine.post(move |worker, _, _| worker.set_asks(notices)).await.is_err() {
                return Ok(());
            }
            loop {
                // Both branches can be dropped at any point without losing anything.
                let unknown = tokio::select! {
                    changed = present.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return Ok(()),
                    },
                    unknown = network.next_unknown() => unknown,
                };
                let target = Target::Address(unknown.destination);
                let asked = engine.post(move |worker, now, _| worker.ask(now, unknown.source, target)).await;
                if asked.is_err() {
                    return Ok(());
                }
            }
        }
    }

    async fn apply(&self, table: &NetworkTable, keeper: &mut Keeper) -> Result<(), String> {
        let Some(network) = self.opened().await else {
            // Nothing runs yet; the table of the first start comes after the network was opened.
            return Ok(());
        };
        let config = network.config();
        let inner = [config.subnet, config.service_range];
        let Ways { routes, tunnels, mut problems } =
            Ways::choose(&self.settings.own_end, &inner, table.peers.values());
        // First the ways, then what leads there.
        if let Err(problem) = keeper.tunnel.add(&tunnels).await {
            problems.push(format!("no worker is reached that encrypts: {problem}"));
        }
        let apply = async {
            let unreachable = network.set_peers(routes).await?;
            Ok((unreachable, network.apply(service_table(table)).await?))
        };
        let (unreachable, applied) = tokio::time::timeout(PATIENCE, apply)
            .await
            .map_err(|_| format!("the kernel took no network table within {} s", PATIENCE.as_secs()))?
            .map_err(|problem: NetworkError| {
                format!("cannot apply the network table: {}", chain(&problem))
            })?;
        if !keeper.tunnel.has_failed()
            && let Err(problem) = keeper.tunnel.set(tunnels).await
        {
            problems.push(format!("the tunnel engine still knows workers that are gone: {problem}"));
        }
        debug!(changed = applied.changed, "network table applied");
        problems.extend(unreachable.iter().map(ToString::to_string));
        keeper.report(problems);
        if applied.problems.is_empty() {
            return Ok(());
        }
        let problems: Vec<_> = applied.problems.iter().map(ToString::to_string).collect();
        Err(format!("left out of the network table: {}", problems.join("; ")))
    }
}

/// What has to be looked after for ways to other workers.
struct Keeper {
    tunnel: Tunnel,
    /// What was said already.
    reported: BTreeSet<String>,
}

impl Keeper {
    const fn new(tunnel: Tunnel) -> Self {
        Self { tunnel, reported: BTreeSet::new() }
    }

    fn report(&mut self, problems: Vec<String>) {
        let problems: BTreeSet<String> = problems.into_iter().collect();
        for problem in problems.difference(&self.reported) {
            warn!(problem, "a node is not reached");
        }
        self.reported = problems;
    }
}

fn service_table(table: &NetworkTable) -> ServiceTable {
    ServiceTable {
        services: table
            .services
            .iter()
            .map(|(address, backends)| Service {
                addresses: vec![*address],
                policy: balancing(table.policies.get(address).copied().unwrap_or_default()),
                backends: backends.clone(),
            })
            .collect(),
        instances: table
            .instances
            .iter()
            .map(|(instance, namespace)| InstanceAddress { instance: *instance, namespace: *namespace })
            .collect(),
        elsewhere: table.elsewhere.iter().copied().collect(),
        untold: table.untold.iter().copied().collect(),
        ports: table
            .ports
            .iter()
            .map(|(port, backends)| PortMapping {
                protocol: match port.protocol {
                    Protocol::Tcp => PortProtocol::Tcp,
                    Protocol::Udp => PortProtocol::Udp,
                },
                host_port: port.host,
                backends: backends
                    .iter()
                    .map(|address| SocketAddrV4::new(*address, port.container))
                    .collect(),
            })
            .collect(),
        weights: table.weights.clone(),
    }
}

/// What is left for the kernel to choose.
const fn balancing(policy: oak_model::Balancing) -> Balancing {
    match policy {
        oak_model::Balancing::RoundRobin
        | oak_model::Balancing::Closest
        | oak_model::Balancing::LocalFirst => Balancing::RoundRobin,
        oak_model::Balancing::LeastLoaded => Balancing::Weighted,
        oak_model::Balancing::Sticky => Balancing::Sticky,
    }
}
