//! A private network for the measurement: loopback, and one device with an address so that a worker finds its own.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, bail};

/// Set for the second life of this program, inside the namespaces.
const INSIDE: &str = "OAK_BENCH_INSIDE";

/// Continues in new network and mount namespaces, which vanish with the last process in them.
pub(crate) fn enter() -> anyhow::Result<()> {
    if std::env::var_os(INSIDE).is_none() {
        if !rustix::process::geteuid().is_root() {
            bail!("measuring containers needs root");
        }
        let error = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "--"])
            .arg(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .env(INSIDE, "1")
            .exec();
        return Err(error).context("cannot run unshare (package util-linux)");
    }
    for command in [
        "link set lo up",
        "link add bench0 type veth peer name bench1",
        "address add 192.0.2.1/24 dev bench0",
        "link set bench0 up",
        "link set bench1 up",
    ] {
        let status = Command::new("ip").args(command.split(' ')).status().context("cannot run ip")?;
        if !status.success() {
            bail!("ip {command}: {status}");
        }
    }
    Ok(())
}
