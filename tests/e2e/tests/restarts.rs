//! Processes die and come back; what runs in containers does not notice.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use oak_e2e::{
    Api, Footprint, Host, Machines, Microservice, Tiers, World, application, container_cgroups, eventually,
    is_alive, processes_of, soon,
};

#[test]
fn every_role_can_be_killed_and_comes_back() -> anyhow::Result<()> {
    World::run("restarts", |world| {
        let machines = Machines::create(world, 1)?;
        let worker_host = &machines.workers[0];
        let before = Footprint::of(worker_host)?;
        let mut tiers = Tiers::start(world, &machines)?;
        let services = [Microservice::shell("keeper", "exec sleep 1000"), Microservice::nginx("server")];
        tiers.api.create(&application("lasting", services))?;
        tiers.api.deploy("keeper")?;
        tiers.api.deploy("server")?;
        all_run(&tiers.api)?;
        let processes = containers(worker_host)?;
        ensure!(processes.len() == 2, "{processes:?}");

        tiers.workers[0].kill()?;
        still_the_same(worker_host, &processes)?;
        tiers.workers[0].start_until("connected to the cluster")?;
        all_run(&tiers.api)?;
        still_the_same(worker_host, &processes)?;

        tiers.cluster.kill()?;
        still_the_same(worker_host, &processes)?;
        tiers.cluster.start_until("cluster ready")?;
        all_run(&tiers.api)?;
        still_the_same(worker_host, &processes)?;

        tiers.root.kill()?;
        ensure!(tiers.api.deploy("keeper").is_err(), "a dead root deployed something");
        tiers.root.start_until("root ready")?;
        all_run(&tiers.api)?;
        // Who is connected again after the restart can be given work.
        tiers.api.deploy("keeper")?;
        tiers.api.wait_running("keeper", 2)?;
        tiers.api.undeploy("keeper", 1)?;
        tiers.api.wait_running("keeper", 1)?;
        still_the_same(worker_host, &processes)?;

        for oak in [&mut tiers.workers[0], &mut tiers.cluster, &mut tiers.root] {
            let code = oak.terminate()?;
            ensure!(code == Some(0), "SIGTERM ended {} with {code:?}", oak.log().display());
        }
        still_the_same(worker_host, &processes)?;
        tiers.root.start_until("root ready")?;
        tiers.cluster.start_until("cluster ready")?;
        tiers.workers[0].start_until("connected to the cluster")?;
        all_run(&tiers.api)?;
        still_the_same(worker_host, &processes)?;

        let down = world.command(worker_host, &["down"])?;
        ensure!(down.code == Some(0), "oak down: {down:?}");
        ensure!(tiers.workers[0].wait_for_end()? == Some(0), "the worker did not end properly");
        ensure!(!processes.values().flatten().any(|pid| is_alive(*pid)), "processes survived `oak down`");
        Footprint::of(worker_host)?.nothing_more_than(&before)?;

        // Down is not deleted: the next start runs everything again.
        tiers.workers[0].start_until("connected to the cluster")?;
        all_run(&tiers.api)?;
        ensure!(containers(worker_host)?.len() == 2);
        Ok(())
    })
}

fn all_run(api: &Api<'_>) -> anyhow::Result<()> {
    for service in ["keeper", "server"] {
        api.wait_running(service, 1)?;
        // Also what is known again, not only what was known before the restart.
        eventually("the status is up to date", soon(), || {
            let now = api.instances(service)?;
            ensure!(now.iter().all(|instance| !instance.detail.contains("not connected")), "{now:?}");
            ensure!(now.iter().all(|instance| instance.worker == "worker-a"), "{now:?}");
            Ok(())
        })?;
    }
    Ok(())
}

fn containers(host: &Host) -> anyhow::Result<BTreeMap<String, BTreeSet<i32>>> {
    let names = container_cgroups(host)?;
    names.into_iter().map(|name| processes_of(host, &name).map(|pids| (name, pids))).collect()
}

fn still_the_same(host: &Host, before: &BTreeMap<String, BTreeSet<i32>>) -> anyhow::Result<()> {
    eventually("the containers have the same processes as before", soon(), || {
        let now = containers(host)?;
        ensure!(now == *before, "{now:?} instead of {before:?}");
        Ok(())
    })?;
    let dead = before.values().flatten().find(|pid| !is_alive(**pid));
    dead.map_or(Ok(()), |pid| Err(anyhow::anyhow!("process {pid} has ended")))
        .context("containers were touched")
}
