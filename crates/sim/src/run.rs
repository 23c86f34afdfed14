//! One run of a scenario from its beginning to its end, or many.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use crate::invariants::Violation;
use crate::report::Report;
use crate::scenario::Scenario;
use crate::trace::{PERMISSIONS, QUESTIONS};
use crate::world::World;

/// A run came to its end.
#[derive(Debug)]
pub struct Outcome {
    /// What came of it.
    pub report: Report,
    /// The trace could not be written.
    pub trace_error: Option<io::Error>,
}

/// The last of a run, when all should be at rest, milliseconds.
const REST_MS: u64 = 60_000;

/// Runs a scenario. Everything that happens follows from the scenario and the seed.
#[must_use]
pub fn run(scenario: &Scenario, seed: u64, trace: Option<Box<dyn Write + Send>>) -> Outcome {
    let mut world = World::new(scenario.clone(), seed, trace);
    let mut unmet = Vec::new();
    // A panic of a machine is a broken rule like any other, and what led to it is worth the report.
    let result = catch_unwind(AssertUnwindSafe(|| drive(&mut world, &mut unmet)));
    if let Err(panic) = result {
        let detail = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default();
        world.violation = Some(Violation { at_ms: world.agenda.time, rule: "no machine panics", detail });
    }
    let trace_error = world.trace.finish();
    Outcome { report: world.report(seed, unmet), trace_error }
}

fn drive(world: &mut World, unmet: &mut Vec<String>) {
    let end = world.scenario.duration_ms;
    if let Some(settle) = world.scenario.expect.settle_within {
        world.run_until(world.scenario.calm_from_ms());
        if let Err(problem) = world.run_until_settled(settle.ms) {
            unmet.push(format!("settle-within = \"{settle}\": {problem}"));
        } else {
            world.rest(unmet);
        }
    }
    world.run_until(end);
    if world.violation.is_some() {
        return;
    }
    let swept = world.sweep();
    world.broken(swept);
    world.check_expectations(unmet);
}

impl World {
    /// Settled means settled: at the end of the run it still is, and in the last minute the links were quiet but for
    /// retries.
    fn rest(&mut self, unmet: &mut Vec<String>) {
        let settled_at = self.agenda.time;
        self.run_until(self.scenario.duration_ms.saturating_sub(REST_MS));
        let from = self.agenda.time;
        let counts = |kind: &str| kind != PERMISSIONS && kind != QUESTIONS;
        let sent = |world: &Self| -> u64 {
            let kinds = world.metrics.messages.iter().filter(|(kind, _)| counts(kind));
            kinds.map(|(_, count)| count).sum()
        };
        let before = sent(self);
        self.run_until(self.scenario.duration_ms);
        if self.violation.is_some() {
            return;
        }
        let talk = sent(self) - before;
        let instances = self.root.machine.as_ref().map_or(0, oak_control::root::Root::instance_count) as u64;
        // Two tries a minute of each waiting instance, each told upwards.
        let allowed = 4 * instances + 20;
        if talk > allowed && from >= settled_at + REST_MS {
            let seconds = (self.agenda.time - from) / 1_000;
            unmet.push(format!("{talk} messages in the last {seconds} s, {allowed} would be much"));
        }
        if let Err(problem) = self.check_settled() {
            unmet.push(format!("it had settled, and does not stay so: {problem}"));
        }
    }

    fn check_expectations(&self, unmet: &mut Vec<String>) {
        let expect = &self.scenario.expect;
        let report = self.report(0, Vec::new());
        let now = self.agenda.time;
        let waiting: usize = report.unplaced.iter().map(|group| group.instances).sum();
        if let Some(limit) = expect.start_within {
            let tracks = self.metrics.tracks.values().filter(|track| track.wanted && !track.ran);
            let late = tracks.filter(|track| now.saturating_sub(track.asked_at) > limit.ms).count();
            // Those without a place are judged by `unplaced-at-most`.
            let late = late.saturating_sub(waiting) + over(&self.metrics.starts, limit.ms);
            if late > 0 {
                unmet.push(format!("start-within = \"{limit}\": {late} instances took longer"));
            }
        }
        if let Some(limit) = expect.recover_within {
            let down = self.metrics.tracks.values().filter_map(|track| track.down_since);
            let late = down.filter(|since| now.saturating_sub(*since) > limit.ms).count();
            let late = late.saturating_sub(waiting) + over(&self.metrics.recoveries, limit.ms);
            if late > 0 {
                unmet.push(format!("recover-within = \"{limit}\": {late} instances took longer"));
            }
        }
        if let Some(most) = expect.unplaced_at_most
            && waiting > most
        {
            unmet.push(format!("unplaced-at-most = {most}: {waiting} have no place"));
        }
        if let (Some(least), Some((share, at_ms))) = (expect.running_at_least, self.metrics.least_running)
            && share < least.value()
        {
            let at = crate::scenario::Span::of_ms(at_ms);
            unmet.push(format!("running-at-least = {}: only {share:.3} ran after {at}", least.value()));
        }
    }
}

fn over(times: &[u64], limit: u64) -> usize {
    times.iter().filter(|time| **time > limit).count()
}

/// What came of many runs.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    /// Runs.
    pub runs: u64,
    /// Events of all of them.
    pub events: u64,
    /// Virtual time of all of them, milliseconds.
    pub virtual_ms: u64,
    /// Seeds of the runs that were not good, with what was wrong; smallest seed first.
    pub failed: Vec<(u64, String)>,
}

/// Failed runs after which no more are begun.
const ENOUGH: usize = 20;

/// Runs a scenario once for each seed from `first` to before `end`, on all processors. `progress` hears how many
/// runs are done.
pub fn run_seeds(scenario: &Scenario, first: u64, end: u64, progress: &mut dyn FnMut(u64)) -> Sum {
    let next = AtomicU64::new(first);
    let mut sum = Sum::default();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // A few results may wait for whoever hears the progress; then the threads wait, too.
    let (results, done) = mpsc::sync_channel(16);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (results, next) = (results.clone(), &next);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    // The other end is gone when enough has failed.
                    if seed >= end || results.send(run(scenario, seed, None).report).is_err() {
                        return;
                    }
                }
            });
        }
        drop(results);
        for report in done {
            sum.runs += 1;
            sum.events += report.events;
            sum.virtual_ms += report.virtual_ms;
            sum.failed.extend(what_failed(&report).map(|what| (report.seed, what)));
            progress(sum.runs);
            if sum.failed.len() >= ENOUGH {
                break;
            }
        }
    });
    sum.failed.sort();
    sum
}

/// The first thing that is wrong with a run.
fn what_failed(report: &Report) -> Option<String> {
    let violation =
        report.violation.as_ref().map(|v| format!("{} (after {} ms): {}", v.rule, v.at_ms, v.detail));
    violation.or_else(|| report.unmet.first().cloned())
}
