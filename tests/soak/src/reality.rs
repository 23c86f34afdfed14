//! Compares what a user knows with what really is, on every machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, ensure};
use oak_e2e::{Api, Footprint, Host, World, get};

use crate::observer::{Observer, Sighting};
use crate::record::{Record, read_services};
use crate::site::Machines;

/// Directories of a worker with one entry for each container.
const PER_CONTAINER: [&str; 3] = ["containers", "files", "logs"];

/// Where to look.
pub(crate) struct Reality<'a> {
    pub(crate) world: &'a World,
    pub(crate) machines: &'a Machines,
    pub(crate) observer: &'a Observer<'a>,
    pub(crate) api: &'a Api<'a>,
}

impl Reality<'_> {
    /// Succeeds if exactly what was acknowledged exists, by the API and in reality. What was in doubt is settled then.
    pub(crate) fn equals(&self, record: &mut Record) -> anyhow::Result<()> {
        let (seen, not_running) = read_services(&self.api.call("GET", "/api/services/", None)?)?;
        record.agrees(&seen)?;
        ensure!(not_running.is_empty(), "{}", not_running.join("; "));
        let found = self.observer.look();
        let wanted: Vec<(String, u64)> =
            seen.iter().flat_map(|(name, all)| all.iter().map(|number| (name.clone(), *number))).collect();
        let mut present: Vec<(String, u64)> =
            found.iter().map(|sighting| (sighting.service.clone(), sighting.number)).collect();
        present.sort();
        ensure!(present == sorted(wanted.clone()), "these run: {present:?}; wanted are {wanted:?}");
        let strays = self.observer.strays(&found);
        ensure!(strays.is_empty(), "outside of every cgroup: {strays:?}");
        for host in self.machines.workers() {
            let here: Vec<&Sighting> = found.iter().filter(|it| it.machine == host.name()).collect();
            nothing_else(host, &here)?;
        }
        self.all_answer(record, &found)?;
        record.settle(&seen);
        Ok(())
    }

    /// Every container answers at the port of its machine, asked from outside, and every instance of a service at the
    /// service address, asked from each machine that has one of them.
    fn all_answer(&self, record: &Record, found: &[Sighting]) -> anyhow::Result<()> {
        let mut everywhere: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        let mut on_one: BTreeMap<(&str, &str), BTreeSet<String>> = BTreeMap::new();
        for sighting in found {
            let (machine, service) = (&*sighting.machine, &*sighting.service);
            let name = format!("instance-{}", sighting.number);
            everywhere.entry(service).or_default().insert(name.clone());
            on_one.entry((machine, service)).or_default().insert(name);
        }
        for ((machine, service), here) in on_one {
            let application = record.applications.get(service).context("an unknown service runs")?;
            let host =
                self.machines.workers().find(|host| host.name() == machine).context("no such worker")?;
            let url = format!("http://{}:{}/", host.address(), application.port());
            served_by(self.world.switch(), &url, &here)?;
            served_by(host, &format!("http://{}/", application.address()), &everywhere[service])?;
        }
        Ok(())
    }
}

/// Asks until all of these have answered, which are asked in turn.
fn served_by(from: &Host, url: &str, expected: &BTreeSet<String>) -> anyhow::Result<()> {
    let mut seen = BTreeSet::new();
    for _ in 0..expected.len() * 2 {
        let page = get(from, url)?;
        ensure!(page.status == 200, "{url} answered {} to {}", page.status, from.name());
        seen.insert(page.served_by);
        if seen == *expected {
            return Ok(());
        }
    }
    anyhow::bail!("{url} is served by {seen:?} instead of {expected:?}, asked from {}", from.name())
}

/// Succeeds if a worker has nothing of other containers than these.
fn nothing_else(host: &Host, here: &[&Sighting]) -> anyhow::Result<()> {
    let name = host.name();
    let expected: BTreeSet<&str> = here.iter().map(|sighting| sighting.container.as_str()).collect();
    let footprint = Footprint::of(host)?;
    let shims = footprint.processes.get("oak-shim").copied().unwrap_or(0);
    ensure!(shims == expected.len(), "{name} has {shims} shims for {expected:?}");
    let devices = footprint.devices.iter().filter(|device| device.starts_with("oak0-")).count();
    ensure!(devices == expected.len(), "{name} has {devices} devices for {expected:?}");
    let cgroups: BTreeSet<&str> =
        footprint.cgroups.iter().filter_map(|path| path.strip_prefix("oak/")).collect();
    ensure!(cgroups == expected, "{name} has the cgroups {cgroups:?} for {expected:?}");
    for directory in PER_CONTAINER {
        let path = host.directory().join("data/worker").join(directory);
        let entries = fs::read_dir(&path).into_iter().flatten().flatten();
        let entries = entries.filter(|entry| entry.path().is_dir());
        let found: BTreeSet<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        ensure!(found.iter().eq(&expected), "{} holds {found:?} for {expected:?}", path.display());
    }
    Ok(())
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort();
    list
}
