//! A service of which at most one may run: it rather does not run for a while than twice.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use oak_e2e::{Machines, Microservice, Watch, World, application, containers, eventually, let_pass, soon};
use rustix::process::Signal;
use serde_json::json;

use crate::site::{Site, replaced};

const NAME: &str = "single";
const PORT: u16 = 8081;

/// A permission lasts 10 s from when it was asked for; then half a second for the kill, and the usual second for a
/// new place. The cluster counts from its last answer.
const AFTER_PERMISSION: Duration = Duration::from_millis(10_000 + 500 + 1000);

/// How the worker is lost while its container goes on.
enum Loss {
    Cut,
    Freeze,
}

#[test]
fn at_most_one_runs_when_the_worker_is_cut_off() -> anyhow::Result<()> {
    World::run("single_cut", |world| moves_without_overlap(world, &Loss::Cut))
}

#[test]
fn at_most_one_runs_when_the_agent_is_frozen() -> anyhow::Result<()> {
    World::run("single_frozen", |world| moves_without_overlap(world, &Loss::Freeze))
}

fn moves_without_overlap(world: &World, loss: &Loss) -> anyhow::Result<()> {
    let machines = Machines::on_cables(world, 2)?;
    let site = Site::start(world, &machines)?;
    let service =
        Microservice::nginx(NAME).set("port", json!(format!("{PORT}:80"))).set("at_most_one", json!(true));
    site.tiers.api.create(&application("single", [service]))?;
    site.tiers.api.deploy(NAME)?;
    let instances = site.tiers.api.wait_running(NAME, 1)?;
    let place = instances.first().context("no instance")?.worker.clone();
    let index = machines.workers.iter().position(|host| host.name() == place).context("no such worker")?;
    let (here, there) = (&machines.workers[index], &machines.workers[1 - index]);
    let id = site.tiers.api.service(NAME)?["microserviceID"].as_str().context("no id")?.to_owned();
    let container = format!("{id}.0");
    let places = || -> anyhow::Result<Vec<&str>> {
        let has = |host: &&oak_e2e::Host| containers(host).is_ok_and(|all| all.contains_key(&container));
        Ok(machines.workers.iter().filter(has).map(oak_e2e::Host::name).collect())
    };
    let watch = [Watch::start(world.switch(), there.address(), PORT)?];

    let start = Instant::now();
    match loss {
        Loss::Cut => here.cable()?.cut(),
        Loss::Freeze => site.tiers.workers[index].signal(Signal::STOP)?,
    }
    let mut before = places()?;
    ensure!(before == [here.name()], "{before:?}");
    let mut was_nowhere = false;
    while before != [there.name()] {
        ensure!(start.elapsed() < soon(), "it did not move: {before:?}");
        let_pass(Duration::from_millis(10));
        before = places()?;
        ensure!(before.len() < 2, "it runs on {before:?} after {:?}", start.elapsed());
        was_nowhere |= before.is_empty();
    }
    ensure!(was_nowhere, "it was never away");
    replaced("at most one", &watch, 0, start, AFTER_PERMISSION)?;

    match loss {
        Loss::Cut => here.cable()?.mend(),
        Loss::Freeze => site.tiers.workers[index].signal(Signal::CONT)?,
    }
    // Long enough for the worker to connect, and to do something wrong.
    let returned = Instant::now();
    eventually("everything is said to run again", soon(), || {
        let now = places()?;
        ensure!(now == [there.name()], "{now:?}");
        ensure!(returned.elapsed() > Duration::from_secs(5), "still watched");
        Ok(())
    })?;
    site.tiers.api.wait_running(NAME, 1)?;
    site.all_said_to_run()
}
