//! What a process costs, and waiting for what has no event.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// Memory of a process in KiB (`smaps_rollup`).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Own pages, and a share of those that others map too.
    pub(crate) proportional: u64,
    /// Own pages, written or not.
    pub(crate) private: u64,
    /// Own pages that are no copy of a file.
    pub(crate) anonymous: u64,
}

impl Memory {
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let field = |name: &str| -> u64 {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            value.and_then(|value| value.trim().split(' ').next()?.parse().ok()).unwrap_or(0)
        };
        Ok(Self {
            proportional: field("Pss:"),
            private: field("Private_Clean:") + field("Private_Dirty:"),
            anonymous: field("Anonymous:"),
        })
    }
}

/// Processor time a process has used so far, with that of threads that have ended; steps of 10 ms.
pub(crate) fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // After the name, which may contain anything: fields 14 and 15 of proc_pid_stat(5), in hundredths of a second.
    let fields = text.rsplit_once(')').context("no name")?.1.split_ascii_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// CPU time of this thread, finer than what `/proc` tells.
pub(crate) fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Number of threads of a process.
pub(crate) fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// Processes whose command line begins with `program` and contains `argument`.
pub(crate) fn find(program: &str, argument: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        line.starts_with(program) && line.contains(argument)
    })
    .collect()
}

#[allow(clippy::disallowed_methods, reason = "a benchmark on its own thread; what it polls offers no event")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Polls until `condition` holds.
pub(crate) fn wait_until(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> bool,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() >= deadline {
            bail!("{what}: not within {limit:?}");
        }
        pause(Duration::from_millis(1));
    }
    Ok(())
}
