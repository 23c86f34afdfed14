//! What travels on a link, and what each side of it knows and holds back.

use oak_model::message::{
    ClusterHello, ClusterToRoot, ClusterToWorker, ClusterWelcome, RootToCluster, WorkerHello,
    WorkerToCluster, WorkerWelcome,
};

/// From child to parent.
#[derive(Clone, Debug)]
pub(crate) enum UpFrame {
    ClusterHello(ClusterHello),
    WorkerHello(WorkerHello),
    ToRoot(ClusterToRoot),
    ToCluster(WorkerToCluster),
}

/// From parent to child.
#[derive(Clone, Debug)]
pub(crate) enum DownFrame {
    ClusterWelcome(ClusterWelcome),
    WorkerWelcome(WorkerWelcome),
    ToCluster(RootToCluster),
    ToWorker(ClusterToWorker),
}

/// One side's view of a session.
#[derive(Default)]
pub(crate) struct View {
    /// The session this side believes to be open.
    pub(crate) session: Option<u64>,
    /// Whether its welcome was sent (parent) or received (child).
    pub(crate) welcomed: bool,
    /// Messages for after the welcome, as the link holds them back.
    pub(crate) held_up: Vec<UpFrame>,
    pub(crate) held_down: Vec<DownFrame>,
}

impl View {
    pub(crate) fn open(&mut self, session: u64) {
        *self = Self { session: Some(session), ..Self::default() };
    }
}

/// One direction of a link.
pub(crate) struct Way<F> {
    /// Partitions that block it now.
    pub(crate) blocks: u32,
    /// Number of the present block.
    pub(crate) block: u64,
    /// Nothing sent later arrives before this time.
    pub(crate) clear: u64,
    pub(crate) in_flight: usize,
    /// Frames that wait for the end of a block, of the living session.
    pub(crate) stuck: Vec<(u64, F)>,
}

impl<F> Way<F> {
    pub(crate) const fn new() -> Self {
        Self { blocks: 0, block: 0, clear: 0, in_flight: 0, stuck: Vec::new() }
    }

    pub(crate) fn reset(&mut self, time: u64) {
        self.clear = time;
        self.in_flight = 0;
        self.stuck.clear();
    }
}
