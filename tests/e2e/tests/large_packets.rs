//! Long packets of instances over lines that take only shorter ones than usual: encrypted, with nothing set up for it.

use std::net::{Ipv4Addr, SocketAddr};

use oak_e2e::{
    Host, Inside, Machines, Microservice, Stream, Tiers, World, application, eventually, soon,
    while_transferring,
};
use serde_json::json;

const WEB: Ipv4Addr = Ipv4Addr::new(10, 30, 50, 1);
const UDP_PORT: u16 = 7007;
const TCP_PORT: u16 = 7008;

fn shop() -> String {
    let web = Microservice::nginx("web")
        .on("worker-a")
        .set("addresses", json!({ "rr_ip": WEB.to_string() }))
        .set("replicas", json!(1));
    let client = Microservice::idle("client").on("worker-b");
    application("shop", [web, client.set("replicas", json!(1))])
}

/// The line of a machine takes packets of this length, in both directions; the machine knows.
fn narrow(world: &World, host: &Host, mtu: u32) -> anyhow::Result<()> {
    let mtu = mtu.to_string();
    host.check(&["ip", "link", "set", "eth0", "mtu", &mtu])?;
    let port = format!("p-{}", host.pid());
    world.switch().check(&["ip", "link", "set", &port, "mtu", &mtu]).map(drop)
}

#[test]
fn long_packets_pass_lines_that_take_only_short_ones() -> anyhow::Result<()> {
    World::run("large_packets", |world| {
        let machines = Machines::create(world, 2)?;
        let tiers = Tiers::start(world, &machines)?;
        tiers.api.create(&shop())?;
        for service in ["web", "client"] {
            tiers.api.wait_running(service, 1)?;
        }
        let server = Inside::of(&machines.workers[0], "nginx")?;
        let client = Inside::of(&machines.workers[1], "sleep 10000")?;
        let echo = server.echo(UDP_PORT)?;
        // Begins while the line is as usual.
        let stream = Stream::start(&client, &server, SocketAddr::from((WEB, TCP_PORT)))?;
        stream.goes_on(soon())?;
        for mtu in [1500, 1400, 1350, 1280] {
            for host in &machines.workers {
                narrow(world, host, mtu)?;
            }
            everything_passes(&client, mtu)?;
            stream.goes_on(soon())?;
            while_transferring(world, &machines, &WEB.to_string(), (20, 10), || Ok(()))?;
        }
        // Only one of the two has the short line, and whoever sends to it is not told.
        narrow(world, &machines.workers[1], 1500)?;
        everything_passes(&client, 1281)?;
        stream.goes_on(soon())?;
        while_transferring(world, &machines, &WEB.to_string(), (20, 10), || Ok(()))?;
        drop(echo);
        stream.finish().map(drop)
    })
}

/// Datagrams and echo requests of every length that is near a limit, there and back.
fn everything_passes(client: &Inside, mtu: u32) -> anyhow::Result<()> {
    for length in [1, 1200, 1252, 1280, 1350, 1390, 1400, 1422, 1450, 1472, 4000, 20_000] {
        let bytes = vec![7; length];
        // The first one of a length finds out how long packets may be.
        eventually(&format!("{length} bytes pass a line of {mtu}"), soon(), || {
            client.ask_udp_with((WEB, UDP_PORT).into(), &bytes)
        })?;
    }
    for (number, length) in [56, 1252, 1400, 1450, 4000].into_iter().enumerate() {
        let number = u16::try_from(number)? + u16::try_from(mtu)?;
        eventually(&format!("ping -s {length} over a line of {mtu}"), soon(), || {
            client.ping_with(WEB, number, length)
        })?;
    }
    Ok(())
}
