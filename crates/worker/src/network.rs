//! The network of this node: opened when the subnet is known, kept in step with the state machine.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use oak_control::worker::{NetworkTable, OwnPlace, TableVersion};
use oak_model::chain;
use oak_model::overlay::{KERNEL_PORT, PLAIN_PORT, TUNNEL_PORT, Target};
use oak_net::{InstanceAddress, NetworkConfig, NetworkError, NodeNetwork, ServiceTable};
use oak_store::StoreError;
use tokio::sync::{Mutex, Notify, watch};
use tracing::{debug, error, warn};

use crate::facts::{OwnAddresses, is_elsewhere, source_towards};
use crate::keys::Keys;
use crate::operations::Operations;
use crate::table::service_table;
use crate::tunnel::{Look, Tunnel, TunnelSettings, Wanted};
use crate::ways::{OwnEnd, Ways, Whereabouts};

/// A table that takes longer to apply is reported as a problem instead of waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the address of the cluster is taken for granted, and how long a name server is waited for.
const FRESH: Duration = Duration::from_secs(60);
const NAME_PATIENCE: Duration = Duration::from_secs(2);

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
    /// The cluster as `host:port`.
    pub(crate) cluster: String,
    pub(crate) tunnel: TunnelSettings,
}

/// The network of this node, made when it is told its subnet.
pub(crate) struct Network {
    settings: NetworkSettings,
    own_end: std::sync::Mutex<OwnEnd>,
    open: Mutex<Option<Arc<NodeNetwork>>>,
    /// The same for those who wait for it.
    present: watch::Sender<Option<Arc<NodeNetwork>>>,
    table: watch::Sender<(TableVersion, NetworkTable)>,
    /// The newest table the kernel was given, successfully or not.
    reached: watch::Sender<TableVersion>,
    /// There is a new session with the cluster.
    reconnected: Notify,
}

impl Network {
    pub(crate) fn new(settings: NetworkSettings) -> Self {
        Self {
            own_end: std::sync::Mutex::new(settings.own_end.clone()),
            settings,
            open: Mutex::new(None),
            present: watch::Sender::default(),
            table: watch::Sender::default(),
            reached: watch::Sender::default(),
            reconnected: Notify::new(),
        }
    }

    /// How other workers reach this one.
    pub(crate) fn own_end(&self) -> OwnEnd {
        self.own_end.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Uses these keys from the next table on.
    pub(crate) fn set_keys(&self, keys: Keys) {
        self.own_end.lock().unwrap_or_else(PoisonError::into_inner).keys = keys;
    }

    /// Others are told these addresses from now on.
    pub(crate) fn set_addresses(&self, addresses: OwnAddresses) {
        let mut own_end = self.own_end.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = own_end.addresses.replace(addresses) != Some(addresses);
        drop(own_end);
        if is_new {
            self.tell_table_again();
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

    /// Tells everybody the present table once more: the network was opened.
    pub(crate) fn tell_table_again(&self) {
        self.table.send_modify(|_| {});
    }

    /// There is a new session with the cluster, whose welcome was taken: this node may have its first subnet. The former
    /// session may have ended because a NAT forgot this node, which one that only answers would not notice.
    pub(crate) fn reconnected(&self) {
        self.reconnected.notify_one();
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

    /// The open network with these subnets, of which there is at least one. It is opened anew if they are others than
    /// before: there are more, or it is another cluster, and instances get new addresses.
    pub(crate) async fn get(&self, subnets: &[Ipv4Net]) -> Result<Arc<NodeNetwork>, String> {
        let (subnet, more_subnets) = subnets.split_first().ok_or("this node has no subnet yet")?;
        let mut open = self.open.lock().await;
        if let Some(network) = open.as_ref()
            && network.config().subnets().eq(subnets.iter().copied())
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
            kernel_port: KERNEL_PORT,
            more_subnets: more_subnets.to_vec(),
            ..NetworkConfig::new(&self.settings.directory, *subnet)
        };
        let network = NodeNetwork::open(config).await.map_err(|error| chain(&error))?;
        let network = Arc::new(network);
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
        loop {
            let look_at = ways.tunnel.look_at();
            let look = async {
                match look_at {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            // Each branch can be dropped at any point without losing anything.
            tokio::select! {
                changed = tables.changed() => if changed.is_err() { return Ok(()) },
                () = operations.network.reconnected.notified() => {
                    ways.tunnel.tell_again();
                    // Before the first instance: what is in the way is said now, and the machine itself may call services.
                    if let Err(problem) = operations.open_network().await {
                        warn!(problem, "the network cannot be made; no instance starts");
                    }
                }
                () = look => match ways.tunnel.look().await {
                    Look::Well(seen_as) => {
                        operations.post(move |worker, _, _| worker.set_seen_as(seen_as)).await;
                        continue;
                    }
                    Look::Idle => continue,
                    Look::Lost => {}
                },
            }
            let (version, table) = tables.borrow_and_update().clone();
            // Nobody has said yet what shall be there: what an earlier agent made works on.
            if version == TableVersion::default() {
                continue;
            }
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
        let inner: Vec<_> = config.subnets().chain([config.service_range]).collect();
        let own_end = self.own_end();
        keeper.tunnel.use_keys(&own_end.keys);
        let place = keeper.whereabouts(&self.settings, &table.own).await;
        let Ways { routes, tunnels, relays, mut problems } =
            Ways::choose(&own_end, &place, &inner, table.peers.values());
        let wanted = Wanted { peers: tunnels, relays };
        let services = service_table(table);
        // Whoever is new is known before its packets come: a connection keeps the source it began with.
        if let Some(known) = keeper.with_newcomers(&services) {
            in_time(network.apply(known)).await?;
        }
        // First the ways, then what leads there.
        if let Err(problem) = keeper.tunnel.add(&wanted).await {
            problems.push(format!("no worker is reached that encrypts: {problem}"));
        }
        let apply = async {
            let unreachable = network.set_peers(routes).await?;
            Ok((unreachable, network.apply(services.clone()).await?))
        };
        let (unreachable, applied) = in_time(apply).await?;
        keeper.applied = Some(services);
        if !keeper.tunnel.has_failed()
            && let Err(problem) = keeper.tunnel.set(wanted).await
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
    /// Where the cluster is, and when that was found out.
    cluster: Option<(IpAddr, Instant)>,
    /// What the kernel was told last.
    applied: Option<ServiceTable>,
}

impl Keeper {
    const fn new(tunnel: Tunnel) -> Self {
        Self { tunnel, reported: BTreeSet::new(), cluster: None, applied: None }
    }

    /// What the kernel was told last with the instances of `next`, if there are new ones.
    fn with_newcomers(&self, next: &ServiceTable) -> Option<ServiceTable> {
        let applied = self.applied.as_ref()?;
        let known: BTreeSet<_> = applied.instances.iter().map(|one| (one.instance, one.namespace)).collect();
        let is_new = |one: &InstanceAddress| !known.contains(&(one.instance, one.namespace));
        let instances = next.instances.clone();
        next.instances.iter().any(is_new).then(|| ServiceTable { instances, ..applied.clone() })
    }

    /// Where this node is, as others see it.
    async fn whereabouts(&mut self, settings: &NetworkSettings, own: &OwnPlace) -> Whereabouts {
        let outside = own.vantage.outside;
        let is_seen_elsewhere = own.seen_as.iter().any(|address| is_elsewhere(address.ip()));
        let mut relay = own.vantage.relay.clone();
        if let Some(relay) = &mut relay
            && relay.address.is_none()
        {
            relay.address = self.cluster_address(&settings.cluster).await;
        }
        let is_behind_nat = settings.own_end.is_behind_nat || outside.is_some() || is_seen_elsewhere;
        Whereabouts { outside, is_behind_nat, relay }
    }

    /// Where the cluster is; where it was if no name server says anything else.
    async fn cluster_address(&mut self, cluster: &str) -> Option<IpAddr> {
        let is_fresh = self.cluster.is_some_and(|(_, at)| at.elapsed() < FRESH);
        if !is_fresh
            && let Ok(Ok(found)) = tokio::time::timeout(NAME_PATIENCE, tokio::net::lookup_host(cluster)).await
            && let Some(address) = reachable(found.map(|address| address.ip()))
        {
            self.cluster = Some((address, Instant::now()));
        }
        self.cluster.map(|(address, _)| address)
    }

    fn report(&mut self, problems: Vec<String>) {
        let problems: BTreeSet<String> = problems.into_iter().collect();
        for problem in problems.difference(&self.reported) {
            warn!(problem, "a node is not reached");
        }
        self.reported = problems;
    }
}

/// The address to which a route leads; of IPv4 if there is one, as packets are shorter then.
fn reachable(addresses: impl Iterator<Item = IpAddr>) -> Option<IpAddr> {
    addresses.filter(|address| source_towards(*address).is_some()).min_by_key(IpAddr::is_ipv6)
}

/// The outcome of a change of the kernel's tables, in words if it failed or did not end.
async fn in_time<T>(change: impl Future<Output = Result<T, NetworkError>>) -> Result<T, String> {
    tokio::time::timeout(PATIENCE, change)
        .await
        .map_err(|_| format!("the kernel took no network table within {} s", PATIENCE.as_secs()))?
        .map_err(|problem| format!("cannot apply the network table: {}", chain(&problem)))
}
