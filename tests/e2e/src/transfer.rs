//! A transfer between workers that shall survive what happens to them.

use anyhow::{Context as _, bail, ensure};

use crate::{Host, Machines, World, eventually, soon};

/// Does something while the second worker fetches so many MiB of random bytes from the instance of `web`, whose service
/// address this is, on the first one: encrypted, at `mib_per_s`, in at most five times as long
/// as that takes. Every byte has to arrive.
///
/// # Errors
/// The transfer breaks or is over before `work`, or `work` fails.
pub fn while_transferring(
    world: &World,
    machines: &Machines,
    address: &str,
    (mib, mib_per_s): (u32, u32),
    work: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let make = format!("head -c {mib}M /dev/urandom | tee /usr/share/nginx/html/big | sha256sum");
    let made = world.command(&machines.root, &["exec", "web", "--", "sh", "-c", &make])?;
    ensure!(made.code == Some(0) && made.stdout.len() > 64, "{made:?}");
    let client = machines.workers.get(1).context("there is no second worker")?;
    let seconds = mib / mib_per_s * 5;
    let fetch = format!(
        "set -o pipefail; curl -fsS --max-time {seconds} --limit-rate {mib_per_s}M http://{address}/big | sha256sum"
    );
    let fetched = std::thread::scope(|scope| {
        let fetch = scope.spawn(|| client.check(&["bash", "-c", &fetch]));
        eventually("the transfer has begun", soon(), || has_received(client, 1 << 20))?;
        work()?;
        ensure!(!fetch.is_finished(), "the transfer was too short to show anything");
        fetch.join().unwrap_or_else(|_| bail!("curl was not waited for"))
    })?;
    ensure!(fetched == made.stdout, "{fetched} arrived, {} was sent", made.stdout);
    Ok(())
}

fn has_received(worker: &Host, least: u64) -> anyhow::Result<()> {
    let received = encrypted_bytes(worker)?;
    ensure!(received > least, "{received} bytes");
    Ok(())
}

/// Bytes that a machine has received encrypted, by the engine or by its kernel.
///
/// # Errors
/// There is no device for that.
pub fn encrypted_bytes(host: &Host) -> anyhow::Result<u64> {
    let devices = host.check(&["cat", "/proc/net/dev"])?;
    let of = |device: &str| {
        let line = devices.lines().find(|line| line.trim_start().starts_with(device))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let engine = of("oak0e:").with_context(|| format!("no tunnel device: {devices}"))?;
    Ok(engine + of("oak0w:").unwrap_or(0))
}
