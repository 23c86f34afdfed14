//! A service gets more and fewer instances on two workers while it is called from a third without pause, from an
//! instance and from the machine itself: no request fails.

use std::net::Ipv4Addr;

use anyhow::{Context as _, ensure};
use oak_e2e::{Host, Machines, Microservice, Tiers, Watch, World, application, eventually, soon};
use serde_json::json;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 30, 50, 1);
/// Requests of each caller between two changes.
const BETWEEN: usize = 60;

/// Asks again and again and says how many requests were answered by whom and how many were not.
fn caller() -> Microservice {
    let script = format!(
        "trap 'exit 0' TERM; n=0; f=0; while :; do curl -s -f -o /dev/null -m 5 http://{ADDRESS}/ \
         || {{ f=$((f+1)); echo \"curl says $?\"; }}; n=$((n+1)); \
         [ $((n%20)) = 0 ] && echo \"asked $n failed $f\"; done"
    );
    Microservice::shell("caller", &script).on("worker-c")
}

fn web() -> Microservice {
    Microservice::nginx("web")
        .on("worker-a;worker-b")
        .set("addresses", json!({ "rr_ip": ADDRESS.to_string() }))
        .set("replicas", json!(1))
        .set("max_instances_per_node", json!(3))
        // Its process runs before it listens.
        .set("healthcheck", json!({ "tcp": { "port": 80 }, "interval_s": 1 }))
}

/// Requests of the instance so far; none may have failed.
fn asked_inside(world: &World, root: &Host) -> anyhow::Result<usize> {
    let output = world.command(root, &["logs", "caller/0", "--tail", "20"])?.stdout;
    let last = output.lines().rev().find_map(|line| line.strip_prefix("asked ")).context("no count")?;
    let (asked, failed) = last.split_once(" failed ").context("no count")?;
    ensure!(failed.trim() == "0", "{failed} of {asked} requests of the instance failed: {output}");
    Ok(asked.parse()?)
}

/// Requests of the machine so far; none may have failed.
fn asked_outside(watch: &Watch) -> anyhow::Result<usize> {
    let (answered, failures) = watch.counted();
    ensure!(failures.is_empty(), "besides {answered} answers to the machine: {failures:?}");
    Ok(answered)
}

#[test]
fn no_request_fails_while_a_service_is_scaled_up_and_down() -> anyhow::Result<()> {
    World::run("scaling", |world| {
        let machines = Machines::create(world, 3)?;
        let tiers = Tiers::start(world, &machines)?;
        let root = &machines.root;
        tiers.api.create(&application("shop", [web(), caller()]))?;
        tiers.api.wait_running("web", 1)?;
        // Before, it would be refused.
        tiers.api.deploy("caller")?;
        tiers.api.wait_running("caller", 1)?;
        let client = &machines.workers[2];
        // The first packet waits for the answer of the cluster.
        let watch = Watch::patiently(client, ADDRESS, 80)?;
        let more = || {
            let before = (asked_inside(world, root)?, asked_outside(&watch)?);
            eventually("more requests are made", soon(), || {
                ensure!(asked_inside(world, root)? >= before.0 + BETWEEN);
                ensure!(asked_outside(&watch)? >= before.1 + BETWEEN);
                Ok(())
            })
        };
        eventually("requests are made", soon(), || asked_inside(world, root).map(drop))?;
        more()?;
        for replicas in [5, 2, 5, 1] {
            let scaled = world.command(root, &["scale", "web", &replicas.to_string()])?;
            ensure!(scaled.code == Some(0), "{scaled:?}");
            let instances = tiers.api.wait_running("web", replicas)?;
            for instance in &instances {
                let serves = || watch.last_by(&format!("instance-{}", instance.number));
                let since = serves().map(|answer| answer.at);
                eventually("each instance serves", soon(), || {
                    ensure!(serves().map(|answer| answer.at) > since, "{instance:?}");
                    Ok(())
                })?;
            }
            more()?;
        }
        asked_inside(world, root)?;
        asked_outside(&watch).map(drop)
    })
}
