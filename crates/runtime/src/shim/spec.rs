//! Writes the OCI runtime configuration of a container (`config.json`, opencontainers/runtime-spec 1.x):
//! the isolation that other engines give by default.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use super::overlay::ROOT;
use super::user::Identity;
use crate::cgroup::Hierarchies;
use crate::container::{ContainerRequest, Limits};

/// Length of an accounting period of the processor limit, in microseconds.
const CPU_PERIOD_US: u64 = 100_000;
/// Smallest quota the kernel takes, in microseconds.
const CPU_QUOTA_MIN_US: u64 = 1000;
/// Open files: what programs get, and what they may raise it to.
const OPEN_FILES: (u64, u64) = (1024, 1_048_576);
/// Device nodes given to a privileged container; more are left out.
const DEVICES: usize = 1024;

/// Capabilities by number (capabilities(7)); true: what other engines leave to root in a container.
const CAPABILITIES: [(&str, bool); 41] = [
    ("CAP_CHOWN", true),
    ("CAP_DAC_OVERRIDE", true),
    ("CAP_DAC_READ_SEARCH", false),
    ("CAP_FOWNER", true),
    ("CAP_FSETID", true),
    ("CAP_KILL", true),
    ("CAP_SETGID", true),
    ("CAP_SETUID", true),
    ("CAP_SETPCAP", true),
    ("CAP_LINUX_IMMUTABLE", false),
    ("CAP_NET_BIND_SERVICE", true),
    ("CAP_NET_BROADCAST", false),
    ("CAP_NET_ADMIN", false),
    ("CAP_NET_RAW", true),
    ("CAP_IPC_LOCK", false),
    ("CAP_IPC_OWNER", false),
    ("CAP_SYS_MODULE", false),
    ("CAP_SYS_RAWIO", false),
    ("CAP_SYS_CHROOT", true),
    ("CAP_SYS_PTRACE", false),
    ("CAP_SYS_PACCT", false),
    ("CAP_SYS_ADMIN", false),
    ("CAP_SYS_BOOT", false),
    ("CAP_SYS_NICE", false),
    ("CAP_SYS_RESOURCE", false),
    ("CAP_SYS_TIME", false),
    ("CAP_SYS_TTY_CONFIG", false),
    ("CAP_MKNOD", true),
    ("CAP_LEASE", false),
    ("CAP_AUDIT_WRITE", true),
    ("CAP_AUDIT_CONTROL", false),
    ("CAP_SETFCAP", true),
    ("CAP_MAC_OVERRIDE", false),
    ("CAP_MAC_ADMIN", false),
    ("CAP_SYSLOG", false),
    ("CAP_WAKE_ALARM", false),
    ("CAP_BLOCK_SUSPEND", false),
    ("CAP_AUDIT_READ", false),
    ("CAP_PERFMON", false),
    ("CAP_BPF", false),
    ("CAP_CHECKPOINT_RESTORE", false),
];

const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/devices/system/cpu/cpu0/thermal_throttle",
    "/sys/firmware",
];

const READ_ONLY: [&str; 6] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/sys/fs/cgroup"];

/// Builds the configuration. `environment` is the complete one of the program, `volumes` are the places where the
/// request's folders are mounted for us.
pub(super) fn configuration(
    request: &ContainerRequest,
    identity: &Identity,
    environment: &[String],
    hierarchies: &Hierarchies,
    volumes: &[PathBuf],
) -> Value {
    let hostname = if request.hostname.is_empty() { request.id.as_str() } else { &request.hostname };
    let devices = if request.privileged { host_devices() } else { own_devices(&request.devices) };
    json!({
        "ociVersion": "1.0.2",
        "hostname": hostname,
        "root": { "path": ROOT, "readonly": false },
        "process": process(request, identity, environment, hierarchies),
        "mounts": mounts(request, hierarchies, volumes),
        "linux": {
            "namespaces": namespaces(request),
            "cgroupsPath": format!("/{}/{}", request.cgroup_parent.as_str(), request.id),
            "resources": resources(&request.limits, request.privileged, &devices, hierarchies),
            "devices": devices,
            "maskedPaths": if request.privileged { &[][..] } else { &MASKED[..] },
            "readonlyPaths": if request.privileged { &[][..] } else { &READ_ONLY[..] },
        },
    })
}

fn process(
    request: &ContainerRequest,
    identity: &Identity,
    environment: &[String],
    hierarchies: &Hierarchies,
) -> Value {
    let mut granted = capabilities(request.privileged);
    if !request.privileged && !hierarchies.limits_devices() {
        // nothing else would keep root in the container from making the node of a disk in its `/dev`
        granted.retain(|name| *name != "CAP_MKNOD");
    }
    // for a user other than root the bounding set is what programs with file capabilities may regain; nothing else
    let own: &[&str] = if identity.uid == 0 { &granted } else { &[] };
    let most_files = most_open_files();
    json!({
        "terminal": false,
        "user": { "uid": identity.uid, "gid": identity.gid, "additionalGids": identity.groups },
        "args": request.args,
        "env": environment,
        "cwd": working_directory(request),
        "capabilities": {
            "bounding": granted, "effective": own, "permitted": own,
            "inheritable": [], "ambient": [],
        },
        "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": OPEN_FILES.0.min(most_files), "hard": most_files }],
        "noNewPrivileges": !request.privileged,
        "oomScoreAdj": 0,
    })
}

/// The hard limit that this machine lets us set: the kernel has a bound, and a worker without CAP_SYS_RESOURCE
/// cannot exceed its own limit.
fn most_open_files() -> u64 {
    let kernel = fs::read_to_string("/proc/sys/fs/nr_open").ok();
    let kernel = kernel.and_then(|text| text.trim().parse().ok()).unwrap_or(OPEN_FILES.1);
    let own = getrlimit(Resource::Nofile);
    let wanted = OPEN_FILES.1.min(kernel);
    match own.maximum {
        Some(maximum) if maximum < wanted => {
            let raised = Rlimit { current: own.current, maximum: Some(wanted) };
            if setrlimit(Resource::Nofile, raised).is_ok() { wanted } else { maximum }
        }
        _ => wanted,
    }
}

/// The working directory of the program.
pub(super) fn working_directory(request: &ContainerRequest) -> &Path {
    if request.working_directory.as_os_str().is_empty() {
        return Path::new("/");
    }
    &request.working_directory
}

/// Names that this process has itself: a worker inside a container cannot give more than it got.
fn capabilities(privileged: bool) -> Vec<&'static str> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let own = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    let own = own.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let all = CAPABILITIES.iter().enumerate();
    all.filter(|(number, (_, usual))| (privileged || *usual) && own >> number & 1 == 1)
        .map(|(_, (name, _))| *name)
        .collect()
}

/// The kernel's mask of capabilities given by name.
pub(super) fn capability_mask(names: &[String]) -> u64 {
    let all = CAPABILITIES.iter().enumerate();
    all.filter(|(_, (name, _))| names.iter().any(|given| given == name))
        .fold(0, |mask, (number, _)| mask | 1 << number)
}

fn namespaces(request: &ContainerRequest) -> Value {
    let mut list: Vec<Value> =
        ["pid", "ipc", "uts", "mount"].iter().map(|kind| json!({ "type": kind })).collect();
    if Path::new("/proc/self/ns/cgroup").exists() {
        list.push(json!({ "type": "cgroup" }));
    }
    list.push(match &request.network_namespace {
        Some(path) => json!({ "type": "network", "path": path }),
        None => json!({ "type": "network" }),
    });
    list.into()
}

fn mounts(request: &ContainerRequest, hierarchies: &Hierarchies, volumes: &[PathBuf]) -> Value {
    let plain = ["nosuid", "noexec", "nodev"];
    let access = if request.privileged { "rw" } else { "ro" };
    let guarded = ["nosuid", "noexec", "nodev", access];
    let mount = |target: &str, kind: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": kind, "options": options });
    let mut list = vec![
        mount("/proc", "proc", &plain),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", &plain),
        mount("/sys", "sysfs", &guarded),
    ];
    let views = hierarchies.legacy_views(&request.cgroup_parent, &request.id);
    if views.is_empty() || request.privileged {
        list.push(mount("/sys/fs/cgroup", "cgroup", &guarded));
    } else {
        // libcontainer mounts version 1 writable, so that a container could raise its own limits
        list.push(mount("/sys/fs/cgroup", "tmpfs", &["nosuid", "noexec", "nodev", "mode=755", "size=4k"]));
        list.extend(views.iter().map(|(controller, cgroup)| {
            json!({
                "destination": format!("/sys/fs/cgroup/{controller}"), "type": "bind", "source": cgroup,
                "options": ["bind", "rprivate", "ro", "nosuid", "noexec", "nodev"],
            })
        }));
    }
    for (folder, source) in request.folders.iter().zip(volumes) {
        list.push(json!({
            "destination": folder.target, "type": "bind", "source": source,
            "options": ["bind", "rprivate", "rw", "nosuid", "nodev"],
        }));
    }
    for bind in &request.mounts {
        let access = if bind.read_only { "rro" } else { "rw" };
        list.push(json!({
            "destination": bind.target, "type": "bind", "source": bind.source,
            "options": ["rbind", "rprivate", access],
        }));
    }
    list.into()
}

fn resources(limits: &Limits, privileged: bool, devices: &[Value], hierarchies: &Hierarchies) -> Value {
    let mut resources = json!({ "devices": device_rules(privileged, devices) });
    if let Some(bytes) = limits.memory_bytes {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        resources["memory"] = json!({ "limit": bytes });
        if hierarchies.accounts_swap() {
            // memory and swap together: none beyond the memory
            resources["memory"]["swap"] = bytes.into();
        }
    }
    if let Some(millis) = limits.cpu_millis {
        let quota = (millis.saturating_mul(CPU_PERIOD_US) / 1000).max(CPU_QUOTA_MIN_US);
        let quota = i64::try_from(quota).unwrap_or(i64::MAX);
        let shares = (millis.saturating_mul(1024) / 1000).clamp(2, 262_144);
        resources["cpu"] = json!({ "shares": shares, "quota": quota, "period": CPU_PERIOD_US });
    }
    if let Some(pids) = limits.pids {
        resources["pids"] = json!({ "limit": pids });
    }
    resources
}

/// Which devices may be opened: none but its own and the harmless ones; any node may be made, which opens nothing.
fn device_rules(privileged: bool, devices: &[Value]) -> Value {
    if privileged {
        return json!([{ "allow": true, "access": "rwm" }]);
    }
    let mut rules = vec![
        json!({ "allow": false, "access": "rwm" }),
        json!({ "allow": true, "type": "c", "access": "m" }),
        json!({ "allow": true, "type": "b", "access": "m" }),
    ];
    // null, zero, full, random, urandom; tty, ptmx
    let usual = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)];
    rules.extend(usual.map(|(major, minor)| {
        json!({ "allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm" })
    }));
    // pseudo terminals
    rules.push(json!({ "allow": true, "type": "c", "major": 136, "access": "rwm" }));
    rules.extend(devices.iter().map(|device| {
        let (kind, major, minor) = (&device["type"], &device["major"], &device["minor"]);
        json!({ "allow": true, "type": kind, "major": major, "minor": minor, "access": "rwm" })
    }));
    rules.into()
}

/// The nodes a container asks for, as the host has them. One that is gone is left out: the program will say so.
fn own_devices(paths: &[PathBuf]) -> Vec<Value> {
    paths.iter().filter_map(|path| device(path, &fs::symlink_metadata(path).ok()?)).collect()
}

/// A device node as libcontainer makes it; `None` for anything else.
fn device(path: &Path, metadata: &fs::Metadata) -> Option<Value> {
    let kind = metadata.file_type();
    if !kind.is_char_device() && !kind.is_block_device() {
        return None;
    }
    Some(json!({
        "path": path,
        "type": if kind.is_block_device() { "b" } else { "c" },
        "major": rustix::fs::major(metadata.rdev()),
        "minor": rustix::fs::minor(metadata.rdev()),
        "fileMode": metadata.mode() & 0o777,
        "uid": metadata.uid(),
        "gid": metadata.gid(),
    }))
}

/// The device nodes of the host, except those that every container has anyway.
fn host_devices() -> Vec<Value> {
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::from("/dev")];
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        for entry in entries {
            let path = entry.path();
            let usual = ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"];
            let is_usual =
                path.parent() == Some(Path::new("/dev")) && usual.iter().any(|name| path.ends_with(name));
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            let kind = metadata.file_type();
            if kind.is_dir() {
                if !["/dev/pts", "/dev/shm", "/dev/mqueue"].iter().any(|skip| path == Path::new(skip)) {
                    directories.push(path);
                }
                continue;
            }
            if is_usual || found.len() >= DEVICES {
                continue;
            }
            found.extend(device(&path, &metadata));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::LogConfig;

    #[test]
    fn limits_become_quota_shares_and_no_swap() {
        let limits =
            Limits { memory_bytes: Some(1 << 20), cpu_millis: Some(250), pids: Some(7), storage_bytes: None };
        let unified = Hierarchies::Unified("/sys/fs/cgroup".into());
        let resources = resources(&limits, false, &[], &unified);
        assert_eq!(resources["cpu"], json!({ "shares": 256, "quota": 25_000, "period": 100_000 }));
        assert_eq!(resources["memory"]["limit"], json!(1 << 20));
        assert_eq!(resources["pids"]["limit"], json!(7));
    }

    #[test]
    fn a_container_gets_its_own_devices_and_no_others() {
        let id = "a".parse().unwrap();
        let log = LogConfig::in_directory("/log".into());
        let mut request = ContainerRequest::new(id, vec!["/l".into()], vec!["sh".into()], log);
        // A node that every machine has stands for a GPU; a file that is no node is left out.
        request.devices = vec!["/dev/null".into(), "/dev/nothing".into()];
        let identity = Identity { uid: 0, gid: 0, groups: Vec::new(), home: "/".into() };
        let value = configuration(&request, &identity, &[], &Hierarchies::Legacy(Vec::new()), &[]);
        let devices = value["linux"]["devices"].as_array().unwrap();
        assert_eq!(devices.len(), 1);
        assert_eq!((&devices[0]["path"], &devices[0]["major"]), (&json!("/dev/null"), &json!(1)));
        let rules = value["linux"]["resources"]["devices"].as_array().unwrap();
        let own = json!({ "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm" });
        assert_eq!(rules.last(), Some(&own));
        request.devices = vec!["/etc/passwd".into()];
        assert!(request.check().is_err());
    }

    #[test]
    fn the_configuration_is_one_libcontainer_reads() {
        let id = "a".parse().unwrap();
        let log = LogConfig::in_directory("/log".into());
        let mut request = ContainerRequest::new(id, vec!["/l".into()], vec!["sh".into()], log);
        let identity = Identity { uid: 5, gid: 6, groups: vec![7], home: "/".into() };
        for privileged in [false, true] {
            request.privileged = privileged;
            let value = configuration(&request, &identity, &[], &Hierarchies::Legacy(Vec::new()), &[]);
            let spec: libcontainer::oci_spec::runtime::Spec = serde_json::from_value(value).unwrap();
            assert_eq!(spec.hostname().as_deref(), Some("a"));
        }
    }
}
