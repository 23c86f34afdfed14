//! Measuring the machine and its instances, and reporting what changed.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use oak_control::worker::{Attempt, Phase, Worker, Workload};
use oak_model::InstanceKey;
use oak_model::message::{InstanceUsage, LOG_TAIL_BYTES, NodeUsage, UsageReport, WorkerToCluster};
use oak_runtime::log_tail;
use oak_store::{Engine, StoreError};
use tokio::time::Instant;

use crate::container::container_id;
use crate::facts::meminfo;
use crate::operations::Operations;

/// Time between two samples. The first one after a change of the instances comes early.
const INTERVAL: Duration = Duration::from_secs(5);

/// What was last seen of an instance.
struct Seen {
    cpu: Duration,
    at: Instant,
    log_written: Option<SystemTime>,
    sent: InstanceUsage,
}

/// Samples for ever, on a machine with so many thousandths of a processor.
pub(crate) async fn run(
    operations: Arc<Operations>,
    engine: Engine<Worker>,
    machine_millis: u32,
) -> Result<(), StoreError> {
    let mut seen: HashMap<InstanceKey, Seen> = HashMap::new();
    let mut node = NodeSampler::default();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // Both branches are cancel-safe.
        tokio::select! {
            _ = ticks.tick() => {}
            () = operations.report_usage.notified() => {
                seen.clear();
                node.sent = None;
            }
        }
        let Ok(present) = engine.call(|worker, _, _| present(worker)).await else { return Ok(()) };
        seen.retain(|key, _| present.iter().any(|other| other.key == *key));
        let mut report = UsageReport::default();
        for Present { key, runs, attempt, storage } in present {
            let Some((usage, is_news)) = sample(&operations, key, runs, &mut seen).await else { continue };
            let written = usage.disk_bytes;
            if storage.is_some_and(|limit| runs && written > limit) {
                let tell = move |worker: &mut Worker, now, entropy: &mut dyn oak_control::Entropy| {
                    worker.overfull(now, entropy, key, attempt, written);
                };
                operations.post(tell).await;
            }
            if is_news && runs {
                let percent = usage.cpu_percent;
                operations.post(move |worker, _, _| worker.measured(key, percent, machine_millis)).await;
            }
            report.instances.extend(is_news.then_some(usage));
        }
        report.nodes.extend(node.sample());
        if !report.nodes.is_empty() || !report.instances.is_empty() {
            operations.perform(oak_control::worker::Effect::ToCluster(WorkerToCluster::Usage(report)));
        }
    }
}

/// An instance of this worker.
struct Present {
    key: InstanceKey,
    runs: bool,
    attempt: Attempt,
    /// Bytes it may write, if there is a limit.
    storage: Option<u64>,
}

fn present(worker: &Worker) -> Vec<Present> {
    let present = |workload: &Workload| {
        let limit = u64::from(workload.assignment().desired.spec.resources.storage_mib) << 20;
        Present {
            key: workload.key(),
            runs: matches!(workload.phase(), Phase::Running { .. }),
            attempt: workload.attempt(),
            storage: (limit > 0).then_some(limit),
        }
    };
    worker.workloads().map(present).collect()
}

/// Measures an instance; true when it differs enough from what was sent last.
async fn sample(
    operations: &Operations,
    key: InstanceKey,
    runs: bool,
    seen: &mut HashMap<InstanceKey, Seen>,
) -> Option<(InstanceUsage, bool)> {
    let stats = if runs { operations.runtime.stats(&container_id(key).ok()?).await.ok() } else { None };
    let now = Instant::now();
    let log_directory = operations.places.log_directory(key);
    let log_written = fs::metadata(log_directory.join("log")).and_then(|facts| facts.modified()).ok();
    let earlier = seen.get(&key);
    let log_changed =
        log_written.is_some() && earlier.is_none_or(|earlier| earlier.log_written != log_written);
    let cpu = stats.as_ref().map_or(Duration::ZERO, |stats| stats.cpu);
    let cpu_percent = earlier.map_or(0.0, |earlier| {
        let busy = cpu.saturating_sub(earlier.cpu).as_secs_f32();
        // One decimal: smaller changes are no news.
        (busy / now.duration_since(earlier.at).as_secs_f32().max(0.001) * 1000.0).round() / 10.0
    });
    let usage = InstanceUsage {
        key,
        cpu_percent,
        memory_bytes: stats.as_ref().map_or(0, |stats| stats.memory_bytes),
        disk_bytes: stats.as_ref().and_then(|stats| stats.disk_bytes).unwrap_or(0),
        log_tail: log_changed.then(|| log_tail(&log_directory, LOG_TAIL_BYTES).unwrap_or_default()),
    };
    let news = log_changed || earlier.is_none_or(|earlier| is_news(&earlier.sent, &usage));
    let sent = if news {
        InstanceUsage { log_tail: None, ..usage.clone() }
    } else {
        earlier.map_or_else(|| usage.clone(), |earlier| earlier.sent.clone())
    };
    seen.insert(key, Seen { cpu, at: now, log_written, sent });
    Some((usage, news))
}

/// Whether a measurement differs enough from the last one that was sent.
fn is_news(sent: &InstanceUsage, now: &InstanceUsage) -> bool {
    let apart = |a: u64, b: u64| a.abs_diff(b) > a.max(b) / 20;
    (sent.cpu_percent - now.cpu_percent).abs() >= 0.5
        || apart(sent.memory_bytes, now.memory_bytes)
        || apart(sent.disk_bytes, now.disk_bytes)
}

/// Load of the machine from `/proc`.
#[derive(Default)]
struct NodeSampler {
    busy: u64,
    total: u64,
    sent: Option<(f32, f32)>,
}

impl NodeSampler {
    /// The load if it changed by a whole percent.
    fn sample(&mut self) -> Option<NodeUsage> {
        let (busy, total) = cpu_ticks(&fs::read_to_string("/proc/stat").ok()?)?;
        let memory = fs::read_to_string("/proc/meminfo").ok()?;
        let (all, free) = (meminfo(&memory, "MemTotal")?, meminfo(&memory, "MemAvailable")?);
        let (since_busy, since_total) = (busy.saturating_sub(self.busy), total.saturating_sub(self.total));
        let is_first = self.total == 0;
        (self.busy, self.total) = (busy, total);
        if is_first {
            // The counters begin at boot: what was long ago is not the load of now.
            return None;
        }
        let cpu = share(since_busy, since_total);
        let load = (cpu, share(all.saturating_sub(free), all));
        if self.sent == Some(load) {
            return None;
        }
        self.sent = Some(load);
        Some(NodeUsage { worker: None, cpu_percent: load.0, memory_percent: load.1 })
    }
}

/// Whole percent.
#[allow(clippy::cast_precision_loss, reason = "a ratio of two counters, rounded to whole percent")]
fn share(part: u64, whole: u64) -> f32 {
    (part as f32 * 100.0 / whole.max(1) as f32).round()
}

/// Busy and total ticks of all processors since boot.
fn cpu_ticks(stat: &str) -> Option<(u64, u64)> {
    let numbers: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    let total: u64 = numbers.iter().take(8).sum();
    let idle = numbers.get(3)? + numbers.get(4)?;
    Some((total - idle, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_disks_counts_as_idle() {
        assert_eq!(cpu_ticks("cpu  10 0 20 60 10 0 0 0 0 0\ncpu0 1"), Some((30, 100)));
        assert_eq!(cpu_ticks("cpu 1"), None);
    }
}
