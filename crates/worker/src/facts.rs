//! What this machine is, read from the kernel.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use oak_model::container::HOSTPATH_DRIVER;
use oak_model::{Architecture, Resources, WorkerFacts};

use crate::WorkerConfig;
use crate::ways::OwnEnd;

/// Facts for the hello.
pub(crate) fn worker_facts(config: &WorkerConfig, gpus: u32, own_end: &OwnEnd) -> WorkerFacts {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cpu = u32::try_from(cores).unwrap_or(u32::MAX).saturating_mul(1000);
    let memory = memory_total_mib().unwrap_or(0);
    WorkerFacts {
        name: config.name.clone(),
        address: config
            .address
            .or_else(|| own_address(&config.cluster))
            .map(|ip| ip.to_string())
            .unwrap_or_default(),
        architecture: Architecture::of_this_program(),
        capacity: Resources {
            // Descriptors ask for whole cores: what is kept back must not cost one, so it is kept out of the
            // overcommitted sum only when the machine has cores to spare.
            cpu_millis: if cores > 2 { cpu.saturating_sub(config.reserve_cpu_millis) } else { cpu },
            memory_mib: memory.saturating_sub(config.reserve_memory_mib),
            storage_mib: free_storage_mib(&config.directory).unwrap_or(0),
            gpus,
        },
        virtualization: vec!["docker".to_owned()],
        version: env!("CARGO_PKG_VERSION").to_owned(),
        labels: config.labels.clone(),
        addons: config.addons.clone(),
        position: config.position,
        csi_drivers: config.volumes_root.iter().map(|_| HOSTPATH_DRIVER.to_owned()).collect(),
        tunnel: own_end.tunnel.clone(),
        plain: own_end.encryption.allows_plain(),
    }
}

/// An address from the range for documentation: nothing answers there, but it takes the default route.
const ELSEWHERE: &str = "203.0.113.1:9";

/// The address of this machine that leads to its cluster or, when the cluster is on this machine, to anywhere else.
/// Connecting a UDP socket only asks the routing table; nothing is sent.
pub(crate) fn own_address(cluster: &str) -> Option<IpAddr> {
    let towards = |place: &str| {
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect(place).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    [cluster, ELSEWHERE].into_iter().filter_map(towards).find(|ip| !ip.is_loopback())
}

/// Whether no device of this machine has the address: somebody else passes on what is sent there.
pub(crate) fn is_elsewhere(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_err()
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
