//! Workers as operators name them, and what operators ask of their clusters about them.
//!
//! The root keeps nothing about workers: their clusters do. So a worker of a cluster that is away cannot be opened or
//! closed, and one of a cluster that has not come back since the start of the root is not even known.

use oak_model::message::{RootToCluster, WorkerSummary};
use oak_model::{Availability, ClusterId, InstanceKey, WorkerId};

use super::{Cluster, Effect, Instance, Root};

/// Why a worker cannot be found or told something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkerRefusal {
    /// No cluster has it.
    #[error("there is no worker `{text}`{}", clusters_to_wait_for(.away))]
    Unknown {
        /// As it was asked for.
        text: String,
        /// Names of clusters that are not connected, whose workers are not known.
        away: Vec<String>,
    },
    /// Several have the name.
    #[error("{} workers are called `{text}`: {}; use an id", .candidates.len(), .candidates.join(", "))]
    Ambiguous {
        /// As it was asked for.
        text: String,
        /// Id and cluster of each.
        candidates: Vec<String>,
    },
    /// Its cluster decides about it, and is not connected.
    #[error(
        "cluster {cluster} of worker {worker} is not connected: start it, or repair its link, and try again"
    )]
    ClusterAway {
        /// Name of the worker.
        worker: String,
        /// Name of the cluster.
        cluster: String,
    },
}

fn clusters_to_wait_for(away: &[String]) -> String {
    if away.is_empty() {
        return String::new();
    }
    format!("; the workers of clusters that are not connected are not known: {}", away.join(", "))
}

/// Names that are listed in a message.
const LISTED: usize = 20;

impl Root {
    /// The worker with this id or name, and its cluster.
    ///
    /// # Errors
    /// None or several have it.
    pub fn find_worker(&self, text: &str) -> Result<(&Cluster, &WorkerSummary), WorkerRefusal> {
        let by_id = text.parse::<WorkerId>().ok().and_then(|id| {
            self.clusters.values().find_map(|cluster| Some((cluster, cluster.workers.get(&id)?)))
        });
        if let Some(found) = by_id {
            return Ok(found);
        }
        let all = self
            .clusters
            .values()
            .flat_map(|cluster| cluster.workers.values().map(move |worker| (cluster, worker)));
        let named: Vec<_> = all.filter(|(_, worker)| worker.facts.name == text).take(LISTED).collect();
        match named.as_slice() {
            [only] => Ok(*only),
            [] => Err(WorkerRefusal::Unknown { text: shortened(text), away: self.clusters_never_heard_of() }),
            several => Err(WorkerRefusal::Ambiguous {
                text: shortened(text),
                candidates: several
                    .iter()
                    .map(|(cluster, worker)| format!("{} in cluster {}", worker.id, cluster.name))
                    .collect(),
            }),
        }
    }

    /// Clusters whose workers are not known, because they have not connected since the start.
    fn clusters_never_heard_of(&self) -> Vec<String> {
        let unheard =
            self.clusters.values().filter(|cluster| !cluster.is_active() && cluster.workers.is_empty());
        unheard.take(LISTED).map(|cluster| cluster.name.clone()).collect()
    }

    /// Asks the cluster of a worker to open or close it for instances. [`Effect::AvailabilityConfirmed`] follows when
    /// the cluster has stored it.
    ///
    /// # Errors
    /// There is no such worker, or its cluster cannot be asked. Nothing has changed then.
    pub fn set_availability(
        &mut self,
        id: WorkerId,
        availability: Availability,
    ) -> Result<(), WorkerRefusal> {
        let cluster = self.active_cluster_of(id)?;
        self.asked.insert((id, availability));
        self.send(cluster, RootToCluster::SetAvailability { worker: id, availability });
        Ok(())
    }

    /// The cluster of a worker, if it can be asked.
    pub(super) fn active_cluster_of(&self, id: WorkerId) -> Result<ClusterId, WorkerRefusal> {
        let (cluster, worker) = self.find_worker(&id.to_string())?;
        if cluster.is_active() {
            return Ok(cluster.id);
        }
        Err(WorkerRefusal::ClusterAway { worker: worker.facts.name.clone(), cluster: cluster.name.clone() })
    }

    /// A cluster reported a worker: perhaps somebody waits for exactly this.
    pub(super) fn availability_reported(&mut self, worker: WorkerId, availability: Availability) {
        if self.asked.remove(&(worker, availability)) {
            self.outbox.emit(Effect::AvailabilityConfirmed { worker, availability });
        }
    }

    /// The link to a cluster ended: it confirms nothing that it was asked before.
    pub(super) fn forget_questions_to(&mut self, id: ClusterId) {
        let Some(cluster) = self.clusters.get(&id) else { return };
        self.asked.retain(|(worker, _)| !cluster.workers.contains_key(worker));
    }

    /// Instances that are on a worker, in order, without those that have run to their end.
    pub fn instances_on(&self, worker: WorkerId) -> impl Iterator<Item = &Instance> {
        let members = self
            .clusters
            .values()
            .filter(move |cluster| cluster.workers.contains_key(&worker))
            .flat_map(|cluster| cluster.instances.iter());
        members
            .filter_map(|key: &InstanceKey| self.instances.get(key))
            .filter(move |instance| instance.worker == Some(worker))
            .filter(|instance| !instance.has_ended())
    }
}

/// A text from outside as it is repeated in messages.
fn shortened(text: &str) -> String {
    text.chars().take(60).collect()
}
