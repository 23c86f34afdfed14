//! The root goes away: for a while, or with its disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, ensure};
use oak_e2e::{Api, CLUSTER, Machines, Microservice, Tiers, World, application, containers, eventually, soon};

const SLEEP: &str = "trap 'exit 0' TERM; sleep 1000 & wait";

type Processes = BTreeMap<String, BTreeSet<i32>>;

fn processes(machines: &Machines) -> anyhow::Result<Vec<Processes>> {
    machines.workers.iter().map(containers).collect()
}

#[test]
fn a_root_without_its_disk_gets_everything_back_and_nothing_is_restarted() -> anyhow::Result<()> {
    World::run("root_disk", |world| {
        let machines = Machines::create(world, 2)?;
        let mut tiers = Tiers::start(world, &machines)?;
        tiers.api.create(&application("kept", [Microservice::shell("sleeper", SLEEP)]))?;
        for _ in 0..3 {
            tiers.api.deploy("sleeper")?;
        }
        let before = tiers.api.wait_running("sleeper", 3)?;
        let running = processes(&machines)?;

        tiers.root.kill()?;
        fs::remove_dir_all(machines.root.directory().join("data/root"))?;
        tiers.root.start_until("root ready")?;
        // Its logins are gone as well.
        tiers.api = Api::on(&machines.root);
        ensure!(tiers.api.find_application("kept")?.is_none(), "it starts with nothing");
        let token = tiers.api.token("cluster", None, 600)?;
        let root = machines.root.address().to_string();

        // Without being told, a cluster does not change its root.
        tiers.cluster.kill()?;
        let words = ["cluster", "--root", &root, "--name", CLUSTER, "--token", &token];
        let refused = world.command(&machines.cluster, &words)?;
        ensure!(refused.code == Some(1) && refused.stderr.contains("--rejoin"), "{refused:?}");

        let words = ["cluster", "--root", &root, "--name", CLUSTER, "--token", &token, "--rejoin"];
        let mut cluster = world.oak(&machines.cluster, &words)?;
        cluster.start_until("connected to the root")?;
        let after = tiers.api.wait_running("sleeper", 3)?;
        let places = |list: &[oak_e2e::Instance]| -> BTreeSet<_> {
            list.iter().map(|instance| (instance.number, instance.worker.clone())).collect()
        };
        ensure!(places(&after) == places(&before), "{before:?} became {after:?}");
        ensure!(processes(&machines)? == running, "processes were restarted");

        // Life goes on: instances, and workers that join.
        tiers.api.deploy("sleeper")?;
        tiers.api.wait_running("sleeper", 4)?;
        let token = tiers.api.token("worker", Some(CLUSTER), 600)?;
        let extra = world.host("extra", 31)?;
        let link = machines.cluster.address().to_string();
        let words = ["worker", "--cluster", &link, "--name", "extra", "--token", &token];
        let mut worker = world.oak(&extra, &words)?;
        worker.start_until("connected to the cluster")?;

        // The same token again after a crash, as a service manager would start it.
        cluster.kill()?;
        cluster.start_until("connected to the root")?;
        tiers.api.wait_running("sleeper", 4)?;
        tiers.api.delete_application("kept")?;
        eventually("nothing is left", soon(), || {
            let left: Vec<_> = processes(&machines)?.into_iter().flatten().collect();
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
    })
}

#[test]
fn a_cluster_without_its_root_takes_descriptors_and_replaces_what_is_lost() -> anyhow::Result<()> {
    World::run("root_away", |world| {
        let machines = Machines::create(world, 2)?;
        let mut tiers = Tiers::start(world, &machines)?;
        tiers.api.create(&application("old", [Microservice::shell("steady", SLEEP)]))?;
        tiers.api.deploy("steady")?;
        tiers.api.deploy("steady")?;
        tiers.api.wait_running("steady", 2)?;
        let local = |words: &[&str]| {
            let words: Vec<&str> = std::iter::once("--local").chain(words.iter().copied()).collect();
            let output = world.command(&machines.cluster, &words)?;
            ensure!(output.code == Some(0), "oak {words:?}: {output:?}");
            Ok(output.stdout)
        };
        let file = machines.cluster.directory().join("local.json");
        fs::write(&file, application("new", [Microservice::shell("fresh", SLEEP)]))?;
        let file = file.to_str().context("a path")?.to_owned();
        let early = world.command(&machines.cluster, &["--local", "apply", "-f", &file])?;
        ensure!(early.code != Some(0) && early.stderr.contains("the root is connected"), "{early:?}");

        tiers.root.kill()?;
        tiers.cluster.wait_for_log("disconnected from the root")?;
        local(&["apply", "-f", &file])?;
        eventually("the local service runs", soon(), || {
            let shown = local(&["get", "services"])?;
            let runs = shown.lines().any(|line| line.starts_with("fresh") && line.contains("RUNNING"));
            ensure!(runs, "{shown}");
            Ok(())
        })?;
        // A worker dies; the cluster decides alone.
        machines.workers[0].power_off()?;
        eventually("everything runs on the other worker", soon(), || {
            let running = containers(&machines.workers[1])?;
            ensure!(running.len() == 3, "{running:?}");
            Ok(())
        })?;
        let running = containers(&machines.workers[1])?;

        tiers.root.start_until("root ready")?;
        let old = tiers.api.wait_running("steady", 2)?;
        let new = tiers.api.wait_running("fresh", 1)?;
        let alone = |instance: &oak_e2e::Instance| instance.worker == "worker-b";
        ensure!(old.iter().chain(&new).all(alone), "{old:?} {new:?}");
        ensure!(containers(&machines.workers[1])? == running, "processes were restarted");
        // It is the root's now.
        tiers.api.delete_application("new")?;
        eventually("the local service is gone", soon(), || {
            let running = containers(&machines.workers[1])?;
            ensure!(running.len() == 2, "{running:?}");
            Ok(())
        })
    })
}
