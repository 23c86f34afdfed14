//! The configuration as the roles use it, with its defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use oak_model::overlay::TUNNEL_PORT;

use super::kinds::{
    ByteSize, Encryption, Endpoint, Identifier, Interval, LogFormat, MailSecurity, Mtu, PlaceName, Port,
    PublicUrl, Secret,
};
use super::machine::{DeviceNodes, Labels, Place};

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// State that must survive: one directory per role below it.
    pub(crate) data_dir: PathBuf,
    /// Logging of the program itself.
    pub(crate) log: LogConfig,
    /// The root role.
    pub(crate) root: RootConfig,
    /// Mails of the root.
    pub(crate) mail: MailConfig,
    /// The cluster role.
    pub(crate) cluster: ClusterConfig,
    /// The worker role.
    pub(crate) worker: WorkerConfig,
    /// Network of a worker.
    pub(crate) network: NetworkConfig,
    /// Images of a worker.
    pub(crate) images: ImagesConfig,
    /// Backups made by the roles themselves.
    pub(crate) backup: BackupConfig,
}

/// Backups made by the roles themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BackupConfig {
    /// Time from one to the next; `None`: none are made.
    pub(crate) every: Option<Interval<60, { 1000 * 86_400 }>>,
    /// How many are kept.
    pub(crate) keep: u32,
    /// Where; `None`: `backups` below the data directory.
    pub(crate) directory: Option<PathBuf>,
}

/// Logging of the program itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogConfig {
    /// Directives of `tracing`, such as `info,oak_link=debug`.
    pub(crate) filter: String,
    /// One line of text or one JSON object per event.
    pub(crate) format: LogFormat,
}

/// The root role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RootConfig {
    /// API for users, and link of the clusters.
    pub(crate) listen: SocketAddr,
    /// Second listener for the dashboard; `None` when off.
    pub(crate) dashboard: Option<SocketAddr>,
    /// Port of the network information API on the address of `listen`; `None` when off.
    pub(crate) network_api_port: Option<u16>,
    /// Host names and addresses in the HTTPS certificate; `localhost` is always among them.
    pub(crate) advertise: Vec<String>,
    /// Address at which users reach this root, for links in mails.
    pub(crate) public_url: Option<PublicUrl>,
    /// How long a cluster may be away until its instances are placed in other clusters; `None`: for ever.
    pub(crate) cluster_lost_after: Option<Interval<10, 604_800>>,
}

/// Mails of the root, to users who forgot their password.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MailConfig {
    /// The mail server; `None`: no mails are sent.
    pub(crate) host: Option<String>,
    /// Its port; `None`: the usual one for `security`.
    pub(crate) port: Option<Port>,
    /// How the connection is protected.
    pub(crate) security: MailSecurity,
    /// Name for the server.
    pub(crate) user: Option<String>,
    /// Password for the server.
    pub(crate) password: Option<Secret>,
    /// File with the password.
    pub(crate) password_file: Option<PathBuf>,
    /// Sender.
    pub(crate) sender: Option<String>,
}

/// The cluster role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterConfig {
    /// Unique name.
    pub(crate) name: PlaceName,
    /// Place, conventionally `latitude,longitude,radius in metres`.
    pub(crate) location: String,
    /// The root to join.
    pub(crate) root: Endpoint<10000>,
    /// Link of the workers.
    pub(crate) listen: SocketAddr,
    /// Relay (UDP) for workers that do not reach each other; `None` when off.
    pub(crate) relay: Option<SocketAddr>,
    /// One-time token for the first start.
    pub(crate) token: Option<Secret>,
    /// A token of another root moves the cluster there with everything it has.
    pub(crate) rejoin: bool,
    /// How many times the cores of a worker are given out: requests are seldom used fully.
    pub(crate) cpu_overcommit: u32,
    /// How long a worker whose connection broke may be away before its instances are placed elsewhere.
    pub(crate) lost_after: Interval<1, 3600>,
    /// The same for a worker whose agent said goodbye, because it restarts.
    pub(crate) restart_grace: Interval<1, 3600>,
    /// How long `at_most_one` instances run without renewed permission.
    pub(crate) lease: Interval<6, 300>,
}

/// The worker role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkerConfig {
    /// Name that `direct` constraints use; `None`: the host name.
    pub(crate) name: Option<PlaceName>,
    /// The cluster to join.
    pub(crate) cluster: Endpoint<10100>,
    /// Address other machines reach this one at; `None`: the one that leads to the cluster.
    pub(crate) address: Option<IpAddr>,
    /// Port (UDP) at that address where other workers reach this one.
    pub(crate) tunnel_port: u16,
    /// One-time token for the first start.
    pub(crate) token: Option<Secret>,
    /// Where the folders of volumes are; `None`: this worker offers none.
    pub(crate) volumes_root: Option<PathBuf>,
    /// Memory kept back for the machine itself, MiB.
    pub(crate) reserve_memory_mib: u32,
    /// CPU kept back for the machine itself, thousandths of a core.
    pub(crate) reserve_cpu_millis: u32,
    /// What descriptors may ask for with an `addons` constraint, such as `gpu` or `area=munich`.
    pub(crate) labels: Labels,
    /// Additional services of the machine, such as `imageBuilder`; the same for descriptors.
    pub(crate) addons: Labels,
    /// Where it is; `None`: where its cluster is.
    pub(crate) location: Option<Place>,
    /// Device nodes of its GPUs; empty: those of the NVIDIA driver.
    pub(crate) gpus: DeviceNodes,
}

/// Network of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetworkConfig {
    /// Bridge that connects the instances; the names of the other devices are made from it.
    pub(crate) bridge: Identifier<6>,
    /// Largest packet inside the overlay, bytes.
    pub(crate) mtu: Mtu,
    /// The nftables table this program owns.
    pub(crate) table: Identifier<15>,
    /// Whether packets between workers are encrypted.
    pub(crate) encryption: Encryption,
    /// Whether the kernel's own WireGuard is used where it can be.
    pub(crate) kernel_wireguard: bool,
    /// Age at which a worker replaces its key; `None`: never by itself.
    pub(crate) key_lifetime: Option<Interval<3600, { 1000 * 86_400 }>>,
}

/// Images of a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImagesConfig {
    /// Registry as in image names, and the addresses tried before it.
    pub(crate) mirrors: BTreeMap<String, Vec<String>>,
    /// Registries and mirrors (`host[:port]`) that speak plain HTTP.
    pub(crate) plain_http: BTreeSet<String>,
    /// Size above which unused images are removed.
    pub(crate) size_limit: ByteSize,
    /// Images pulled at the same time.
    pub(crate) concurrent_pulls: u32,
}

impl Default for Config {
    fn default() -> Self {
        // Of both families.
        let everywhere = |port| SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
        Self {
            data_dir: PathBuf::from("/var/lib/oakestra"),
            log: LogConfig { filter: "info".to_owned(), format: LogFormat::Text },
            root: RootConfig {
                listen: everywhere(10000),
                dashboard: Some(everywhere(80)),
                network_api_port: Some(10099),
                advertise: Vec::new(),
                public_url: None,
                cluster_lost_after: Some(Interval::of_seconds(300)),
            },
            mail: MailConfig::default(),
            cluster: ClusterConfig {
                name: PlaceName::literal("local"),
                location: String::new(),
                root: Endpoint::this_machine(),
                listen: everywhere(10100),
                relay: Some(everywhere(50105)),
                token: None,
                rejoin: false,
                cpu_overcommit: 10,
                lost_after: Interval::of_seconds(3),
                restart_grace: Interval::of_seconds(15),
                lease: Interval::of_seconds(10),
            },
            worker: WorkerConfig {
                name: None,
                cluster: Endpoint::this_machine(),
                address: None,
                tunnel_port: TUNNEL_PORT,
                token: None,
                volumes_root: Some(PathBuf::from("/mnt/oakestra/hostpath")),
                reserve_memory_mib: 128,
                reserve_cpu_millis: 100,
                labels: Labels::default(),
                addons: Labels::default(),
                location: None,
                gpus: DeviceNodes::default(),
            },
            network: NetworkConfig {
                bridge: Identifier::literal("oak0"),
                mtu: Mtu::OVERLAY,
                table: Identifier::literal("oakestra"),
                encryption: Encryption::default(),
                kernel_wireguard: true,
                key_lifetime: Some(Interval::of_seconds(30 * 86_400)),
            },
            images: ImagesConfig {
                mirrors: BTreeMap::new(),
                plain_http: BTreeSet::new(),
                size_limit: ByteSize::gib(20),
                concurrent_pulls: 2,
            },
            backup: BackupConfig { every: None, keep: 7, directory: None },
        }
    }
}
