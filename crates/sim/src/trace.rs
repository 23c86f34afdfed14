//! What happened, line by line: hashed always, written if somebody wants it.

use std::fmt::Write as _;
use std::io::{self, Write};

use crate::agenda::{Event, Who};
use crate::link::{DownFrame, UpFrame};
use oak_model::message::{ClusterToRoot, ClusterToWorker, RootToCluster, WorkerToCluster};

/// Names of the machines, by index.
#[derive(Default)]
pub(crate) struct Names {
    pub(crate) clusters: Vec<String>,
    pub(crate) workers: Vec<String>,
}

impl Names {
    pub(crate) fn of(&self, who: Who) -> &str {
        let name = match who {
            Who::Root => return "root",
            Who::Cluster(index) => self.clusters.get(index),
            Who::Worker(index) => self.workers.get(index),
        };
        name.map_or("?", String::as_str)
    }
}

/// The trace of a run. Two runs are the same if their hashes are.
pub(crate) struct Trace {
    hash: u64,
    line: String,
    writer: Option<Box<dyn Write + Send>>,
    failure: Option<io::Error>,
}

impl Trace {
    pub(crate) fn new(writer: Option<Box<dyn Write + Send>>) -> Self {
        // FNV-1a: not for secrets, but any difference shows.
        Self { hash: 0xcbf2_9ce4_8422_2325, line: String::new(), writer, failure: None }
    }

    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }

    /// Writes what is left; the first error of the whole run.
    pub(crate) fn finish(&mut self) -> Option<io::Error> {
        if let Some(Err(error)) = self.writer.as_mut().map(Write::flush) {
            self.failure.get_or_insert(error);
        }
        self.failure.take()
    }

    pub(crate) fn event(&mut self, time: u64, names: &Names, event: &Event) {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        // Writing into a string cannot fail.
        let _ = write!(line, "{time} ");
        let _ = describe(&mut line, names, event);
        self.put(line);
    }

    /// Something that follows from an event.
    pub(crate) fn note(&mut self, time: u64, text: &str) {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        let _ = write!(line, "{time}   {text}");
        self.put(line);
    }

    fn put(&mut self, mut line: String) {
        line.push('\n');
        for byte in line.as_bytes() {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        if let Some(writer) = &mut self.writer
            && let Err(error) = writer.write_all(line.as_bytes())
        {
            self.failure.get_or_insert(error);
            self.writer = None;
        }
        self.line = line;
    }
}

fn describe(line: &mut String, names: &Names, event: &Event) -> std::fmt::Result {
    match event {
        Event::Commit { who, .. } => write!(line, "commit {}", names.of(*who)),
        Event::Tick { who, .. } => write!(line, "tick {}", names.of(*who)),
        Event::Restart { who } => write!(line, "restart {}", names.of(*who)),
        Event::Dial { child } => write!(line, "dial {}", names.of(*child)),
        Event::Up { child, session, frame } => {
            write!(line, "up {} s{session} ", names.of(*child))?;
            up(line, frame)
        }
        Event::LateUp { child, session, frame } => {
            write!(line, "late-up {} s{session} ", names.of(*child))?;
            up(line, frame)
        }
        Event::Down { child, session, frame } => {
            write!(line, "down {} s{session} ", names.of(*child))?;
            down(line, frame)
        }
        Event::ParentNotices { child, session, parting } => {
            write!(line, "parent-notices {} s{session} {parting:?}", names.of(*child))
        }
        Event::ChildNotices { child, session } => {
            write!(line, "child-notices {} s{session}", names.of(*child))
        }
        Event::Silence { child, session, end, .. } => {
            write!(line, "silence {} s{session} {end:?}", names.of(*child))
        }
        Event::Heartbeats { child, session } => write!(line, "heartbeats {} s{session}", names.of(*child)),
        Event::Heal { child, up, down } => write!(line, "heal {} up={up} down={down}", names.of(*child)),
        Event::Operation { worker, operation, .. } => {
            write!(line, "operation {} o{operation}", names.of(Who::Worker(*worker)))
        }
        Event::Table { worker, version, .. } => {
            write!(line, "table {} v{}", names.of(Who::Worker(*worker)), version.0)
        }
        Event::Probed { worker, key, .. } => {
            write!(line, "probed {} {key}", names.of(Who::Worker(*worker)))
        }
        Event::CheckTable { worker, .. } => write!(line, "check-table {}", names.of(Who::Worker(*worker))),
        Event::LeaseEnds { worker, process } => {
            write!(line, "lease-ends {} p{process}", names.of(Who::Worker(*worker)))
        }
        Event::Exit { worker, process } => write!(line, "exit {} p{process}", names.of(Who::Worker(*worker))),
        Event::Fault { index } => write!(line, "fault {index}"),
        Event::FaultEnds { index } => write!(line, "fault-ends {index}"),
        Event::Backup { index } => write!(line, "backup for fault {index}"),
        Event::Chaos => line.write_str("chaos"),
        Event::DiskHeals { who } => write!(line, "disk-heals {}", names.of(*who)),
        Event::LinkHeals { child } => write!(line, "link-heals {}", names.of(*child)),
        Event::Join { worker } => write!(line, "join {}", names.of(Who::Worker(*worker))),
        Event::Churn => line.write_str("churn"),
        Event::Deploy { workload } => write!(line, "deploy workload {workload}"),
        Event::Pulse => line.write_str("pulse"),
    }
}

fn up(line: &mut String, frame: &UpFrame) -> std::fmt::Result {
    match frame {
        UpFrame::ClusterHello(hello) => {
            write!(line, "hello workers={} instances={}", hello.workers.len(), hello.instances.len())
        }
        UpFrame::WorkerHello(hello) => write!(line, "hello workloads={}", hello.workloads.len()),
        UpFrame::ToRoot(ClusterToRoot::Instances(reports)) => {
            reports.iter().try_for_each(|r| write!(line, "{} {} g{} ", r.key, r.status, r.generation.0))
        }
        UpFrame::ToRoot(ClusterToRoot::Removed(keys)) => {
            line.write_str("removed")?;
            keys.iter().try_for_each(|key| write!(line, " {key}"))
        }
        UpFrame::ToRoot(ClusterToRoot::Workers(workers)) => workers.iter().try_for_each(|w| {
            write!(line, "{} instances={} connected={} ", w.facts.name, w.instances, w.connected)
        }),
        UpFrame::ToRoot(message) => line.write_str(cluster_to_root(message)),
        UpFrame::ToCluster(WorkerToCluster::Workload(report)) => {
            write!(line, "{} {} i{}", report.key, report.status, report.incarnation.0)
        }
        UpFrame::ToCluster(WorkerToCluster::Removed { key, incarnation }) => {
            write!(line, "removed {key} i{}", incarnation.0)
        }
        UpFrame::ToCluster(message) => line.write_str(worker_to_cluster(message)),
    }
}

fn down(line: &mut String, frame: &DownFrame) -> std::fmt::Result {
    match frame {
        DownFrame::ClusterWelcome(welcome) => {
            write!(line, "welcome g{} instances={}", welcome.generation.0, welcome.instances.len())
        }
        DownFrame::WorkerWelcome(welcome) => {
            write!(line, "welcome assignments={}", welcome.assignments.len())
        }
        DownFrame::ToCluster(RootToCluster::Set(desired)) => {
            write!(line, "set {} g{}", desired.key, desired.generation.0)
        }
        DownFrame::ToCluster(RootToCluster::Remove { key, generation }) => {
            write!(line, "remove {key} g{}", generation.0)
        }
        DownFrame::ToCluster(message) => line.write_str(root_to_cluster(message)),
        DownFrame::ToWorker(ClusterToWorker::Assign(assignment)) => {
            write!(line, "assign {} i{}", assignment.desired.key, assignment.incarnation.0)
        }
        DownFrame::ToWorker(ClusterToWorker::Remove { key, incarnation }) => {
            write!(line, "remove {key} i{}", incarnation.0)
        }
        DownFrame::ToWorker(message) => line.write_str(cluster_to_worker(message)),
    }
}

/// Permissions are renewed also while nothing happens.
pub(crate) const PERMISSIONS: &str = "cluster to worker: permissions";
pub(crate) const QUESTIONS: &str = "worker to cluster: renew permissions";

/// Kind of a message, for counting.
pub(crate) const fn root_to_cluster(message: &RootToCluster) -> &'static str {
    match message {
        RootToCluster::Set(_) => "root to cluster: set",
        RootToCluster::Remove { .. } => "root to cluster: remove",
        RootToCluster::Token(_) => "root to cluster: token",
        RootToCluster::RemoveWorker { .. } => "root to cluster: remove worker",
        RootToCluster::SetAvailability { .. } => "root to cluster: availability",
        RootToCluster::Records { .. } => "root to cluster: records",
        RootToCluster::Welcome(_) => "root to cluster: everything again",
        RootToCluster::Adopted(_) => "root to cluster: adopted",
        RootToCluster::NodeBlocks(_) => "root to cluster: address blocks",
        RootToCluster::Overlay(_) => "root to cluster: services elsewhere",
        RootToCluster::NotFound(_) => "root to cluster: no such service",
    }
}

/// Kind of a message, for counting.
pub(crate) const fn cluster_to_root(message: &ClusterToRoot) -> &'static str {
    match message {
        ClusterToRoot::Instances(_) => "cluster to root: instances",
        ClusterToRoot::Removed(_) => "cluster to root: removed",
        ClusterToRoot::Workers(_) => "cluster to root: workers",
        ClusterToRoot::WorkerKept { .. } => "cluster to root: worker kept",
        ClusterToRoot::WorkerRemoved(_) => "cluster to root: worker removed",
        ClusterToRoot::Usage(_) => "cluster to root: usage",
        ClusterToRoot::TokenStored { .. } => "cluster to root: token stored",
        ClusterToRoot::Holdings(_) => "cluster to root: holdings",
        ClusterToRoot::Calls(_) => "cluster to root: calls",
        ClusterToRoot::Ask { .. } => "cluster to root: who is that",
        ClusterToRoot::NeedsNodeBlock => "cluster to root: needs address block",
    }
}

/// Kind of a message, for counting.
pub(crate) const fn cluster_to_worker(message: &ClusterToWorker) -> &'static str {
    match message {
        ClusterToWorker::Assign(_) => "cluster to worker: assign",
        ClusterToWorker::Remove { .. } => "cluster to worker: remove",
        ClusterToWorker::Leases { .. } => PERMISSIONS,
        ClusterToWorker::ReportUsage => "cluster to worker: report usage",
        ClusterToWorker::Overlay(_) => "cluster to worker: services elsewhere",
        ClusterToWorker::NotFound(_) => "cluster to worker: no such service",
        ClusterToWorker::MoreSubnets(_) => "cluster to worker: more subnets",
    }
}

/// Kind of a message, for counting.
pub(crate) const fn worker_to_cluster(message: &WorkerToCluster) -> &'static str {
    match message {
        WorkerToCluster::Workload(_) => "worker to cluster: workload",
        WorkerToCluster::Removed { .. } => "worker to cluster: removed",
        WorkerToCluster::RenewLeases { .. } => QUESTIONS,
        WorkerToCluster::Usage(_) => "worker to cluster: usage",
        WorkerToCluster::Ask { .. } => "worker to cluster: who is that",
        WorkerToCluster::Seen(_) => "worker to cluster: seen as",
        WorkerToCluster::Keys(_) => "worker to cluster: keys",
    }
}
