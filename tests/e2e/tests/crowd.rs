//! More instances on one worker than its first subnet has addresses for.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use oak_e2e::{Machines, Microservice, Tiers, World, application, eventually, soon};
use serde_json::{Value, json};

/// As many as the first subnet takes.
const CROWD: usize = 125;
const PATIENCE: Duration = Duration::from_secs(180);

#[test]
fn a_worker_with_many_instances_is_reached_at_all_of_them() -> anyhow::Result<()> {
    World::run("crowd", |world| {
        let machines = Machines::create(world, 2)?;
        let mut tiers = Tiers::start(world, &machines)?;
        let (root, crowded) = (&machines.root, &machines.workers[0]);
        let crowd = Microservice::idle("crowd").on("worker-a").set("replicas", json!(CROWD));
        tiers.api.create(&application("crowd", [crowd]))?;
        eventually("the crowd runs", PATIENCE, || {
            let running = tiers.api.instances("crowd")?.iter().filter(|one| one.status == "RUNNING").count();
            ensure!(running == CROWD, "{running} run");
            Ok(())
        })?;
        let web = Microservice::nginx("web").set("addresses", json!({ "rr_ip": "10.30.50.1" }));
        let client = |name: &str, worker: &str| Microservice::idle(name).on(worker).set("replicas", json!(1));
        let services = [
            web.on("worker-a").set("replicas", json!(1)),
            client("near", "worker-a"),
            client("far", "worker-b"),
        ];
        tiers.api.create(&application("shop", services))?;
        for service in ["web", "near", "far"] {
            tiers.api.wait_running(service, 1)?;
        }
        let status = world.command(crowded, &["net", "status", "--output", "json"])?;
        let status: Value = serde_json::from_str(&status.stdout).with_context(|| format!("{status:?}"))?;
        let subnets = status[0]["subnets"].as_array().context("subnets")?;
        ensure!(subnets.len() == 2, "{subnets:?}");
        let all_reach_it = || -> anyhow::Result<()> {
            for client in ["near", "far"] {
                for url in ["http://10.30.50.1/", "'http://[fdff:2000::50:1]/'", "http://web/"] {
                    let command = format!("curl -sS --globoff --max-time 5 {url}");
                    let output = world.command(root, &["exec", client, "--", "sh", "-c", &command])?;
                    ensure!(output.stdout.contains("Welcome to nginx"), "{client}: {url}: {output:?}");
                }
            }
            Ok(())
        };
        all_reach_it()?;
        tiers.workers[0].kill()?;
        tiers.workers[0].start_until("connected to the cluster")?;
        eventually("the worker is back", soon(), || {
            let page = tiers.api.instances("crowd")?;
            ensure!(page.len() == CROWD && page.iter().all(|one| one.status == "RUNNING"));
            Ok(())
        })?;
        all_reach_it()
    })
}
