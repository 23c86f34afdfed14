//! The two sides of a placement: what a worker has, and what an instance needs.

use oak_model::{Architecture, PortMapping, Resources, ServiceId, Volume, WorkerFacts, WorkerId};

/// What placement must know about one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerState {
    /// Name that descriptors may refer to.
    pub name: String,
    /// Processor.
    pub architecture: Architecture,
    /// Whether it runs containers.
    pub runs_containers: bool,
    /// All it has for services.
    pub capacity: Resources,
    /// CPU that may be reserved, thousandths of a core: capacity times the overcommitment of the cluster.
    pub reservable_cpu_millis: u32,
    /// Instances its subnet has addresses for.
    pub addresses: u32,
    /// Link up.
    pub connected: bool,
    /// Closed for new instances.
    pub cordoned: bool,
    /// Went away again and again: only if no other can take an instance.
    pub unreliable: bool,
    /// Volume drivers it offers.
    pub csi_drivers: Vec<String>,
}

impl WorkerState {
    /// State of a connected worker with the given facts.
    #[must_use]
    pub fn new(facts: &WorkerFacts, cpu_overcommit: u32, addresses: u32) -> Self {
        Self {
            name: facts.name.clone(),
            architecture: facts.architecture,
            runs_containers: facts.virtualization.iter().any(|kind| kind == "docker"),
            capacity: facts.capacity,
            reservable_cpu_millis: facts.capacity.cpu_millis.saturating_mul(cpu_overcommit),
            addresses,
            connected: true,
            cordoned: false,
            unreliable: false,
            csi_drivers: facts.csi_drivers.clone(),
        }
    }
}

/// One instance that looks for a place.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its service; instances of one service spread.
    pub service: ServiceId,
    /// What it needs.
    pub resources: Resources,
    /// Architectures it runs on; empty means any.
    pub architectures: &'a [Architecture],
    /// Volumes it needs; the worker must offer their drivers.
    pub volumes: &'a [Volume],
    /// Names of workers it may go to; empty means any.
    pub workers: &'a [String],
    /// Host ports it needs.
    pub ports: &'a [PortMapping],
    /// A worker it must not go to again, if there is any other.
    pub avoid: Option<WorkerId>,
}
