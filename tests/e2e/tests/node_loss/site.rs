//! One cluster with a web service on every worker, and what somebody outside sees of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use oak_e2e::{
    Host, Instance, Machines, Microservice, Tiers, Watch, World, application, container_cgroups, eventually,
    processes_of, soon,
};
use serde_json::json;

/// Name of the service, which has an instance on every worker at first.
pub(crate) const SERVICE: &str = "web";
/// Its service address.
pub(crate) const SERVICE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 30, 77, 1);
/// Its port on every worker.
pub(crate) const PORT: u16 = 8080;

/// Process ids of each container, by worker and container.
pub(crate) type Running = BTreeMap<(String, String), BTreeSet<i32>>;

pub(crate) struct Site<'world> {
    pub(crate) world: &'world World,
    pub(crate) machines: &'world Machines,
    pub(crate) tiers: Tiers<'world>,
    /// Id of the service.
    id: String,
}

impl<'world> Site<'world> {
    /// Starts everything, and as many instances as there are workers.
    pub(crate) fn start(world: &'world World, machines: &'world Machines) -> anyhow::Result<Self> {
        let tiers = Tiers::start(world, machines)?;
        let service = Microservice::nginx(SERVICE)
            .set("port", json!(format!("{PORT}:80")))
            .set("addresses", json!({ "rr_ip": SERVICE_ADDRESS }));
        tiers.api.create(&application("site", [service]))?;
        for _ in &machines.workers {
            tiers.api.deploy(SERVICE)?;
        }
        let instances = tiers.api.wait_running(SERVICE, machines.workers.len())?;
        let places: BTreeSet<&str> = instances.iter().map(|instance| instance.worker.as_str()).collect();
        ensure!(places.len() == machines.workers.len(), "not one on each worker: {instances:?}");
        let id = tiers.api.service(SERVICE)?["microserviceID"].as_str().context("no id")?.to_owned();
        for host in &machines.workers {
            world.switch().wait_for_port((host.address(), PORT).into())?;
        }
        Ok(Self { world, machines, tiers, id })
    }

    /// The instance on a worker, by the API.
    pub(crate) fn instance_on(&self, worker: &Host) -> anyhow::Result<Instance> {
        let all = self.tiers.api.instances(SERVICE)?;
        let here = all.into_iter().find(|instance| instance.worker == worker.name());
        here.with_context(|| format!("no instance on {}", worker.name()))
    }

    /// Name of the container of an instance.
    pub(crate) fn container(&self, number: u64) -> String {
        format!("{}.{number}", self.id)
    }

    /// Whether a container is an instance of the service.
    pub(crate) fn is_web(&self, container: &str) -> bool {
        container.starts_with(&format!("{}.", self.id))
    }

    /// Somebody at the switch asks each of these workers.
    pub(crate) fn watch_from_outside(&self, workers: &[Host]) -> anyhow::Result<Vec<Watch>> {
        workers.iter().map(|host| Watch::start(self.world.switch(), host.address(), PORT)).collect()
    }

    /// What really runs, whatever anybody says.
    pub(crate) fn running(&self) -> anyhow::Result<Running> {
        let mut running = Running::new();
        for host in self.machines.workers.iter().filter(|host| host.pid() != 0) {
            for container in container_cgroups(host)? {
                let processes = processes_of(host, &container)?;
                running.insert((host.name().to_owned(), container), processes);
            }
        }
        Ok(running)
    }

    /// Waits until every instance has run exactly once for three seconds. (Before, a worker that comes back may have
    /// what it lost for a moment: it learns of that while it starts.)
    pub(crate) fn runs_once(&self) -> anyhow::Result<()> {
        let wanted: Vec<String> =
            (0..self.machines.workers.len()).map(|number| format!("{}.{number}", self.id)).collect();
        let mut since = Instant::now();
        eventually("every instance runs once and stays alone", soon(), || {
            let running = self.running()?;
            let names = running.keys().map(|(_, container)| container).filter(|name| self.is_web(name));
            let mut names: Vec<&String> = names.collect();
            names.sort();
            if !names.iter().copied().eq(&wanted) {
                since = Instant::now();
            }
            ensure!(since.elapsed() >= Duration::from_secs(3), "{running:?}");
            Ok(())
        })
    }

    /// Waits until the root knows of every instance and says that it runs.
    pub(crate) fn all_said_to_run(&self) -> anyhow::Result<()> {
        eventually("the root knows that everything runs", soon() * 2, || {
            let instances = self.tiers.api.instances(SERVICE)?;
            let is_fine = |instance: &Instance| {
                instance.status == "RUNNING" && !instance.detail.contains("not connected")
            };
            let count = instances.len();
            ensure!(count == self.machines.workers.len() && instances.iter().all(is_fine), "{instances:?}");
            Ok(())
        })
    }
}

/// Waits until one of the watches had an answer of the instance since `since`; returns how long that took.
#[allow(clippy::print_stderr, reason = "the measured time is worth seeing")]
pub(crate) fn replaced(
    what: &str,
    watches: &[Watch],
    number: u64,
    since: Instant,
    within: Duration,
) -> anyhow::Result<()> {
    let name = format!("instance-{number}");
    let found = eventually(&format!("{name} answers"), soon(), || {
        let answers = watches.iter().filter_map(|watch| watch.first_by(&name, since));
        answers.min_by_key(|answer| answer.at).context("no answer of it")
    })?;
    let took = found.at - since;
    eprintln!("{what}: {name} answered after {:.2} s", took.as_secs_f64());
    ensure!(took <= within, "{what}: it took {took:?}, {within:?} are allowed");
    Ok(())
}

/// Fails if a watch had no answer for longer than a second.
pub(crate) fn never_stopped(what: &str, watch: &Watch) -> anyhow::Result<()> {
    silent_at_most(Duration::from_secs(1), what, watch)
}

/// Fails if a watch had no answer for longer than that.
#[allow(clippy::print_stderr, reason = "the measured time is worth seeing")]
pub(crate) fn silent_at_most(limit: Duration, what: &str, watch: &Watch) -> anyhow::Result<()> {
    let silence = watch.longest_silence();
    eprintln!("{what}: longest time without an answer {:.2} s", silence.as_secs_f64());
    ensure!(silence <= limit, "{what}: nobody answered for {silence:?}");
    Ok(())
}
