//! What came of a run, as data and as text.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::invariants::{Violation, is_refusal};
use crate::metrics::Sample;
use crate::scenario::Span;
use crate::timeline::{Moment, seconds};
use crate::world::World;

/// Times of many things of one kind, milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Times {
    /// How many.
    pub count: usize,
    /// Half of them were as fast.
    pub p50_ms: u64,
    /// All but one in a hundred were as fast.
    pub p99_ms: u64,
    /// The slowest.
    pub max_ms: u64,
}

impl Times {
    fn of(times: &[u64]) -> Self {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        let at = |percent: usize| {
            let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
            sorted.get(place).copied().unwrap_or(0)
        };
        Self { count: sorted.len(), p50_ms: at(50), p99_ms: at(99), max_ms: at(100) }
    }
}

/// Instances without a place at the end, for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unplaced {
    /// Status word.
    pub status: String,
    /// Whose they are.
    pub service: String,
    /// How many.
    pub instances: usize,
    /// The reason of one of them.
    pub reason: String,
}

/// What is reserved of a cluster's machines at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SiteUse {
    /// The cluster.
    pub cluster: String,
    /// Where its workers stand.
    pub site: String,
    /// Workers, those taken away not counted.
    pub workers: usize,
    /// Workers in touch.
    pub in_touch: usize,
    /// Instances placed there.
    pub instances: usize,
    /// Memory reserved, MiB.
    pub memory_mib: u64,
    /// Memory there is, MiB.
    pub memory_of_mib: u64,
    /// CPU reserved, thousandths of a core.
    pub cpu_millis: u64,
    /// CPU that may be reserved, thousandths of a core, overcommitment included.
    pub cpu_of_millis: u64,
}

/// What came of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What the scenario is about.
    pub title: String,
    /// The seed.
    pub seed: u64,
    /// Virtual time, milliseconds.
    pub virtual_ms: u64,
    /// Events.
    pub events: u64,
    /// Two runs with the same hash did the same.
    pub trace_hash: String,
    /// The rule that was broken.
    pub violation: Option<Violation>,
    /// Expectations that were not met.
    pub unmet: Vec<String>,
    /// Faults and what came of them.
    pub timeline: Vec<Moment>,
    /// Lines the timeline had no room for.
    pub timeline_left_out: u64,
    /// Random faults, by kind.
    pub random_faults: BTreeMap<&'static str, u64>,
    /// Clusters, in the order of the samples.
    pub clusters: Vec<String>,
    /// Instances over time.
    pub samples: Vec<Sample>,
    /// Instances placed on a worker.
    pub placements: u64,
    /// Most of them in one second.
    pub most_placements_per_second: u64,
    /// Processes that ended by themselves.
    pub exits: u64,
    /// From the wish to the first process.
    pub start: Times,
    /// Without a process, of instances whose process was taken from them.
    pub recovery: Times,
    /// From the loss of contact with a worker to the process on another one.
    pub replacement: Times,
    /// Smallest share of wanted instances that ran once all had run, and when.
    pub least_running: Option<(f64, u64)>,
    /// Instances without a place at the end.
    pub unplaced: Vec<Unplaced>,
    /// Messages, by kind.
    pub messages: BTreeMap<&'static str, u64>,
    /// Longest queues.
    pub peaks: BTreeMap<&'static str, usize>,
    /// Machines at the end.
    pub sites: Vec<SiteUse>,
}

impl Report {
    /// Whether no rule was broken and every expectation met.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.violation.is_none() && self.unmet.is_empty()
    }
}

impl World {
    pub(crate) fn report(&self, seed: u64, unmet: Vec<String>) -> Report {
        let metrics = &self.metrics;
        Report {
            title: self.scenario.title.clone(),
            seed,
            virtual_ms: self.agenda.time,
            events: self.events,
            trace_hash: format!("{:016x}", self.trace.hash()),
            violation: self.violation.clone(),
            unmet,
            timeline: metrics.timeline.lines().to_vec(),
            timeline_left_out: metrics.timeline.left_out,
            random_faults: metrics.random_faults.clone(),
            clusters: self.clusters.iter().map(|side| side.name.clone()).collect(),
            samples: metrics.samples.clone(),
            placements: metrics.placements,
            most_placements_per_second: metrics.most_placements_per_second,
            exits: metrics.exits,
            start: Times::of(&metrics.starts),
            recovery: Times::of(&metrics.recoveries),
            replacement: Times::of(&metrics.moves),
            least_running: metrics.least_running,
            unplaced: self.unplaced(),
            messages: metrics.messages.clone(),
            peaks: metrics.peaks.clone(),
            sites: self.sites(),
        }
    }

    fn unplaced(&self) -> Vec<Unplaced> {
        let mut groups: BTreeMap<(String, String), (usize, String)> = BTreeMap::new();
        let root = self.root.machine.as_ref();
        let instances = root.into_iter().flat_map(|r| r.services().flat_map(|s| r.instances_of(s.id)));
        for instance in instances.filter(|instance| is_refusal(instance.status)) {
            let key = (self.service_name(instance.key.service), instance.status.to_string());
            let group = groups.entry(key).or_insert_with(|| (0, instance.detail.clone()));
            group.0 += 1;
        }
        let shape = |((service, status), (instances, reason)): ((String, String), (usize, String))| {
            Unplaced { status, service, instances, reason }
        };
        let mut unplaced: Vec<_> = groups.into_iter().map(shape).collect();
        unplaced.sort_by_key(|group| std::cmp::Reverse(group.instances));
        unplaced
    }

    fn sites(&self) -> Vec<SiteUse> {
        let mut sites: BTreeMap<(usize, &str), SiteUse> = BTreeMap::new();
        for worker in self.workers.iter().filter(|worker| !worker.gone) {
            let Some(cluster) = self.clusters.get(worker.cluster) else { continue };
            let site = sites.entry((worker.cluster, &worker.site)).or_insert_with(|| SiteUse {
                cluster: cluster.name.clone(),
                site: worker.site.clone(),
                workers: 0,
                in_touch: 0,
                instances: 0,
                memory_mib: 0,
                memory_of_mib: 0,
                cpu_millis: 0,
                cpu_of_millis: 0,
            });
            let capacity = worker.facts.capacity;
            site.workers += 1;
            site.in_touch += usize::from(worker.link.is_up());
            site.memory_of_mib += u64::from(capacity.memory_mib);
            site.cpu_of_millis += u64::from(capacity.cpu_millis) * u64::from(self.cpu_overcommit);
        }
        for (index, seen) in self.watch.clusters.iter().enumerate() {
            for placed in seen.placed.values() {
                for (id, counted) in &placed.counted {
                    let worker = self.worker_by_id.get(id).and_then(|worker| self.workers.get(*worker));
                    let Some(site) = worker.and_then(|w| sites.get_mut(&(index, w.site.as_str()))) else {
                        continue;
                    };
                    site.instances += usize::from(placed.worker == Some(*id));
                    site.memory_mib += u64::from(counted.memory_mib);
                    site.cpu_millis += u64::from(counted.cpu_millis);
                }
            }
        }
        sites.into_values().collect()
    }
}

/// Lines of the timeline that are printed; the data has all.
const SHOWN: usize = 60;
/// Columns of the picture of running instances.
const COLUMNS: usize = 60;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.title.is_empty() {
            writeln!(f, "{}", self.title)?;
        }
        let time = Span::of_ms(self.virtual_ms);
        writeln!(
            f,
            "seed {}, {time} of virtual time, {} events, trace {}",
            self.seed, self.events, self.trace_hash
        )?;
        self.write_timeline(f)?;
        self.write_picture(f)?;
        self.write_times(f)?;
        self.write_unplaced(f)?;
        self.write_sites(f)?;
        self.write_counts(f)?;
        writeln!(f)?;
        if let Some(violation) = &self.violation {
            writeln!(f, "BROKEN at {}: {}", clock(violation.at_ms), violation.rule)?;
            writeln!(f, "  {}", violation.detail)?;
        }
        for unmet in &self.unmet {
            writeln!(f, "NOT MET: {unmet}")?;
        }
        if self.is_good() {
            writeln!(f, "No rule was broken, every expectation was met.")?;
        }
        Ok(())
    }
}

impl Report {
    fn write_timeline(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nTIMELINE")?;
        for line in self.timeline.iter().take(SHOWN) {
            let mark = if line.is_fault { '!' } else { ' ' };
            let until = if line.to_ms - line.from_ms >= 1_000 {
                format!(" (until {})", clock(line.to_ms))
            } else {
                String::new()
            };
            writeln!(f, "{} {mark} {}{until}", clock(line.from_ms), line.text)?;
        }
        let more = self.timeline.len().saturating_sub(SHOWN) as u64 + self.timeline_left_out;
        if more > 0 {
            writeln!(f, "            and {more} more")?;
        }
        if !self.random_faults.is_empty() {
            let kinds: Vec<_> =
                self.random_faults.iter().map(|(kind, count)| format!("{count} × {kind}")).collect();
            writeln!(f, "random faults: {}", kinds.join(", "))?;
        }
        Ok(())
    }

    /// Instances over time, as a row of bars: how many of those wanted run.
    fn write_picture(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = self.samples.iter().map(|sample| sample.wanted.max(sample.running)).max().unwrap_or(0);
        let Some(last) = self.samples.last().filter(|_| most > 0) else { return Ok(()) };
        let step = self.samples.len().div_ceil(COLUMNS);
        let bar = |value: usize| {
            let eighths = (value * 8).div_ceil(most).min(8);
            " ▁▂▃▄▅▆▇█".chars().nth(eighths).unwrap_or(' ')
        };
        let picture: String = self
            .samples
            .chunks(step)
            // The worst of each step: a gap must not disappear between two samples.
            .map(|chunk| bar(chunk.iter().map(|sample| sample.running).min().unwrap_or(0)))
            .collect();
        writeln!(f, "\nRUNNING INSTANCES, 0 to {most}, until {}", clock(last.at_ms))?;
        writeln!(f, "|{picture}|")?;
        writeln!(f, "at the end {} of {} wanted", last.running, last.wanted)?;
        if let Some((share, at)) = self.least_running {
            writeln!(
                f,
                "at least {:.1} % of those wanted, at {}",
                (share * 1_000.0).floor() / 10.0,
                clock(at)
            )?;
        }
        Ok(())
    }

    fn write_times(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:<44} {:>8} {:>9} {:>9} {:>9}", "TIMES", "COUNT", "P50", "P99", "MAX")?;
        let rows = [
            ("asked for → first process", self.start),
            ("process taken away → next process", self.recovery),
            ("worker out of touch → process elsewhere", self.replacement),
        ];
        for (name, times) in rows {
            let (p50, p99, max) = (seconds(times.p50_ms), seconds(times.p99_ms), seconds(times.max_ms));
            writeln!(f, "{name:<44} {:>8} {p50:>9} {p99:>9} {max:>9}", times.count)?;
        }
        writeln!(
            f,
            "{} placements, at most {} in a second; {} processes ended by themselves",
            self.placements, self.most_placements_per_second, self.exits
        )
    }

    fn write_unplaced(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.unplaced.is_empty() {
            return Ok(());
        }
        writeln!(f, "\nWITHOUT A PLACE AT THE END")?;
        for group in self.unplaced.iter().take(10) {
            writeln!(f, "{} of {}: {}", group.instances, group.service, group.status)?;
            writeln!(f, "  {}", shortened(&group.reason, 300))?;
        }
        if self.unplaced.len() > 10 {
            writeln!(f, "and {} more services", self.unplaced.len() - 10)?;
        }
        Ok(())
    }

    fn write_sites(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<16} {:<16} {:>8} {:>9} {:>10} {:>22} {:>20}",
            "CLUSTER", "SITE", "WORKERS", "IN TOUCH", "INSTANCES", "MEMORY GiB", "CPU (reservable)"
        )?;
        for site in &self.sites {
            let memory = share(site.memory_mib, site.memory_of_mib, 1_024);
            let cpu = share(site.cpu_millis, site.cpu_of_millis, 1_000);
            writeln!(
                f,
                "{:<16} {:<16} {:>8} {:>9} {:>10} {memory:>22} {cpu:>20}",
                site.cluster, site.site, site.workers, site.in_touch, site.instances
            )?;
        }
        Ok(())
    }

    fn write_counts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:<44} {:>10}", "MESSAGES", "COUNT")?;
        for (kind, count) in &self.messages {
            writeln!(f, "{kind:<44} {count:>10}")?;
        }
        writeln!(f, "\n{:<44} {:>10}", "LONGEST QUEUES", "LENGTH")?;
        for (queue, length) in &self.peaks {
            writeln!(f, "{queue:<44} {length:>10}")?;
        }
        Ok(())
    }
}

fn share(used: u64, all: u64, unit: u64) -> String {
    format!("{} of {} ({} %)", used / unit, all / unit, used * 100 / all.max(1))
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most).chain(['…']).collect()
}

/// Virtual time for people.
fn clock(ms: u64) -> String {
    let seconds = ms / 1_000;
    format!("{}:{:02}:{:02}.{}", seconds / 3_600, seconds / 60 % 60, seconds % 60, ms % 1_000 / 100)
}
