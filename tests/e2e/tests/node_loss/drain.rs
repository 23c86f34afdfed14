//! A worker is emptied on purpose: the new one answers before the old one stops.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use oak_e2e::{
    Host, Machines, Microservice, Watch, World, application, containers, eventually, let_pass, soon,
};
use serde_json::json;

use crate::site::{PORT, SERVICE, Site};

#[test]
fn a_drained_worker_is_emptied_without_a_gap_and_takes_nothing_until_it_is_opened() -> anyhow::Result<()> {
    World::run("drain", |world| {
        let machines = Machines::create(world, 2)?;
        let site = Site::start(world, &machines)?;
        let (drained, other) = (&machines.workers[0], &machines.workers[1]);
        let moving = site.instance_on(drained)?;
        let name = format!("instance-{}", moving.number);
        let container = site.container(moving.number);
        let old = Watch::start(world.switch(), drained.address(), PORT)?;
        let new = Watch::start(world.switch(), other.address(), PORT)?;
        let single = deploy_single(&site, drained, other)?;

        let start = Instant::now();
        set(&site, drained, "draining")?;
        while !containers(drained)?.is_empty() {
            ensure!(start.elapsed() < soon(), "not empty: {:?}", containers(drained)?);
            let present = machines.workers.iter().filter(|host| has(host, &container)).count();
            ensure!(present > 0, "{name} runs nowhere after {:?}", start.elapsed());
            let singles = machines.workers.iter().filter(|host| has(host, &single)).count();
            ensure!(singles < 2, "at most one runs twice after {:?}", start.elapsed());
            let_pass(Duration::from_millis(10));
        }
        let moved = eventually("the moved instance answers", soon(), || {
            new.first_by(&name, start).context("no answer")
        })?;
        let last = old.last_by(&name).context("it never answered at its old place")?;
        ensure!(moved.at <= last.at, "nobody answered for {:?}", moved.at - last.at);
        let worker = site.tiers.api.call("GET", &format!("/api/workers/{}", drained.name()), None)?;
        ensure!(worker["availability"] == "draining", "{worker}");

        site.tiers.api.deploy(SERVICE)?;
        site.tiers.api.wait_running(SERVICE, 3)?;
        ensure!(containers(drained)?.is_empty(), "a drained worker was given something");
        set(&site, drained, "open")?;
        site.tiers.api.deploy(SERVICE)?;
        site.tiers.api.wait_running(SERVICE, 4)?;
        ensure!(containers(drained)?.len() == 1, "an open worker was given nothing");
        Ok(())
    })
}

const SINGLE: &str = "single";

/// Deploys a service of which at most one may run, on a worker that it may leave later. Returns the container's name.
fn deploy_single(site: &Site<'_>, host: &Host, others: &Host) -> anyhow::Result<String> {
    let service = Microservice::shell(SINGLE, "trap 'exit 0' TERM; sleep 100000 & wait")
        .set("at_most_one", json!(true));
    site.tiers.api.create(&application("single", [service]))?;
    // The only one that is open gets it.
    set(site, others, "cordoned")?;
    site.tiers.api.deploy(SINGLE)?;
    let instances = site.tiers.api.wait_running(SINGLE, 1)?;
    set(site, others, "open")?;
    ensure!(instances.iter().all(|instance| instance.worker == host.name()), "{instances:?}");
    let service = site.tiers.api.service(SINGLE)?;
    Ok(format!("{}.0", service["microserviceID"].as_str().context("no id")?))
}

fn has(host: &Host, container: &str) -> bool {
    containers(host).is_ok_and(|all| all.contains_key(container))
}

fn set(site: &Site<'_>, host: &Host, availability: &str) -> anyhow::Result<()> {
    let path = format!("/api/workers/{}/availability", host.name());
    site.tiers.api.call("PUT", &path, Some(&json!({ "availability": availability }))).map(drop)
}
