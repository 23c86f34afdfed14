//! Connections between instances survive that a worker gets another address, and that a NAT in between forgets what it
//! has translated.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use oak_e2e::{
    Inside, Machines, Microservice, Nat, Router, Stream, Tiers, World, application, eventually, soon,
};
use serde_json::{Value, json};

const WEB: Ipv4Addr = Ipv4Addr::new(10, 30, 50, 1);
const PORT: u16 = 7007;
/// A path that does not answer is left within two seconds; the rest is the wait of TCP, and a busy machine.
const SECONDS: Duration = Duration::from_secs(15);

/// A server on the first worker, a client on the second one.
fn shop() -> String {
    let web = Microservice::nginx("web")
        .on("worker-a")
        .set("addresses", json!({ "rr_ip": WEB.to_string() }))
        .set("replicas", json!(1));
    let client = Microservice::idle("client").on("worker-b");
    application("shop", [web, client.set("replicas", json!(1))])
}

/// The server and the client.
fn deploy(tiers: &Tiers<'_>, machines: &Machines) -> anyhow::Result<(Inside, Inside)> {
    tiers.api.create(&shop())?;
    for service in ["web", "client"] {
        tiers.api.wait_running(service, 1)?;
    }
    Ok((Inside::of(&machines.workers[0], "nginx")?, Inside::of(&machines.workers[1], "sleep 10000")?))
}

fn start((server, client): &(Inside, Inside)) -> anyhow::Result<Stream> {
    let stream = Stream::start(client, server, SocketAddr::from((WEB, PORT)))?;
    stream.goes_on(soon())?;
    Ok(stream)
}

/// A worker that has nothing to send does not notice by itself that its NAT forgot it.
fn who_only_answers_is_reached(
    world: &World,
    router: &Router,
    (server, client): &(Inside, Inside),
) -> anyhow::Result<Duration> {
    let echo = server.echo(PORT)?;
    let ask = || client.ask_udp((WEB, PORT).into());
    eventually("the server answers", soon(), ask)?;
    router.rebind(world, 42_000..=42_099)?;
    let began = Instant::now();
    eventually("the server answers again", SECONDS, ask)?;
    drop(echo);
    Ok(began.elapsed())
}

#[test]
fn a_connection_survives_another_address_of_either_worker() -> anyhow::Result<()> {
    World::run("roaming", |world| {
        let machines = Machines::create(world, 2)?;
        let mut tiers = Tiers::start(world, &machines)?;
        let stream = start(&deploy(&tiers, &machines)?)?;
        for (number, host) in machines.workers.iter().enumerate() {
            let address = Ipv4Addr::new(10, 99, 0, 120 + u8::try_from(number)?);
            host.move_to(address, world.switch().address())?;
            println!("{} moved: bytes after {:?}", host.name(), stream.goes_on(SECONDS)?);
            // Everybody learns it when the worker has reached its cluster again; the other worker has seen it already.
            let worker = &mut tiers.workers[number];
            eventually("the worker has a new session", soon(), || {
                let log = worker.log_of_this_life()?;
                ensure!(log.matches("connected to the cluster").count() >= 2, "{log}");
                Ok(())
            })?;
            let other = &machines.workers[1 - number];
            eventually("the other worker was told the new address", soon(), || {
                let status = world.command(other, &["net", "status", "--output", "json"])?;
                let status: Value = serde_json::from_str(&status.stdout)?;
                ensure!(status[0]["peers"][0]["underlay"] == address.to_string(), "{status}");
                Ok(())
            })?;
            stream.goes_on(SECONDS)?;
        }
        let bytes = stream.finish().context("the connection broke")?;
        println!("{bytes} bytes there and back");
        tiers.api.wait_running("web", 1).map(drop)
    })
}

#[test]
fn a_connection_survives_a_nat_that_forgets() -> anyhow::Result<()> {
    World::run("rebinding", |world| {
        let routers = [
            Router::create(world, "nat-a", 30, Nat::PortRestricted)?,
            Router::create(world, "nat-b", 31, Nat::PortRestricted)?,
        ];
        let machines = Machines {
            root: world.host("root", 10)?,
            cluster: world.host("cluster", 11)?,
            workers: vec![
                routers[0].machine(world, "worker-a", 2)?,
                routers[1].machine(world, "worker-b", 2)?,
            ],
        };
        let tiers = Tiers::start(world, &machines)?;
        let instances = deploy(&tiers, &machines)?;
        let took = who_only_answers_is_reached(world, &routers[0], &instances)?;
        println!("the NAT of one that only answers has forgotten: an answer after {took:?}");
        let stream = start(&instances)?;
        for (number, router) in routers.iter().enumerate() {
            let first = 40_000 + 1000 * u16::try_from(number)?;
            router.rebind(world, first..=first + 99)?;
            println!("{} has forgotten: bytes after {:?}", router.host().name(), stream.goes_on(SECONDS)?);
            let outside = format!("{}:{}", router.host().address(), first / 100);
            let other = &tiers.workers[1 - number];
            eventually("the other worker goes straight to the new port", soon() * 2, || {
                let log = other.log_of_this_life()?;
                let paths: Vec<_> =
                    log.lines().filter(|line| line.contains("path to another worker")).collect();
                ensure!(paths.last().is_some_and(|path| path.contains(&outside)), "{paths:#?}");
                Ok(())
            })?;
            stream.goes_on(SECONDS)?;
        }
        let bytes = stream.finish().context("the connection broke")?;
        println!("{bytes} bytes there and back");
        Ok(())
    })
}
