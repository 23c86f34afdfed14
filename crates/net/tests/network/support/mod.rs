//! A private world per test: own network and mount namespace on an own thread, a temporary directory,
//! and an "outside" machine behind an uplink. Everything ends with the thread.
#![allow(unsafe_code, reason = "unshare is unsafe in rustix because of flags not used here")]

pub(crate) mod node;
pub(crate) mod traffic;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use oak_net::{Attach, Attached, InstanceAddress, NetworkConfig, NodeNetwork, ServiceTable, Tenant};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use tempfile::TempDir;

/// The host's address on the uplink, and the machine outside.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 18, 0, 1);

pub(crate) struct World {
    directory: TempDir,
    pub(crate) config: NetworkConfig,
}

/// Runs a test in a world of its own; as another user than root it says so and does nothing.
pub(crate) fn in_world(test: impl AsyncFnOnce(World) + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let world = std::thread::Builder::new().name("world".to_owned());
    let thread = world.spawn(move || {
        // SAFETY: neither flag unshares the descriptor table.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }.unwrap();
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).unwrap();
        run("ip", "link set lo up");
        let directory = tempfile::Builder::new().prefix("oak-net-").tempdir().unwrap();
        let subnet = "10.18.0.0/25".parse().unwrap();
        let config = NetworkConfig::new(directory.path().join("net"), subnet);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(test(World { directory, config }));
    });
    if let Err(panic) = thread.unwrap().join() {
        std::panic::resume_unwind(panic);
    }
}

impl World {
    pub(crate) async fn open(&self) -> NodeNetwork {
        NodeNetwork::open(self.config.clone()).await.unwrap()
    }

    /// Makes the uplink; returns the namespace of the machine outside. It has no route to our
    /// instances, so it can only answer what looks like the host.
    pub(crate) fn outside(&self) -> PathBuf {
        let path = self.machine("outside");
        let place = path.display();
        run("ip", &format!("link add up0 type veth peer name eth0 netns {place}"));
        run("ip", &format!("addr add {HOST}/24 dev up0"));
        run("ip", "link set up0 up");
        inside(&path, || {
            run("ip", &format!("addr add {OUTSIDE}/24 dev eth0"));
            run("ip", "link set lo up");
            run("ip", "link set eth0 up");
            await_up("eth0");
        });
        await_up("up0");
        path
    }
}

impl World {
    /// A network namespace of its own, without any device.
    pub(crate) fn machine(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, "").unwrap();
        let target = path.clone();
        let make = std::thread::spawn(move || {
            // SAFETY: as above.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            mount_bind("/proc/thread-self/ns/net", &target).unwrap();
        });
        make.join().unwrap();
        path
    }

    /// Where a node may keep its state.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for World {
    /// Unmounts namespaces, or the temporary directory could not be removed.
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
        let places = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        for place in places.filter(|place| Path::new(place).starts_with(self.directory.path())) {
            let _ = unmount(place, UnmountFlags::DETACH);
        }
    }
}

/// Attaches instance `n` with namespace address 10.18.0.`n`.
pub(crate) async fn attach(network: &NodeNetwork, n: u8) -> Attached {
    let attach = Attach { id: format!("shop.web.instance.{n}"), address: namespace_address(n) };
    network.attach(attach).await.unwrap()
}

pub(crate) fn namespace_address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 18, 0, n)
}

/// The instance address that goes with instance `n`.
pub(crate) fn instance_address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 30, 1, n)
}

/// All instances of the machine are of one tenant, and everything in the table is theirs.
pub(crate) fn together(table: ServiceTable) -> ServiceTable {
    let members = (2..=126).map(namespace_address).collect();
    of_one_tenant(table, members)
}

/// These are of one tenant, and everything in the table is theirs.
pub(crate) fn of_one_tenant(table: ServiceTable, members: Vec<Ipv4Addr>) -> ServiceTable {
    let services = table.services.iter().flat_map(|service| service.addresses.iter().copied());
    let all: Vec<Ipv4Addr> = services.chain(table.instances.iter().map(|one| one.instance)).collect();
    let tenant = Tenant { members, reaches: all.clone(), refused: vec![] };
    ServiceTable { tenants: vec![tenant], owned: all, ..table }
}

pub(crate) fn instances(numbers: &[u8]) -> Vec<InstanceAddress> {
    numbers
        .iter()
        .map(|n| InstanceAddress { instance: instance_address(*n), namespace: namespace_address(*n) })
        .collect()
}

pub(crate) fn service_address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 30, 0, n)
}

/// Runs `work` in a namespace and passes its panics on.
pub(crate) fn inside<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> T {
    oak_net::run_in(namespace, work).unwrap()
}

/// Waits until a device works: packets before that are lost without a word.
pub(crate) fn await_up(device: &str) {
    await_that(device, || run("ip", &format!("link show {device}")).contains("state UP"));
}

/// Waits until something is so.
pub(crate) fn await_that(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + traffic::SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not in time");
    }
}

/// All devices but the one that lives and dies with an agent.
pub(crate) fn lasting_devices() -> String {
    let devices = run("ip", "-o link");
    let lasting = devices.lines().filter(|line| !line.contains(": oak0u:"));
    lasting.map(|line| format!("{line}\n")).collect()
}

/// Runs a command in the current namespace and returns what it prints.
pub(crate) fn run(program: &str, arguments: &str) -> String {
    let words = arguments.split_whitespace();
    let output = Command::new(program).args(words).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments}: {complaint}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
