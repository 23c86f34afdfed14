//! Keys for packets between workers are replaced while these go on.

use std::net::Ipv4Addr;

use anyhow::{Context as _, ensure};
use oak_e2e::{
    Families, Host, Machines, Microservice, Tiers, World, application, eventually, soon, while_transferring,
};
use serde_json::{Value, json};

const WEB: Ipv4Addr = Ipv4Addr::new(10, 30, 50, 1);

/// A service on the first worker, and a client of it on the second; they have met.
fn deploy(world: &World, machines: &Machines, tiers: &Tiers<'_>) -> anyhow::Result<()> {
    let addresses = json!({ "rr_ip": WEB.to_string() });
    let web = Microservice::nginx("web").on("worker-a").set("addresses", addresses);
    let client = Microservice::idle("client").on("worker-b");
    tiers.api.create(&application("shop", [web, client]))?;
    for service in ["web", "client"] {
        tiers.api.deploy(service)?;
        tiers.api.wait_running(service, 1)?;
    }
    welcomes(world, machines)
}

const CURL: [&str; 5] = ["curl", "-sS", "--max-time", "5", "http://10.30.50.1/"];

/// The instance of the client and the machine it is on reach the service.
fn welcomes(world: &World, machines: &Machines) -> anyhow::Result<()> {
    machine_is_welcome(machines)?;
    let words = [&["exec", "client", "--"][..], &CURL].concat();
    let output = world.command(&machines.root, &words)?;
    ensure!(output.code == Some(0) && output.stdout.contains("Welcome to nginx"), "{output:?}");
    Ok(())
}

/// The machine does, for which nobody else is needed.
fn machine_is_welcome(machines: &Machines) -> anyhow::Result<()> {
    let page = machines.workers[1].check(&CURL)?;
    ensure!(page.contains("Welcome to nginx"), "{page}");
    Ok(())
}

fn status(world: &World, host: &Host) -> anyhow::Result<Value> {
    let output = world.command(host, &["net", "status", "--output", "json"])?;
    ensure!(output.code == Some(0), "{output:?}");
    let status: Value = serde_json::from_str(&output.stdout)?;
    Ok(status[0].clone())
}

/// The key a worker has, as it says itself.
fn key_of(world: &World, host: &Host) -> anyhow::Result<String> {
    let status = status(world, host)?;
    Ok(status["public_key"].as_str().with_context(|| format!("no key: {status}"))?.to_owned())
}

/// Asks a worker for another key.
fn ask_for_key(world: &World, host: &Host) -> anyhow::Result<()> {
    let output = world.command(host, &["net", "rotate-key"])?;
    ensure!(output.code == Some(0), "{output:?}");
    Ok(())
}

/// Waits until a worker has another key than this one, and the other worker uses that.
fn is_known(world: &World, host: &Host, other: &Host, former: &str) -> anyhow::Result<()> {
    eventually("the new key is known", soon(), || {
        let key = key_of(world, host)?;
        let there = status(world, other)?;
        ensure!(key != former && there["peers"][0]["public_key"] == *key, "{key} was {former}: {there}");
        Ok(())
    })
}

fn rotates(world: &World, host: &Host, other: &Host) -> anyhow::Result<()> {
    let former = key_of(world, host)?;
    ask_for_key(world, host)?;
    is_known(world, host, other, &former)
}

/// Ends both engines: everybody has to begin anew, with the keys known then.
fn begin_anew(machines: &Machines) -> anyhow::Result<()> {
    for worker in &machines.workers {
        worker.check(&["pkill", "-KILL", "-f", "[_]_tunnel"])?;
    }
    eventually("the service is reached again", soon(), || machine_is_welcome(machines))
}

#[test]
fn new_keys_interrupt_nothing_whoever_is_away() -> anyhow::Result<()> {
    World::run("keys", |world| {
        let machines = Machines::create(world, 2)?;
        let mut tiers = Tiers::start(world, &machines)?;
        deploy(world, &machines, &tiers)?;
        let [a, b] = [&machines.workers[0], &machines.workers[1]];
        let logs =
            |tiers: &mut Tiers<'_>| tiers.workers[0].wait_for_log("new key for packets of other workers");
        while_transferring(world, &machines, &WEB.to_string(), (60, 4), || {
            rotates(world, a, b)?;
            rotates(world, b, a)?;
            rotates(world, a, b)
        })?;
        logs(&mut tiers)?;
        welcomes(world, &machines)?;

        // The agent is killed as soon as it is asked; whatever it has done until then, its next life goes on with it.
        let former = key_of(world, a)?;
        ask_for_key(world, a)?;
        tiers.workers[0].kill()?;
        welcomes(world, &machines)?;
        tiers.workers[0].start_until("worker ready")?;
        is_known(world, a, b, &former)?;
        welcomes(world, &machines)?;

        // Nobody can tell the other worker: it goes on with the former key, also when everything has to begin anew.
        tiers.cluster.kill()?;
        let former = key_of(world, a)?;
        ask_for_key(world, a)?;
        eventually("there is a new key", soon(), || {
            ensure!(key_of(world, a)? != former);
            Ok(())
        })?;
        begin_anew(&machines)?;
        ensure!(status(world, b)?["peers"][0]["public_key"] == *former, "who has told it?");

        // It hears of it when its cluster is back.
        tiers.cluster.start_until("cluster ready")?;
        is_known(world, a, b, &former)?;
        begin_anew(&machines)?;
        welcomes(world, &machines)
    })
}

#[test]
fn new_keys_interrupt_nothing_that_goes_through_the_relay() -> anyhow::Result<()> {
    World::run("keys_relay", |world| {
        let machines = Machines::with_families(world, Families::Both, &[Families::V4, Families::V6])?;
        let tiers = Tiers::start(world, &machines)?;
        deploy(world, &machines, &tiers)?;
        let [a, b] = [&machines.workers[0], &machines.workers[1]];
        while_transferring(world, &machines, &WEB.to_string(), (40, 2), || {
            rotates(world, a, b)?;
            rotates(world, b, a)?;
            rotates(world, a, b)
        })?;
        let peer = &status(world, a)?["peers"][0];
        ensure!(peer["path_kind"] == "relay", "{peer}");
        welcomes(world, &machines)
    })
}
