//! Workers in different networks whose routers pass a port on to them, configured as for the original: they reach each
//! other straight, although their NATs would not let them.

use std::fs;
use std::net::SocketAddrV4;

use anyhow::{Context as _, ensure};
use oak_e2e::{Host, Machines, Microservice, Nat, Oak, Router, Tiers, World, application, eventually, soon};
use serde_json::json;

/// Where every worker listens.
const TUNNEL: u16 = 50103;
/// Of each router: one as the original is installed, one as an operator has chosen.
const PUBLIC: [u16; 2] = [TUNNEL, 51820];

/// Gives a machine a file below `/etc` that the others do not have.
fn configure(host: &Host, directory: &str, name: &str, content: &str) -> anyhow::Result<()> {
    let own = host.directory().join("etc");
    fs::create_dir_all(&own)?;
    let own = own.display();
    let script = format!(
        "mount -t tmpfs own {own} && mkdir -p {own}/changed/{directory} {own}/work && cat >{own}/changed/{directory}/{name} <<'END'\n\
         {content}\nEND\n\
         mount -t overlay own -o lowerdir=/etc,upperdir={own}/changed,workdir={own}/work /etc"
    );
    host.check(&["sh", "-euc", &script]).map(drop)
}

/// The path a worker has said last.
fn uses(worker: &Oak<'_>, wanted: &str) -> anyhow::Result<()> {
    let log = worker.log_of_this_life()?;
    let line = log.lines().rfind(|line| line.contains("path to another worker")).context("no path yet")?;
    ensure!(line.contains(wanted), "{line}");
    Ok(())
}

/// A server and a client on each worker.
fn shop() -> String {
    let services = ["worker-a", "worker-b"].iter().enumerate().flat_map(|(number, worker)| {
        let web = Microservice::nginx(&format!("web{number}"))
            .set("addresses", json!({ "rr_ip": format!("10.30.50.1{number}") }));
        let client = Microservice::idle(&format!("client{number}"));
        [web, client].map(|service| service.on(worker).set("replicas", json!(1)))
    });
    application("shop", services.collect::<Vec<_>>())
}

#[test]
fn public_addresses_and_ports_of_the_original_are_used() -> anyhow::Result<()> {
    World::run("public_address", |world| {
        let routers = [
            Router::create(world, "nat-a", 30, Nat::Symmetric)?,
            Router::create(world, "nat-b", 31, Nat::Symmetric)?,
        ];
        let machines = Machines {
            root: world.host("root", 10)?,
            cluster: world.host("cluster", 11)?,
            workers: vec![
                routers[0].machine(world, "worker-a", 2)?,
                routers[1].machine(world, "worker-b", 3)?,
            ],
        };
        let mut outside = Vec::new();
        for ((router, host), port) in routers.iter().zip(&machines.workers).zip(PUBLIC) {
            router.forward(port, SocketAddrV4::new(host.address(), TUNNEL))?;
            let address = router.host().address().to_string();
            let file = json!({
                "NodePublicAddress": address, "NodePublicPort": port.to_string(), "ClusterUrl": "0.0.0.0",
                "ClusterMqttPort": "10003", "Debug": false, "MqttCert": "", "MqttKey": "",
            });
            configure(host, "netmanager", "netcfg.json", &file.to_string())?;
            outside.push(format!("path={address}:{port}"));
        }
        let tiers = Tiers::start(world, &machines)?;
        tiers.api.create(&shop())?;
        for service in ["web0", "client0", "web1", "client1"] {
            tiers.api.wait_running(service, 1)?;
        }
        for (client, server) in [(0, 1), (1, 0)] {
            for target in [format!("10.30.50.1{server}"), format!("web{server}")] {
                let curl = format!("curl -sS --max-time 5 http://{target}/");
                let words = ["exec", &format!("client{client}"), "--", "sh", "-c", &curl];
                let output = world.command(&machines.root, &words)?;
                ensure!(output.stdout.contains("Welcome to nginx"), "client{client}: {target}: {output:?}");
            }
        }
        for (worker, other) in [(0, 1), (1, 0)] {
            eventually("packets go straight to the port of the other router", soon(), || {
                uses(&tiers.workers[worker], &outside[other])
            })?;
        }
        Ok(())
    })
}
