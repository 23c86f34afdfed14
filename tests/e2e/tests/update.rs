//! A service is updated under load, and nobody notices: no request fails, neither through the service address nor
//! through a port of the machine; and what does not run is taken back.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use oak_e2e::{Api, Host, Microservice, Watch, World, application, eventually, soon};
use serde_json::{Value, json};

const ADDRESS: &str = "10.30.0.9";
const PORT: u16 = 8080;
const INSTANCES: usize = 5;

/// Five replacements, each with its start and the time it must have been running; with room for a busy machine.
const UPDATE: Duration = Duration::from_secs(150);

fn web() -> Microservice {
    Microservice::nginx("web")
        .set("replicas", json!(INSTANCES))
        .set("port", json!(format!("{PORT}:80")))
        .set("addresses", json!({ "rr_ip": ADDRESS }))
        // Its process runs before it listens.
        .set("healthcheck", json!({ "tcp": { "port": 80 }, "interval_s": 1 }))
        .set("update", json!({ "min_ready_s": 2, "deadline_s": 60 }))
}

/// Asks the service address from an instance, again and again.
fn client() -> Microservice {
    let script = format!(
        "trap 'exit 0' TERM; n=0; f=0; while :; do curl -s -f -o /dev/null -m 5 http://{ADDRESS}/ \
         || {{ f=$((f+1)); echo \"curl says $?\"; }}; n=$((n+1)); \
         [ $((n%20)) = 0 ] && echo \"asked $n failed $f\"; done"
    );
    Microservice::shell("client", &script)
}

/// The change of a service: a descriptor with it alone.
fn change(api: &Api<'_>, service: Microservice) -> anyhow::Result<Value> {
    let id = api.service("web")?["microserviceID"].as_str().unwrap_or_default().to_owned();
    let descriptor: Value = serde_json::from_str(&application("update", [service]))?;
    api.call("PUT", &format!("/api/service/{id}"), Some(&descriptor))
}

/// Waits until the update came to that end; returns the record of the service.
fn ends(api: &Api<'_>, state: &str) -> anyhow::Result<Value> {
    eventually("the update comes to its end", UPDATE, || {
        let record = api.service("web")?;
        let rollout = &record["rollout"];
        ensure!(rollout["state"] == state, "{rollout}");
        Ok(record)
    })
}

/// Requests of the client so far, and those that failed.
fn asked_inside(host: &Host, world: &World) -> anyhow::Result<(u64, u64)> {
    let output = world.command(host, &["logs", "client/0", "--tail", "20"])?;
    let text = output.stdout;
    let last = text.lines().rev().find_map(|line| line.strip_prefix("asked ")).context("no count")?;
    let (asked, failed) = last.split_once(" failed ").with_context(|| format!("no count in {last}"))?;
    Ok((asked.parse()?, failed.trim().parse()?))
}

fn nothing_failed(host: &Host, world: &World, outside: &Watch, least: u64) -> anyhow::Result<u64> {
    let (asked, failed) = asked_inside(host, world)?;
    ensure!(failed == 0, "{failed} of {asked} requests to the service address failed");
    ensure!(asked >= least, "only {asked} requests were made, {least} expected");
    let (answered, failures) = outside.counted();
    ensure!(failures.is_empty(), "besides {answered} answers through the port: {failures:?}");
    ensure!(answered > 100, "only {answered} requests were made through the port");
    Ok(asked)
}

#[test]
fn an_update_under_load_fails_no_request_and_a_broken_one_rolls_back() -> anyhow::Result<()> {
    World::run("update", |world| {
        let host = world.host("device", 10)?;
        let mut oak = world.oak(&host, &["up"])?;
        oak.start_until("worker ready")?;
        let api = Api::on(&host);
        api.create(&application("update", [web(), client()]))?;
        api.wait_running("web", INSTANCES)?;
        api.deploy("client")?;
        api.wait_running("client", 1)?;
        let outside = Watch::patiently(world.switch(), host.address(), PORT)?;
        eventually("requests are made", soon(), || nothing_failed(&host, world, &outside, 20).map(drop))?;

        let record = change(&api, web().set("environment", json!(["VERSION=2"])))?;
        ensure!(record["rollout"]["state"] == "running" && record["revision"] == 1, "{}", record["rollout"]);
        let record = ends(&api, "done")?;
        let list = record["instance_list"].as_array().context("a list")?;
        let renewed = list.iter().all(|i| i["revision"] == 1 && i["instance_number"].as_u64() >= Some(5));
        ensure!(renewed && list.len() == INSTANCES, "{list:?}");
        let asked = nothing_failed(&host, world, &outside, 100)?;

        // An image that does not exist, and a process that ends at once.
        let missing = web().set("code", json!("docker.io/library/nginx:nosuch"));
        let ending = web().set("cmd", json!(["nginx", "-v"]));
        for broken in [missing, ending] {
            change(&api, broken)?;
            let back = ends(&api, "rolled-back")?;
            ensure!(back["revision"] == 1 && back["environment"][0] == "VERSION=2", "{back}");
            ensure!(back["code"] == "docker.io/library/nginx:latest", "{back}");
            let reason = back["rollout"]["reason"].as_str().unwrap_or_default();
            ensure!(reason.contains("failed 3 times"), "{reason}");
            let running = api.wait_running("web", INSTANCES)?;
            ensure!(running.len() == INSTANCES, "{running:?}");
        }
        nothing_failed(&host, world, &outside, asked + 100)?;
        Ok(())
    })
}
