//! Starting a worker: join, find what runs, adopt it, start the rest, connect.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use oak_control::Row;
use oak_control::worker::{Attempt, Found, Settings, Worker};
use oak_image::{ImageStore, ImageStoreConfig};
use oak_link::{Credentials, Joining, NodeKind, system_clock};
use oak_model::message::EnrolAttributes;
use oak_model::{InstanceKey, Now, chain};
use oak_runtime::{AdoptedState, ExitObserver, OciConfig, OciRuntime};
use oak_store::{Engine, FileStore, StoreError, SystemClock};
use tokio::sync::{Notify, Semaphore, SetOnce};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::container::{GPU_LABEL, INSTANCE_LABEL, Places};
use crate::gpus::Gpus;
use crate::keys::Keys;
use crate::names::Names;
use crate::network::{Network, NetworkSettings};
use crate::operations::{Leases, Operations, PROBES, exit};
use crate::ports::HostPorts;
use crate::secrets::Secrets;
use crate::tunnel::TunnelSettings;
use crate::ways::{Encryption, OwnEnd};
use crate::{
    WorkerConfig, WorkerError, distances, encode, facts, garbage, keys, rejoin, tunnel, uplink, usage,
};

/// A worker that has joined but does nothing yet.
pub struct BoundWorker {
    config: WorkerConfig,
    credentials: Arc<Credentials>,
}

/// What an earlier start left running.
struct Survivors {
    found: BTreeMap<InstanceKey, Found>,
    observers: BTreeMap<InstanceKey, ExitObserver>,
}

/// The state machine at the start.
struct Loaded {
    machine: Worker,
    adopted: BTreeMap<InstanceKey, Attempt>,
    /// Keys of rows that were put aside.
    damaged: Vec<String>,
}

impl BoundWorker {
    /// Joins the cluster if this was not done before.
    ///
    /// # Errors
    /// The token is refused or the directory is unusable. An unreachable cluster is waited for.
    pub async fn bind(config: WorkerConfig, shutdown: &CancellationToken) -> Result<Self, WorkerError> {
        if !rustix::process::geteuid().is_root() {
            return Err(WorkerError::NotRoot);
        }
        create(&config.directory)?;
        let joining = |directory: &Path| Joining {
            kind: NodeKind::Worker,
            endpoint: config.cluster.clone(),
            token: config.token.clone(),
            name: config.name.clone(),
            attributes: encode(&EnrolAttributes::default()),
            directory: directory.to_owned(),
            clock: system_clock(),
        };
        rejoin::if_removed(&config, joining, shutdown).await?;
        let credentials = oak_link::join(joining(&config.directory.join("identity")), shutdown).await?;
        Ok(Self { config, credentials })
    }

    /// Works until `shutdown`; what runs then goes on running. `on_ready` is called once it works.
    ///
    /// # Errors
    /// The state cannot be read, or no longer be written.
    pub async fn run(self, shutdown: CancellationToken, on_ready: impl FnOnce()) -> Result<(), WorkerError> {
        let clock = SystemClock::start();
        let directory = &self.config.directory;
        let (store, rows) = FileStore::open(directory)?;
        let operations = Arc::new(self.operations(clock)?);
        let survivors = adopt(&operations).await?;
        let Loaded { machine, adopted, damaged } = load(&self.config, clock.now(), &store, rows, &survivors)?;
        sweep(&operations, &machine, &survivors, &damaged).await;

        let mut tasks = JoinSet::new();
        let engine = Engine::start(&mut tasks, machine, store, clock, {
            let operations = Arc::clone(&operations);
            move |effect| operations.perform(effect)
        });
        // Set once: this is the only start of these operations.
        let _ = operations.engine.set(engine.clone());
        operations.names.ask_through(&operations);
        watch(&operations, adopted, survivors.observers);
        tasks.spawn(Network::follow(Arc::clone(&operations)));
        tasks.spawn(Network::ask(Arc::clone(&operations)));
        let (key_directory, lifetime) = (directory.clone(), self.config.key_lifetime);
        tasks.spawn(keys::run(Arc::clone(&operations), key_directory, lifetime));
        tasks.spawn(distances::run(Arc::clone(&operations)));
        tasks.spawn(Names::follow(Arc::clone(&operations)));
        tasks.spawn(garbage::run(Arc::clone(&operations), engine.clone()));
        // This may wait for a name server: what runs here has begun without it.
        operations.network.set_addresses(facts::own_addresses(&self.config));
        let facts = facts::worker_facts(&self.config, operations.gpus.count(), &operations.network.own_end());
        let millis = facts.capacity.cpu_millis;
        tasks.spawn(usage::run(Arc::clone(&operations), engine.clone(), millis));
        info!(name = facts.name, identity = %self.credentials.identity(), capacity = %facts.capacity, "worker ready");
        let uplink = uplink::start(&mut tasks, &self.config, &self.credentials, facts, engine, &operations)?;
        on_ready();
        let result = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            ended = tasks.join_next() => match ended {
                Some(Ok(Err(error))) => Err(WorkerError::Store(error)),
                Some(Ok(Ok(())) | Err(_)) | None => Err(WorkerError::Store(StoreError::WriterGone)),
            },
        };
        uplink.shutdown().await;
        tasks.shutdown().await;
        result
    }

    fn operations(&self, clock: SystemClock) -> Result<Operations, WorkerError> {
        let directory = &self.config.directory;
        let containers = directory.join("containers");
        let runtime = OciRuntime::open(OciConfig::new(containers.clone()))
            .map_err(|source| WorkerError::Runtime { path: containers, source })?;
        let images = ImageStoreConfig { directory: directory.join("images"), ..self.config.images.clone() };
        let places = Places { volumes: self.config.volumes_root.clone(), ..places(directory)? };
        Ok(Operations {
            engine: SetOnce::new(),
            to_cluster: OnceLock::new(),
            runtime: Arc::new(runtime),
            images: ImageStore::open(images)?,
            network: Arc::new(Network::new(self.network_settings()?)),
            names: Names::new(),
            gpus: Gpus::find(Path::new("/"), &self.config.gpus),
            leases: Leases::default(),
            clock,
            ports: HostPorts::new(self.config.claimed_ports.clone()),
            places,
            secrets: Secrets::open(directory)?,
            execs: Arc::new(Semaphore::new(crate::exec::CONCURRENT)),
            running: Mutex::new(HashMap::new()),
            ended: Mutex::new(HashMap::new()),
            report_usage: Notify::new(),
            answered: Notify::new(),
            pulled: Notify::new(),
            probes: Semaphore::new(PROBES),
        })
    }

    fn network_settings(&self) -> Result<NetworkSettings, WorkerError> {
        let WorkerConfig { directory, bridge, mtu, table, encryption, kernel_wireguard, tunnel_port, .. } =
            &self.config;
        let keys = Keys::open(directory)
            .map_err(|source| WorkerError::NetworkKey { path: directory.clone(), source })?;
        let own_end = OwnEnd {
            encryption: *encryption,
            keys: keys.clone(),
            tunnel: if *encryption == Encryption::Off { None } else { tunnel::own_end(&keys, *tunnel_port) },
            addresses: None,
            is_behind_nat: self.config.address.is_some_and(facts::is_elsewhere),
        };
        Ok(NetworkSettings {
            directory: directory.join("network"),
            bridge: bridge.clone(),
            mtu: *mtu,
            table: table.clone(),
            own_end,
            cluster: self.config.cluster.clone(),
            tunnel: TunnelSettings::new(directory, bridge, *mtu, keys).with_kernel(*kernel_wireguard),
        })
    }
}

fn create(path: &Path) -> Result<(), WorkerError> {
    std::fs::create_dir_all(path).map_err(|source| WorkerError::Directory { path: path.to_owned(), source })
}

pub(crate) fn places(directory: &Path) -> Result<Places, WorkerError> {
    let places = Places {
        logs: directory.join("logs"),
        files: directory.join("files"),
        volumes: None,
        cgroup: oak_runtime::CgroupParent::default(),
    };
    create(&places.logs)?;
    create(&places.files)?;
    Ok(places)
}

/// Lists what is there; what is neither running nor has ended properly is removed.
async fn adopt(operations: &Operations) -> Result<Survivors, WorkerError> {
    let runtime = operations.runtime.as_ref();
    let mut survivors = Survivors { found: BTreeMap::new(), observers: BTreeMap::new() };
    for container in runtime.adopt().await? {
        let key = container.labels.get(INSTANCE_LABEL).and_then(|text| text.parse::<InstanceKey>().ok());
        match (key, container.state) {
            (Some(key), AdoptedState::Running { pid, observer }) => {
                info!(instance = %key, pid, "instance still runs");
                if let Some(label) = container.labels.get(GPU_LABEL) {
                    operations.gpus.adopt(key, label);
                }
                survivors.found.insert(key, Found::Running);
                survivors.observers.insert(key, observer);
            }
            (Some(key), AdoptedState::Exited(status)) => {
                survivors.found.insert(key, Found::Exited(exit(&status)));
            }
            (_, _) => {
                if let Err(error) = runtime.delete(&container.id).await {
                    warn!(container = %container.id, error = chain(&error), "cannot remove a leftover");
                }
            }
        }
    }
    Ok(survivors)
}

/// The state machine on the rows that can be understood. Those that cannot are put aside: one of them must not keep the
/// others from running, and the cluster tells it again.
fn load(
    config: &WorkerConfig,
    now: Now,
    store: &FileStore,
    mut rows: Vec<Row>,
    survivors: &Survivors,
) -> Result<Loaded, WorkerError> {
    let mut damaged = Vec::new();
    loop {
        // Until the network says otherwise.
        let settings = Settings { asks: true, ..config.settings.clone() };
        let corrupt = match Worker::load(settings, now, &rows, &survivors.found) {
            Ok((machine, adopted)) => return Ok(Loaded { machine, adopted, damaged }),
            Err(corrupt) => corrupt,
        };
        let before = rows.len();
        rows.retain(|row| row.table != corrupt.table || row.key != corrupt.key);
        if rows.len() == before {
            return Err(corrupt.into());
        }
        let aside = store.set_aside(corrupt.table, &corrupt.key)?;
        error!(
            file = %aside.display(),
            error = chain(&corrupt),
            "a stored row is damaged and was put aside under this name; the cluster tells it again when it is connected"
        );
        damaged.push(corrupt.key);
    }
}

/// Opens the network of an earlier start and removes what belongs to no workload. What belongs to a damaged one stays:
/// only the cluster knows whether it is still wanted.
async fn sweep(operations: &Operations, machine: &Worker, survivors: &Survivors, damaged: &[String]) {
    let is_wanted =
        |key: &InstanceKey| machine.workload(*key).is_some() || damaged.contains(&key.to_string());
    for key in survivors.found.keys().filter(|key| !is_wanted(key)) {
        let Ok(id) = crate::container::container_id(*key) else { continue };
        if let Err(error) = operations.runtime.delete(&id).await {
            warn!(instance = %key, error = chain(&error), "cannot remove a leftover container");
        }
    }
    operations.secrets.sweep(|key| is_wanted(&key));
    let subnets = machine.subnets();
    if subnets.is_empty() {
        return;
    }
    let network = match operations.network.get(&subnets).await {
        Ok(network) => network,
        Err(error) => {
            warn!(error, "cannot open the network yet; it is tried again with the next start");
            return;
        }
    };
    operations.names.belong_to(network.config());
    for attached in network.attached().await.unwrap_or_default() {
        let wanted = attached.id.parse::<InstanceKey>().is_ok_and(|key| is_wanted(&key));
        if !wanted && let Err(error) = network.detach(&attached.id).await {
            warn!(instance = attached.id, error = chain(&error), "cannot remove a leftover of the network");
        }
    }
}

fn watch(
    operations: &Arc<Operations>,
    adopted: BTreeMap<InstanceKey, Attempt>,
    mut observers: BTreeMap<InstanceKey, ExitObserver>,
) {
    for (key, attempt) in adopted {
        if let Some(observer) = observers.remove(&key) {
            operations.watch(key, attempt, observer);
        }
    }
}
