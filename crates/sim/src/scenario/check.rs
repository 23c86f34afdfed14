//! What a scenario says as a whole: names that exist, times that fit.

use std::collections::BTreeSet;

use super::amount::Located;
use super::{Action, Document, Fault, Scenario, ScenarioError, Target, WorkerGroup};

/// Machines and workloads that are there or will be.
#[derive(Default)]
struct Names {
    clusters: BTreeSet<String>,
    sites: BTreeSet<String>,
    workers: BTreeSet<String>,
    workloads: BTreeSet<String>,
}

/// Most workers: the address plan has subnets for this many.
const MOST_WORKERS: usize = 6_144;
/// Most instances asked for by name: the address plan has addresses for about this many.
const MOST_INSTANCES: usize = 65_000;

/// Checks what the types could not.
pub(super) fn checked(text: &str, document: Document) -> Result<Scenario, ScenarioError> {
    let end_ms = document.duration.ms;
    let mut names = Names::default();
    let mut counts = Counts::default();
    let clusters = each(text, document.cluster, |cluster| {
        if cluster.name.is_empty() || !names.clusters.insert(cluster.name.clone()) {
            return Err(format!("`name`: the cluster needs a name of its own, not `{}`", cluster.name));
        }
        names.sites.insert(cluster.site().to_owned());
        for group in &cluster.workers {
            names.add_group(&mut counts, &cluster.name, cluster.site(), group)?;
        }
        Ok(cluster)
    })?;
    if clusters.is_empty() {
        return Err(at_line(1, "there is no `[[cluster]]`: a scenario needs at least one"));
    }
    let workloads = each(text, document.workload, |entry| {
        let alike = entry.understood()?;
        for workload in &alike {
            if !names.workloads.insert(workload.name.to_string()) {
                return Err(format!("`name`: there is another workload `{}`", workload.name));
            }
            if let Some(unknown) = workload.clusters.iter().find(|name| !names.clusters.contains(*name)) {
                return Err(unknown_name("clusters", unknown, &names.clusters));
            }
            counts.instances = counts.instances.saturating_add(workload.instances);
        }
        if counts.instances > MOST_INSTANCES {
            return Err(format!(
                "there are addresses for {MOST_INSTANCES} instances, the workloads ask for {}",
                counts.instances
            ));
        }
        Ok(alike)
    })?;
    let workloads = workloads.into_iter().flatten().collect();
    let mut faults = each(text, document.fault, |entry| {
        let fault = entry.understood()?;
        names.check_fault(&mut counts, &clusters_with_sites(&clusters), &fault)?;
        if fault.at_ms > end_ms {
            return Err(format!(
                "it comes after the end of the run (`duration = \"{}\"`)",
                document.duration
            ));
        }
        Ok(fault)
    })?;
    faults.sort_by_key(|fault| fault.at_ms);
    let churn = one(text, document.churn, |entry| entry.understood(end_ms))?;
    let random = one(text, document.random, |entry| entry.understood(end_ms))?;
    let scenario = Scenario {
        title: document.title,
        duration_ms: end_ms,
        seed: document.seed,
        clusters,
        links: document.links,
        disks: document.disks,
        runtime: document.runtime,
        tuning: document.tuning,
        workloads,
        churn,
        faults,
        random,
        expect: document.expect,
    };
    check_times(&scenario)?;
    Ok(scenario)
}

#[derive(Default)]
struct Counts {
    workers: usize,
    instances: usize,
}

fn check_times(scenario: &Scenario) -> Result<(), ScenarioError> {
    let calm = scenario.calm_from_ms();
    if scenario.duration_ms == 0 {
        return Err(at_line(1, "`duration` must not be zero"));
    }
    if let Some(settle) = scenario.expect.settle_within
        && calm.saturating_add(settle.ms) > scenario.duration_ms
    {
        let problem = format!(
            "`settle-within` needs {settle} of quiet at the end, but faults and changes go on until {}; make \
             `duration` at least {} or give `random`, `churn` and faults an earlier end",
            super::Span::of_ms(calm),
            super::Span::of_ms(calm + settle.ms)
        );
        return Err(at_line(1, &problem));
    }
    Ok(())
}

fn clusters_with_sites(clusters: &[super::ClusterEntry]) -> Vec<(String, String)> {
    clusters.iter().map(|cluster| (cluster.name.clone(), cluster.site().to_owned())).collect()
}

impl Names {
    fn add_group(
        &mut self,
        counts: &mut Counts,
        cluster: &str,
        site: &str,
        group: &WorkerGroup,
    ) -> Result<(), String> {
        counts.workers = counts.workers.saturating_add(group.count);
        if counts.workers > MOST_WORKERS {
            return Err(format!(
                "there are addresses for {MOST_WORKERS} workers, this makes {}",
                counts.workers
            ));
        }
        if !(0.0..=100_000.0).contains(&group.cpu) {
            return Err(format!("`cpu` is {}: write a number of cores", group.cpu));
        }
        self.sites.insert(group.site.clone().unwrap_or_else(|| site.to_owned()));
        let prefix = group.name.as_deref().unwrap_or(cluster);
        // Numbers go on where another group with the same beginning ends.
        let mut number = 0_usize;
        for _ in 0..group.count {
            number += 1;
            while !self.workers.insert(format!("{prefix}-{number}")) {
                number += 1;
            }
        }
        Ok(())
    }

    fn check_fault(
        &mut self,
        counts: &mut Counts,
        clusters: &[(String, String)],
        fault: &Fault,
    ) -> Result<(), String> {
        match &fault.action {
            Action::PowerLoss(target)
            | Action::Crash(target)
            | Action::Restart(target)
            | Action::SlowDisk(target, _)
            | Action::FullDisk(target)
            | Action::SetClock(target, _) => self.check_target(target),
            Action::Partition(target, _) | Action::Cut(target) | Action::Degrade(target, _) => {
                if *target == Target::Root {
                    return Err(
                        "the root has no link to a parent: name the clusters, `target = \"clusters\"`".into(),
                    );
                }
                self.check_target(target)
            }
            Action::RemoveWorkers(target) | Action::SetAvailability(target, _) => {
                if !matches!(target, Target::Worker(_) | Target::WorkersOf(_)) {
                    return Err("`target` must be \"worker:NAME\" or \"workers:CLUSTER\"".into());
                }
                self.check_target(target)
            }
            Action::AddWorkers(cluster, group) => {
                let Some((_, site)) = clusters.iter().find(|(name, _)| name == cluster) else {
                    return Err(unknown_name("cluster", cluster, &self.clusters));
                };
                self.add_group(counts, cluster, site, group)
            }
            Action::LoseRootDisk => Ok(()),
            Action::RestoreRoot(age) => {
                if age.ms > fault.at_ms {
                    return Err(format!("`age`: {age} before this moment the run had not begun"));
                }
                Ok(())
            }
            Action::Scale(workload, _)
            | Action::Update(workload)
            | Action::Break(workload)
            | Action::Delete(workload) => {
                if self.workloads.contains(workload) {
                    Ok(())
                } else {
                    Err(unknown_name("workload", workload, &self.workloads))
                }
            }
        }
    }

    fn check_target(&self, target: &Target) -> Result<(), String> {
        let (kind, name, known) = match target {
            Target::Root | Target::All | Target::Clusters | Target::Workers => return Ok(()),
            Target::Cluster(name) | Target::WorkersOf(name) => ("cluster", name, &self.clusters),
            Target::Worker(name) => ("worker", name, &self.workers),
            Target::Site(name) => ("site", name, &self.sites),
        };
        if known.contains(name) { Ok(()) } else { Err(unknown_name(kind, name, known)) }
    }
}

fn unknown_name(kind: &str, name: &str, known: &BTreeSet<String>) -> String {
    let mut some: Vec<&str> = known.iter().take(12).map(String::as_str).collect();
    if known.len() > some.len() {
        some.push("…");
    }
    let some = if some.is_empty() { "none".to_owned() } else { some.join(", ") };
    format!("`{kind}`: there is no `{name}`; there are: {some}")
}

fn each<T, U>(
    text: &str,
    entries: Vec<Located<T>>,
    mut understand: impl FnMut(T) -> Result<U, String>,
) -> Result<Vec<U>, ScenarioError> {
    entries
        .into_iter()
        .map(|entry| {
            let line = line_of(text, entry.span().start);
            understand(entry.into_inner()).map_err(|problem| at_line(line, &problem))
        })
        .collect()
}

fn one<T, U>(
    text: &str,
    entry: Option<Located<T>>,
    understand: impl FnMut(T) -> Result<U, String>,
) -> Result<Option<U>, ScenarioError> {
    Ok(each(text, entry.into_iter().collect(), understand)?.pop())
}

fn at_line(line: usize, problem: &str) -> ScenarioError {
    ScenarioError { line, problem: problem.to_owned() }
}

pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}
