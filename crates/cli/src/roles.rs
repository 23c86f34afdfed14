//! The roles: what `oak up`, `oak root`, `oak cluster` and `oak worker` put together, and `oak down`.
//!
//! Life of a role: build from the configuration → bind (identity, ports) → run → drain on SIGTERM or SIGINT. What
//! runs in containers goes on after the drain; only `oak down` stops it.

mod build;
mod down;
mod lock;
mod original;
mod run;
mod signals;

use clap::{Args, Subcommand};

pub(crate) use lock::DirectoryLock;

use crate::commands::Failure;
use crate::config::{Loaded, Override};

/// Flags every role has.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct CommonFlags {
    /// Directory for all state
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// What is logged, such as info or info,oak_link=debug
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

/// Flags of the root.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct RootFlags {
    /// Address of API and cluster link [default: [::]:10000]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Second address for the dashboard, or off [default: [::]:80]
    #[arg(long, value_name = "ADDRESS")]
    dashboard: Option<String>,
}

/// Flags of a cluster.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ClusterFlags {
    /// The root to join, host[:port]
    #[arg(long, value_name = "HOST")]
    root: Option<String>,
    /// Unique name of this cluster
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Place: latitude,longitude,radius in metres
    #[arg(long, value_name = "PLACE", allow_hyphen_values = true)]
    location: Option<String>,
    /// Address of the worker link [default: [::]:10100]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// One-time token of `oak token create cluster`, needed for the first start
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Move to the root the token is from, with everything this cluster has: the former root is lost
    #[arg(long, requires = "token")]
    rejoin: bool,
}

/// Flags of a worker.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct WorkerFlags {
    /// The cluster to join, host[:port]
    #[arg(long, value_name = "HOST")]
    cluster: Option<String>,
    /// Name of this worker; the host name by default
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Address other machines reach this one at; found by default
    #[arg(long, value_name = "IP")]
    address: Option<String>,
    /// One-time token of `oak token create worker`, needed for the first start
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
}

/// Commands that run or stop a role on this machine.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum RoleCommand {
    /// Run root, cluster and worker in this process
    Up {
        #[command(flatten)]
        common: CommonFlags,
        #[command(flatten)]
        root: RootFlags,
    },
    /// Stop what runs from a data directory, its containers and networks included
    Down {
        #[command(flatten)]
        common: CommonFlags,
        /// Remove all state as well
        #[arg(long)]
        purge: bool,
    },
    /// Run a root
    Root {
        #[command(flatten)]
        common: CommonFlags,
        #[command(flatten)]
        root: RootFlags,
    },
    /// Run a cluster
    Cluster {
        #[command(flatten)]
        common: CommonFlags,
        #[command(flatten)]
        cluster: ClusterFlags,
    },
    /// Run a worker
    #[command(args_conflicts_with_subcommands = true)]
    Worker {
        #[command(flatten)]
        common: CommonFlags,
        #[command(flatten)]
        worker: WorkerFlags,
        #[command(subcommand)]
        action: Option<original::WorkerCommand>,
    },
}

type Given<'a> = (&'static str, &'static str, &'a Option<String>);

impl RoleCommand {
    /// The settings that flags give.
    pub(crate) fn overrides(&self) -> Vec<Override> {
        let common = |flags: &CommonFlags| {
            [("data_dir", "--data-dir", flags.data_dir.clone()), ("log.filter", "--log", flags.log.clone())]
        };
        let root = |flags: &RootFlags| {
            [
                ("root.listen", "--listen", flags.listen.clone()),
                ("root.dashboard", "--dashboard", flags.dashboard.clone()),
            ]
        };
        let mut given: Vec<(&'static str, &'static str, Option<String>)> = Vec::new();
        match self {
            Self::Up { common: shared, root: flags } | Self::Root { common: shared, root: flags } => {
                given.extend(common(shared));
                given.extend(root(flags));
            }
            Self::Down { common: shared, .. } => given.extend(common(shared)),
            Self::Cluster { common: shared, cluster } => {
                given.extend(common(shared));
                let rejoin = cluster.rejoin.then(|| "true".to_owned());
                let flags: [Given<'_>; 6] = [
                    ("cluster.rejoin", "--rejoin", &rejoin),
                    ("cluster.root", "--root", &cluster.root),
                    ("cluster.name", "--name", &cluster.name),
                    ("cluster.location", "--location", &cluster.location),
                    ("cluster.listen", "--listen", &cluster.listen),
                    ("cluster.token", "--token", &cluster.token),
                ];
                given.extend(flags.map(|(path, flag, value)| (path, flag, value.clone())));
            }
            Self::Worker { common: shared, worker, .. } => {
                given.extend(common(shared));
                let flags: [Given<'_>; 4] = [
                    ("worker.cluster", "--cluster", &worker.cluster),
                    ("worker.name", "--name", &worker.name),
                    ("worker.address", "--address", &worker.address),
                    ("worker.token", "--token", &worker.token),
                ];
                given.extend(flags.map(|(path, flag, value)| (path, flag, value.clone())));
            }
        }
        let set = |(path, flag, value): (&'static str, &'static str, Option<String>)| {
            Some(Override { path, flag, value: value? })
        };
        given.into_iter().filter_map(set).collect()
    }

    /// Runs the role until it is told to stop.
    pub(crate) fn run(&self, loaded: &Loaded) -> Result<(), Failure> {
        match self {
            Self::Up { .. } => run::start(loaded, run::all),
            Self::Root { .. } => run::start(loaded, run::root),
            Self::Cluster { .. } => run::start(loaded, run::cluster),
            Self::Worker { action: Some(command), .. } => command.answer(),
            Self::Worker { action: None, .. } => run::start(loaded, run::worker),
            Self::Down { purge, .. } => down::run(&loaded.config, *purge),
        }
    }
}
