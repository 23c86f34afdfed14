//! Machines for measurements of the network: network namespaces on a cable.

use std::fs::{self, File};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::wait_until;

/// How long anything may take to come up.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A process that ends with its owner.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A machine.
pub(crate) struct Node(pub(crate) Process);

impl Node {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let own = fs::read_link("/proc/self/ns/net")?;
        let child = Command::new("unshare").args(["--net", "--", "sleep", "36000"]).spawn()?;
        let node = Self(Process(child));
        let place = node.place().0;
        wait_until("a namespace", LIMIT, || fs::read_link(&place).is_ok_and(|other| other != own))?;
        Ok(node)
    }

    /// Where it is.
    pub(crate) fn place(&self) -> Place {
        Place(format!("/proc/{}/ns/net", self.0.0.id()).into())
    }

    /// Runs a command in it.
    pub(crate) fn run(&self, line: &str) -> anyhow::Result<()> {
        self.place().run(line)
    }

    /// Connects two machines by a cable: device and address with length on each side.
    pub(crate) fn connect(
        &self,
        device: &str,
        address: &str,
        other: (&Self, &str, &str),
    ) -> anyhow::Result<()> {
        let (node, peer, its_address) = other;
        let pid = node.0.0.id();
        self.run(&format!("ip link add {device} type veth peer name {peer} netns {pid}"))?;
        for (node, device, address) in [(self, device, address), (node, peer, its_address)] {
            node.run("ip link set lo up")?;
            node.run(&format!("ip address add {address} dev {device}"))?;
            node.run(&format!("ip link set {device} up"))?;
        }
        Ok(())
    }
}

/// A network namespace, by the file that names it.
#[derive(Clone)]
pub(crate) struct Place(pub(crate) PathBuf);

impl Place {
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.0.display())).arg("--").arg(program);
        command
    }

    pub(crate) fn run(&self, line: &str) -> anyhow::Result<()> {
        let mut words = line.split(' ');
        let output = self.command(words.next().context("no program")?).args(words).output()?;
        if !output.status.success() {
            bail!("{line}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// A refused connection is an answer.
    pub(crate) fn reaches(&self, address: &str) -> bool {
        let connect = || -> anyhow::Result<bool> {
            match TcpStream::connect_timeout(&address.parse()?, Duration::from_secs(1)) {
                Ok(_) => Ok(true),
                Err(error) => Ok(error.kind() == std::io::ErrorKind::ConnectionRefused),
            }
        };
        self.inside(connect).unwrap_or(false)
    }

    /// Does something on a thread of its own in that namespace.
    pub(crate) fn inside<T: Send>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        let file = File::open(&self.0)?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                work()
            });
            thread.join().unwrap_or_else(|_| bail!("the thread panicked"))
        })
    }
}
