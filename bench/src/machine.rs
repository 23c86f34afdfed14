//! The machine, without which a number means nothing.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

/// One paragraph on hardware, kernel, load and the measured program.
pub(crate) fn describe(oak: &Path) -> anyhow::Result<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = field(&cpu, "model name").unwrap_or("unknown processor");
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory_kib: u64 =
        field(&memory, "MemTotal").and_then(|text| text.split(' ').next()?.parse().ok()).unwrap_or(0);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let size = fs::metadata(oak).with_context(|| format!("cannot read {}", oak.display()))?.len();
    Ok(format!(
        "machine: {cores} × {model}, {} GiB, Linux {}, cgroup version {}\nload at the start: {}\nprogram: {size} bytes \
         ({:.1} MB), budget 30 MB",
        memory_kib >> 20,
        kernel.trim(),
        if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { 2 } else { 1 },
        load(),
        size as f64 / 1e6,
    ))
}

/// Load averages of 1, 5 and 15 minutes.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':')).map(str::trim)
}

/// Time in which the processors did something since the machine was started; steps of 10 ms.
pub(crate) fn busy() -> anyhow::Result<Duration> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    // Fields of proc_stat(5) in hundredths of a second: user, nice, system, idle, iowait, irq, softirq.
    let fields = text.lines().next().context("no line")?.split_ascii_whitespace().skip(1);
    let ticks: Vec<u64> = fields.take(7).filter_map(|field| field.parse().ok()).collect();
    let [user, nice, system, _, _, irq, soft_irq] = ticks[..] else { anyhow::bail!("fields are missing") };
    Ok(Duration::from_millis((user + nice + system + irq + soft_irq) * 10))
}
