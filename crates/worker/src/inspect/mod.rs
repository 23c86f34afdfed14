//! The network of this worker as somebody on its machine sees it, whether the agent runs or not: stored rows, rules and
//! routes of the kernel, state of the tunnel engine. Nothing is changed, nothing new listens.

mod status;
mod trace;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use oak_control::CorruptRow;
use oak_control::worker::{Found, Settings, Worker, Workload};
use oak_model::{InstanceKey, JobName, OrganizationId};
use oak_net::{Attached, Look, NetworkError};
use oak_store::{StoreError, SystemClock, read_files};
use oak_tunnel::Status;
use serde::Serialize;

pub use oak_net::run_in;
pub use oak_tunnel::KernelState;
pub use status::{
    AddressState, BackendState, NetworkStatus, PathKind, PeerState, RelayState, ServiceState, WayState,
};
pub use trace::{Step, Trace};

use crate::tunnel;

/// Why nothing can be seen.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// There is no network of a worker.
    #[error("no worker has opened its network with the data in {directory}")]
    NoNetwork {
        /// The directory of the worker.
        directory: PathBuf,
    },
    /// The state of the worker cannot be read.
    #[error("cannot read the state of the worker")]
    Store(#[from] StoreError),
    /// A row cannot be understood.
    #[error("cannot read the state of the worker")]
    Corrupt(#[from] CorruptRow),
    /// The kernel does not say.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// No instance, or several.
    #[error("{wanted:?} names {} instances of this worker{}", .found.len(), list(.found))]
    NotOne {
        /// What was asked for.
        wanted: String,
        /// What fits, or everything if nothing does.
        found: Vec<String>,
    },
    /// The instance has no network.
    #[error("{instance} has no network on this machine at the moment")]
    NotAttached {
        /// Which instance.
        instance: String,
    },
}

fn list(found: &[String]) -> String {
    if found.is_empty() { String::new() } else { format!(": {}", found.join(", ")) }
}

/// What is known about the network of a worker.
#[derive(Debug)]
pub struct Inspection {
    machine: Worker,
    look: Look,
    attached: BTreeMap<InstanceKey, (Attached, String)>,
    engine: Option<Status>,
}

/// An instance of this worker with its place in the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LocalInstance {
    /// `service.number`.
    pub name: String,
    /// Full name of its service.
    pub service: String,
    /// Its address in the subnet of this worker.
    pub address: Ipv4Addr,
    /// Its device on the host.
    pub device: String,
    /// File that names its network namespace.
    pub namespace: PathBuf,
    /// Organisation it belongs to.
    pub organization: Option<OrganizationId>,
    #[serde(skip)]
    key: InstanceKey,
    #[serde(skip)]
    job_name: JobName,
}

impl Inspection {
    /// Looks at the worker with this directory.
    ///
    /// # Errors
    /// It never had a network, or its state cannot be read.
    pub fn open(directory: &Path) -> Result<Self, InspectError> {
        let network = directory.join("network");
        let look =
            Look::at(&network).ok_or_else(|| InspectError::NoNetwork { directory: directory.to_owned() })?;
        let attached: BTreeMap<InstanceKey, _> = (look.attached()?.into_iter())
            .filter_map(|(attached, device)| Some((attached.id.parse().ok()?, (attached, device))))
            .collect();
        let found = attached.keys().map(|key| (*key, Found::Running)).collect();
        let settings = Settings { asks: true, ..Settings::default() };
        let now = SystemClock::start().now();
        let (machine, _) = Worker::load(settings, now, &read_files(directory)?, &found)?;
        Ok(Self { machine, look, attached, engine: tunnel::status(directory) })
    }

    /// The instance that is meant: by service, `service.number`, full name or address.
    ///
    /// # Errors
    /// None or several fit, or it has no network now.
    pub fn instance(&self, wanted: &str) -> Result<LocalInstance, InspectError> {
        let all: Vec<&Workload> = self.machine.workloads().collect();
        let fits = |workload: &&&Workload| {
            let address = workload.address().map(|address| address.to_string());
            let desired = &workload.assignment().desired;
            let full = full_name(&desired.job_name);
            [short_name(workload), desired.job_name.service.to_string(), full, workload.key().to_string()]
                .iter()
                .chain(&address)
                .any(|name| name == wanted)
        };
        let found: Vec<&&Workload> = all.iter().filter(fits).collect();
        let [one] = found[..] else {
            let shown = if found.is_empty() { all.iter().collect() } else { found };
            let found = shown.into_iter().map(|workload| short_name(workload)).collect();
            return Err(InspectError::NotOne { wanted: wanted.to_owned(), found });
        };
        self.local(one).ok_or_else(|| InspectError::NotAttached { instance: short_name(one) })
    }

    fn local(&self, workload: &Workload) -> Option<LocalInstance> {
        let (attached, device) = self.attached.get(&workload.key())?;
        let job_name = workload.assignment().desired.job_name.clone();
        Some(LocalInstance {
            name: short_name(workload),
            service: full_name(&job_name),
            address: attached.address,
            device: device.clone(),
            namespace: attached.namespace.clone(),
            organization: workload.assignment().organization,
            key: workload.key(),
            job_name,
        })
    }
}

fn short_name(workload: &Workload) -> String {
    format!("{}.{}", workload.assignment().desired.job_name.service, workload.key().number)
}

/// As DNS knows it, without the top.
fn full_name(name: &JobName) -> String {
    let JobName { application, application_namespace, service, service_namespace } = name;
    format!("{service}.{service_namespace}.{application}.{application_namespace}")
}
