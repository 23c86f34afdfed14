//! Machines are removed for good: emptied ones, dead ones, and some that come back all the same.

use anyhow::{Context as _, ensure};
use oak_e2e::{
    Api, Host, Machines, Microservice, Oak, Tiers, World, application, containers, eventually, is_alive,
    processes_of, soon,
};

/// Ends when it is asked to.
const POLITE: &str = "trap 'exit 0' TERM; sleep 100000 & wait";

const REFUSED: &str = "was removed here: stop what it runs";

/// The root hears of a worker a moment after its cluster.
fn two_are_known(api: &Api<'_>) -> anyhow::Result<()> {
    eventually("the root knows both workers", soon(), || {
        let known = workers(api)?;
        ensure!(known.len() == 2, "{known:?}");
        Ok(())
    })
}

#[test]
fn workers_are_removed_refused_and_taken_in_again() -> anyhow::Result<()> {
    World::run("removal_worker", |world| {
        let machines = Machines::create(world, 2)?;
        let mut tiers = Tiers::start(world, &machines)?;
        tiers.api.create(&application("shop", [Microservice::shell("sleeper", POLITE)]))?;
        tiers.api.deploy("sleeper")?;
        let first = tiers.api.wait_running("sleeper", 1)?.remove(0).worker;
        let leaving =
            machines.workers.iter().position(|host| host.name() == first).context("no such worker")?;
        let staying = 1 - leaving;
        let (left, stays) = (machines.workers[leaving].name(), machines.workers[staying].name());
        let oak = |words: &[&str]| world.command(&machines.root, words);

        // One that is emptied and switched off.
        let drained = oak(&["drain", left, "--wait", "--timeout", "2m"])?;
        ensure!(drained.code == Some(0), "{drained:?}");
        let kept = oak(&["delete", "worker", left])?;
        ensure!(
            kept.code == Some(1) && kept.stderr.contains("is connected: empty it with `oak drain"),
            "{kept:?}"
        );
        tiers.workers[leaving].terminate()?;
        is_away(&tiers.api, left)?;
        let removed = oak(&["delete", "worker", left])?;
        ensure!(removed.stdout == format!("worker {left} removed from cluster site\n"), "{removed:?}");
        let gone = oak(&["delete", "worker", left])?;
        ensure!(gone.code == Some(3), "{gone:?}");

        // It is started again as if nothing had happened.
        tiers.workers[leaving].start()?;
        tiers.workers[leaving].wait_for_log(REFUSED)?;
        ensure!(workers(&tiers.api)? == [stays], "{:?}", workers(&tiers.api)?);
        tiers.workers[leaving].terminate()?;

        // The other one is lost with what it has; its container goes on, which nobody can see.
        tiers.workers[staying].kill()?;
        is_away(&tiers.api, stays)?;
        tiers.api.wait_status("sleeper", "NO_QUALIFIED_WORKER_FOUND", &["is unreachable"])?;
        let container = containers(&machines.workers[staying])?.into_keys().next().context("no container")?;
        let process = first_process(&machines.workers[staying], &container)?;
        let kept = oak(&["delete", "worker", stays])?;
        ensure!(
            kept.code == Some(1) && kept.stderr.contains("1 instance (shop.test.sleeper.test/0)"),
            "{kept:?}"
        );
        let removed = oak(&["delete", "worker", stays, "--force"])?;
        ensure!(removed.code == Some(0), "{removed:?}");
        ensure!(workers(&tiers.api)?.is_empty());

        // A new token takes the first one in again, with another key, and it gets what the other one had.
        let key_file = machines.workers[leaving].directory().join("data/worker/network-key");
        let former = std::fs::read(&key_file)?;
        let mut joined = join(world, &machines, leaving, &tiers.api)?;
        joined.start_until("connected to the cluster")?;
        ensure!(std::fs::read(&key_file)? != former, "the key of the removed worker");
        let instance = tiers.api.wait_running("sleeper", 1)?.remove(0);
        ensure!(instance.worker == left && instance.number == 0, "{instance:?}");

        // The other one comes back: it is refused and goes on, then stops everything and joins.
        tiers.workers[staying].start()?;
        tiers.workers[staying].wait_for_log(REFUSED)?;
        ensure!(is_alive(process), "it was not told to stop anything");
        tiers.workers[staying].terminate()?;
        let mut rejoined = join(world, &machines, staying, &tiers.api)?;
        rejoined.start_until("connected to the cluster")?;
        ensure!(!is_alive(process), "it joined before it had stopped what it had");
        ensure!(containers(&machines.workers[staying])?.is_empty());
        two_are_known(&tiers.api)?;
        // A start with a token that was used is a start like any other.
        rejoined.terminate()?;
        rejoined.start_until("connected to the cluster")?;
        two_are_known(&tiers.api)?;
        let instance = tiers.api.wait_running("sleeper", 1)?.remove(0);
        ensure!(instance.worker == left, "{instance:?}");
        joined.terminate()?;
        rejoined.terminate().map(drop)
    })
}

#[test]
fn a_cluster_is_removed_refused_and_taken_in_again_with_its_workers() -> anyhow::Result<()> {
    World::run("removal_cluster", |world| {
        let machines = Machines::create(world, 1)?;
        let mut tiers = Tiers::start(world, &machines)?;
        let host = &machines.workers[0];
        tiers.api.create(&application("shop", [Microservice::shell("sleeper", POLITE)]))?;
        tiers.api.deploy("sleeper")?;
        tiers.api.wait_running("sleeper", 1)?;
        let container = containers(host)?.into_keys().next().context("no container")?;
        let process = first_process(host, &container)?;
        let oak = |words: &[&str]| world.command(&machines.root, words);
        let kept = oak(&["delete", "cluster", "site"])?;
        ensure!(kept.code == Some(1) && kept.stderr.contains("cluster site is connected"), "{kept:?}");
        tiers.cluster.kill()?;
        eventually("the cluster is away", soon(), || {
            let active = tiers.api.call("GET", "/api/clusters/active", None)?;
            ensure!(active.as_array().is_some_and(Vec::is_empty), "{active}");
            Ok(())
        })?;
        let away = oak(&["delete", "worker", host.name(), "--force"])?;
        ensure!(away.code == Some(1) && away.stderr.contains("HTTP 503"), "{away:?}");
        let kept = oak(&["delete", "cluster", "site"])?;
        ensure!(kept.stderr.contains("still has 1 instance (shop.test.sleeper.test/0)"), "{kept:?}");
        let removed = oak(&["delete", "cluster", "site", "--force"])?;
        ensure!(removed.stdout == "cluster site removed\n", "{removed:?}");
        // A root that is killed now knows it all the same.
        tiers.root.kill()?;
        tiers.root.start_until("root ready")?;
        let clusters = tiers.api.call("GET", "/api/clusters/", None)?;
        ensure!(clusters.as_array().is_some_and(Vec::is_empty), "{clusters}");
        tiers.api.wait_status("sleeper", "TargetClusterNotActive", &["no cluster"])?;

        tiers.cluster.start()?;
        tiers.cluster.wait_for_log(REFUSED)?;
        // At the cluster itself it is still there.
        let local = world.command(&machines.cluster, &["--local", "get", "workers"])?;
        ensure!(local.stdout.contains(host.name()), "{local:?}");
        tiers.cluster.terminate()?;
        let token = tiers.api.token("cluster", None, 600)?;
        let root = machines.root.address().to_string();
        let words = ["cluster", "--root", &root, "--name", "site", "--token", &token];
        let mut again = world.oak(&machines.cluster, &words)?;
        again.start_until("connected to the root")?;
        eventually("what it had is stopped", soon(), || {
            ensure!(!is_alive(process));
            Ok(())
        })?;
        let instance = tiers.api.wait_running("sleeper", 1)?.remove(0);
        ensure!(instance.worker == host.name(), "{instance:?}");
        again.terminate().map(drop)
    })
}

#[test]
fn a_cluster_without_its_root_removes_a_worker() -> anyhow::Result<()> {
    World::run("removal_local", |world| {
        let machines = Machines::create(world, 2)?;
        let mut tiers = Tiers::start(world, &machines)?;
        let name = machines.workers[0].name();
        tiers.root.kill()?;
        tiers.workers[0].kill()?;
        let removed = eventually("the worker is removed", soon(), || {
            let output = world.command(&machines.cluster, &["--local", "delete", "worker", name])?;
            ensure!(output.code == Some(0), "{output:?}");
            Ok(output)
        })?;
        ensure!(removed.stdout == format!("worker {name} removed from cluster site\n"), "{removed:?}");
        tiers.root.start_until("root ready")?;
        eventually("the root knows it", soon(), || {
            let there = workers(&tiers.api)?;
            ensure!(there == [machines.workers[1].name()], "{there:?}");
            Ok(())
        })
    })
}

/// The worker of a machine, with a new token.
fn join<'host>(
    world: &World,
    machines: &'host Machines,
    index: usize,
    api: &Api<'_>,
) -> anyhow::Result<Oak<'host>> {
    let host = &machines.workers[index];
    let token = api.token("worker", Some("site"), 600)?;
    let cluster = machines.cluster.address().to_string();
    world.oak(host, &["worker", "--cluster", &cluster, "--name", host.name(), "--token", &token])
}

fn is_away(api: &Api<'_>, worker: &str) -> anyhow::Result<()> {
    eventually("the worker is away", soon(), || {
        let record = api.call("GET", &format!("/api/workers/{worker}"), None)?;
        ensure!(record["connected"] == false, "{record}");
        Ok(())
    })
}

/// Names of the workers of the cluster.
fn workers(api: &Api<'_>) -> anyhow::Result<Vec<String>> {
    let records = api.call("GET", "/api/clusters/site/workers", None)?;
    let records = records.as_array().context("no list")?;
    Ok(records.iter().filter_map(|record| record["facts"]["name"].as_str()).map(str::to_owned).collect())
}

/// The oldest process of a container, seen from the real machine.
fn first_process(host: &Host, container: &str) -> anyhow::Result<i32> {
    processes_of(host, container)?.first().copied().with_context(|| format!("{container} has no process"))
}
