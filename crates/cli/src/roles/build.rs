//! From the configuration to what each role needs.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use oak_cluster::ClusterConfig;
use oak_image::ImageStoreConfig;
use oak_link::JoinToken;
use oak_root::RootConfig;
use oak_worker::WorkerConfig;
use tokio::sync::watch;

use crate::commands::Failure;
use crate::config::{Config, Secret};

/// Host ports (TCP) that applications of this machine use.
pub(super) type ClaimedPorts = watch::Sender<BTreeSet<u16>>;

pub(super) fn root(config: &Config, claimed: &ClaimedPorts) -> RootConfig {
    RootConfig {
        directory: config.data_dir.join("root"),
        listen: config.root.listen,
        dashboard: config.root.dashboard,
        network_api_port: config.root.network_api_port,
        host_names: config.root.advertise.clone(),
        settings: oak_control::root::Settings {
            cpu_overcommit: config.cluster.cpu_overcommit,
            cluster_lost_after: config.root.cluster_lost_after.map(|interval| interval.duration()),
            ..oak_control::root::Settings::default()
        },
        claimed_ports: claimed.subscribe(),
    }
}

pub(super) fn cluster(config: &Config) -> Result<ClusterConfig, Failure> {
    let settings = &config.cluster;
    Ok(ClusterConfig {
        directory: config.data_dir.join("cluster"),
        root: format!("{}:{}", settings.root.host(), settings.root.port()),
        token: token(settings.token.as_ref(), "cluster")?,
        rejoin: settings.rejoin,
        listen: settings.listen,
        settings: oak_control::cluster::Settings {
            cpu_overcommit: settings.cpu_overcommit,
            lost_after: settings.lost_after.duration(),
            restart_grace: settings.restart_grace.duration(),
            lease: settings.lease.duration(),
            name: settings.name.as_str().to_owned(),
            location: settings.location.clone(),
            ..oak_control::cluster::Settings::default()
        },
    })
}

pub(super) fn worker(config: &Config, claimed: &ClaimedPorts) -> Result<WorkerConfig, Failure> {
    let settings = &config.worker;
    let images = ImageStoreConfig {
        mirrors: config.images.mirrors.clone(),
        plain_http: config.images.plain_http.clone(),
        size_limit_bytes: config.images.size_limit.bytes(),
        max_concurrent_pulls: usize::try_from(config.images.concurrent_pulls).unwrap_or(usize::MAX),
        // The worker puts the store into its own directory.
        ..ImageStoreConfig::new(config.data_dir.join("worker/images"))
    };
    Ok(WorkerConfig {
        directory: config.data_dir.join("worker"),
        cluster: format!("{}:{}", settings.cluster.host(), settings.cluster.port()),
        token: token(settings.token.as_ref(), "worker")?,
        name: settings.name.as_ref().map_or_else(host_name, |name| name.as_str().to_owned()),
        address: settings.address,
        reserve_memory_mib: settings.reserve_memory_mib,
        reserve_cpu_millis: settings.reserve_cpu_millis,
        bridge: config.network.bridge.as_str().to_owned(),
        mtu: u32::from(config.network.mtu.bytes()),
        table: config.network.table.as_str().to_owned(),
        images,
        settings: oak_control::worker::Settings::default(),
        claimed_ports: claimed.clone(),
    })
}

/// How another role of this process reaches a port.
pub(super) fn local_endpoint(address: SocketAddr) -> String {
    let ip = match address.ip() {
        ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port()).to_string()
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "worker".to_owned() } else { name }
}

fn token(secret: Option<&Secret>, role: &str) -> Result<Option<JoinToken>, Failure> {
    let Some(secret) = secret else { return Ok(None) };
    secret.expose().parse().map(Some).map_err(|error: oak_link::InvalidToken| {
        Failure::usage(format!("the {role} token is not a join token"))
            .cause(error.to_string())
            .hint(format!("copy the whole line that `oak token create {role}` printed"))
    })
}
