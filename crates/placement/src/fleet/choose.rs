//! Choosing a worker, and explaining why.

use oak_model::{Resources, WorkerId};

use super::columns::{Best, Needs};
use super::rules::Candidate;
use super::{Fleet, Problem};
use crate::{Reason, Refusal, Request, Verdict};

impl Fleet {
    /// Chooses a worker. Nothing is reserved.
    ///
    /// # Errors
    /// The refusal tells for every worker which rule it failed and by how much.
    pub fn place(&self, request: &Request<'_>) -> Result<WorkerId, Refusal> {
        let problem = self.problem(request);
        let avoid = request.avoid.and_then(|id| self.find(id).ok());
        let choice = if problem.soft_bounds().next().is_some() {
            self.best_by_preference(&problem, avoid)
        } else {
            self.best(&problem, avoid)
        };
        match choice.and_then(|position| self.details.get(position)) {
            Some(details) => Ok(details.id),
            None => Err(self.refusal(&problem)),
        }
    }

    /// Reason why `id` cannot take the instance, `None` when it can.
    #[must_use]
    pub fn check(&self, id: WorkerId, request: &Request<'_>) -> Option<Reason> {
        match self.find(id) {
            Ok(position) => self.reject(position, &self.problem(request)),
            Err(_) => Some(Reason::NotConnected),
        }
    }

    /// Weight of the preferred bounds that worker `id` breaks, thousandths.
    #[must_use]
    pub fn penalty(&self, id: WorkerId, request: &Request<'_>) -> u32 {
        let problem = self.problem(request);
        self.find(id).map_or(0, |position| self.penalty_at(position, &problem))
    }

    /// The hard bounds that an instance on worker `id` breaks, each with the time it may stay so.
    #[must_use]
    pub fn violations(&self, id: WorkerId, request: &Request<'_>) -> Vec<(Reason, u32)> {
        let Ok(position) = self.find(id) else { return Vec::new() };
        let Some(details) = self.details.get(position) else { return Vec::new() };
        let candidate = Candidate { details, position: Some(position) };
        let problem = self.problem(request);
        let broken = problem.hard_bounds().filter_map(|bound| {
            let reason = bound.broken_by(candidate)?;
            Some((reason, bound.strictness.convergence_s))
        });
        broken.collect()
    }

    /// What every worker says to a request, in order of their ids.
    #[must_use]
    pub fn examine(&self, request: &Request<'_>) -> Vec<Verdict> {
        let problem = self.problem(request);
        let all = self.details.iter().enumerate();
        all.map(|(position, details)| Verdict {
            id: details.id,
            name: details.state.name.clone(),
            reasons: self.rejections(position, &problem),
            capacity: Resources { cpu_millis: details.state.reservable_cpu_millis, ..details.state.capacity },
            free: details.free(),
            instances: details.instances,
            of_service: details.instances_of(request.service),
            commitment: u32::try_from(details.commitment()).unwrap_or_default(),
            penalty: self.penalty_at(position, &problem),
        })
        .collect()
    }

    pub(super) fn problem<'a>(&self, request: &'a Request<'a>) -> Problem<'a> {
        let is_bounded = !request.target.near.is_empty() || !request.surroundings.peers.is_empty();
        let bounds = if is_bounded { self.bounds(request) } else { Vec::new() };
        Problem { request, bounds }
    }

    fn penalty_at(&self, position: usize, problem: &Problem<'_>) -> u32 {
        let Some(details) = self.details.get(position) else { return 0 };
        let candidate = Candidate { details, position: Some(position) };
        let broken = problem.soft_bounds().filter(|bound| bound.broken_by(candidate).is_some());
        broken.map(|bound| u32::from(bound.strictness.rigidness)).sum()
    }

    fn best(&self, problem: &Problem<'_>, avoid: Option<usize>) -> Option<usize> {
        let service = problem.request.service;
        let hosts = self.hosts.get(&service).map_or(&[][..], Vec::as_slice);
        if let Some(best) = self.best_without_instances(problem, hosts, avoid) {
            return Some(best);
        }
        let takes = |position: &usize| self.reject(*position, problem).is_none();
        let candidates = hosts
            .iter()
            .copied()
            .filter(|position| Some(*position) != avoid && !self.is_unreliable(*position) && takes(position));
        let best_host = candidates
            .min_by_key(|position| (self.count_at(*position, problem), self.columns.load(*position)));
        best_host.or_else(|| self.best_unreliable(problem, avoid)).or_else(|| avoid.filter(takes))
    }

    fn count_at(&self, position: usize, problem: &Problem<'_>) -> u32 {
        self.details.get(position).map_or(0, |details| details.instances_of(problem.request.service))
    }

    fn is_unreliable(&self, position: usize) -> bool {
        self.details.get(position).is_some_and(|details| details.state.unreliable)
    }

    fn best_unreliable(&self, problem: &Problem<'_>, avoid: Option<usize>) -> Option<usize> {
        (0..self.details.len())
            .filter(|position| self.is_unreliable(*position) && Some(*position) != avoid)
            .filter(|position| self.reject(*position, problem).is_none())
            .min_by_key(|position| self.columns.load(*position))
    }

    /// The same order of choice, but broken preferences count before everything else.
    fn best_by_preference(&self, problem: &Problem<'_>, avoid: Option<usize>) -> Option<usize> {
        let rank = |position: &usize| {
            (
                Some(*position) == avoid,
                self.is_unreliable(*position),
                self.penalty_at(*position, problem),
                self.count_at(*position, problem),
                self.columns.load(*position),
            )
        };
        (0..self.details.len()).filter(|position| self.reject(*position, problem).is_none()).min_by_key(rank)
    }

    /// The least loaded worker without an instance of the service, by scanning the gaps between those that have.
    fn best_without_instances(
        &self,
        problem: &Problem<'_>,
        hosts: &[usize],
        avoid: Option<usize>,
    ) -> Option<usize> {
        let request = problem.request;
        let needs = Needs::new(request.resources, request.architectures);
        let target = request.target;
        // The columns decide everything else.
        let has_more_rules = !target.workers.is_empty()
            || !target.needs.is_empty()
            || !request.volumes.is_empty()
            || !request.ports.is_empty()
            || request.resources.gpus > 0
            || !problem.bounds.is_empty();
        let admits = |position: usize| !has_more_rules || self.reject(position, problem).is_none();
        let mut skipped: Vec<usize> = hosts.to_vec();
        if let Some(avoid) = avoid
            && let Err(place) = skipped.binary_search(&avoid)
        {
            skipped.insert(place, avoid);
        }
        let mut best = Best::default();
        let mut start = 0;
        for end in skipped.into_iter().chain([self.details.len()]) {
            self.columns.scan(start..end, needs, admits, &mut best);
            start = end + 1;
        }
        best.position
    }

    fn refusal(&self, problem: &Problem<'_>) -> Refusal {
        let all = self.details.iter().enumerate();
        let workers = all.filter_map(|(position, details)| {
            Some((details.state.name.clone(), self.reject(position, problem)?))
        });
        Refusal { workers: workers.collect() }
    }
}
