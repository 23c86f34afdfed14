//! What every process tells of itself, under the names that all Prometheus clients use.

use crate::{Exposition, Kind};

/// Writes memory and open files of this process. What the system does not tell is left out.
pub fn describe_process(exposition: &mut Exposition) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"));
    if let Some(kib) = resident.and_then(|text| text.trim().parse::<u64>().ok()) {
        exposition
            .family(Kind::Gauge, "process_resident_memory_bytes", "Resident memory of this process.")
            .sample(&[], kib.saturating_mul(1024));
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        exposition
            .family(Kind::Gauge, "process_open_fds", "Open files and sockets of this process.")
            // Looking at them takes one.
            .sample(&[], files.count().saturating_sub(1));
    }
}
