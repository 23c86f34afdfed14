//! A played machine: namespaces that live as long as their first process.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::cable::{Cable, Tap};
use crate::process::child_of;
use crate::{cgroup, eventually, pause, soon};

/// Joins the cgroups `$1` of this machine, then runs the rest in new namespaces.
const OUTER: &str = r#"
name=$1
shift
grep -E ' cgroup2? ' /proc/self/mounts | while read -r _ point kind _; do
    group=$point/$name
    mkdir "$group" || exit 1
    if [ "$kind" = cgroup ] && [ -e "$group/cpuset.cpus" ]; then
        cat "$point/cpuset.cpus" >"$group/cpuset.cpus"
        cat "$point/cpuset.mems" >"$group/cpuset.mems"
    fi
    echo $$ >"$group/cgroup.procs" || exit 1
done || exit 1
exec unshare --mount --net --pid --cgroup --uts --ipc --fork --mount-proc --kill-child --propagation private "$@"
"#;

/// First process of the machine: shows it its own cgroups only and a boot id of its own, then reaps orphans until its
/// input ends.
const INIT: &str = r#"
set -eu
hostname "$1"
mounts=$(grep -E ' cgroup2? ' /proc/self/mounts)
while read -r _ point kind options _; do
    wanted=rw
    IFS=,
    for word in $options; do
        case $word in
        rw | ro | relatime | nosuid | nodev | noexec | nsdelegate | memory_recursiveprot) ;;
        *) wanted=$wanted,$word ;;
        esac
    done
    unset IFS
    umount -l "$point"
    mount -t "$kind" -o "$wanted" "$kind" "$point"
done <<<"$mounts"
if [ -e /sys/fs/cgroup/cgroup.procs ]; then
    mkdir /sys/fs/cgroup/system
    echo 0 >/sys/fs/cgroup/system/cgroup.procs
fi
cat /proc/sys/kernel/random/uuid >"$2"
mount --bind "$2" /proc/sys/kernel/random/boot_id
ip link set lo up
echo ready
read -r _ || true
"#;

/// Puts a command that enters the machine into the machine's cgroups. Version 2 wants processes in leaves only.
const JOIN: &str = r#"
if [ -e /sys/fs/cgroup/cgroup.procs ]; then
    echo 0 >/sys/fs/cgroup/system/cgroup.procs
else
    for file in /sys/fs/cgroup/*/cgroup.procs; do echo 0 >"$file"; done
fi
exec "$@"
"#;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a command wrote and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Which addresses a machine has on its switch, besides its loopback ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both.
    Both,
}

/// A played machine. Dropping it ends everything on it.
#[derive(Debug)]
pub struct Host {
    name: String,
    /// What ends when the machine does; `None` while it is switched off.
    init: Mutex<Option<Child>>,
    /// 0 while it is switched off.
    pid: AtomicU32,
    address: Ipv4Addr,
    families: Families,
    directory: PathBuf,
    cgroup: String,
    cable: Option<Cable>,
}

impl Host {
    /// Makes a machine that is not plugged in yet and whose files are in `directory`. Without a `cable` of its own it
    /// gets a perfect one from the kernel.
    pub(crate) fn create(
        name: &str,
        directory: &Path,
        address: Ipv4Addr,
        cable: Option<Cable>,
    ) -> anyhow::Result<Self> {
        let directory = directory.join(name);
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let host = Self {
            name: name.to_owned(),
            init: Mutex::new(None),
            pid: AtomicU32::new(0),
            address,
            families: Families::V4,
            directory,
            cgroup: cgroup::host_group(name),
            cable,
        };
        host.boot()?;
        Ok(host)
    }

    /// Makes the namespaces of the machine.
    pub(crate) fn boot(&self) -> anyhow::Result<()> {
        ensure!(self.pid() == 0, "machine {} is switched on already", self.name);
        let (boot_id, errors) = (self.directory.join("boot_id"), self.directory.join("machine.err"));
        let mut child = Command::new("sh")
            .args(["-euc", OUTER, "sh", &self.cgroup, "bash", "-c", INIT, "init", &self.name])
            .arg(boot_id)
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A file, because `unshare` complains whenever a machine loses its power.
            .stderr(File::create(&errors)?)
            .spawn()
            .context("cannot start a shell for a machine")?;
        let (output, outer) = (child.stdout.take().context("the machine has no output")?, child.id());
        // From here on dropping the value ends the process, whatever fails.
        *self.lock_init() = Some(child);
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(
            line.trim() == "ready",
            "machine {} did not start: are you root, and is util-linux there? {}",
            self.name,
            fs::read_to_string(&errors).unwrap_or_default()
        );
        cgroup::clear_root(&self.cgroup, outer)?;
        let first = child_of(outer).context("the machine has no first process")?;
        self.pid.store(u32::try_from(first)?, Ordering::SeqCst);
        Ok(())
    }

    /// Switches the machine off as a power cut does: its processes, mounts, network and cgroups are gone, its files
    /// stay. (What was written and not synced stays too, because the kernel goes on.) The kernel still says goodbye
    /// to the other ends of connections; cut the cable first if nobody shall hear that.
    ///
    /// # Errors
    /// It is off already, or does not end.
    pub fn power_off(&self) -> anyhow::Result<()> {
        let child = self.lock_init().take();
        let mut child = child.with_context(|| format!("machine {} is switched off already", self.name))?;
        let first = i32::try_from(self.pid.swap(0, Ordering::SeqCst))?;
        let first = Pid::from_raw(first).context("the machine has no first process")?;
        // The kernel ends everything in the process namespace with it.
        kill_process(first, Signal::KILL).context("cannot end the machine")?;
        eventually("the machine has ended", soon(), || {
            // It ends when everything on it is reaped, for which whoever started that has to be awake.
            wake_entrances(first);
            child.try_wait()?.context("something of it is left")
        })?;
        cgroup::remove(&self.cgroup);
        Ok(())
    }

    /// The cable the machine was made with.
    ///
    /// # Errors
    /// It has an ordinary one.
    pub fn cable(&self) -> anyhow::Result<&Cable> {
        self.cable.as_ref().with_context(|| format!("machine {} has an ordinary cable", self.name))
    }

    fn lock_init(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.init.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the switch.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Gives it these addresses when it is plugged in.
    pub(crate) fn with_families(mut self, families: Families) -> Self {
        self.families = families;
        self
    }

    /// Its address of IPv6 on the switch, if it has one.
    pub fn address6(&self) -> Option<Ipv6Addr> {
        let [.., number] = self.address.octets();
        (self.families != Families::V4).then(|| switch6(number))
    }

    /// Where another machine reaches it: over IPv4 if both have that.
    pub fn reached_by(&self, other: &Self) -> IpAddr {
        match self.address6() {
            Some(address) if Families::V6 == self.families || Families::V6 == other.families => {
                address.into()
            }
            _ => self.address.into(),
        }
    }

    /// Its directory, seen from inside and outside under the same path.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its first process, seen from outside; 0 while it is switched off.
    pub fn pid(&self) -> u32 {
        self.pid.load(Ordering::SeqCst)
    }

    /// The name of its cgroup in each hierarchy of the real machine.
    pub(crate) fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// A command on this machine; the environment is empty except for `PATH`.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.pid().to_string()])
            .args([
                "--mount", "--net", "--pid", "--cgroup", "--uts", "--ipc", "--", "sh", "-euc", JOIN, "sh",
                program,
            ])
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", &self.directory)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end, at most a minute.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run(&self, words: &[&str]) -> anyhow::Result<Output> {
        self.run_with(words, &[])
    }

    /// Like [`Host::run`] with environment variables.
    ///
    /// # Errors
    /// As [`Host::run`].
    pub fn run_with(&self, words: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Output> {
        let mut command = self.command("timeout");
        command.args(["--signal=KILL", "60"]).args(words).envs(environment.iter().copied());
        let output = command.output().with_context(|| format!("cannot run {words:?} on {}", self.name))?;
        Ok(Output {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs a command that has to succeed and returns its standard output.
    ///
    /// # Errors
    /// It cannot be started or fails; the error carries what it said.
    pub fn check(&self, words: &[&str]) -> anyhow::Result<String> {
        let output = self.run(words)?;
        if output.code == Some(0) {
            return Ok(output.stdout);
        }
        bail!("{words:?} on {} ended with {:?}: {}{}", self.name, output.code, output.stdout, output.stderr)
    }

    /// Its network. It lives as long as the file is open.
    pub(crate) fn network(&self) -> anyhow::Result<File> {
        File::open(format!("/proc/{}/ns/net", self.pid()))
            .with_context(|| format!("the network of {} is gone", self.name))
    }

    /// Runs `work` in a thread that is in the network of this machine.
    ///
    /// # Errors
    /// The network cannot be entered.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        within(&self.network()?, work)
    }

    /// Connects the machine to the bridge of a switch or router; the end of the cable here is `eth0`.
    pub(crate) fn plug_into(&self, switch: &Self, gateway: Ipv4Addr) -> anyhow::Result<()> {
        let port = format!("p-{}", self.pid());
        match &self.cable {
            Some(cable) => {
                let here = self.within(|| Tap::create("eth0"))??;
                cable.plug(here, switch.within(|| Tap::create(&port))??)?;
            }
            None => self.plug_pair_into(switch, &port)?,
        }
        switch.check(&["ip", "link", "set", &port, "master", "br0", "up"])?;
        let [.., third, fourth] = self.address.octets();
        // The same after every boot, as with a real device: neighbours remember it.
        let hardware = format!("02:00:00:00:{third:02x}:{fourth:02x}");
        self.check(&["ip", "link", "set", "eth0", "address", &hardware])?;
        self.check(&["ip", "link", "set", "eth0", "up"])?;
        if self.families != Families::V6 {
            let address = format!("{}/24", self.address);
            self.check(&["ip", "address", "add", &address, "dev", "eth0"])?;
            self.check(&["ip", "route", "add", "default", "via", &gateway.to_string()])?;
        }
        if let Some(address) = self.address6() {
            // Nobody else has it, and until that is found out it could not be used.
            let address = format!("{address}/64");
            self.check(&["ip", "address", "add", &address, "dev", "eth0", "nodad"])?;
            let [.., number] = gateway.octets();
            self.check(&["ip", "-6", "route", "add", "default", "via", &switch6(number).to_string()])?;
        }
        Ok(())
    }

    fn plug_pair_into(&self, switch: &Self, port: &str) -> anyhow::Result<()> {
        let (target, here) = (switch.pid().to_string(), self.pid().to_string());
        // A router has an `eth0` of its own.
        let end = format!("e-{}", self.pid());
        switch.check(&["ip", "link", "add", "name", port, "type", "veth", "peer", "name", &end])?;
        // `ip` on the switch does not know our process ids, the one outside does.
        let moved = Command::new("nsenter")
            .args(["--target", &target, "--net", "--", "ip", "link", "set", &end, "netns", &here])
            .status()?;
        ensure!(moved.success(), "cannot plug the cable into {}", self.name);
        self.check(&["ip", "link", "set", &end, "name", "eth0"]).map(drop)
    }

    /// Gives it another address on its switch, as DHCP does it: the old one goes with the routes through it, the new one
    /// comes. [`Host::address`] goes on saying the first one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn move_to(&self, address: Ipv4Addr, gateway: Ipv4Addr) -> anyhow::Result<()> {
        let change = format!(
            "ip address flush dev eth0 scope global && ip address add {address}/24 dev eth0 \
             && ip route add default via {gateway}"
        );
        self.check(&["sh", "-c", &change]).map(drop)
    }

    /// Others see its packets of this UDP port come from another one from now on, and reach it there only, as behind a NAT
    /// that has forgotten them. Without tracked connections, so that it holds for the next packet.
    ///
    /// # Errors
    /// The kernel refuses, or it is done already.
    pub fn show_port_as(&self, port: u16, outside: u16) -> anyhow::Result<()> {
        let rules = format!(
            "add table inet rebound; \
             add chain inet rebound out {{ type filter hook postrouting priority 300; }}; \
             add rule inet rebound out oifname eth0 udp sport {port} udp sport set {outside}; \
             add chain inet rebound in {{ type filter hook prerouting priority -310; }}; \
             add rule inet rebound in iifname eth0 udp dport {port} drop; \
             add rule inet rebound in iifname eth0 udp dport {outside} udp dport set {port}"
        );
        self.check(&["nft", &rules]).map(drop)
    }

    /// Ends [`Host::show_port_as`].
    ///
    /// # Errors
    /// Nothing was done.
    pub fn show_ports(&self) -> anyhow::Result<()> {
        self.check(&["nft", "delete table inet rebound"]).map(drop)
    }

    /// Waits until a TCP connection from this machine is accepted.
    ///
    /// # Errors
    /// Not within the usual time.
    pub fn wait_for_port(&self, address: std::net::SocketAddr) -> anyhow::Result<()> {
        eventually(&format!("{address} answers to {}", self.name), soon(), || {
            self.within(|| std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)))??;
            Ok(())
        })
    }
}

/// The address of IPv6 of this number on the switch.
pub(crate) fn switch6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, number.into())
}

/// Runs `work` in a thread that is in this network.
pub(crate) fn within<T: Send>(network: &File, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Wakes the commands of ours that entered a machine, by its first process. They stop themselves when what they
/// started is stopped.
fn wake_entrances(first: Pid) {
    let target = first.as_raw_nonzero().to_string();
    for entry in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let children = fs::read_to_string(entry.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace() {
            let command = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            let mut words = command.split(|byte| *byte == 0).skip(1);
            let enters = words.next() == Some(b"--target") && words.next() == Some(target.as_bytes());
            if let Some(pid) = child.parse().ok().and_then(Pid::from_raw).filter(|_| enters) {
                // It may have ended in between.
                let _ = kill_process(pid, Signal::CONT);
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let Some(mut init) = self.lock_init().take() else { return };
        drop(init.stdin.take());
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(init.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                // Its child is killed with it.
                let _ = init.kill();
                let _ = init.wait();
                break;
            }
            pause();
        }
        cgroup::remove(&self.cgroup);
    }
}
