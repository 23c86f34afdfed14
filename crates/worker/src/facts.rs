//! What this machine is, read from the kernel.

use std::fs;
use std::path::Path;

use oak_model::{Architecture, Resources, WorkerFacts};

use crate::WorkerConfig;

/// Facts for the hello.
pub(crate) fn worker_facts(config: &WorkerConfig) -> WorkerFacts {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cpu = u32::try_from(cores).unwrap_or(u32::MAX).saturating_mul(1000);
    let memory = memory_total_mib().unwrap_or(0);
    WorkerFacts {
        name: config.name.clone(),
        address: config.address.map(|address| address.to_string()).unwrap_or_default(),
        architecture: Architecture::of_this_program(),
        capacity: Resources {
            // Descriptors ask for whole cores: what is kept back must not cost one, so it is kept out of the
            // overcommitted sum only when the machine has cores to spare.
            cpu_millis: if cores > 2 { cpu.saturating_sub(config.reserve_cpu_millis) } else { cpu },
            memory_mib: memory.saturating_sub(config.reserve_memory_mib),
            storage_mib: free_storage_mib(&config.directory).unwrap_or(0),
        },
        virtualization: vec!["docker".to_owned()],
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn memory_total_mib() -> Option<u32> {
    let kib = meminfo(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal")?;
    u32::try_from(kib / 1024).ok()
}

/// A value of `/proc/meminfo` in KiB.
pub(crate) fn meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Free space where the instances write, rounded down to whole GiB so that small changes are no news.
fn free_storage_mib(directory: &Path) -> Option<u32> {
    let facts = rustix::fs::statvfs(directory).ok()?;
    let gib = facts.f_bavail.saturating_mul(facts.f_frsize) >> 30;
    u32::try_from(gib.saturating_mul(1024)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_by_whole_names() {
        let text = "MemTotal:       2048 kB\nMemFree:  10 kB\n";
        assert_eq!(meminfo(text, "MemTotal"), Some(2048));
        assert_eq!(meminfo(text, "Mem"), None);
    }
}
