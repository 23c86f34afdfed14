//! `oak net` says how workers reach each other, where a packet goes and why, and shows what an instance sends.

use anyhow::{Context as _, ensure};
use oak_e2e::{Host, Machines, Microservice, Nat, Router, Tiers, World, application, eventually, soon};
use serde_json::json;

/// Of the service with an instance on each worker.
const WEB: &str = "10.30.50.1";
const WEB6: &str = "fdff:2000::50:1";
const CLOSEST: &str = "10.30.50.2";

/// A client on the first worker, a service with an instance on each, and one on the second.
fn shop() -> String {
    let web = Microservice::nginx("web")
        .on("worker-a;worker-b")
        .set("addresses", json!({ "rr_ip": WEB, "closest_ip": CLOSEST }))
        .set("max_instances_per_node", json!(1))
        .set("replicas", json!(2));
    let far = Microservice::nginx("far").on("worker-b").set("replicas", json!(1));
    let client = Microservice::idle("client").on("worker-a");
    application("shop", [web, far, client.set("replicas", json!(1))])
}

fn welcomes(world: &World, root: &Host, url: &str) -> anyhow::Result<()> {
    let command = format!("curl -sS --max-time 5 {url} 2>&1");
    let output = world.command(root, &["exec", "client", "--", "sh", "-c", &command])?;
    ensure!(output.stdout.contains("Welcome to nginx"), "{url}: {output:?}");
    Ok(())
}

/// `oak net` on a worker says all of this.
fn says(world: &World, worker: &Host, words: &[&str], expected: &[&str]) -> anyhow::Result<()> {
    let output = world.command(worker, &[&["net"], words].concat())?;
    let missing = expected.iter().find(|text| !output.stdout.contains(**text));
    ensure!(output.code == Some(0) && missing.is_none(), "{words:?} without {missing:?}: {output:?}");
    Ok(())
}

#[test]
fn oak_net_says_where_packets_go_and_why() -> anyhow::Result<()> {
    World::run("net_tools", |world| {
        let machines = Machines::create(world, 2)?;
        let tiers = Tiers::start(world, &machines)?;
        let (root, worker) = (&machines.root, &machines.workers[0]);
        tiers.api.create(&shop())?;
        for (service, count) in [("web", 2), ("far", 1), ("client", 1)] {
            tiers.api.wait_running(service, count)?;
        }
        for name in [WEB, "closest.web", "far"] {
            welcomes(world, root, &format!("http://{name}/"))?;
        }
        eventually("the status is complete", soon(), || {
            let expected = ["encrypted", "both encrypt; straight", "web.test.shop.test", "closest", "here"];
            says(world, worker, &["status"], &expected)
        })?;
        traces(world, worker)?;
        capture(world, root, worker)
    })
}

fn traces(world: &World, worker: &Host) -> anyhow::Result<()> {
    let both = ["round-robin", "1 of 2 new connections", "on this worker", "encrypted", "it gets there"];
    says(world, worker, &["trace", "client", WEB], &both)?;
    let six = [&["goes with 10.30.50.1", "fc00::"][..], &both].concat();
    says(world, worker, &["trace", "client", WEB6], &six)?;
    let closest = ["closest: ", "all new connections", "there is one on this worker", "it gets there"];
    says(world, worker, &["trace", "client", CLOSEST], &closest)?;
    says(world, worker, &["trace", "client", "closest.web"], &closest)?;
    says(world, worker, &["trace", "client", "far"], &["says that far.test.shop.test.oak is", "encrypted"])?;
    let nothing = ["there is no nothing.shop.test.oak", "it does not get there"];
    says(world, worker, &["trace", "client", "nothing"], &nothing)?;
    let asks = ["\"arrives\": false", "asks its cluster"];
    says(world, worker, &["trace", "client", "10.30.99.99", "--output", "json"], &asks)
}

/// Who is meant has to be clear, and so has what is missing.
fn capture(world: &World, root: &Host, worker: &Host) -> anyhow::Result<()> {
    let output = world.command(worker, &["net", "capture", "nobody"])?;
    ensure!(output.code == Some(3) && output.stderr.contains("client.0"), "{output:?}");
    if worker.run(&["sh", "-c", "command -v tcpdump"])?.code == Some(0) {
        return capture_requests(world, root, worker);
    }
    let output = world.command(worker, &["net", "capture", "client", "--count", "1", "icmp"])?;
    ensure!(output.code == Some(1) && output.stderr.contains("tcpdump is not installed"), "{output:?}");
    Ok(())
}

/// Requests go on until two of their packets were seen.
fn capture_requests(world: &World, root: &Host, worker: &Host) -> anyhow::Result<()> {
    let (binary, data) = (world.binary()?, worker.directory().join("data"));
    let (binary, data) = (binary.to_string_lossy().into_owned(), data.to_string_lossy().into_owned());
    let words = [&binary, "net", "capture", "client", "--count", "2", "tcp", "port", "80"];
    let captured = std::thread::scope(|scope| {
        let capture = scope.spawn(|| worker.run_with(&words, &[("OAK_DATA_DIR", &data)]));
        let requests = eventually("packets are seen", soon(), || {
            welcomes(world, root, &format!("http://{WEB}/"))?;
            ensure!(capture.is_finished());
            Ok(())
        });
        requests.and_then(|()| capture.join().map_err(|_| anyhow::anyhow!("the capture panicked"))?)
    })?;
    ensure!(captured.code == Some(0) && captured.stdout.contains(WEB), "{captured:?}");
    Ok(())
}

#[test]
fn oak_net_says_that_a_relay_is_used_and_as_what_workers_are_seen() -> anyhow::Result<()> {
    World::run("net_tools_nat", |world| {
        let sites = ["nat-a", "nat-b"].iter().zip([30, 31]);
        let routers: Vec<Router> = sites
            .map(|(name, number)| Router::create(world, name, number, Nat::Symmetric))
            .collect::<Result<_, _>>()?;
        let machines = Machines {
            root: world.host("root", 10)?,
            cluster: world.host("cluster", 11)?,
            workers: vec![
                routers[0].machine(world, "worker-a", 2)?,
                routers[1].machine(world, "worker-b", 2)?,
            ],
        };
        let tiers = Tiers::start(world, &machines)?;
        tiers.api.create(&shop())?;
        for (service, count) in [("web", 2), ("far", 1), ("client", 1)] {
            tiers.api.wait_running(service, count)?;
        }
        let worker = machines.workers.first().context("a worker")?;
        welcomes(world, &machines.root, "http://far/")?;
        eventually("the relay is said to be used", soon(), || {
            let seen = ["seen by its cluster as 10.99.0.30", "10.99.0.31:"];
            let relay = ["10.99.0.11:50105 relay", "through a relay", "it sees this worker as 10.99.0.30:"];
            says(world, worker, &["status"], &[&seen[..], &relay].concat())
        })?;
        says(world, worker, &["trace", "client", "far"], &["to the relay 10.99.0.11:50105", "it gets there"])
    })
}
