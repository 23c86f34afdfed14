//! The two sides of a placement: what a worker has, and what an instance needs.

use oak_model::{
    Architecture, PortMapping, Position, Resources, ServiceId, Surroundings, TargetConstraints, Volume,
    WorkerFacts, WorkerId,
};

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
    /// Labels and addons.
    pub labels: Vec<String>,
    /// Where it is: its own position, or that of its cluster.
    pub position: Option<Position>,
    /// Round trip to its cluster, microseconds, once it is measured.
    pub round_trip_us: Option<u32>,
    /// Volume drivers it offers.
    pub csi_drivers: Vec<String>,
}

impl WorkerState {
    /// State of a connected worker with the given facts in a cluster at `position`.
    #[must_use]
    pub fn new(facts: &WorkerFacts, cpu_overcommit: u32, addresses: u32, position: Option<Position>) -> Self {
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
            labels: facts.labels.iter().chain(&facts.addons).cloned().collect(),
            position: facts.position.or(position),
            round_trip_us: None,
            csi_drivers: facts.csi_drivers.clone(),
        }
    }

    /// Whether it has a label or an addon of that name.
    #[must_use]
    pub fn has_label(&self, label: &str) -> bool {
        self.labels.iter().any(|known| known == label)
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
    /// Host ports it needs.
    pub ports: &'a [PortMapping],
    /// Where it may go. The list of clusters is for those who choose among clusters.
    pub target: &'a TargetConstraints,
    /// What bounds are measured against outside of the fleet.
    pub surroundings: &'a Surroundings,
    /// A worker it must not go to again, if there is any other.
    pub avoid: Option<WorkerId>,
}
