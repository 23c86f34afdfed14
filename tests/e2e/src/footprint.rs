//! What a machine has at one moment, for finding what is left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::{Host, cgroup};

/// Everything that a program could leave behind on a machine, except for files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Names of processes and how many have it. Zombies count.
    pub processes: BTreeMap<String, usize>,
    /// Mount points.
    pub mounts: BTreeSet<String>,
    /// Names of network devices.
    pub devices: BTreeSet<String>,
    /// The rules of all nftables tables, counters and handles left out.
    pub rules: String,
    /// Cgroups below that of the machine.
    pub cgroups: BTreeSet<String>,
}

impl Footprint {
    /// Looks at a machine.
    ///
    /// # Errors
    /// The machine is gone, or `ip` or `nft` is not installed.
    pub fn of(host: &Host) -> anyhow::Result<Self> {
        let init = host.pid();
        let mounts = fs::read_to_string(format!("/proc/{init}/mounts")).context("the machine is gone")?;
        let links = host.check(&["ip", "-oneline", "link"])?;
        // `12: oak0-1a2b3c4d@if3: <…>`
        let device = |line: &str| Some(line.split(": ").nth(1)?.split('@').next()?.to_owned());
        Ok(Self {
            processes: processes(init)?,
            mounts: mounts.lines().filter_map(|line| Some(line.split(' ').nth(1)?.to_owned())).collect(),
            devices: links.lines().filter_map(device).collect(),
            rules: host.check(&["nft", "--stateless", "list", "ruleset"])?,
            cgroups: cgroup::all_below(host),
        })
    }

    /// Succeeds if nothing is there that was not there before.
    ///
    /// # Errors
    /// Names what there is more than in `before`.
    pub fn nothing_more_than(&self, before: &Self) -> anyhow::Result<()> {
        let mut more = Vec::new();
        for (name, count) in &self.processes {
            let earlier = before.processes.get(name).copied().unwrap_or(0);
            if *count > earlier {
                more.push(format!("{} × process {name}", count - earlier));
            }
        }
        for (kind, now, earlier) in [
            ("mount", &self.mounts, &before.mounts),
            ("device", &self.devices, &before.devices),
            ("cgroup", &self.cgroups, &before.cgroups),
        ] {
            more.extend(now.difference(earlier).map(|name| format!("{kind} {name}")));
        }
        let earlier: BTreeSet<&str> = before.rules.lines().map(str::trim).collect();
        let new = self.rules.lines().map(str::trim).filter(|line| !earlier.contains(line));
        more.extend(new.map(|line| format!("rule {line}")));
        if more.is_empty() { Ok(()) } else { bail!("left behind: {}", more.join("; ")) }
    }
}

/// The machine's own `/proc`, reached through its first process. `nsenter` and what it runs are not of the machine.
fn processes(init: u32) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{init}/root/proc")).context("the machine is gone")?.flatten() {
        let is_process = entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
        if let Some(name) = is_process.then(|| name_of(&entry.path())).flatten() {
            *found.entry(name).or_insert(0) += 1;
        }
    }
    Ok(found)
}

/// The program as it was called, which tells a shim from its agent; a zombie has only the name the kernel keeps.
/// `None` for a process that has ended in between.
fn name_of(process: &Path) -> Option<String> {
    let command = fs::read(process.join("cmdline")).ok()?;
    let program = command.split(|byte| *byte == 0).next().unwrap_or_default();
    if program.is_empty() {
        return Some(fs::read_to_string(process.join("comm")).ok()?.trim().to_owned());
    }
    let program = String::from_utf8_lossy(program);
    Some(program.rsplit('/').next().unwrap_or_default().to_owned())
}
