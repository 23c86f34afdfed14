//! Why an instance is where it is, or why it is nowhere: what every cluster and every worker says to it, and the
//! smallest change that would let it be placed.

use std::collections::BTreeMap;

use oak_model::{ClusterId, InstanceKey, JobName, Now, Resources, Service, ServiceId, Status, WorkerId};
use oak_placement::{Change, Fleet, Verdict};
use serde::Serialize;

use super::schedule::{is_allowed, request};
use super::{Cluster, Refusal, Root};

/// Why a cluster as a whole is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterReason {
    /// The descriptor names other clusters.
    NotNamed,
    /// Its link is down.
    NotConnected,
    /// This root was restored from a backup and does not know yet what it holds.
    NotKnown,
}

impl ClusterReason {
    /// The reason for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotNamed => "not among the clusters the descriptor names",
            Self::NotConnected => "not connected",
            Self::NotKnown => "may have it already: what it holds is not known since this root was restored",
        }
    }
}

/// What a worker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerExplanation {
    /// The instance is there, or is meant to go there.
    pub chosen: bool,
    /// The rules it fails, and its numbers without the instance itself.
    pub verdict: Verdict,
}

/// What a cluster says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterExplanation {
    /// Identity.
    pub id: ClusterId,
    /// Name.
    pub name: String,
    /// The instance is there.
    pub chosen: bool,
    /// Why none of its workers is asked.
    pub reasons: Vec<ClusterReason>,
    /// Instances of the service there, without this one: fewer win.
    pub of_service: usize,
    /// Reserved share of all its workers, thousandths: less wins among equals.
    pub commitment: u32,
    /// Its workers: the chosen one first, then those that can take the instance, the best first, then those that fail
    /// the fewest rules.
    pub workers: Vec<WorkerExplanation>,
}

impl ClusterExplanation {
    /// How many workers fail which rule first.
    #[must_use]
    pub fn refused_by(&self) -> BTreeMap<&'static str, u32> {
        let mut tally = BTreeMap::new();
        for reason in self.workers.iter().filter_map(|worker| worker.verdict.reasons.first()) {
            *tally.entry(reason.rule()).or_default() += 1;
        }
        tally
    }
}

/// Why an instance is where it is, or nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The service.
    pub job_name: JobName,
    /// Number of the instance; absent when it is about one more.
    pub number: Option<u32>,
    /// What it needs.
    pub needs: Resources,
    /// Where it is, or where one more would go.
    pub place: Option<(ClusterId, WorkerId)>,
    /// Status word: of the instance, or of the refusal of one more.
    pub status: Status,
    /// The same in a sentence.
    pub detail: String,
    /// All clusters: the chosen one first, then the others by age.
    pub clusters: Vec<ClusterExplanation>,
    /// Changes that, made together, let the instance be placed; empty if it is or can be.
    pub changes: Vec<Change>,
}

impl Root {
    /// Explains the place of an instance, or of one that would be added.
    ///
    /// # Errors
    /// There is no such service or instance.
    pub fn explain(
        &mut self,
        now: Now,
        service: ServiceId,
        number: Option<u32>,
    ) -> Result<Explanation, Refusal> {
        let Some(number) = number else {
            let service = self.services.get(&service).ok_or(Refusal::UnknownService(service))?;
            // While it is being updated, one more is what is known to work.
            let service = service.at_revision(service.upkeep.proven_revision());
            return Ok(self.explain_one_more(now, &service));
        };
        let key = InstanceKey { service, number };
        let instance = self.instances.get(&key).ok_or(Refusal::UnknownInstance(key))?;
        let (place, counted_on) = (instance.cluster.zip(instance.worker), instance.counted_on);
        let (status, detail, revision) = (instance.status, instance.detail.clone(), instance.revision);
        // Its own reservation is no argument against its place.
        self.count(key, None);
        let explained = self.services.get(&service).ok_or(Refusal::UnknownService(service)).map(|service| {
            let service = service.at_revision(revision);
            let clusters = self.ask_clusters(now, &service, place, Some(key));
            let changes = if place.is_none() { self.proposals(&service, &clusters) } else { Vec::new() };
            Explanation {
                job_name: service.job_name.clone(),
                number: Some(number),
                needs: service.spec.resources,
                place,
                status,
                detail,
                clusters,
                changes,
            }
        });
        self.count(key, counted_on);
        explained
    }

    pub(super) fn explain_one_more(&self, now: Now, service: &Service) -> Explanation {
        let (place, status, detail) = match self.decide(now, service, None) {
            Ok(place) => (Some(place), Status::ClusterScheduled, "one more instance has a place".to_owned()),
            Err(refusal) => (None, refusal.status, refusal.detail),
        };
        let clusters = self.ask_clusters(now, service, place, None);
        let changes = if place.is_none() { self.proposals(service, &clusters) } else { Vec::new() };
        Explanation {
            job_name: service.job_name.clone(),
            number: None,
            needs: service.spec.resources,
            place,
            status,
            detail,
            clusters,
            changes,
        }
    }

    fn ask_clusters(
        &self,
        now: Now,
        service: &Service,
        place: Option<(ClusterId, WorkerId)>,
        own: Option<InstanceKey>,
    ) -> Vec<ClusterExplanation> {
        let mut all: Vec<_> =
            self.clusters.values().map(|cluster| self.ask_cluster(service, cluster, place, own)).collect();
        if place.is_none() {
            let awaited: Vec<_> = self.awaited(now, service).map(|cluster| cluster.id).collect();
            let is_awaited = |asked: &&mut ClusterExplanation| awaited.contains(&asked.id);
            all.iter_mut().filter(is_awaited).for_each(|asked| asked.reasons.push(ClusterReason::NotKnown));
        }
        // Stable: the others keep their order.
        all.sort_by_key(|cluster| !cluster.chosen);
        all
    }

    fn ask_cluster(
        &self,
        service: &Service,
        cluster: &Cluster,
        place: Option<(ClusterId, WorkerId)>,
        own: Option<InstanceKey>,
    ) -> ClusterExplanation {
        let surroundings = self.surroundings(service, Some(cluster));
        let request = request(service, &surroundings);
        let here = place.filter(|(id, _)| *id == cluster.id).map(|(_, worker)| worker);
        let mut workers: Vec<_> = cluster
            .fleet
            .examine(&request)
            .into_iter()
            .map(|verdict| WorkerExplanation { chosen: here == Some(verdict.id), verdict })
            .collect();
        workers.sort_by_key(|worker| {
            let verdict = &worker.verdict;
            (!worker.chosen, verdict.reasons.len(), verdict.penalty, verdict.of_service, verdict.commitment)
        });
        let not_named = (!is_allowed(&service.spec, cluster)).then_some(ClusterReason::NotNamed);
        let away = (!cluster.is_active()).then_some(ClusterReason::NotConnected);
        let siblings = self.instances_of(service.id);
        ClusterExplanation {
            id: cluster.id,
            name: cluster.name.clone(),
            chosen: here.is_some(),
            reasons: not_named.into_iter().chain(away).collect(),
            of_service: siblings.filter(|i| i.cluster == Some(cluster.id) && Some(i.key) != own).count(),
            commitment: cluster.fleet.commitment(),
            workers,
        }
    }

    /// The smallest change over all clusters, and those that could join.
    fn proposals(&self, service: &Service, asked: &[ClusterExplanation]) -> Vec<Change> {
        let awaited = || asked.iter().filter(|asked| asked.reasons.contains(&ClusterReason::NotKnown));
        if awaited().next().is_some() {
            // Whatever else is changed, it waits for these. Those that are connected are about to tell.
            let away = awaited().filter(|asked| asked.reasons.contains(&ClusterReason::NotConnected));
            return away.map(|asked| Change::ConnectCluster { cluster: asked.name.clone() }).collect();
        }
        let present = asked.iter().filter_map(|asked| {
            let cluster = self.clusters.get(&asked.id)?;
            let mut changes: Vec<_> = asked
                .reasons
                .iter()
                .filter_map(|reason| match reason {
                    ClusterReason::NotNamed => Some(Change::AllowCluster { cluster: cluster.name.clone() }),
                    ClusterReason::NotConnected => {
                        Some(Change::ConnectCluster { cluster: cluster.name.clone() })
                    }
                    ClusterReason::NotKnown => None,
                })
                .collect();
            if asked.workers.iter().all(|worker| !worker.verdict.reasons.is_empty()) {
                let surroundings = self.surroundings(service, Some(cluster));
                changes.extend(cluster.fleet.propose(&request(service, &surroundings), &cluster.name)?);
            }
            (!changes.is_empty()).then_some(changes)
        });
        present
            .chain(self.another_cluster(service))
            .min_by_key(|changes| Change::weigh(changes))
            .unwrap_or_default()
    }

    /// A cluster that would have to join, with a worker.
    fn another_cluster(&self, service: &Service) -> Option<Vec<Change>> {
        let named = &service.spec.target.clusters;
        let is_new = |name: &&String| !self.clusters.values().any(|cluster| cluster.name == **name);
        let name = named.iter().find(is_new).cloned();
        if !named.is_empty() && name.is_none() {
            return None;
        }
        let called = name.clone().unwrap_or_else(|| "it".to_owned());
        let surroundings = self.surroundings(service, None);
        let mut changes = vec![Change::AddCluster { name }];
        changes.extend(Fleet::new().propose(&request(service, &surroundings), &called)?);
        Some(changes)
    }
}
