//! Machines that reach each other over IPv6: only so, or one of them only so and the other one not at all.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use oak_e2e::{
    Families, Host, Inside, Machines, Microservice, Oak, Tiers, World, application, eventually, soon,
};
use serde_json::{Value, json};

const WEB: Ipv4Addr = Ipv4Addr::new(10, 30, 50, 1);
const UDP_PORT: u16 = 7007;

/// A service on the first worker, and a client of it on the second.
fn deploy(tiers: &Tiers<'_>) -> anyhow::Result<()> {
    let addresses = json!({ "rr_ip": WEB.to_string() });
    let web = Microservice::nginx("web").on("worker-a").set("addresses", addresses);
    let client = Microservice::idle("client").on("worker-b");
    tiers.api.create(&application("shop", [web, client]))?;
    for service in ["web", "client"] {
        tiers.api.deploy(service)?;
        tiers.api.wait_running(service, 1)?;
    }
    Ok(())
}

/// By TCP, UDP and ICMP, by address of both families and by name; short packets and full ones.
fn the_service_is_reached(world: &World, machines: &Machines) -> anyhow::Result<()> {
    let (server, client) =
        (Inside::of(&machines.workers[0], "nginx")?, Inside::of(&machines.workers[1], "sleep 10000")?);
    for url in [&format!("http://{WEB}/"), "http://web/", "'http://[fdff:2000::50:1]/'", "-6 http://web/"] {
        let command = format!("curl -sS --max-time 5 {url}");
        let output = world.command(&machines.root, &["exec", "client", "--", "sh", "-c", &command])?;
        ensure!(output.code == Some(0) && output.stdout.contains("Welcome to nginx"), "{url}: {output:?}");
    }
    let echo = server.echo(UDP_PORT)?;
    client.ask_udp(SocketAddr::from((WEB, UDP_PORT)))?;
    client.ping(WEB, 7)?;
    drop(echo);
    large_answers_arrive(world, machines)
}

/// A MiB, in packets as large as the way takes.
fn large_answers_arrive(world: &World, machines: &Machines) -> anyhow::Result<()> {
    let make = "dd if=/dev/zero of=/usr/share/nginx/html/big bs=64k count=16";
    let made = world.command(&machines.root, &["exec", "web", "--", "sh", "-c", make])?;
    ensure!(made.code == Some(0), "{made:?}");
    let fetch = "curl -sS --max-time 10 -o /dev/null -w '%{size_download}' http://web/big";
    let fetched = world.command(&machines.root, &["exec", "client", "--", "sh", "-c", fetch])?;
    ensure!(fetched.stdout.trim() == "1048576", "{fetched:?}");
    Ok(())
}

/// The path a worker has said last.
fn uses(worker: &Oak<'_>, wanted: &str) -> anyhow::Result<()> {
    let log = worker.log_of_this_life()?;
    let line = log.lines().rfind(|line| line.contains("path to another worker")).context("no path yet")?;
    ensure!(line.contains(wanted), "{line}");
    Ok(())
}

/// What `oak net status` says of the only other worker.
fn peer(world: &World, host: &Host) -> anyhow::Result<Value> {
    let output = world.command(host, &["net", "status", "--output", "json"])?;
    ensure!(output.code == Some(0), "{output:?}");
    let status: Value = serde_json::from_str(&output.stdout)?;
    Ok(status[0]["peers"][0].clone())
}

/// From the next start on.
fn stop_encrypting(worker: &mut Oak<'_>) -> anyhow::Result<()> {
    worker.kill()?;
    worker.set("OAK_NETWORK_ENCRYPTION", "off");
    worker.start_until("worker ready")
}

#[test]
fn machines_that_have_no_ipv4_reach_each_other() -> anyhow::Result<()> {
    World::run("underlay_ipv6", |world| {
        let machines = Machines::with_families(world, Families::V6, &[Families::V6, Families::V6])?;
        let mut tiers = Tiers::start(world, &machines)?;
        deploy(&tiers)?;
        the_service_is_reached(world, &machines)?;
        eventually("both go straight", soon(), || {
            uses(&tiers.workers[0], "path=[fd99::15]:50103")?;
            uses(&tiers.workers[1], "path=[fd99::14]:50103")
        })?;
        let peer = peer(world, &machines.workers[0])?;
        ensure!(peer["underlay6"] == "fd99::15" && peer["underlay"] == Value::Null, "{peer}");
        ensure!(peer["path"] == "[fd99::15]:50103" && peer["path_kind"] == "straight", "{peer}");
        ensure!(peer["outside"] == Value::Null, "there is no NAT: {peer}");

        stop_encrypting(&mut tiers.workers[1])?;
        eventually("both send plain packets", soon(), || {
            for (host, path) in machines.workers.iter().zip(["[fd99::15]:50104", "[fd99::14]:50104"]) {
                let peer = self::peer(world, host)?;
                ensure!(peer["way"] == "plain" && peer["path"] == path, "{peer}");
            }
            Ok(())
        })?;
        the_service_is_reached(world, &machines)
    })
}

#[test]
fn the_relay_carries_what_has_no_family_in_common() -> anyhow::Result<()> {
    World::run("underlay_mixed", |world| {
        let machines = Machines::with_families(world, Families::Both, &[Families::V4, Families::V6])?;
        let mut tiers = Tiers::start(world, &machines)?;
        deploy(&tiers)?;
        the_service_is_reached(world, &machines)?;
        eventually("both use the relay, each in its own family", soon(), || {
            uses(&tiers.workers[0], "path=10.99.0.11:50105 (relay")?;
            uses(&tiers.workers[1], "path=[fd99::b]:50105 (relay")
        })?;
        // It passes nothing on that is not encrypted, and the log says so.
        stop_encrypting(&mut tiers.workers[1])?;
        tiers.workers[1].wait_for_log("only IPv4 and the other one only IPv6")
    })
}

#[test]
fn two_families_are_used_as_they_work() -> anyhow::Result<()> {
    World::run("underlay_both", |world| {
        let machines = Machines::with_families(world, Families::Both, &[Families::Both, Families::Both])?;
        let tiers = Tiers::start(world, &machines)?;
        // Nothing of IPv4 passes between the workers.
        let [a, b] = [&machines.workers[0], &machines.workers[1]];
        for (here, there) in [(a, b), (b, a)] {
            let rules = format!(
                "table ip guard {{ chain input {{ type filter hook input priority -5; ip saddr {} drop; }}; }}",
                there.address()
            );
            here.check(&["nft", &rules])?;
        }
        deploy(&tiers)?;
        the_service_is_reached(world, &machines)?;
        eventually("both go straight over IPv6", soon(), || {
            uses(&tiers.workers[0], "path=[fd99::15]:50103")?;
            uses(&tiers.workers[1], "path=[fd99::14]:50103")
        })?;
        // It does again, and then it is the shorter way.
        [a, b].into_iter().try_for_each(|host| host.check(&["nft", "delete table ip guard"]).map(drop))?;
        eventually("both go straight over IPv4", Duration::from_secs(180), || {
            // Nothing is tried for nobody.
            large_answers_arrive(world, &machines)?;
            uses(&tiers.workers[0], "path=10.99.0.21:50103")?;
            uses(&tiers.workers[1], "path=10.99.0.20:50103")
        })
    })
}
