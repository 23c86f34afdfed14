//! Root, cluster and workers as separate processes, by default each on a machine of its own.

use std::net::{IpAddr, SocketAddr};

use crate::host::Families;
use crate::{Api, Host, Oak, World};

/// The machines.
#[derive(Debug)]
pub struct Machines {
    /// Runs the root.
    pub root: Host,
    /// Runs the cluster.
    pub cluster: Host,
    /// Run one worker each.
    pub workers: Vec<Host>,
}

/// The processes on them, joined to each other.
#[derive(Debug)]
pub struct Tiers<'host> {
    /// The root.
    pub root: Oak<'host>,
    /// The cluster.
    pub cluster: Oak<'host>,
    /// The workers.
    pub workers: Vec<Oak<'host>>,
    /// A user on the machine of the root.
    pub api: Api<'host>,
}

/// Number of the first worker's machine; the others follow.
const FIRST_WORKER: u8 = 20;

/// Name of the cluster.
pub const CLUSTER: &str = "site";

impl Machines {
    /// One machine for the root, one for the cluster, one per worker, which are called `worker-a`, `worker-b`, ….
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn create(world: &World, workers: u8) -> anyhow::Result<Self> {
        Self::with(workers, |name, number| world.host(name, number))
    }

    /// The same, each machine on a [`Cable`](crate::Cable).
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn on_cables(world: &World, workers: u8) -> anyhow::Result<Self> {
        Self::with(workers, |name, number| world.host_on_cable(name, number))
    }

    /// The same with these addresses: of root and cluster, and of each worker.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn with_families(world: &World, tiers: Families, workers: &[Families]) -> anyhow::Result<Self> {
        let count = u8::try_from(workers.len())?;
        Self::with(count, |name, number| {
            let worker = number.checked_sub(FIRST_WORKER).and_then(|index| workers.get(usize::from(index)));
            world.host_with(name, number, worker.copied().unwrap_or(tiers))
        })
    }

    fn with(workers: u8, host: impl Fn(&str, u8) -> anyhow::Result<Host>) -> anyhow::Result<Self> {
        let worker = |index| host(&format!("worker-{}", char::from(b'a' + index)), FIRST_WORKER + index);
        Ok(Self {
            root: host("root", 10)?,
            cluster: host("cluster", 11)?,
            workers: (0..workers).map(worker).collect::<anyhow::Result<_>>()?,
        })
    }

    /// Makes cluster and workers drop every connection from outside, except for those of workers to the cluster.
    ///
    /// # Errors
    /// `nft` is not there.
    pub fn close_inbound(&self) -> anyhow::Result<()> {
        let table = "add table inet guard; \
             add chain inet guard input { type filter hook input priority -5; policy accept; }; ";
        let link = "add rule inet guard input iifname eth0 tcp dport 10100 accept; ";
        let drop = "add rule inet guard input iifname eth0 ct state new drop";
        self.cluster.check(&["nft", &format!("{table}{link}{drop}")])?;
        for worker in &self.workers {
            worker.check(&["nft", &format!("{table}{drop}")])?;
        }
        Ok(())
    }

    /// Where workers reach the cluster.
    pub fn cluster_link(&self) -> SocketAddr {
        SocketAddr::from((self.cluster.address(), 10100))
    }
}

impl<'host> Tiers<'host> {
    /// Starts everything and joins it with tokens.
    ///
    /// # Errors
    /// Something does not start or join.
    pub fn start(world: &World, machines: &'host Machines) -> anyhow::Result<Self> {
        let mut root = world.oak(&machines.root, &["root"])?;
        root.start_until("root ready")?;
        let api = Api::on(&machines.root);
        let token = api.token("cluster", None, 600)?;
        // As people write it: an address, or a URL where it has to be told from the port.
        let root_address = match machines.root.reached_by(&machines.cluster) {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("https://[{address}]:10000"),
        };
        let words = ["cluster", "--root", &root_address, "--name", CLUSTER, "--token", &token];
        let mut cluster = world.oak(&machines.cluster, &words)?;
        cluster.start_until("cluster ready")?;
        cluster.wait_for_log("connected to the root")?;
        let mut workers = Vec::new();
        for host in &machines.workers {
            let cluster_address = match machines.cluster.reached_by(host) {
                IpAddr::V4(address) => address.to_string(),
                IpAddr::V6(address) => format!("[{address}]:10100"),
            };
            let token = api.token("worker", Some(CLUSTER), 600)?;
            let words = ["worker", "--cluster", &cluster_address, "--name", host.name(), "--token", &token];
            let mut worker = world.oak(host, &words)?;
            worker.start_until("worker ready")?;
            worker.wait_for_log("connected to the cluster")?;
            workers.push(worker);
        }
        Ok(Self { root, cluster, workers, api })
    }
}
