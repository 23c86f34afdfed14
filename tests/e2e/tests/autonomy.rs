//! Tiers without their parents: deployments at a cluster while the root is away, and a root that lost its disk.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use oak_e2e::{
    CLUSTER, Host, Machines, Microservice, Tiers, World, application, containers, eventually, soon,
};
use serde_json::json;

/// Process ids of each container.
type Running = BTreeMap<String, BTreeSet<i32>>;

#[test]
fn what_a_cluster_was_told_without_the_root_is_merged_without_restarts() -> anyhow::Result<()> {
    World::run("local_deploys", |world| {
        let machines = Machines::create(world, 2)?;
        let mut tiers = Tiers::start(world, &machines)?;
        tiers.api.create(&application("central", [keeper("central")]))?;
        tiers.api.deploy("central")?;
        tiers.api.wait_running("central", 1)?;
        let central = running(&machines)?;

        tiers.root.kill()?;
        let file = machines.cluster.directory().join("field.json");
        std::fs::write(&file, application("field", [keeper("field")]))?;
        let file = file.to_string_lossy().into_owned();
        local(world, &machines.cluster, &["apply", "--local", "--file", &file, "--deploy", "3"])?;
        runs_exactly(&machines, 4)?;
        local(world, &machines.cluster, &["delete", "--local", "instance", "field/1"])?;
        let meanwhile = runs_exactly(&machines, 3)?;
        let listed = local(world, &machines.cluster, &["get", "--local", "instances"])?;
        ensure!(listed.contains("field"), "{listed}");
        let still = central.iter().all(|(name, pids)| meanwhile.get(name) == Some(pids));
        ensure!(still, "{meanwhile:?} instead of {central:?}");

        tiers.root.start_until("root ready")?;
        tiers.api.wait_running("field", 2)?;
        tiers.api.wait_running("central", 1)?;
        ensure!(running(&machines)? == meanwhile, "{:?} instead of {meanwhile:?}", running(&machines)?);
        // From now on it is an application like any other.
        tiers.api.undeploy("field", 0)?;
        tiers.api.deploy("field")?;
        runs_exactly(&machines, 3)?;
        tiers.api.wait_running("field", 2)?;
        tiers.api.delete_application("field")?;
        ensure!(runs_exactly(&machines, 1)? == central, "{:?} instead of {central:?}", running(&machines)?);
        Ok(())
    })
}

#[test]
#[allow(clippy::print_stderr, reason = "the measured time is worth seeing")]
fn a_root_without_its_disk_is_rebuilt_from_its_clusters() -> anyhow::Result<()> {
    World::run("lost_root", |world| {
        let machines = Machines::create(world, 2)?;
        let mut tiers = Tiers::start(world, &machines)?;
        let services = [keeper("one").set("port", json!("8080:80")), keeper("two")];
        tiers.api.create(&application("lasting", services))?;
        for service in ["one", "one", "two"] {
            tiers.api.deploy(service)?;
        }
        tiers.api.wait_running("one", 2)?;
        tiers.api.wait_running("two", 1)?;
        let before = running(&machines)?;
        let ids = ids(&tiers)?;

        tiers.root.kill()?;
        std::fs::remove_dir_all(machines.root.directory().join("data"))?;
        let start = Instant::now();
        tiers.root.start_until("root ready")?;
        // A new root is a new authority: it knows nobody, and nobody trusts it without a token.
        let token = tiers.api.token("cluster", None, 600)?;
        tiers.cluster.kill()?;
        let root = machines.root.address().to_string();
        // Without being told, a cluster does not change its root.
        let words = ["cluster", "--root", &root, "--name", CLUSTER, "--token", &token];
        let refused = world.command(&machines.cluster, &words)?;
        ensure!(refused.code == Some(1) && refused.stderr.contains("--rejoin"), "{refused:?}");
        let words = ["cluster", "--root", &root, "--name", CLUSTER, "--token", &token, "--rejoin"];
        let mut cluster = world.oak(&machines.cluster, &words)?;
        cluster.start_until("connected to the root")?;
        tiers.api.wait_running("one", 2)?;
        tiers.api.wait_running("two", 1)?;
        let took = start.elapsed();
        eprintln!("root rebuilt from its cluster after {:.2} s", took.as_secs_f64());
        ensure!(took < Duration::from_secs(60), "it took {took:?}");
        ensure!(self::ids(&tiers)? == ids, "services have other ids than before");
        ensure!(running(&machines)? == before, "{:?} instead of {before:?}", running(&machines)?);
        // The same command again, as a service manager would give it; and a worker joins.
        cluster.kill()?;
        cluster.start_until("connected to the root")?;
        let token = tiers.api.token("worker", Some(CLUSTER), 600)?;
        let extra = world.host("extra", 31)?;
        let link = machines.cluster.address().to_string();
        let mut worker =
            world.oak(&extra, &["worker", "--cluster", &link, "--name", "extra", "--token", &token])?;
        worker.start_until("connected to the cluster")?;
        worker.terminate()?;
        // It is a root like any other.
        tiers.api.undeploy("one", 0)?;
        tiers.api.deploy("two")?;
        tiers.api.wait_running("one", 1)?;
        tiers.api.wait_running("two", 2)?;
        tiers.api.delete_application("lasting")?;
        runs_exactly(&machines, 0).map(drop)
    })
}

/// Ends at once when it is asked to.
fn keeper(name: &str) -> Microservice {
    Microservice::shell(name, "trap 'exit 0' TERM; sleep 100000 & wait").set("memory", json!(20))
}

/// Runs a command of oak that has to succeed, and returns what it printed.
fn local(world: &World, host: &Host, words: &[&str]) -> anyhow::Result<String> {
    let output = world.command(host, words)?;
    ensure!(output.code == Some(0), "{words:?}: {output:?}");
    Ok(output.stdout)
}

/// What really runs on the workers.
fn running(machines: &Machines) -> anyhow::Result<Running> {
    let mut running = Running::new();
    for host in &machines.workers {
        for (name, processes) in containers(host)? {
            ensure!(running.insert(name.clone(), processes).is_none(), "{name} runs twice");
        }
    }
    Ok(running)
}

/// Waits until so many containers run, each with the two processes it has when it is started.
fn runs_exactly(machines: &Machines, count: usize) -> anyhow::Result<Running> {
    eventually(&format!("{count} containers run"), soon(), || {
        let running = running(machines)?;
        let started = running.values().all(|processes| processes.len() == 2);
        ensure!(running.len() == count && started, "{running:?}");
        Ok(running)
    })
}

fn ids(tiers: &Tiers<'_>) -> anyhow::Result<Vec<String>> {
    let id = |name| {
        let id = tiers.api.service(name)?["microserviceID"].as_str().map(str::to_owned);
        id.context("a service without an id")
    };
    ["one", "two"].into_iter().map(id).collect()
}
