//! Root, cluster and workers as separate processes, by default each on a machine of its own.

use std::net::SocketAddr;

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

    fn with(workers: u8, host: impl Fn(&str, u8) -> anyhow::Result<Host>) -> anyhow::Result<Self> {
        let worker = |index| host(&format!("worker-{}", char::from(b'a' + index)), 20 + index);
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
        let root_address = machines.root.address().to_string();
        let words = ["cluster", "--root", &root_address, "--name", CLUSTER, "--token", &token];
        let mut cluster = world.oak(&machines.cluster, &words)?;
        cluster.start_until("cluster ready")?;
        cluster.wait_for_log("connected to the root")?;
        let cluster_address = machines.cluster.address().to_string();
        let mut workers = Vec::new();
        for host in &machines.workers {
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
