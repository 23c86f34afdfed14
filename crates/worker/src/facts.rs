//! What this machine is, read from the kernel.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::Path;

use oak_model::container::HOSTPATH_DRIVER;
use oak_model::{Architecture, Resources, WorkerFacts, ipv6};
use tracing::warn;

use crate::WorkerConfig;
use crate::ways::OwnEnd;

/// Facts for the hello.
pub(crate) fn worker_facts(config: &WorkerConfig, gpus: u32, own_end: &OwnEnd) -> WorkerFacts {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cpu = u32::try_from(cores).unwrap_or(u32::MAX).saturating_mul(1000);
    let memory = memory_total_mib().unwrap_or(0);
    let own = own_end.addresses.unwrap_or_default();
    WorkerFacts {
        name: config.name.clone(),
        address: own.first().map(|ip| ip.to_string()).unwrap_or_default(),
        address6: own.second(),
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

/// Where others reach this machine.
pub(crate) fn own_addresses(config: &WorkerConfig) -> OwnAddresses {
    config.address.map_or_else(|| OwnAddresses::towards(&config.cluster), told_address)
}

/// The address its operator has said, if it means something to others.
fn told_address(address: IpAddr) -> OwnAddresses {
    let own = OwnAddresses::of(address);
    if own.first().is_none() {
        warn!(%address, "nobody else can send to this address: set worker.address to another one, or leave it out");
    }
    own
}

/// Addresses from the ranges for documentation: nothing answers there, but they take the default routes.
const ELSEWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// The addresses at which others reach this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnAddresses {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

impl OwnAddresses {
    /// One that somebody has said; none if it means nothing to others.
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self { v4: Some(v4), v6: None },
            IpAddr::V6(v6) => Self { v4: None, v6: Some(v6).filter(|v6| ipv6::is_underlay(*v6)) },
        }
    }

    /// Those that lead to the cluster or, in a family in which nothing does, and when the cluster is on this machine, to
    /// anywhere else.
    pub(crate) fn towards(cluster: &str) -> Self {
        let cluster = cluster.to_socket_addrs().into_iter().flatten().map(|address| address.ip());
        let places: Vec<IpAddr> = cluster.chain(ELSEWHERE).collect();
        let own = || places.iter().filter_map(|place| source_towards(*place));
        let v4 = own().find_map(|ip| match ip {
            IpAddr::V4(v4) => Some(v4).filter(|v4| !v4.is_loopback() && !v4.is_unspecified()),
            IpAddr::V6(_) => None,
        });
        let v6 = own().find_map(|ip| match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => Some(v6).filter(|v6| ipv6::is_underlay(*v6)),
        });
        Self { v4, v6 }
    }

    /// Those of another list where this one has none.
    #[cfg(test)]
    pub(crate) fn or(self, other: Self) -> Self {
        Self { v4: self.v4.or(other.v4), v6: self.v6.or(other.v6) }
    }

    pub(crate) const fn has_ipv4(self) -> bool {
        self.v4.is_some()
    }

    pub(crate) const fn has_ipv6(self) -> bool {
        self.v6.is_some()
    }

    /// The address people see.
    pub(crate) fn first(self) -> Option<IpAddr> {
        self.v4.map(IpAddr::V4).or(self.v6.map(IpAddr::V6))
    }

    /// The one of IPv6, if it is not that one.
    pub(crate) fn second(self) -> Option<Ipv6Addr> {
        self.v4.and(self.v6)
    }
}

/// As which address this machine sends there; none if no route leads there. Connecting a UDP socket only asks the routing
/// table; nothing is sent.
pub(crate) fn source_towards(place: IpAddr) -> Option<IpAddr> {
    let any = match place {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(SocketAddr::new(place, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
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
    fn what_is_told_is_of_both_families_and_means_something_to_others() {
        let known = |text: &str| OwnAddresses::of(text.parse().unwrap());
        let both = OwnAddresses { v6: known("2001:db8::2").v6, ..known("192.0.2.2") };
        assert_eq!(both.first(), Some("192.0.2.2".parse().unwrap()));
        assert_eq!(both.second(), Some("2001:db8::2".parse().unwrap()));
        let only = known("2001:db8::2");
        assert_eq!((only.first(), only.second()), (Some("2001:db8::2".parse().unwrap()), None));
        assert_eq!(known("::ffff:192.0.2.2"), known("192.0.2.2"));
        assert_eq!(known("fe80::2").first(), None);
        // Whatever this machine has: the way to itself is none to others.
        for cluster in ["127.0.0.1:10100", "[::1]:10100"] {
            let own = OwnAddresses::towards(cluster);
            assert!(own.first().is_none_or(|address| !address.is_loopback()), "{own:?}");
            assert!(own.v6.is_none_or(ipv6::is_underlay), "{own:?}");
        }
    }

    #[test]
    fn meminfo_is_read_by_whole_names() {
        let text = "MemTotal:       2048 kB\nMemFree:  10 kB\n";
        assert_eq!(meminfo(text, "MemTotal"), Some(2048));
        assert_eq!(meminfo(text, "Mem"), None);
    }
}
