//! The network of this node: opened when the subnet is known, kept in step with the state machine.

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use oak_control::worker::{NetworkTable, TableVersion};
use oak_model::Protocol;
use oak_model::overlay::Target;
use oak_net::{
    Balancing, InstanceAddress, NetworkConfig, NetworkError, NodeNetwork, Peer, PortMapping, PortProtocol,
    Service, ServiceTable,
};
use oak_store::StoreError;
use tokio::sync::{Mutex, watch};
use tracing::{debug, error, warn};

use crate::operations::Operations;

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
        while tables.changed().await.is_ok() {
            let (version, table) = tables.borrow_and_update().clone();
            let problem = operations.network.apply(&table).await.err();
            if let Some(problem) = &problem {
                error!(problem, "the network is not as it should be");
            }
            operations.network.reached.send_replace(version);
            operations.post(move |worker, _, _| worker.network_applied(version, problem.as_deref())).await;
        }
        Ok(())
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

    async fn apply(&self, table: &NetworkTable) -> Result<(), String> {
        let Some(network) = self.opened().await else {
            // Nothing runs yet; the table of the first start comes after the network was opened.
            return Ok(());
        };
        let peers =
            table.peers.iter().map(|(subnet, underlay)| Peer { subnet: *subnet, underlay: *underlay });
        let peers = peers.collect();
        let apply = async {
            // First the ways, then what leads there.
            let unreachable = network.set_peers(peers).await?;
            Ok((unreachable, network.apply(service_table(table)).await?))
        };
        let (unreachable, applied) = tokio::time::timeout(PATIENCE, apply)
            .await
            .map_err(|_| format!("the kernel took no network table within {} s", PATIENCE.as_secs()))?
            .map_err(|problem: NetworkError| {
                format!("cannot apply the network table: {}", oak_model::chain(&problem))
            })?;
        debug!(changed = applied.changed, "network table applied");
        for problem in &unreachable {
            warn!(%problem, "a node is not reached");
        }
        if applied.problems.is_empty() {
            return Ok(());
        }
        let problems: Vec<_> = applied.problems.iter().map(ToString::to_string).collect();
        Err(format!("left out of the network table: {}", problems.join("; ")))
    }
}

fn service_table(table: &NetworkTable) -> ServiceTable {
    ServiceTable {
        services: table
            .services
            .iter()
            .map(|(address, backends)| Service {
                addresses: vec![*address],
                policy: Balancing::RoundRobin,
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
    }
}
